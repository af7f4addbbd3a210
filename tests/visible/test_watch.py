"""The live table of the terminal: what it shows, and that it ends with Ctrl-C, in a real terminal."""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pexpect
import pytest
from rich.console import Console
from support import PATIENCE, Pool, wait_until

from htcdaskgateway.condor.jobs import JobId, JobStatus, WorkerJob
from htcdaskgateway.display.watch import Row, View, render
from htcdaskgateway.errors import CondorError
from htcdaskgateway.fleet.watching import view_of
from htcdaskgateway.scheduler.link import Tasks

PROGRAM = Path(sys.executable).with_name("htcdaskgateway")


@pytest.fixture(autouse=True)
def _client_settings(system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in system.environ.items():
        monkeypatch.setenv(name, value)


def once(name: str) -> str:
    done = subprocess.run([PROGRAM, "watch", name], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def text(view: View, rows: int = 20, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(render(view, rows, width))
    return captured.get()


@pytest.mark.long
def test_jobs_and_tasks_are_shown_together(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster(cpus=1, memory="1GB")
    cluster.scale(2)
    client = cluster.get_client()
    client.wait_for_workers(2, timeout=PATIENCE)
    assert client.submit(sum, [1, 2]).result() == 3

    def wait() -> None:  # here, because a worker cannot import this module
        import time

        time.sleep(600)

    futures = [client.submit(wait, pure=False) for _ in range(5)]
    held = cluster.jobs()[0].id
    wait_until(lambda: "Tasks  1 done, 5 to do" in once(cluster.name), what=lambda: once(cluster.name))
    pool.run("condor_hold", "-reason", "for this test", held)
    told = wait_until(lambda: "1 running, 1 held; 1 worker joined" in (found := once(cluster.name)) and found)
    assert f"Cluster {cluster.name}" in told
    assert "Jobs   2 asked for: 1 running, 1 held; 1 worker joined" in told
    rows = told.splitlines()[6:]
    assert rows[0].split() == ["Job", "Status", "For", "Starts", "Machine", "Worker", "Why"]
    assert rows[1].split()[:2] == [str(held), "held"], "what needs a look comes first"
    assert "for this test" in told
    assert re.search(r"[1-9] tasks?\b", told)
    del futures


@pytest.mark.long
def test_it_follows_in_a_terminal_and_ctrl_c_ends_it(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster(cpus=1, memory="1GB")
    watching = pexpect.spawn(str(PROGRAM), ["watch", cluster.name[:9], "--interval", "0.2"], timeout=PATIENCE)
    try:
        watching.expect("0 asked for")
        cluster.scale(1)
        watching.expect("1 asked for")
        watching.expect("1 worker joined")
        watching.sendintr()
        watching.expect(pexpect.EOF)
        watching.wait()
        assert watching.exitstatus == 0
        assert "Traceback" not in watching.before.decode()
    finally:
        watching.close(force=True)
    assert pool.statuses(cluster.name) == [2], "the jobs go on"


@pytest.mark.long
def test_a_cluster_that_ends_meanwhile_is_told_in_a_sentence(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(cpus=1)
    watching = pexpect.spawn(str(PROGRAM), ["watch", cluster.name, "--interval", "0.2"], timeout=PATIENCE)
    try:
        watching.expect("0 asked for")
        cluster.shutdown()
        watching.expect("Error: ")
        watching.expect(pexpect.EOF)
        watching.wait()
        assert watching.exitstatus == 1
        assert b"Traceback" not in watching.before
    finally:
        watching.close(force=True)


def test_many_jobs_fit_into_a_small_terminal() -> None:
    rows = [Row(f"1.{n}", "running", "3 s", "1", "machine", "1 task", "") for n in range(1000)]
    rows.append(Row("1.1000", "held", "3 s", "1", "", "", "why " * 50))
    view = View("Cluster c1", {"running": 1000, "held": 1}, 1000, 10, 20, 0, rows)
    told = text(view, rows=5, width=60)
    assert len(told.splitlines()) < 15
    assert any(line.startswith("1.1000") for line in told.splitlines()[6:9])
    assert "… and 996 more" in told
    assert max(map(len, told.splitlines())) <= 60


def test_a_queue_that_cannot_be_read_is_shown_as_it_was_and_jobs_of_several_workers_with_all_their_tasks() -> None:
    jobs = [WorkerJob(JobId(17, i), JobStatus.RUNNING, 1, host) for i, host in enumerate(["one", "two"])]

    async def look() -> Any:
        raise CondorError("the schedd does not answer")

    async def tasks() -> Tasks:
        return Tasks(5, 1, 3, {"htcondor-17.0-1-0": 1, "htcondor-17.0-1-1": 2, "of-somebody-else": 9})

    fleet: Any = SimpleNamespace(
        look=look,
        seen=SimpleNamespace(live=jobs),
        scheduler=SimpleNamespace(tasks=tasks),
        staging=SimpleNamespace(cluster="c1"),
    )
    told = text(asyncio.run(view_of(fleet)))
    assert "The queue cannot be read; this is how it was: the schedd does not answer" in told
    assert re.search(r"17\.0 +running .*one +2 workers, 3 tasks", told), told
    assert re.search(r"17\.1 +starting .*two +not joined yet", told), told


def test_a_view_of_nothing() -> None:
    told = text(View("Cluster c1", {}, note="the queue cannot be read"))
    assert "Jobs   0 asked for; 0 workers joined" in told
    assert "the queue cannot be read" in told


def test_an_interval_that_is_none() -> None:
    done = subprocess.run(
        [PROGRAM, "watch", "any", "--interval", "0"], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 1
    assert "--interval 0 is not a time of more than zero seconds" in done.stderr
