"""Waiting for workers: what is shown meanwhile, and when it ends."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.config
import pexpect
import pytest
from dask_gateway.client import GatewayWarning
from distributed import TimeoutError as DaskTimeoutError
from support import COVERAGE, PATIENCE, Pool, Tools, wait_until

from htcdaskgateway.display.progress import in_mebibytes, progress, tell
from htcdaskgateway.errors import ConfigError, WaitError, WaitTimeoutError

NOWHERE = 'Machine == "nowhere"'


@pytest.fixture
def _quick() -> Iterator[None]:
    with dask.config.set({"htcdaskgateway.condor.poll-interval": "0.3s"}):
        yield


@pytest.mark.core
def test_it_returns_when_the_workers_are_there_and_is_quiet_where_nobody_looks(
    cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.scale(2)
    capfd.readouterr()
    cluster.wait_for_workers(2, timeout=PATIENCE)
    wait_until(lambda: len(cluster.scheduler_info["workers"]) == 2, what="the view, which is told apart, has both")
    cluster.wait_for_workers(1)
    with cluster.get_client() as client:
        client.wait_for_workers(2)
    assert capfd.readouterr().out == ""


def test_the_timeouts_message_counts(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(requirements=NOWHERE)
    cluster.scale(2)
    with pytest.raises(WaitTimeoutError, match=r"0 of 2 workers have joined after 1 s; jobs: 0 running, 2 idle"):
        cluster.wait_for_workers(2, timeout="1s")
    with cluster.get_client() as client, pytest.raises(DaskTimeoutError):
        client.wait_for_workers(1, timeout=1)


@pytest.mark.usefixtures("_quick")
@pytest.mark.long
def test_it_ends_when_too_many_jobs_are_held_and_each_hold_is_warned_of_once(
    new_cluster: Callable[..., Any], pool: Pool
) -> None:
    cluster = new_cluster()
    cluster.scale(2)
    cluster.wait_for_workers(2, timeout=PATIENCE)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("ignore")  # what an earlier test has left may be collected meanwhile
        warnings.simplefilter("always", GatewayWarning)

        def holds() -> list[str]:
            return [str(warning.message) for warning in told if "HTCondor holds" in str(warning.message)]

        pool.run("condor_hold", "-reason", "tired", f"{cluster.jobs()[0].id}")
        wait_until(lambda: cluster.jobs() and "1 held" in cluster.jobs().summary())
        wait_until(lambda: len(cluster.scheduler_info["workers"]) == 1, what="its worker leaves")
        with pytest.raises(WaitError, match=r"Cannot get 2 workers: 1 of 2 jobs") as caught:
            cluster.wait_for_workers(2)
        assert "tired" in str(caught.value)
        assert "condor_release" in str(caught.value)
        cluster.wait_for_workers(1)
        assert len(holds()) == 1
        assert f"{cluster.jobs()[0].id}" in holds()[0]
        assert "tired" in holds()[0]

        pool.run("condor_release", f"{cluster.jobs()[0].id}")
        cluster.wait_for_workers(2, timeout=PATIENCE)
        pool.run("condor_hold", "-reason", "tired again", cluster.jobs()[0].id.cluster)
        wait_until(lambda: "2 held" in cluster.jobs().summary())
        assert len(holds()) == 2, "one for the jobs that were held together"
        assert f"{cluster.jobs()[0].id}, {cluster.jobs()[1].id}" in holds()[1]


@pytest.mark.usefixtures("_quick")
def test_it_ends_when_no_machine_can_match(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(cpus=99)
    cluster.scale(2)
    with pytest.raises(WaitError, match=r"Cannot get 1 worker: 2 of 2 jobs") as caught:
        cluster.wait_for_workers(1, timeout=PATIENCE)
    assert not isinstance(caught.value, WaitTimeoutError)
    assert "Each worker asks for 99 cores; the largest machine has " in str(caught.value)
    assert "gateway.connect(cluster.name, cpus=" in str(caught.value)


@pytest.mark.usefixtures("_quick")
def test_too_few_jobs_are_told_at_once_and_another_clients_are_waited_for(cluster: Any, gateway: Any) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("ignore")  # what an earlier test has left may be collected meanwhile
        warnings.simplefilter("always", GatewayWarning)
        ended = []
        thread = threading.Thread(target=lambda: ended.append(cluster.wait_for_workers(1, timeout=PATIENCE)))
        thread.start()
        wait_until(lambda: told, what="a warning")
        assert issubclass(told[0].category, GatewayWarning)
        assert "You wait for 1 worker, but there are 0 worker jobs. Call scale(1)." in str(told[0].message)
        gateway.scale_cluster(cluster.name, 1)
        thread.join(PATIENCE)
        assert ended == [None]
        assert len(told) == 1


@pytest.mark.usefixtures("_quick")
@pytest.mark.long
def test_one_held_job_of_too_few_does_not_end_the_wait_for_more(cluster: Any, pool: Pool) -> None:
    cluster.scale(2)
    cluster.wait_for_workers(2, timeout=PATIENCE)
    pool.run("condor_hold", f"{cluster.jobs()[0].id}")
    wait_until(lambda: "1 held" in cluster.jobs().summary())
    wait_until(lambda: len(cluster.scheduler_info["workers"]) == 1, what="its worker leaves")
    with pytest.warns(GatewayWarning, match=r"Call scale\(4\)"), pytest.raises(WaitTimeoutError):
        cluster.wait_for_workers(4, timeout="2s")
    with pytest.raises(WaitError, match="Cannot get 2 workers") as caught:  # nobody makes up for it
        cluster.wait_for_workers(2, timeout=PATIENCE)
    assert not isinstance(caught.value, WaitTimeoutError)


def test_adaptive_scaling_is_trusted_within_its_maximum(cluster: Any) -> None:
    cluster.adapt(minimum=0, maximum=2)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("ignore")  # what an earlier test has left may be collected meanwhile
        warnings.simplefilter("always", GatewayWarning)
        with pytest.raises(WaitTimeoutError):
            cluster.wait_for_workers(2, timeout=1)
        assert not told
        with pytest.raises(WaitTimeoutError):
            cluster.wait_for_workers(3, timeout=1)
        assert "adapt() makes 2 at most. Call scale(3)." in str(told[0].message)


@pytest.mark.usefixtures("_quick")
@pytest.mark.long
def test_a_schedd_that_is_away_does_not_end_the_wait(
    tool_calls: Tools, cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.scale(1)
    tool_calls.answer("condor_q", stderr="Error: Can't find address for schedd x", code=1)
    with caplog.at_level(logging.WARNING):
        cluster.wait_for_workers(1, timeout=PATIENCE)
    tool_calls.restore("condor_q")
    told = [record for record in caplog.records if "Cannot read the queue" in record.getMessage()]
    assert len(told) == 1


def test_numbers_that_are_none(cluster: Any) -> None:
    for n, timeout in ((-1, None), (1.5, None), (1, "soon"), (1, -2)):
        with pytest.raises(ConfigError):
            cluster.wait_for_workers(n, timeout=timeout)


def test_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from htcdaskgateway.display.progress import progress, tell\n"
        "with progress('workers joined', 3) as show:\n"
        "    show(1, 'jobs: 1 running, 2 idle [x]')\n"
        "    show(3, 'jobs: 3 running')\n"
        "tell('all of them [bold] are there')\n"
    )
    environment = {"TERM": "xterm", "PATH": "/usr/bin:/bin", "COLUMNS": "120", **COVERAGE}
    child = pexpect.spawn(sys.executable, [str(program)], env=environment, timeout=PATIENCE, encoding="utf-8")
    try:
        child.expect("workers joined")
        child.expect("3/3.*jobs: 3 running")
        child.expect(r"all of them \[bold\] are there")
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)


def test_a_notebook_shows_a_bar_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import RichOutput, capture_output

    shell = InteractiveShell.instance()
    monkeypatch.setattr(shell, "kernel", object(), raising=False)
    try:
        with capture_output() as captured, progress("workers joined", 2) as show:
            show(1, "jobs: 1 running, 1 <idle>")
            tell("all of <them>")
        first, second, line = captured.outputs
        assert isinstance(second, RichOutput)
        assert "workers joined 0/2" in first.data["text/plain"]
        assert "workers joined 1/2  jobs: 1 running, 1 <idle>" in second.data["text/plain"]
        assert "<progress value='1' max='2'>" in second.data["text/html"]
        assert "&lt;idle&gt;" in second.data["text/html"]
        assert second.update
        assert first.transient == second.transient
        assert line.data == {"text/plain": "all of <them>", "text/html": "<div>all of &lt;them&gt;</div>"}
    finally:
        InteractiveShell.clear_instance()


def test_where_nobody_looks_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("workers joined", 2) as show:
        show(1, "jobs: 1 running")
    tell("all of them")
    assert capsys.readouterr() == ("", "")


def test_bytes_that_come_in_threads_are_shown_as_their_sum_every_8_mib() -> None:
    shown: list[tuple[int, str]] = []
    come = in_mebibytes(lambda *told: shown.append(told))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(come, [2**20] * 20))
    assert shown == [(8, "MiB"), (16, "MiB")]


def test_it_can_be_awaited(cluster: Any) -> None:
    async def both() -> None:
        await cluster._scale(1)
        await asyncio.gather(cluster._wait_for_workers(1, PATIENCE), cluster._wait_for_workers(1, PATIENCE))

    cluster.gateway.sync(both)
