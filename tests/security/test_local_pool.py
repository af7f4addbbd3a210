"""The local pool is its owner's alone: no other account of the machine reads its queue or submits to it."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from htcdaskgateway.local import PersonalPool

STRANGER = "www-data"
TIMEOUT = 60.0
JOB = """\
executable = /bin/sleep
arguments = 1000
transfer_executable = false
request_memory = 64
queue 1
"""


def as_account(name: str) -> list[str]:
    """Return what to put before a command so that this account runs it, which may read where HTCondor lies."""
    if os.geteuid() != 0:
        pytest.skip("another account is needed, which only root can be")
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        pytest.skip(f"this machine has no account {name}")
    rights = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    command = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", *rights, "--"]
    if shutil.which("setpriv") is None or subprocess.run([*command, "true"], timeout=TIMEOUT).returncode != 0:
        pytest.skip("setpriv cannot make another account here")
    return command


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that other accounts reach: pytest's own are private."""
    found = tmp_path_factory.mktemp("pool")
    for path in (found, *found.parents):
        if path.owner() == pwd.getpwuid(os.geteuid()).pw_name and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    return found


def asked(pool: PersonalPool, before: list[str], tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool with the pool's own configuration, which leads to it, and the account's name as the proof."""
    environ = {"CONDOR_CONFIG": str(pool.directory / "condor_config"), "PATH": os.defpath}
    # No token: this stranger may read every file.
    environ["_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS"] = "FS"
    return subprocess.run(
        [*before, str(pool.installation.bin / tool), *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        cwd="/",
    )


def test_no_other_account_can_use_the_pool(directory):
    stranger = as_account(STRANGER)
    submit = directory / "submit"
    submit.write_text(JOB)
    submitting = "condor_submit", "-name", "schedd@", "-terse", str(submit)
    queue = "condor_q", "-name", "schedd@", "-allusers", "-af", "ClusterId"
    with PersonalPool(directory / "pool", cpus=1) as pool:
        own = asked(pool, [], *submitting)
        assert own.returncode == 0, own.stderr
        done = asked(pool, stranger, *submitting)
        assert done.returncode != 0, f"it would run as the pool's owner: {done.stdout}"
        seen = asked(pool, stranger, *queue)
        assert seen.returncode != 0, f"it tells what the owner runs: {seen.stdout}"
        for level in ("READ", "WRITE", "DAEMON", "NEGOTIATOR", "ADMINISTRATOR"):
            for kind in ("SCHEDD", "COLLECTOR"):
                ping = asked(pool, stranger, "condor_ping", "-type", kind, level)
                assert ping.returncode != 0, f"{kind} {level}: {ping.stdout}"
        assert asked(pool, [], *queue).stdout.split() == [own.stdout.split(".")[0]]
        assert stat.S_IMODE(pool.directory.stat().st_mode) == 0o700, "what a job writes is below"
