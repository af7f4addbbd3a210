"""Against OpenSSH's own server: keys, passphrases, and connections that are there already."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL

import pytest
from setup_condor.account import DEADLINE
from support import first_is_quick

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
USER = pwd.getpwuid(os.geteuid()).pw_name

pytestmark = pytest.mark.skipif(SSHD is None, reason="needs OpenSSH's sshd (Debian: openssh-server)")


def keygen(path: Path, passphrase: str = "") -> str:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True, timeout=DEADLINE)
    return path.with_name(f"{path.name}.pub").read_text()


@dataclass
class OpenSSH:
    port: int
    key: Path
    locked_key: Path
    control: Path


@pytest.fixture
def sshd(account, condor_pool, tmp_path: Path, free_port: int) -> Iterator[OpenSSH]:
    key, locked = tmp_path / "key", tmp_path / "locked"
    allowed = tmp_path / "allowed"
    allowed.write_text(keygen(key) + keygen(locked, "open sesame"))
    host_key = keygen(tmp_path / "host")
    account.known_hosts.write_text(f"[127.0.0.1]:{free_port} {host_key}")
    configuration = tmp_path / "sshd_config"
    configuration.write_text(
        f"ListenAddress 127.0.0.1:{free_port}\nHostKey {tmp_path}/host\nAuthorizedKeysFile {allowed}\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\n"
        "PermitRootLogin prohibit-password\n"
        f"SetEnv CONDOR_CONFIG={condor_pool.environ['CONDOR_CONFIG']} "
        f"PATH={condor_pool.installation.bin}:/usr/bin:/bin\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd of root insists on it
    log = (tmp_path / "sshd.log").open("wb")
    assert SSHD is not None
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(configuration)], stderr=log, stdin=subprocess.DEVNULL)
    # A socket's path is short, and pytest's directories are not.
    control = Path(f"/tmp/htcdaskgateway-{os.getpid()}-{free_port}")
    try:
        deadline = time.monotonic() + DEADLINE
        while not greets(free_port):
            assert server.poll() is None, (tmp_path / "sshd.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield OpenSSH(free_port, key, locked, control)
    finally:
        if control.exists():
            subprocess.run(
                ["ssh", "-o", f"ControlPath={control}", "-O", "exit", "127.0.0.1"],
                capture_output=True,
                timeout=DEADLINE,
            )
        server.terminate()
        server.wait(DEADLINE)
        log.close()


def greets(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        return connection.recv(4) == b"SSH-"
    return False


def arguments(account, sshd: OpenSSH, *options: str) -> list[str]:
    """Return what setup_condor is told besides the account's own: the server, and ssh's options."""
    ours = [*options, f"UserKnownHostsFile={account.known_hosts}", "IdentitiesOnly=yes", "IdentityAgent=none"]
    where = ["--login-host", "127.0.0.1", "--port", str(sshd.port)]
    return where + [part for option in ours for part in ("-o", option)]


def command(account, sshd: OpenSSH, *options: str) -> list[str]:
    return account.command(None, *arguments(account, sshd, *options), user=USER)


def test_a_key_needs_no_answer_at_all(account, sshd):
    done = account.run(*command(account, sshd, f"IdentityFile={sshd.key}"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert account.condor("condor_q").returncode == 0


def test_a_keys_passphrase_is_asked_for(account, sshd, person):
    one = person(None, *arguments(account, sshd, f"IdentityFile={sshd.locked_key}"), user=USER)
    one.sees("Enter passphrase for key '.*': ")
    one.types("wrong", hidden=True)
    one.sees("Enter passphrase for key '.*': ")
    one.types("open sesame", hidden=True)
    code, seen = one.leaves()
    assert code == 0, seen
    assert "open sesame" not in seen


def test_who_has_no_key_that_fits_is_told_and_nothing_is_written(account, sshd):
    done = account.run(*command(account, sshd, "IdentityFile=none"))
    assert done.returncode == 1
    assert f"did not let {USER} in" in done.stderr
    assert "Permission denied" in done.stderr
    assert account.written() == []


def test_a_changed_host_key_is_told_and_nothing_is_written(account, sshd, tmp_path):
    account.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {keygen(tmp_path / 'other')}")
    done = account.run(*command(account, sshd, f"IdentityFile={sshd.key}"))
    assert done.returncode == 1
    assert "is not the one that this machine knows" in done.stderr
    assert account.written() == []


@pytest.mark.parametrize("persist", first_is_quick(["its own", "another's"]))
def test_a_control_master_connection(account, sshd, persist):
    control = f"ControlPath={sshd.control}"
    if persist == "its own":
        first = command(
            account, sshd, f"IdentityFile={sshd.key}", control, "ControlMaster=auto", "ControlPersist=60"
        )
        done = account.run(*first)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        known = f"UserKnownHostsFile={account.known_hosts}"
        options = [part for one in (control, known, f"IdentityFile={sshd.key}") for part in ("-o", one)]
        where = ["-p", str(sshd.port), "-l", USER, "127.0.0.1"]
        master = subprocess.run(
            ["ssh", "-M", "-N", "-f", *options, *where],
            timeout=DEADLINE,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        assert master.returncode == 0
    assert sshd.control.exists()
    done = account.run(*command(account, sshd, "IdentityFile=none", control), "--renew")
    assert done.returncode == 0, done.stdout + done.stderr
