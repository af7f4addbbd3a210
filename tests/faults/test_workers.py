"""Workers are killed, evicted, restarted, held, or cannot start: the work ends whole."""

from __future__ import annotations

import os
import signal
import time

import pytest
from dask_gateway.client import GatewayWarning
from support import wait_until
from trouble import Work, names, wait_for_workers

TASKS = 24


@pytest.mark.long
def test_killed_worker_comes_back_under_a_new_name_and_the_work_ends_whole(cluster, pool, trouble):
    cluster.scale(2)
    with cluster.get_client() as client:
        before = wait_for_workers(client, 2)
        work = Work(client, TASKS, 0.3)
        wait_until(work.done, what="a task is done")
        victim, pid = sorted(trouble.workers(cluster.name).items())[0]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: victim not in names(client), what="the scheduler misses the worker")
        after = wait_for_workers(client, 2, but={victim})
        assert before - {victim} < after
        job = victim.rpartition("-")[0]
        assert sum(name.rpartition("-")[0] == job for name in after) == 1  # the same job, started once more
        work.check()
    assert pool.statuses(cluster.name) == [2, 2]


def test_evicted_worker_hands_its_results_over_and_none_is_computed_again(cluster, pool, trouble, tmp_path):
    cluster.scale(2)
    with cluster.get_client() as client:
        before = wait_for_workers(client, 2)
        work = Work(client, TASKS, 0.3, tmp_path / "notes")
        victim = sorted(before)[0]
        address = client.run_on_scheduler(
            lambda dask_scheduler: next(ws.address for ws in dask_scheduler.workers.values() if ws.name == victim)
        )
        wait_until(lambda: client.has_what([address])[address], what="the worker holds a result")
        done = work.done()
        began = time.monotonic()
        pool.run("condor_vacate_job", victim.removeprefix("htcondor-").rpartition("-")[0])
        wait_until(lambda: victim not in names(client), what="the worker leaves")
        assert time.monotonic() - began < 30  # of the 60 s that retire-timeout gives it by default
        wait_for_workers(client, 2, but={victim})
        work.check()
        assert [work.computed(i) for i in done] == [1] * len(done)
        assert sum(work.computed(i) for i in range(TASKS)) <= TASKS + 1  # the one that was running there


@pytest.mark.long
def test_work_ends_whole_when_a_worker_vanishes_without_a_word(cluster, pool):
    cluster.scale(2)
    with cluster.get_client() as client:
        before = wait_for_workers(client, 2)
        work = Work(client, TASKS, 0.3)
        wait_until(work.done, what="a task is done")
        victim = sorted(before)[0]
        pool.run("condor_vacate_job", "-fast", victim.removeprefix("htcondor-").rpartition("-")[0])
        wait_until(lambda: victim not in names(client), what="the worker is gone")
        wait_for_workers(client, 2, but={victim})
        work.check()
    assert pool.statuses(cluster.name) == [2, 2]


@pytest.mark.long
def test_work_ends_whole_when_the_machine_of_its_workers_does_not(new_cluster, pool, trouble):
    # A machine that is gone is noticed when the job's lease runs out; 20 s is the least that HTCondor takes.
    cluster = new_cluster(job_extra_directives={"job_lease_duration": 20})
    cluster.scale(2)
    with cluster.get_client() as client:
        before = wait_for_workers(client, 2)
        work = Work(client, TASKS, 0.3)
        wait_until(work.done, what="a task is done")
        trouble.kill_daemon("condor_startd")
        wait_for_workers(client, 2, but=before)
        work.check()
    assert pool.statuses(cluster.name) == [2, 2]


@pytest.mark.long
def test_restart_of_the_client_brings_the_same_number_of_workers_back(cluster, pool):
    cluster.scale(3)
    with cluster.get_client() as client:
        before = wait_for_workers(client, 3)
        client.restart(timeout=60)
        wait_for_workers(client, 3, but=before)
        assert client.submit(sum, [1, 2]).result(timeout=30) == 3
    assert pool.statuses(cluster.name) == [2, 2, 2]


@pytest.mark.long
def test_worker_that_fails_at_each_start_is_held_after_three_and_the_user_told(new_cluster, pool, recwarn):
    failures = {
        "this is why": {"job_script_prologue": ["echo this is why >&2", "exit 3"]},
        "/nowhere/python": {"python": "/nowhere/python"},
        "no_such_module": {"worker_extra_args": ["--preload", "no_such_module"]},
    }
    clusters = {word: new_cluster(**spec) for word, spec in failures.items()}
    for cluster in clusters.values():
        cluster.scale(1)
    for word, cluster in clusters.items():
        wait_until(lambda name=cluster.name: pool.statuses(name) == [5], what="the job is held")
        (ad,) = pool.jobs(cluster.name)
        assert ad["NumShadowStarts"] == 3
        assert "the Dask worker failed 3 times, the last time with exit code" in ad["HoldReason"]
        (job,) = cluster.jobs()
        # By whatever has looked at the queue first.
        told = [str(warning.message) for warning in recwarn if warning.category is GatewayWarning]
        assert [text for text in told if "failed 3 times" in text and f" {job.id}." in text]
        assert job.hold_reason == ad["HoldReason"]
        assert word in str(cluster.logs())
        assert word in str(cluster.explain())
        cluster.scale(1)  # it counts, so that nothing that must fail is submitted again
        assert [again["ClusterId"] for again in pool.jobs(cluster.name)] == [ad["ClusterId"]]
        cluster.scale(0)
        assert not pool.jobs(cluster.name)


@pytest.mark.filterwarnings("ignore:HTCondor holds worker jobs:dask_gateway.client.GatewayWarning")
@pytest.mark.long
def test_jobs_that_are_held_count_and_join_again_when_released(cluster, pool, tool_calls):
    cluster.scale(2)
    constraint = f'HTCDaskGatewayCluster == "{cluster.name}"'
    with cluster.get_client() as client:
        before = wait_for_workers(client, 2)
        pool.run("condor_hold", "-constraint", constraint)
        wait_for_workers(client, 0)
        wait_until(lambda: pool.statuses(cluster.name) == [5, 5], what="both jobs are held")
        cluster.scale(2)
        assert "2 held" in repr(cluster)
        assert all("condor_hold" in job.hold_reason for job in cluster.jobs())
        cluster.scale(3)
        wait_for_workers(client, 1)
        assert pool.statuses(cluster.name) == [2, 5, 5]
        pool.run("condor_release", "-constraint", constraint)
        wait_for_workers(client, 3, but=before)
