"""What happens on a node, run by its own shell: the cache, its locks and its bound, and what can go wrong there."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from pathlib import Path

import pytest
from support import wait_until

from htcdaskgateway.packages import archive
from htcdaskgateway.worker.job import EXIT_NODE, EXIT_RESEND, EXIT_UNPACK


def trees(node):
    return sorted(path.name for path in node.cache.iterdir() if path.is_dir())


def tools(directory, **scripts):
    """Return a directory of programs that go before the system's."""
    directory.mkdir()
    for name, body in scripts.items():
        (directory / name).write_text(f"#!/bin/sh\n{body}\n")
        (directory / name).chmod(0o755)
    return directory


def test_eight_at_once_unpack_once_and_the_next_finds_it(packed, node):
    programs = [node.job(packed)[1] for _ in range(8)]
    said = [program.communicate(timeout=120) for program in programs]
    assert [program.returncode for program in programs] == [0] * 8, said
    assert {out.strip() for out, _ in said} == {f"{node.cache / packed.key}|first"}
    assert sum("unpacked in" in err for _, err in said) == 1
    assert node.cache.stat().st_mode & 0o777 == 0o700
    code, _, err = node.run(packed, base=False)
    assert (code, "cached in" in err) == (0, True)


@pytest.mark.long
def test_a_start_where_all_is_there_takes_no_longer_for_more_packages(packed, node):
    assert node.run(packed)[0] == 0
    # Whatever reads, counts or copies the packages.
    none = tools(node.directory / "none", cp="exit 1", du="exit 1", sha256sum="echo wrong", find="exit 1")
    code, _, err = node.run(packed, base=False, path=none)
    assert (code, "cached in" in err) == (0, True), err


@pytest.mark.long
def test_without_a_directory_of_the_site_the_jobs_own_is_used(packed, node):
    code, out, err = node.run(packed, cached=False)
    assert code == 0, err
    assert out == f"{node.directory / 'job-1' / 'packages' / packed.key}|first"
    assert not node.cache.exists()


@pytest.mark.long
def test_what_is_not_there_and_was_not_sent_is_asked_for_and_is_no_failure(packed, node):
    assert node.run(packed, base=False)[0] == EXIT_RESEND
    assert node.run(packed)[0] == 0


@pytest.mark.long
def test_one_package_more_is_made_of_what_is_there_and_one_that_went_is_gone(small, packed, node):
    assert node.run(packed)[0] == 0
    small.install("pack_me", "VALUE = 'second'\n")
    small.install("one_more", "VALUE = 'more'\n")
    more = small.pack()
    assert more.base == packed.base
    assert Path(more.archives["delta.tar.gz"]).stat().st_size < 10_000
    code, out, err = node.run(more, base=False, code=f"import one_more; {node.look}")
    assert (code, out) == (0, f"{node.cache / more.key}|second"), err
    # The one that was there is as it was.
    assert node.run(packed, base=False)[1].endswith("|first")
    for path in (small.site / "one_more").iterdir():
        path.unlink()
    (small.site / "one_more").rmdir()
    gone = "import importlib.util; print(importlib.util.find_spec('one_more'))"
    assert node.run(small.pack(), base=False, code=gone)[1] == "None"


@pytest.mark.long
def test_a_package_that_went_from_the_base_is_gone_on_the_node(small, packed, node):
    (small.site / "pack_me" / "__init__.py").unlink()
    code = "import importlib.util; print(importlib.util.find_spec('pack_me'))"
    without = small.pack()
    assert node.run(without, code=code)[1] == "None"


@pytest.mark.long
def test_one_that_is_killed_while_it_unpacks_leaves_nothing_that_is_used(packed, node):
    slow = tools(node.directory / "slow", tar='/usr/bin/tar "$@" || exit; sleep 60')
    _, program = node.job(packed, path=slow)
    try:
        wait_until(lambda: list(node.cache.glob(".new-*/env/base")), what="it unpacks")
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.communicate(timeout=20)
    assert trees(node)[0].startswith(".new-")
    code, out, err = node.run(packed)
    assert (code, out) == (0, f"{node.cache / packed.key}|first"), err
    assert trees(node) == [packed.key]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.long
def test_a_full_disk_is_said_and_leaves_nothing_half_made(packed, node):
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", node.shared], capture_output=True, text=True, timeout=20
    )
    if done.returncode:
        pytest.skip(f"no disk can be mounted: {done.stderr}")
    try:
        code, _, err = node.run(packed)
        assert code == EXIT_UNPACK
        assert "they cannot be unpacked in" in err
        assert trees(node) == []
    finally:
        subprocess.run(["umount", node.shared], check=True, timeout=20)


