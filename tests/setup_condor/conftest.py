"""A pool, login nodes, a bare account and the person who types, for the tests of setup_condor."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from setup_condor.account import DEADLINE, Account, Person
from setup_condor.login_node import LoginNode

from htcdaskgateway.local.pool import PersonalPool


@pytest.fixture(scope="session")
def condor_pool(shared_pool: PersonalPool) -> PersonalPool:
    """A pool; these tests run no job."""
    return shared_pool


@pytest.fixture(scope="session")
def collector(condor_pool: PersonalPool) -> str:
    """The address of its central manager."""
    configuration = (condor_pool.directory / "condor_config").read_text()
    port = re.search(r"^SHARED_PORT_PORT = (\d+)", configuration, re.M)
    assert port is not None
    return f"127.0.0.1:{port[1]}"


@pytest.fixture
def login_node(condor_pool: PersonalPool) -> Iterator[Callable[..., LoginNode]]:
    """Start a login node; it stops with the test."""
    environ = {
        **condor_pool.environ,
        "PATH": f"{condor_pool.installation.bin}:/usr/bin:/bin",
    }
    with contextlib.ExitStack() as stack:

        def start(**behaviour: object) -> LoginNode:
            node = LoginNode(**{"environ": environ, **behaviour})
            node.start()
            stack.callback(node.stop)
            return node

        yield start


@pytest.fixture
def account(tmp_path: Path, condor_pool: PersonalPool, collector: str) -> Account:
    home, conda = tmp_path / "home", tmp_path / "conda"
    home.mkdir(0o700)
    (conda / "conda-meta").mkdir(parents=True)
    (conda / "etc/condor/config.d").mkdir(parents=True)
    (conda / "etc/condor/condor_config").write_text(
        f"LOCAL_CONFIG_DIR = {conda}/etc/condor/config.d\nRELEASE_DIR = {conda}\n"
    )
    (conda / "bin").symlink_to(condor_pool.installation.bin)
    return Account(home, conda, collector)


@pytest.fixture
def person(account: Account) -> Iterator[Callable[..., Person]]:
    """Start setup_condor in a pseudo-terminal; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(
            port: int | None, *arguments: str, user: str | None = "alice", before: Sequence[str] = ()
        ) -> Person:
            one = Person(account, [*before, *account.command(port, *arguments, user=user)])
            stack.callback(one.child.close, force=True)
            return one

        yield start


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nothing listens at. It is kept from others; sshd, which sets SO_REUSEADDR too, can have it."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield int(kept.getsockname()[1])


@pytest.fixture
def without_rights() -> list[str]:
    """What to put before a command so that file permissions hold for it, which root would not notice."""
    if os.geteuid() != 0:
        return []
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
    if subprocess.run([*command, "true"], capture_output=True, timeout=DEADLINE).returncode != 0:
        pytest.skip("run by root, where user namespaces are not allowed")
    return command


@pytest.fixture
def small_disk() -> Callable[[Path], list[str]]:
    """What to put before a command so that a directory is a full disk for it; prints what is on it at the end."""

    def prefix(directory: Path) -> list[str]:
        directory.mkdir(parents=True, exist_ok=True)
        script = (
            'mount -t tmpfs -o size=4k,mode=700 tmpfs "$0" && '
            '{ head -c 65536 /dev/zero >"$0/filler" 2>/dev/null; "$@"; code=$?; '
            'echo "on the disk:" "$0"/* "$0"/.[!.]*; exit $code; }'
        )
        users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        namespace = ["unshare", *users, "--mount", "--", "/bin/sh", "-c"]
        tried = subprocess.run(
            [*namespace, 'mount -t tmpfs tmpfs "$0"', str(directory)], capture_output=True, timeout=DEADLINE
        )
        if tried.returncode != 0:
            pytest.skip(f"mounting is not allowed here: {tried.stderr.decode().strip()}")
        return [*namespace, script, str(directory)]

    return prefix
