"""What the workers wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pytest
from dask_gateway.client import GatewayWarning
from support import PATIENCE, Pool, Tools, wait_until

from htcdaskgateway import WorkerSpec
from htcdaskgateway.condor.jobs import JobId
from htcdaskgateway.fleet import logs
from htcdaskgateway.worker.staging import Staging


def with_workers(cluster: Any, n: int) -> Any:
    cluster.scale(n)
    client = cluster.get_client()
    client.wait_for_workers(n, timeout=PATIENCE)
    wait_until(lambda: len([job for job in cluster.jobs() if job.worker_name]) == n, what="condor_q knows it")
    return client


@pytest.mark.parametrize("spool", [False, True], ids=["shared-directory", "spooled"])
@pytest.mark.long
def test_of_running_and_of_finished_workers(spool: bool, new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster(spool=spool)
    dask.config.set({"htcdaskgateway.retire-grace": "60s"})  # a worker ends by itself, on a slow machine too
    with_workers(cluster, 2)
    names = {job.worker_name for job in cluster.jobs()}
    running = wait_until(
        lambda: (found := cluster.logs()) and all("Registered to" in text for text in found.values()) and found,
        what=cluster.logs,
    )
    assert set(running) == names
    for name, text in running.items():
        assert f"{name} starts on" in text.splitlines()[0]
    cluster.scale(1)
    finished = wait_until(
        lambda: (names - {job.worker_name for job in cluster.jobs()}).pop() if len(cluster.jobs().live) == 1 else ""
    )
    wait_until(lambda: cluster.logs() and finished in logs.read(cluster.fleet.staging), what="its file has come")
    both = cluster.logs()
    assert set(both) == names
    job = str(JobId.of_worker(finished))
    assert set(cluster.logs(job)) == {finished} == set(cluster.logs([finished]))
    name = cluster.name
    cluster.shutdown()
    assert finished in cluster.logs(), "what came back stays readable"
    wait_until(lambda: not pool.ads("-constraint", f'HTCDaskGatewayCluster == "{name}"'), what="an empty queue")


@pytest.mark.long
def test_a_spooled_job_leaves_the_queue_when_nobody_fetches_its_output(
    new_cluster: Callable[..., Any], pool: Pool
) -> None:
    cluster = new_cluster(spool=True, max_held_time=15)
    with_workers(cluster, 1)
    dask.config.set({"htcdaskgateway.retire-grace": "60s"})  # it ends by itself, on a slow machine too
    cluster.scale(0)
    assert [ad["JobStatus"] for ad in pool.ads("-constraint", cluster.fleet.constraint)] == [4]
    assert len(cluster.jobs().live) == 0
    wait_until(lambda: not pool.ads("-constraint", cluster.fleet.constraint), what="an empty queue")


@pytest.mark.long
def test_each_start_of_a_job_has_its_own(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(job_script_prologue=["echo start $NumShadowStarts failed >&2; exit 3"])
    cluster.scale(1)
    job = wait_until(lambda: [job for job in cluster.jobs() if job.hold_code == 3])[0]
    found = cluster.logs()
    assert list(found) == [f"htcondor-{job.id}-{start}@{job.schedd}" for start in (1, 2, 3)]
    assert [text.splitlines()[-1] for text in found.values()] == [f"start {n} failed" for n in (1, 2, 3)]
    text = str(found)
    assert f"==> htcondor-{job.id}-2@{job.schedd} <==" in text


@pytest.mark.long
def test_machines_that_do_not_answer_cost_a_bounded_time_however_many_they_are(
    tool_calls: Tools, new_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = new_cluster()
    with_workers(cluster, 2)
    monkeypatch.setattr(logs, "TAIL_TIMEOUT", 3.0)
    monkeypatch.setattr(logs, "_AT_ONCE", 1)
    tool_calls.script("condor_tail", "exec sleep 600")
    found = cluster.logs()
    assert len(found) == 2
    assert all("is its TCP port 9618 open to this machine?" in text for text in found.values())
    assert len(tool_calls.calls_of("condor_tail")) == 1, "the time of all is over with the first"


@pytest.mark.long
def test_of_many_running_workers_the_first_are_asked_and_the_user_is_told(
    new_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = new_cluster()
    with_workers(cluster, 2)
    monkeypatch.setattr(logs, "_TAILED", 1)
    last = cluster.jobs()[1]
    with pytest.warns(GatewayWarning, match="1 of 2 running workers"):
        assert len(cluster.logs()) == 1
    assert list(cluster.logs(str(last.id))) == [last.worker_name]


def test_of_a_log_that_has_grown_large_the_end_is_read(stage: Path) -> None:
    staging = Staging("c1", WorkerSpec.from_keywords())
    staging.logs.mkdir(parents=True)
    begin = "Wed Nov 25 01:56:52 UTC 2026 htcondor-1.0-1 starts on node\n"
    (staging.logs / "worker-1.0.1.out").write_text(begin + "early\n" + "x" * 2**21 + "\nlate\n")
    (staging.logs / "worker-1.0.1.err").write_text("an error\n")
    written = logs.read(staging)
    assert list(written) == ["htcondor-1.0-1"]
    assert written["htcondor-1.0-1"].endswith("x\nlate\nan error\n")
    assert "early" not in written["htcondor-1.0-1"]


def test_output_stays_text_in_a_notebook() -> None:
    page = logs.WorkerLogs({"htcondor-1.0-1": "<img src=x onerror=alert(1)>"})._repr_html_()
    assert "<img" not in page
    assert "&lt;img" in page
    assert "No worker" in str(logs.WorkerLogs())
