"""The process that a server runs under, so that everything the server starts ends with it.

Run as a program by `processes.GuardedProcess`; imports nothing but the standard library. Linux only.

    guard.py LOCK GRACE PARENT REMOVE COMMAND...

LOCK is a file that stays locked for as long as anything is running, and holds this process's id. GRACE is how
many seconds COMMAND has after SIGTERM. PARENT is the id of the process to end with, or 0 to stay until told.
REMOVE is a directory that goes if PARENT has gone without a word, or nothing.
SIGTERM ends everything; SIGUSR1 ends COMMAND alone, not what it started, and SIGUSR2 starts it again.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PARENT_INTERVAL = 0.5
LOCK_PATIENCE = 2.0
EXIT_LOCKED = 75

SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2}


def take_lock(path: str) -> bool:
    """Lock the file for this process's life and write the process id into it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:  # another guard, or only a look at the status, which is over at once
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return True


def start(command: list[str], prctl: ctypes._NamedFuncPointer) -> int:
    """Start the command as a child that is killed should this process be killed."""
    guard = os.getpid()
    return os.fork() or become(command, guard, prctl)


def become(command: list[str], guard: int, prctl: ctypes._NamedFuncPointer) -> int:
    """Run the command in this process, a child of the guard."""
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == guard:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def reap() -> dict[int, int]:
    """Take note of the children that have ended: process id to wait status."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):  # there are none
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            ended[child[0]] = child[1]
    return ended


def end(pid: int, grace: float) -> None:
    """End one child: SIGTERM, then SIGKILL after the grace."""
    deadline = time.monotonic() + grace
    if grace > 0:
        os.kill(pid, signal.SIGTERM)
    while (left := deadline - time.monotonic()) > 0:
        if pid in reap():  # all of them: the child may be waiting for one that this process was left with
            return
        signal.sigtimedwait({signal.SIGCHLD}, min(left, 0.2))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def children() -> list[int]:
    """Process ids of this process's children."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        if int(stat[stat.rindex(b")") + 1 :].split()[1]) == os.getpid():
            found.append(int(entry.name))
    return found


def end_all() -> None:
    """End every descendant: what loses its parent becomes a child of this process, the subreaper."""
    while True:
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def exit_code(status: int) -> int:
    """Exit code as a shell would give it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def guard(command: list[str], grace: float, parent: int) -> int:
    """Run the command until it ends by itself, the parent is gone or a signal says so; return its exit code."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child, halted, code = start(command, prctl), False, 0
    try:
        while child or halted:
            info = signal.sigtimedwait(SIGNALS, PARENT_INTERVAL)
            number = info.si_signo if info else 0
            if number in (signal.SIGTERM, signal.SIGINT) or (parent and os.getppid() != parent):
                break
            if number == signal.SIGUSR1 and child:
                end(child, grace)
                child, halted = 0, True
            elif number == signal.SIGUSR2 and halted:
                child, halted = start(command, prctl), False
            ended = reap()
            if child in ended:
                child, code = 0, exit_code(ended[child])
    finally:
        if child:
            end(child, grace)
        end_all()
    return code


if __name__ == "__main__":
    if not take_lock(sys.argv[1]):
        sys.exit(EXIT_LOCKED)
    parent, remove = int(sys.argv[3]), sys.argv[4]
    code = guard(sys.argv[5:], float(sys.argv[2]), parent)
    if remove and os.getppid() != parent:
        shutil.rmtree(remove)
    sys.exit(code)
