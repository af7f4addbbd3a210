"""A guarded server leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from support import COVERAGE, wait_until

from htcdaskgateway.local import guard, processes
from htcdaskgateway.local.errors import LocalSystemError
from htcdaskgateway.local.processes import GuardedProcess, free_ports, run

# A server that starts one child of its own in a session of its own, writes both ids and then waits.
SERVER = """
import os, signal, subprocess, sys, time
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: (open("said", "a").write("bye"), os._exit(0)))
open("ids.new", "w").write(f"{os.getpid()} {child.pid}")
os.replace("ids.new", "ids")
time.sleep(1000)
"""
# A process that guards that server until it is killed.
PARENT = """
import os, sys, time
from pathlib import Path
from htcdaskgateway.local import processes
from htcdaskgateway.local.processes import GuardedProcess
directory, detached, server = Path(sys.argv[1]), sys.argv[2] == "detached", sys.argv[3]
processes.GUARD = sys.argv[4:]
process = GuardedProcess(directory / "lock", directory / "log")
own = directory / "own"
own.mkdir()
process.start([sys.executable, "-c", server], env=os.environ, cwd=directory, detached=detached, remove=own)
while not (directory / "ids").exists():
    time.sleep(0.02)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def noted(monkeypatch):
    """Let the guard note which lines it runs, where that is wanted; else no installed package is loaded there."""
    if COVERAGE:
        monkeypatch.setattr(processes, "GUARD", (sys.executable, guard.__file__))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def server(tmp_path):
    process = GuardedProcess(tmp_path / "lock", tmp_path / "log", grace=5)
    process.start([sys.executable, "-c", SERVER], env=os.environ, cwd=tmp_path)
    try:
        wait_until((tmp_path / "ids").exists)
        yield process
    finally:
        process.stop()


def ids(tmp_path):
    return [int(word) for word in (tmp_path / "ids").read_text().split()]


def test_stop_ends_everything_and_gives_grace(tmp_path, server):
    main, child = ids(tmp_path)
    assert alive(main)
    assert alive(child)
    assert server.running()
    server.stop()
    assert not alive(main)
    assert not alive(child)
    assert not server.running()
    assert (tmp_path / "said").read_text() == "bye"
    server.stop()


def test_halt_and_resume_keep_what_the_server_started(tmp_path, server):
    main, child = ids(tmp_path)
    (tmp_path / "ids").unlink()
    server.halt()
    wait_until(lambda: not alive(main))
    assert alive(child)
    assert server.running()
    server.resume()
    wait_until((tmp_path / "ids").exists)
    new_main, new_child = ids(tmp_path)
    assert new_main != main
    server.stop()
    assert not any(map(alive, (child, new_main, new_child)))


def test_the_lock_is_for_one(tmp_path, server):
    other = GuardedProcess(server.lock, server.log)
    assert other.running()
    assert other.pid() == server.pid()
    with pytest.raises(LocalSystemError, match="already running"):
        other.start(["true"], env=os.environ, cwd=tmp_path)


def test_a_second_guard_of_one_lock_starts_nothing(tmp_path, server):
    command = [*processes.GUARD, server.lock, "0", "0", "", "touch", tmp_path / "started"]
    assert run(command, timeout=20, env=os.environ).returncode == guard.EXIT_LOCKED
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("detached", [False, True])
def test_a_process_ends_with_the_program_that_was_killed_unless_it_is_detached(tmp_path, detached):
    how = "detached" if detached else ""
    command = [sys.executable, "-c", PARENT, str(tmp_path), how, SERVER, *processes.GUARD]
    done = subprocess.run(command, timeout=20, check=False)
    assert done.returncode == -signal.SIGKILL
    process = GuardedProcess(tmp_path / "lock", tmp_path / "log")
    pids = ids(tmp_path)
    if detached:
        assert process.running()
        process.stop()
    wait_until(lambda: not process.running())
    assert not any(map(alive, pids))
    assert (tmp_path / "own").exists() == detached


def test_a_process_ends_with_its_guard(tmp_path, server):
    os.kill(server.pid(), signal.SIGKILL)
    main, child = ids(tmp_path)
    wait_until(lambda: not alive(main))
    os.kill(child, signal.SIGKILL)
    assert not server.running()


def test_a_command_that_is_not_there_is_told_in_the_log(tmp_path):
    process = GuardedProcess(tmp_path / "lock", tmp_path / "log")
    process.start([tmp_path / "nothing"], env=os.environ, cwd=tmp_path)
    wait_until(lambda: not process.running())
    assert "cannot run" in process.log.read_text()


def test_run_has_a_limit_and_clear_errors(tmp_path):
    assert run(["echo", "a b", "$HOME"], timeout=5).stdout == "a b $HOME\n"
    assert run(["false"], timeout=5).returncode == 1
    with pytest.raises(LocalSystemError, match=r"sleep did not end within 0\.1 s"):
        run(["sleep", "100"], timeout=0.1)
    with pytest.raises(LocalSystemError, match="cannot run"):
        run([tmp_path / "nothing"], timeout=5)


def test_free_ports_differ():
    assert len(set(free_ports(20))) == 20
