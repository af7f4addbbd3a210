"""A pool starts, runs jobs and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import wait_until

from htcdaskgateway.local import LocalSystemError, PersonalPool
from htcdaskgateway.local.__main__ import main
from htcdaskgateway.local.processes import run

JOB = """\
executable = /bin/sleep
arguments = 1000
environment = "POOL_TEST_MARK={mark}"
transfer_executable = false
should_transfer_files = IF_NEEDED
request_cpus = 1
request_memory = 64
request_disk = 64
queue {count}
"""
PARENT = """
import os, sys
from htcdaskgateway.local import PersonalPool
with PersonalPool(sys.argv[1]):
    os.kill(os.getpid(), 9)
"""


def tool(pool, name, *arguments):
    env = {**os.environ, **pool.environ}
    return run([Path(pool.environ["CONDOR_BIN_DIR"]) / name, *arguments], timeout=20, env=env)


def test_jobs_run_and_end_with_the_pool(installation, tmp_path, processes_of):
    mark = f"mark-{os.getpid()}-{tmp_path.name}"
    with PersonalPool(installation=installation, cpus=5, memory="2GiB", config={"POOL_TEST": "a b"}) as pool:
        directory = pool.directory
        assert tool(pool, "condor_config_val", "POOL_TEST").stdout == "a b\n"
        slot = tool(pool, "condor_status", "-af", "TotalSlotCpus", "TotalSlotMemory").stdout.split()
        assert slot == ["5", "2048"]
        assert "127.0.0.1" in tool(pool, "condor_status", "-af", "MyAddress").stdout
        submit = tmp_path / "submit"
        submit.write_text(JOB.format(mark=mark, count=2))
        done = tool(pool, "condor_submit", str(submit))
        assert done.returncode == 0, done.stderr
        wait_until(lambda: "2 of 2 jobs running" in pool.status())
        wait_until(lambda: len(processes_of(mark)) == 2)
    assert not processes_of(mark)
    assert not processes_of(directory)
    assert not directory.exists()
    assert pool.status() == "not running"


def test_queue_is_kept_in_a_directory_of_ones_own(installation, tmp_path):
    deep = tmp_path / ("a-long-name-" * 8)
    submit = tmp_path / "submit"
    submit.write_text(JOB.format(mark="x", count=1))
    pool = PersonalPool(deep, installation=installation)
    with pool:
        assert tool(pool, "condor_submit", str(submit)).returncode == 0
        with pytest.raises(LocalSystemError, match="running already"):
            PersonalPool(deep, installation=installation).start()
        assert pool.running()
    assert deep.exists()
    with pool:
        assert "of 1 jobs" in pool.status()


def test_a_pool_ends_with_the_program_that_was_killed(installation, tmp_path, processes_of):
    env = {**os.environ, "CONDOR_BIN_DIR": str(installation.bin)}
    env.pop("HTCONDOR_SUITE", None)
    pool = PersonalPool(tmp_path / "pool", installation=installation)
    command = [sys.executable, "-c", PARENT, str(pool.directory)]
    assert subprocess.run(command, env=env, timeout=60, check=False).returncode == -signal.SIGKILL
    wait_until(lambda: not pool.running())
    wait_until(lambda: not processes_of(pool.directory))


def test_start_that_fails_leaves_nothing(installation, processes_of):
    pool = PersonalPool(installation=installation, config={"DAEMON_LIST": "MASTER, COLLECTOR"}, start_timeout=3)
    directory = pool.directory
    with pytest.raises(LocalSystemError, match=r"not up after 3 s: (no slot|condor_status)(.|\n)*condor_master"):
        pool.start()
    assert not processes_of(directory)
    assert not directory.exists()


@pytest.mark.parametrize(
    "config",
    [
        {"A": "b\nDAEMON_LIST = MASTER"},
        {"A": "b\r"},
        {"A": "b \\"},
        {"A": "b\0"},
        {"A": "b\x85c"},
        {"A = b\nC": "d"},
        {"use feature : GPUs": "x"},
        {"include": "/etc/passwd"},
    ],
)
def test_config_cannot_add_lines(config):
    with pytest.raises(LocalSystemError):
        PersonalPool(config=config)


@pytest.mark.parametrize("name", ["a b", "a$b", 'a"b', "a,b"])
def test_directory_that_condor_would_misread(installation, tmp_path, name):
    with pytest.raises(LocalSystemError, match="needs a path without"):
        PersonalPool(tmp_path / name, installation=installation).start()


def test_memory_that_is_none():
    with pytest.raises(LocalSystemError, match="no amount of memory"):
        PersonalPool(memory="lots")


def test_a_pool_of_the_command_line_outlives_it_and_is_stopped_by_it(
    installation, tmp_path, monkeypatch, processes_of
):
    monkeypatch.setenv("CONDOR_BIN_DIR", str(installation.bin))
    monkeypatch.delenv("HTCONDOR_SUITE", raising=False)
    directory = tmp_path / "pool"

    def command(verb, *arguments):
        return CliRunner().invoke(main, [verb, "--directory", str(directory), *arguments])

    try:
        # A process of its own, which the pool has to survive.
        options = ["--directory", directory, "--cpus", "3", "--config", "POOL_TEST=1"]
        started = run([sys.executable, "-m", "htcdaskgateway.local", "start", *options], timeout=90)
        assert started.returncode == 0, started.stderr
        assert started.stdout.splitlines() == [
            f"export CONDOR_CONFIG={directory}/condor_config",
            f"export CONDOR_BIN_DIR={installation.bin}",
        ]
        assert command("status").output == "running: 3 cores, 0 of 0 jobs running\n"
        again = command("start")
        assert again.exit_code == 0
        assert "running already" in again.stderr
        assert again.stdout == started.stdout
    finally:
        stopped = command("stop")
    assert stopped.exit_code == 0, stopped.output
    assert not processes_of(directory)
    status = command("status")
    assert (status.exit_code, status.output) == (1, "not running\n")
    wrong = command("start", "--config", "use=x")
    assert wrong.exit_code == 1
    assert wrong.stderr.startswith("Error: ")
