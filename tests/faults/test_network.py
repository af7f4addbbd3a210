"""The network, the proxy, the gateway server or the scheduler goes away, for a moment or for good."""

from __future__ import annotations

import os
import signal
import time

import pytest
from dask_gateway import GatewayClusterError
from support import reconnected, wait_until
from trouble import Work, names, wait_for_workers

from htcdaskgateway.errors import SchedulerError

DEATH = 5.0  # seconds; the death timeout where a test waits for it


def left_by_themselves(pool, name):
    """Return the exit codes of a cluster's jobs that have left the queue and were not removed."""
    return [ad.get("ExitCode") for ad in pool.history(name) if ad["JobStatus"] == 4]


@pytest.mark.long
def test_workers_come_back_when_the_proxy_does_and_the_work_goes_on(cluster, system, pool):
    cluster.scale(2)
    with cluster.get_client() as client:
        wait_for_workers(client, 2)
        work = Work(client, 24, 0.3)
        # Whoever leaves takes his futures along, unless the scheduler has been told to keep them.
        client.publish_dataset(squares=work.futures)
        wait_until(work.done, what="a task is done")
        before = names(client)
        system.server.stop_proxy()
        system.server.start_proxy()
        reconnected(client)
    with cluster.get_client() as client:
        wait_for_workers(client, 2, but=before)
        squares = client.get_dataset("squares")
        assert client.submit(list, squares).result(timeout=60) == work.expected
        cluster.scale(3)
        wait_for_workers(client, 3)
    assert pool.statuses(cluster.name) == [2, 2, 2]
    assert len({ad["ClusterId"] for ad in pool.jobs(cluster.name)}) == 2


@pytest.mark.long
def test_workers_leave_when_the_proxy_stays_away_and_scale_brings_them_back(new_cluster, system, pool):
    cluster = new_cluster(death_timeout=DEATH)
    cluster.scale(2)
    with cluster.get_client() as client:
        wait_for_workers(client, 2)
    system.server.stop_proxy()
    try:
        wait_until(lambda: not pool.jobs(cluster.name), what="the jobs leave the queue by themselves")
    finally:
        system.server.start_proxy()
    assert left_by_themselves(pool, cluster.name) == [0, 0]
    cluster.scale(2)
    with cluster.get_client() as client:
        wait_for_workers(client, 2)


@pytest.mark.long
def test_gateway_server_that_restarts_interrupts_nothing(cluster, gateway, system, pool):
    cluster.scale(2)
    with cluster.get_client() as client:
        before = wait_for_workers(client, 2)
        work = Work(client, 24, 0.3)
        wait_until(work.done, what="a task is done")
        system.server.stop_server()
        try:
            cluster.scale(3)  # the scheduler and HTCondor are there, and nothing else is needed
            assert set(wait_for_workers(client, 3)) > before
        finally:
            system.server.start_server()
        work.check()
        assert before < names(client)
    assert cluster.name in {report.name for report in gateway.list_clusters()}
    cluster.shutdown()
    wait_until(lambda: not pool.jobs(cluster.name), what="the jobs leave the queue")
    assert cluster.name not in {report.name for report in gateway.list_clusters()}


@pytest.mark.long
def test_killed_scheduler_ends_its_workers_and_the_user_gets_a_clear_error(new_cluster, pool):
    # Seven cores of eight, so that the second job waits.
    cluster = new_cluster(death_timeout=DEATH, cpus=7)
    cluster.scale(2)
    with cluster.get_client() as client:
        wait_for_workers(client, 1)
        scheduler = client.run_on_scheduler(os.getpid)
    wait_until(lambda: pool.statuses(cluster.name) == [1, 2], what="one job runs and one waits")
    os.kill(scheduler, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(SchedulerError, match="Has the cluster ended"):
        cluster.scale(3)
    assert time.monotonic() - began < 45
    with pytest.raises((SchedulerError, GatewayClusterError, OSError)):
        cluster.get_client()
    wait_until(lambda: not pool.jobs(cluster.name), what="running and waiting jobs leave by themselves")
    assert left_by_themselves(pool, cluster.name) == [0, 0]
    assert len({ad["ClusterId"] for ad in pool.history(cluster.name)}) == 1  # nothing was submitted meanwhile
    cluster.shutdown()
