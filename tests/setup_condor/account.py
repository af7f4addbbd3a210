"""A user's bare account, and the person who types."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pexpect
from setup_condor.login_node import LoginNode
from support import COVERAGE

DEADLINE = 60.0
"""How long anything may take, in seconds; generous, since the machine may be busy."""


@dataclass
class Account:
    """A user's bare account: an empty home, and a conda environment with HTCondor's tools in it."""

    home: Path
    conda: Path
    collector: str
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def token(self) -> Path:
        return self.home / ".condor/tokens.d/htcdaskgateway"

    @property
    def configuration(self) -> Path:
        return self.conda / "etc/condor/config.d/90-htcdaskgateway.conf"

    @property
    def known_hosts(self) -> Path:
        return self.home / "known_hosts"

    @property
    def environ(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "CONDOR_BIN_DIR": str(self.conda / "bin"),
            # Where distributed and dask-gateway leave their commented configuration when they are imported.
            "DASK_CONFIG": str(self.home.with_name("dask")),
            "HTCDASK_STAGEDIR": str(self.home / "staging"),
            **COVERAGE,
            **self.settings,
        }

    def written(self) -> list[str]:
        """Return what is in the account that was not there at first."""
        places = (self.home, self.conda / "etc/condor/config.d")
        ours = {self.known_hosts}
        return sorted(str(path) for place in places for path in place.rglob("*") if path not in ours)

    def know(self, node: LoginNode) -> None:
        key = node.key.export_public_key().decode().strip()
        self.known_hosts.write_text(f"[127.0.0.1]:{node.port} {key}\n")

    def command(self, port: int | None, *arguments: str, user: str | None = "alice") -> list[str]:
        ours = []
        if port is not None:
            ours = ["--login-host", "127.0.0.1", "--port", str(port)]
            for option in (f"UserKnownHostsFile={self.known_hosts}", "IdentityFile=none", "IdentityAgent=none"):
                ours += ["-o", option]
        if user is not None:
            ours += ["--user", user]
        where = ["--collector", self.collector, "--schedd", "schedd@"]
        return [sys.executable, "-m", "htcdaskgateway.setup_condor", *ours, *where, *arguments]

    def run(self, *command: str, timeout: float = DEADLINE) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, without a terminal."""
        return subprocess.run(
            command,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            start_new_session=True,
            cwd=self.home,
        )

    def condor(self, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a tool of HTCondor as the user would: with the environment's configuration and no more."""
        environ = {
            "HOME": str(self.home),
            "PATH": "/usr/bin:/bin",
            "CONDOR_CONFIG": str(self.conda / "etc/condor/condor_config"),
            "_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS": "IDTOKENS",
        }
        return subprocess.run(
            [str(self.conda / "bin" / tool), *arguments],
            env=environ,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )


class Person:
    """Somebody at a terminal who started setup_condor."""

    def __init__(self, account: Account, command: list[str]) -> None:
        self.child = pexpect.spawn(
            command[0],
            command[1:],
            env=account.environ,
            cwd=str(account.home),
            encoding="utf-8",
            timeout=DEADLINE,
            dimensions=(40, 240),
            # Whoever runs the tests may have SIGINT ignored, as a shell's background job has; a terminal has not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.child.delaybeforesend = None
        self.seen = ""

    def sees(self, *patterns: str) -> None:
        for pattern in patterns:
            self.child.expect(pattern)
            self.seen += self.child.before + self.child.after

    def types(self, text: str, *, hidden: bool = False) -> None:
        if hidden:
            assert self.child.waitnoecho(timeout=DEADLINE), "the answer would have been seen"
        self.child.sendline(text)

    def sends_ctrl_c(self) -> None:
        """Press Ctrl-C, and again if nothing happens, as a person would.

        A signal that comes just before Python's input() begins to wait is seen by it with the next one only.
        """
        self.child.sendintr()
        if self.child.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=5) == 0:
            self.seen += self.child.before
        else:
            self.child.sendintr()

    def leaves(self) -> tuple[int, str]:
        """Return the exit code and everything that was on the screen."""
        self.child.expect(pexpect.EOF)
        self.seen += self.child.before
        self.child.close()
        if os.environ.get("SHOW_SESSIONS"):
            sys.stderr.write(f"\n=====\n{self.seen}\n=====\n")
        assert self.child.signalstatus is None, self.seen
        return self.child.exitstatus, self.seen
