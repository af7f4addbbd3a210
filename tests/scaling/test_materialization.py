"""``max_idle``: jobs that the schedd makes later have been asked for, and count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support import PATIENCE, Pool, Tools, first_is_quick, wait_until

from htcdaskgateway import JobStatus
from htcdaskgateway.condor import Condor
from htcdaskgateway.condor.jobs import WorkerJobs
from htcdaskgateway.condor.materialization import factories, stop, unmaterialized
from htcdaskgateway.errors import CondorError, ConfigError
from htcdaskgateway.fleet import reconcile
from htcdaskgateway.worker.spec import WorkerSpec

NOWHERE = 'Machine == "nowhere"'


def looked(cluster: Any) -> WorkerJobs:
    """Return what a fresh look at the queue finds."""
    return cluster.gateway.sync(cluster.fleet.look, 0).live  # type: ignore[no-any-return]


def in_the_queue(pool: Pool, cluster: Any, n: int) -> None:
    """Wait until the schedd has made `n` jobs."""
    wait_until(lambda: len(pool.jobs(cluster.name)) == n, what=f"{n} jobs in the queue")


def factory(pool: Pool, constraint: str) -> str:
    """Return what condor_q knows of the factories; nothing when they are gone."""
    return pool.run("condor_q", "-factory", "-json", "-constraint", constraint).strip()


def test_what_is_still_to_be_made_counts_and_scaling_twice_submits_once(
    tool_calls: Tools, new_cluster: Callable[..., Any], pool: Pool
) -> None:
    cluster = new_cluster(requirements=NOWHERE, max_idle=5)
    cluster.scale(40)
    cluster.scale(40)  # before the schedd has made the first
    assert len(tool_calls.calls_of("condor_submit")) == 1
    in_the_queue(pool, cluster, 5)
    jobs = looked(cluster)
    assert (len(jobs), len(jobs.with_status(JobStatus.IDLE))) == (40, 5)
    assert jobs.summary() == "0 running, 5 idle, 0 held, 35 unmaterialized"
    cluster.scale(42)
    assert tool_calls.calls_of("condor_submit")[-1][-2:] == ["-queue", "2"]
    assert len(looked(cluster)) == 42


@pytest.mark.long
def test_workers_come_one_after_another_and_nothing_is_left(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster(max_idle=1)
    cluster.scale(3)
    cluster.wait_for_workers(3, timeout=PATIENCE)
    with cluster.get_client() as client:
        assert client.submit(sum, [1, 2]).result(PATIENCE) == 3
    cluster.scale(1)
    assert len(looked(cluster)) == 1
    constraint = cluster.fleet.constraint
    cluster.shutdown()
    wait_until(lambda: not factory(pool, constraint), what="the factory leaves the schedd")


@pytest.mark.parametrize(("n", "queued"), first_is_quick([(3, 3), (12, 5), (0, 0)]))
def test_scaling_down_takes_first_what_is_not_made_yet(
    new_cluster: Callable[..., Any], pool: Pool, n: int, queued: int
) -> None:
    cluster = new_cluster(requirements=NOWHERE, max_idle=5)
    cluster.scale(40)
    in_the_queue(pool, cluster, 5)
    cluster.scale(n)
    assert len(looked(cluster)) == n
    cluster.scale(n)
    assert len(looked(cluster)) == n
    if n == 0:
        wait_until(lambda: not factory(pool, cluster.fleet.constraint), what="the factory leaves the schedd")
    else:
        # The schedd makes jobs in its own time, and here it makes those of a second submit, too.
        wait_until(lambda: len(pool.jobs(cluster.name)) >= queued)
        assert len(looked(cluster)) == n


def test_adaptive_scaling_takes_back_what_is_not_made_yet(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster(requirements=NOWHERE, max_idle=2)
    cluster.scale(20)
    in_the_queue(pool, cluster, 2)
    cluster.gateway.sync(cluster.fleet.shrink, [], waiting=7)
    assert len(looked(cluster)) == 13
    assert cluster.gateway.sync(cluster.fleet.scheduler.noted, "wanted") == 13
    cluster.adapt(minimum=0, maximum=4, interval="100ms")
    wait_until(lambda: not looked(cluster), what="nothing is wanted")


def test_two_clients_that_scale_at_once_agree(
    gateway: Any, new_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "_FIRST_PAUSE", 0.2)
    cluster = new_cluster(requirements=NOWHERE, max_idle=2)
    with gateway.connect(cluster.name) as other:
        # The other client knows nothing of this submit, as if both had looked at the same moment.
        cluster.scale(6)
        other.gateway.sync(other.fleet._submit, 6)
        other.scale(6)
        for _ in range(2):  # it may be so for a moment while one still makes up for what both have taken back
            wait_until(lambda: len(looked(cluster)) == len(looked(other)) == 6, what="6 jobs for both")
            for each in (cluster, other):
                each.gateway.sync(each.fleet.settled)


@pytest.mark.long
def test_jobs_are_made_until_their_time_to_wait_is_over(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster(requirements=NOWHERE, max_idle=2, max_idle_time="12s")
    cluster.scale(20)
    assert len(looked(cluster)) == 20
    wait_until(lambda: len(looked(cluster)) <= 2, what="the 18 others are not made any more")
    pool.run("condor_rm", "-constraint", f"({cluster.fleet.constraint}) && ProcId >= 0", check=False)
    wait_until(lambda: not pool.jobs(cluster.name))
    assert looked(cluster) == []


@pytest.mark.long
def test_what_a_user_removes_by_hand_does_not_count(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster(max_idle=1)
    cluster.scale(1)
    cluster.wait_for_workers(1, timeout=PATIENCE)
    cluster.scale(30)
    submit = looked(cluster).with_status(JobStatus.UNMATERIALIZED)[0].id.cluster
    pool.run("condor_rm", submit)
    wait_until(lambda: len(looked(cluster)) == 1, what="only the worker counts")


def test_explain_counts_them_with_those_that_wait_for_the_same(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster(requirements=NOWHERE, max_idle=2)
    cluster.scale(50)
    in_the_queue(pool, cluster, 2)
    looked(cluster)
    why = cluster.explain()
    assert why.hopeless
    assert why.stuck == 50
    html = cluster._repr_html_()
    assert "48 unmaterialized" in html


def test_another_client_counts_as_the_first_does(
    gateway: Any, tool_calls: Tools, new_cluster: Callable[..., Any], pool: Pool
) -> None:
    cluster = new_cluster(requirements=NOWHERE, max_idle=2)
    cluster.scale(10)
    with gateway.connect(cluster.name) as other:
        other.scale(10)
        assert len(tool_calls.calls_of("condor_submit")) == 1
    with pytest.raises(ConfigError, match=r"max_idle=7: .* made with max_idle=2, and that cannot change"):
        gateway.connect(cluster.name, max_idle=7)


def test_it_is_refused_where_files_are_spooled() -> None:
    with pytest.raises(ConfigError, match=r"max_idle=5 and spool=True exclude each other"):
        WorkerSpec.from_keywords(container_runtime="none", spool=True, max_idle=5)


def test_a_cluster_without_it_asks_for_no_factories(tool_calls: Tools, cluster: Any) -> None:
    looked(cluster)
    assert not [call for call in tool_calls.calls_of("condor_q") if "-factory" in call]


AD = {"ClusterId": 7, "TotalSubmitProcs": 6, "JobMaterializeNextProcId": 3, "QDate": 5}


def test_a_job_that_is_made_between_the_two_questions_counts_once() -> None:
    made = WorkerJobs.from_ads({"ClusterId": 7, "ProcId": proc, "JobStatus": 1} for proc in (1, 4))
    assert [str(job.id) for job in unmaterialized([AD], made)] == ["7.5"]
    assert [str(job.id) for job in unmaterialized([AD], [])] == ["7.3", "7.4", "7.5"]
    with pytest.raises(CondorError, match="job factory"):
        list(unmaterialized([{"ClusterId": 7}], []))


def test_a_factory_that_cannot_be_read_or_stopped_is_an_error(fake_tools: Tools) -> None:
    condor = Condor()
    fake_tools.answer("condor_q", "[\n{ not json")
    with pytest.raises(CondorError, match="not a list of jobs"):
        asyncio.run(factories(condor, "true"))
    fake_tools.answer("condor_q", "Failed to fetch ads", code=1)
    with pytest.raises(CondorError, match="could not be read"):
        asyncio.run(factories(condor, "true"))
    fake_tools.answer("condor_qedit", stderr='Failed to set attribute "JobMaterializeMaxIdle"', code=1)
    fake_tools.answer("condor_q", '[\n{"ClusterId": 7, "JobFactoryPaused": 0}\n]\n')
    with pytest.raises(CondorError, match="JobMaterializeMaxIdle of the HTCondor cluster 7 could not be set"):
        asyncio.run(stop(condor, 7))
    fake_tools.answer("condor_q", '[\n{"ClusterId": 7, "JobFactoryPaused": 3}\n]\n')  # removed by somebody else
    asyncio.run(stop(condor, 7))