@pytest.mark.long
def test_what_is_removed_below_a_worker_comes_again(packed, node):
    waits = "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.1)\nimport wave"
    scratch, program = node.job(packed, code=waits)
    try:
        assert program.stdout.readline() == "up\n"
        subprocess.run(["rm", "-rf", node.cache / packed.key], check=True, timeout=60)
        # Its lock is held, and still the next ones have them made anew.
        assert node.run(packed, base=False)[0] == EXIT_RESEND
        assert node.run(packed)[0] == 0
        (scratch / "go").touch()
        # The one that runs finds what it has not read yet where it was.
        assert program.wait(timeout=60) == 0
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
        program.communicate(timeout=20)


@pytest.mark.long
def test_the_least_recently_used_go_first_but_none_that_a_worker_uses(small, packed, node):
    assert node.run(packed)[0] == 0
    _, program = node.job(packed, code="import signal; print('up', flush=True); signal.pause()", base=False)
    try:
        assert program.stdout.readline() == "up\n"
        small.install("pack_me", "VALUE = 'second'\n")
        second = small.pack()
        assert node.run(second, base=False, size="1MB")[0] == 0
        assert trees(node) == sorted([packed.key, second.key])
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.communicate(timeout=20)
    small.install("pack_me", "VALUE = 'third'\n")
    third = small.pack()
    code, _, err = node.run(third, base=False, size="1MB")
    assert code == 0
    assert "is removed from" in err
    assert trees(node) == [third.key]


@pytest.mark.long
def test_another_accounts_directory_or_a_link_is_not_used(packed, node, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    node.cache.symlink_to(elsewhere)
    code, out, err = node.run(packed)
    assert (code, out) == (0, f"{node.directory / 'job-1' / 'packages' / packed.key}|first")
    assert "is not used" in err
    assert not list(elsewhere.iterdir())
    node.cache.unlink()
    node.cache.mkdir(mode=0o770)
    node.cache.chmod(0o770)
    assert "is not used" in node.run(packed)[2]
    assert not list(node.cache.iterdir())
    if os.geteuid() == 0:
        node.cache.chmod(0o700)
        os.chown(node.cache, 12345, 12345)
        assert "is not used" in node.run(packed)[2]
        assert not list(node.cache.iterdir())


@pytest.mark.long
def test_an_account_that_several_users_share_has_no_cache(packed, node):
    path = tools(node.directory / "tools", id="case $1 in -u) echo 65534;; *) echo nobody;; esac")
    code, out, _ = node.run(packed, path=path, owner="alice")
    assert (code, out) == (0, f"{node.directory / 'job-1' / 'packages' / packed.key}|first")
    assert not list(node.shared.iterdir())


def members(path):
    """Return the packages in an archive, and how many files it has."""
    names = subprocess.run(
        ["tar", "tf", path], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    return {name.split("/")[4] for name in names}, len(names)


@pytest.mark.long
def test_the_packages_come_in_two_halves_and_one_alone_is_nothing(small, node, monkeypatch, tmp_path):
    # Of its own: none that is packed already, and what each node's tar reads.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("htcdaskgateway.packages.packing._has_zstandard", lambda: False)
    for number in range(20):
        small.install(f"filler_{number}", "")
    packed = small.pack()
    base, more = (packed.archives[f"{half}.tar.gz"] for half in ("base", "more"))
    (first, of_first), (second, of_second) = members(base), members(more)
    assert not first & second
    assert {"pack_me", *(f"filler_{number}" for number in range(20))} <= first | second
    assert abs(of_first - of_second) <= 2
    altered = tmp_path / "more.tar.gz"
    altered.write_bytes(Path(more).read_bytes()[:-9])
    # With its right checksum, it is the unpacking that fails.
    wrong = dataclasses.replace(
        packed,
        archives={**packed.archives, "more.tar.gz": str(altered)},
        checksums={**packed.checksums, "more.tar.gz": archive.checksum(altered)},
    )
    assert node.run(wrong)[0] == EXIT_UNPACK
    assert trees(node) == []
    assert node.run(packed)[0] == 0
    # A cache that has lost one packs both again.
    Path(more).unlink()
    assert Path(small.pack().archives["more.tar.gz"]).is_file()


def test_an_archive_that_was_altered_is_not_unpacked(packed, node, tmp_path):
    altered = tmp_path / "boot.tar.gz"
    with archive.into(altered) as stream:
        archive.fill(stream, {}, [], top="env")
    wrong = dataclasses.replace(packed, archives={**packed.archives, "boot.tar.gz": str(altered)})
    code, _, err = node.run(wrong)
    assert code == EXIT_UNPACK
    assert "its checksum differs" in err
    assert trees(node) == []


@pytest.mark.long
def test_a_node_of_another_architecture_or_with_an_older_glibc_says_both(packed, node):
    code, _, err = node.run(packed, path=tools(node.directory / "arch", uname="echo riscv64"))
    assert code == EXIT_NODE
    assert f"this node is riscv64, and the packages are for {packed.machine}" in err
    code, _, err = node.run(packed, path=tools(node.directory / "old", getconf="echo glibc 2.5"))
    assert code == EXIT_NODE
    assert f"this node has glibc 2.5, and the packages need glibc 2.{packed.glibc}" in err
