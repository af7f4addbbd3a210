"""Start and stop processes of the local system: guarded servers, and programs run to their end."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from . import guard
from .errors import LocalSystemError

logger = logging.getLogger(__name__)

LOG_TAIL_LINES = 30
ONE_UID = 1
POLL_INTERVAL = 0.05
NAMESPACE_TIMEOUT = 10.0

# Without what was installed or set for this Python.
GUARD = (sys.executable, "-I", "-S", guard.__file__)

S = TypeVar("S", bound="Startable")


def run(
    command: Sequence[str | Path], *, timeout: float, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, or kill it after `timeout` seconds; return what it said, whatever its exit code."""
    name = Path(command[0]).name
    logger.debug("running %s", command)
    try:
        return subprocess.run(  # noqa: S603
            [os.fspath(part) for part in command],
            env=env,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LocalSystemError(f"{name} did not end within {timeout:g} s") from error
    except OSError as error:
        raise LocalSystemError(f"cannot run {command[0]}: {error.strerror}") from error


def check_platform() -> None:
    """Raise before anything is installed where the local system cannot run."""
    if not sys.platform.startswith("linux"):
        raise LocalSystemError("the local system needs Linux; elsewhere run it in a Linux container or machine")


def one_uid_namespace(command: Sequence[str | Path]) -> list[str | Path]:
    """Return the command that runs `command` in namespaces of its own with one uid; as it is unless this is root.

    There it has root's rights over files and none over the machine, and all that it starts ends with it.
    """
    if os.getuid() != 0:
        return list(command)
    ids = [f"--map-user={ONE_UID}", f"--map-group={ONE_UID}"]
    kinds = ["--user", *ids, "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
    whole: list[str | Path] = ["unshare", *kinds, "--"]
    tried = run([*whole, "true"], timeout=NAMESPACE_TIMEOUT)
    if tried.returncode != 0:
        raise LocalSystemError(
            f"root's pool needs user namespaces, which are not allowed here ({tried.stderr.strip()}); run it as "
            "an account other than root (`runuser -u NAME -- ...`, `docker run --user 1000`), or allow them ("
            "docker: --security-opt seccomp=unconfined --security-opt systempaths=unconfined)"
        )
    return [*whole, *command]


def free_ports(count: int) -> list[int]:
    """Return TCP ports of the loopback address that nothing listens on, all different.

    They lie below those that Linux gives to outgoing connections, one of which could else take a port before its
    server does. Nor does another process of this package get them for as long as this one lives: a server may take
    some seconds until it listens.
    """
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = 12000 + secrets.randbelow(20000)
            sock = stack.enter_context(socket.socket())
            claim = stack.enter_context(socket.socket(socket.AF_UNIX))
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                claim.bind(f"\0htcdaskgateway-port-{port}")
                claim.detach()  # stays open; a name of Linux's, which is gone with this process
                found.append(port)
    return found


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Ask again and again until the condition holds; False if it still does not after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL)
    return True


def tail(path: Path) -> str:
    """Return the last lines of a log file, for an error's text."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return f"({path} does not exist)"
    return "\n".join(lines[-LOG_TAIL_LINES:]) or f"({path} is empty)"


class Startable:
    """What runs from ``start()`` to ``stop()``, or for the length of a ``with`` block."""

    def start(self) -> None:
        """Start it."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop it; where it does not run, nothing happens."""
        raise NotImplementedError

    def __enter__(self: S) -> S:
        self.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.stop()


class GuardedProcess:
    """A server of which nothing is left when it stops, or when this process is gone.

    The server runs under `guard.py`. Its lock file tells any later process whether it is running. When
    it is told to end it has `grace` seconds to do so by itself; with 0 it is killed at once.
    """

    def __init__(self, lock: Path, log: Path, *, grace: float = 0) -> None:
        self.lock = lock
        self.log = log
        self.grace = grace
        self._guard: subprocess.Popen[bytes] | None = None

    def start(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path,
        detached: bool = False,
        remove: Path | None = None,
    ) -> None:
        """Start the server, to end with this process or, if detached, to stay until stopped.

        If this process goes without stopping it, `remove` is a directory that goes too.
        """
        check_platform()
        if self.running():
            raise LocalSystemError(f"already running (process {self.pid()}, {self.lock})")
        head = [*GUARD, os.fspath(self.lock), f"{self.grace:g}"]
        head += ["0", ""] if detached else [str(os.getpid()), os.fspath(remove or "")]
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(  # noqa: S603
                head + [os.fspath(part) for part in command],
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def running(self) -> bool:
        """Whether the server, or anything that it started, is running."""
        if self._guard is not None and self._guard.poll() is None:
            return True
        try:
            with self.lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def pid(self) -> int | None:
        """Return the process id of the running guard, if there is one."""
        if self._guard is not None and self._guard.poll() is None:
            return self._guard.pid
        if not self.running():
            return None
        text = self.lock.read_text().strip()
        return int(text) if text else None

    def stop(self, timeout: float = 20) -> None:
        """End the server and everything that it started, and wait until all is gone."""
        pid = self.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGTERM)
        if not wait_until(lambda: not self.running(), self.grace + timeout):
            raise LocalSystemError(f"process {pid} is still running {self.grace + timeout:g} s after SIGTERM")
        self._guard = None

    def halt(self) -> None:
        """End the server alone and leave running what it started. Returns at once."""
        self._tell(signal.SIGUSR1)

    def resume(self) -> None:
        """Start the halted server again, the same command."""
        self._tell(signal.SIGUSR2)

    def _tell(self, number: signal.Signals) -> None:
        pid = self.pid()
        if pid is None:
            raise LocalSystemError(f"not running ({self.lock})")
        os.kill(pid, number)
