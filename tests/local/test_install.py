"""HTCondor is found or unpacked, and never half unpacked."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from htcdaskgateway.local import debian
from htcdaskgateway.local.debian import COMPLETE
from htcdaskgateway.local.errors import LocalSystemError
from htcdaskgateway.local.install import DAEMONS, TOOLS, Installation, find, find_or_install, install
from htcdaskgateway.local.processes import run

DEBIAN = Path("/etc/debian_version").exists() and bool(shutil.which("apt-get"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("HTCONDOR_SUITE", "CONDOR_BIN_DIR", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "htcdaskgateway"


def fake(prefix, sbin="sbin", libexec="libexec/condor"):
    for directory, names in (("bin", TOOLS), (sbin, DAEMONS), (libexec, ["condor_shared_port"])):
        (prefix / directory).mkdir(parents=True, exist_ok=True)
        for name in names:
            (prefix / directory / name).touch(mode=0o755)
    return prefix


@pytest.mark.parametrize(
    ("sbin", "libexec"), [("sbin", "libexec/condor"), ("bin", "libexec"), ("sbin", "lib/condor/libexec")]
)
def test_an_installation_is_found_wherever_its_daemons_lie(tmp_path, sbin, libexec):
    found = Installation.at(fake(tmp_path, sbin, libexec))
    assert found is not None
    assert (found.sbin, found.libexec) == (tmp_path / sbin, tmp_path / libexec)


@pytest.mark.parametrize("missing", ["sbin/condor_startd", "bin/condor_q", "libexec/condor/condor_shared_port"])
def test_tools_alone_are_no_installation(tmp_path, missing):
    (fake(tmp_path) / missing).unlink()
    assert Installation.at(tmp_path) is None


def test_a_named_installation_comes_before_one_on_the_path_and_one_of_the_environment(tmp_path, cache, monkeypatch):
    named, on_path, environment = (fake(tmp_path / name) for name in ("named", "path", "environment"))
    monkeypatch.setattr(sys, "prefix", str(environment))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert find().prefix == environment
    monkeypatch.setenv("PATH", str(on_path / "bin"))
    assert find().prefix == on_path
    monkeypatch.setenv("CONDOR_BIN_DIR", str(named / "bin"))
    assert find().prefix == named
    (named / "sbin/condor_master").unlink()
    assert find().prefix == on_path


def test_suite_comes_before_the_machine(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("CONDOR_BIN_DIR", str(fake(tmp_path / "named") / "bin"))
    monkeypatch.setenv("HTCONDOR_SUITE", "no such suite")
    with pytest.raises(LocalSystemError, match="no name of a Debian suite"):
        find_or_install()


def test_not_debian_says_what_to_do(cache, monkeypatch):
    monkeypatch.setattr(debian, "_os_release", lambda: {"ID": "fedora"})
    with pytest.raises(LocalSystemError, match="apt-get install condor"):
        install("trixie")


def test_only_a_complete_one_is_taken(cache, monkeypatch):
    monkeypatch.setattr(debian, "_os_release", lambda: {"ID": "fedora"})
    prefix = cache / "htcondor-trixie"
    fake(prefix / "usr")
    with pytest.raises(LocalSystemError):
        install("trixie")
    (prefix / COMPLETE).write_text("/somewhere/else\n")
    with pytest.raises(LocalSystemError):
        install("trixie")
    (prefix / COMPLETE).write_text(f"{prefix}\n")
    assert install("trixie").prefix == prefix / "usr"


def test_what_another_makes_for_too_long_is_said_with_its_path(tmp_path, monkeypatch):
    monkeypatch.setattr(debian, "LOCK_TIMEOUT", 0.1)
    path = tmp_path / "one.lock"
    with (
        debian.locked(path),
        pytest.raises(LocalSystemError, match=rf"another install has held {path} for 0\.1 s"),
        debian.locked(path),
    ):
        pass


@pytest.mark.skipif(not DEBIAN, reason="asks apt")
def test_packages_come_from_the_archive_of_the_machines_own_settings(tmp_path, monkeypatch):
    sources, configuration = tmp_path / "sources.list", tmp_path / "apt.conf"
    configuration.write_text(f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\n')
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    others = "deb https://download.example.org any main\ndeb http://mirror.example.org/more trixie-security main\n"
    sources.write_text(f"{others}deb http://mirror.example.org/debian trixie main\n")
    assert debian._mirror("trixie") == "http://mirror.example.org/debian"
    sources.write_text(others)
    with pytest.raises(LocalSystemError, match=r"apt's settings name no Debian archive \(.*trixie"):
        debian._mirror("trixie")


def test_a_program_that_fails_is_named_with_the_end_of_what_it_said():
    done = run(["sh", "-c", "seq 100; echo the disk is full >&2; exit 3"], timeout=10)
    with pytest.raises(
        LocalSystemError, match=r"(?s)^unpacking failed with exit code 3:\n87\n.*\nthe disk is full$"
    ):
        debian.said(done, "unpacking")


def test_what_the_unpacked_programs_need_is_named_where_it_is_missing(tmp_path, monkeypatch):
    with pytest.raises(LocalSystemError, match="have no dynamic loader"):
        debian._bind_programs(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalSystemError, match=r"pip install 'ncsa-htcdaskgateway\[local\]' brings it"):
        debian._bind_programs(tmp_path)


@pytest.mark.parametrize("sign", [":", "$"])
def test_a_cache_whose_path_cannot_be_in_a_library_path_is_refused(sign, tmp_path, cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"a{sign}b"))
    with pytest.raises(LocalSystemError, match="set XDG_CACHE_HOME elsewhere"):
        install("trixie")
    assert not list(tmp_path.glob(f"*{sign}*"))


@pytest.mark.skipif(not DEBIAN, reason="unpacks Debian's packages")
@pytest.mark.long
def test_htcondor_from_debian_runs_and_an_interrupted_installation_is_made_anew(cache):
    leftover = cache / "htcondor-trixie/usr/bin/interrupted"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    found = install("trixie")
    assert not leftover.exists()
    assert "CondorVersion: 23." in run([found.bin / "condor_version"], timeout=10).stdout
    assert install("trixie") == found
