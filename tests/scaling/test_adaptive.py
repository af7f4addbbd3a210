"""Workers that follow the work, on a real pool."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.config
import pytest
from support import PATIENCE, Pool, Tools, wait_until, workers_of

from htcdaskgateway import HTCGatewayCluster
from htcdaskgateway.errors import ConfigError
from htcdaskgateway.fleet.adaptive import Bounds, FleetView
from htcdaskgateway.local import LocalSystem


@pytest.mark.long
def test_bursts_bring_workers_by_one_submit_and_leave_none_behind(
    tool_calls: Tools, cluster: Any, pool: Pool, runs: Any
) -> None:
    adaptive = cluster.adapt(minimum=0, maximum=6)
    assert (adaptive.minimum, adaptive.maximum) == (0, 6)
    with cluster.get_client() as client:
        futures = client.map(runs.task(), range(200), seconds=0.5, size=10_000)
        wait_until(lambda: len(workers_of(client)) == 6, what="6 workers join")
        client.gather(futures, direct=False)
        assert len(tool_calls.calls_of("condor_submit")) <= 2

        # The results are still wanted: what they lie on stays, and the others hand theirs over.
        wait_until(lambda: 0 < len(pool.jobs(cluster.name)) < 6, what="workers leave")
        assert [len(result) for result in client.gather(futures)] == [10_000] * 200
        del futures
        wait_until(lambda: not pool.jobs(cluster.name), what="the cluster is empty again")
        assert runs.counts == Counter(range(200))

        client.gather(client.map(runs.task(), range(1000, 1100), seconds=0.2))
        wait_until(lambda: not pool.jobs(cluster.name), what="the cluster is empty after the second burst")
        assert runs.counts == Counter([*range(200), *range(1000, 1100)])
    assert len(tool_calls.calls_of("condor_submit")) <= 4
    # Whoever had joined has left by itself, retired; only jobs that wait or start are removed.
    started = [job for job in pool.history(cluster.name) if job["JobStatus"] == 4]
    assert len(started) >= 6
    assert {job["ExitCode"] for job in started} == {0}


@pytest.mark.long
def test_600_ticks_while_50_jobs_wait_submit_nothing_and_hardly_ask(
    tool_calls: Tools, new_cluster: Callable[..., Any], pool: Pool, runs: Any, tmp_path: Path
) -> None:
    cluster = new_cluster(cpus=10)  # all that the pool has
    flag = tmp_path / "end"
    cluster.adapt(minimum=0, maximum=51, interval="0.5s")
    try:
        with cluster.get_client() as client:
            futures = client.map(runs.held_until(flag), range(6000))
            wait_until(
                lambda: pool.statuses(cluster.name) == [1] * 50 + [2] and workers_of(client),
                what=lambda: f"one worker, 50 idle: {pool.statuses(cluster.name)}",
            )
            assert len(tool_calls.calls_of("condor_submit")) == 1
            adaptive = cluster.adapt(minimum=0, maximum=51, interval="1h")
            wait_until(lambda: adaptive.state == "running")
            tool_calls.forget()
            began = time.monotonic()

            async def ticks() -> None:
                for _ in range(600):
                    await adaptive.adapt()

            cluster.gateway.sync(ticks)
            took = time.monotonic() - began
            assert pool.statuses(cluster.name) == [1] * 50 + [2]
            assert {name for name, *_ in tool_calls.calls} <= {"condor_q"}
            # The default poll-interval is 5 s; one more for the beginning.
            assert len(tool_calls.calls) <= took / 5 + 2
            cluster.adapt(active=False)
            assert adaptive.state == "stopped"
            del futures
    finally:
        flag.touch()


@pytest.mark.core
@pytest.mark.long
def test_shrinking_leaves_workers_that_process_something(
    cluster: Any, pool: Pool, runs: Any, tmp_path: Path
) -> None:
    flag = tmp_path / "end"
    cluster.scale(4)
    with cluster.get_client() as client:
        client.wait_for_workers(4, timeout=PATIENCE)
        busy = client.map(runs.held_until(flag), range(2))
        wait_until(lambda: runs.counts == Counter(range(2)), what="two tasks run")
        processing = client.processing()
        workers = {address for address, keys in processing.items() if keys}
        # Eager: a worker is dispensable from the first look on.
        adaptive = cluster.adapt(minimum=0, maximum=4, interval="0.2s", wait_count=1)
        wait_until(lambda: len(pool.jobs(cluster.name)) == len(workers), what="the idle workers leave")
        log = len(adaptive.log)
        wait_until(lambda: set(workers_of(client)) == workers)
        flag.touch()
        assert client.gather(busy) == [0, 1]
        del busy
        wait_until(lambda: not pool.jobs(cluster.name), what="the cluster is empty")
        assert len(adaptive.log) > log
    assert runs.counts == Counter(range(2))


@pytest.mark.long
def test_jobs_that_wait_are_removed_first(
    new_cluster: Callable[..., Any], pool: Pool, runs: Any, tmp_path: Path
) -> None:
    cluster = new_cluster(cpus=4)  # two fit
    flag = tmp_path / "end"
    cluster.scale(5)
    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        futures = client.map(runs.held_until(flag), range(2))
        wait_until(lambda: len(runs.counts) == 2)
        first = [job["ProcId"] for job in pool.jobs(cluster.name) if job["JobStatus"] == 2]
        cluster.adapt(minimum=2, maximum=9, interval="0.2s", wait_count=1)
        wait_until(lambda: pool.statuses(cluster.name) == [2, 2], what=lambda: pool.statuses(cluster.name))
        assert [job["ProcId"] for job in pool.jobs(cluster.name)] == first

        # Work that a worker gets after it was chosen keeps it, and it goes on.
        cluster.gateway.sync(cluster.fleet.shrink, [job.worker_name for job in cluster.jobs()])
        assert cluster.gateway.sync(cluster.fleet.scheduler.counts).htcondor == 2
        assert pool.statuses(cluster.name) == [2, 2]
        flag.touch()
        client.gather(futures)
    assert runs.counts == Counter(range(2))


@pytest.mark.core
def test_scale_ends_adapting_whoever_calls_it(cluster: Any, gateway: Any, pool: Pool) -> None:
    adaptive = cluster.adapt(minimum=1, maximum=3, interval="0.2s")
    wait_until(lambda: len(pool.jobs(cluster.name)) == 1, what="the minimum is there")
    cluster.scale(0)
    assert adaptive.state == "stopped"
    assert not pool.jobs(cluster.name)

    adaptive = cluster.adapt(minimum=1, maximum=3, interval="0.2s")
    wait_until(lambda: len(pool.jobs(cluster.name)) == 1, what="the minimum is there again")
    gateway.scale_cluster(cluster.name, 0)
    wait_until(lambda: adaptive.state == "stopped", what="another client's scale() is noticed")
    assert not pool.jobs(cluster.name)


@pytest.mark.parametrize(("n", "minimum"), [(0, 1), (2, 0)], ids=["scaled to 0", "scaled to 2"])
def test_a_look_that_was_under_way_does_not_undo_what_another_client_has_scaled(
    n: int, minimum: int, new_cluster: Any, gateway: Any, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = new_cluster(requirements="HasNoSuchThing")
    cluster.scale(n)
    looked = FleetView.refresh

    async def refresh(self: FleetView, target_duration: float) -> int:
        found = await looked(self, target_duration)
        await asyncio.to_thread(gateway.scale_cluster, cluster.name, n)
        return found

    monkeypatch.setattr(FleetView, "refresh", refresh)
    adaptive = cluster.adapt(minimum=minimum, maximum=3, interval="0.2s", wait_count=1)
    wait_until(lambda: adaptive.state == "stopped", what="another client's scale() is noticed")
    assert len(pool.jobs(cluster.name)) == n


def test_what_the_work_asks_for_and_who_does_nothing(cluster: Any) -> None:
    link = cluster.fleet.scheduler

    def asked(threads: int = 1) -> tuple[int, list[str], list[str]]:
        return cluster.gateway.sync(link.adaptive, 0.5, threads)

    with cluster.get_client() as client:
        tasks = client.map(str, range(8))
        wait_until(lambda: asked()[0] == 8, what="eight tasks wait")
        assert asked(threads=4)[0] == 2  # while there is no worker that would show its threads
        cluster.scale(1)
        client.gather(tasks)
        wait_until(lambda: len(asked()[2]) == 1, what="the worker does nothing")

        class Actor:
            pass

        actor = client.submit(Actor, actor=True).result(timeout=PATIENCE)
        assert asked()[2] == []
        del actor
        wait_until(lambda: len(asked()[2]) == 1, what="the actor is gone")

        def with_theft(dask_scheduler: Any) -> bool:
            """Tell whether a worker that a task is being stolen for does nothing."""
            (ws,) = dask_scheduler.workers.values()
            in_flight = dask_scheduler.extensions["stealing"].in_flight
            in_flight["a theft"] = {"thief": ws}
            try:
                return bool(dask_scheduler.services["gateway"].scheduler._plugin.idle({ws.name: ws}))
            finally:
                del in_flight["a theft"]

        assert client.run_on_scheduler(with_theft) is False


def test_a_worker_that_starts_is_left_in_peace_until_it_has_joined(
    new_cluster: Callable[..., Any], pool: Pool
) -> None:
    cluster = new_cluster(job_script_prologue=["sleep 300"])
    cluster.scale(1)
    wait_until(lambda: pool.statuses(cluster.name) == [2], what="the job runs")
    (job,) = cluster.jobs()
    view = FleetView(cluster.fleet, cluster.gateway.loop)
    cluster.gateway.sync(view.refresh, 5)
    assert view.observed == view.requested == {job.id}  # arrived, though no worker of it has joined
    assert not view.unoccupied


def test_to_grow_to_less_is_to_stay(new_cluster: Callable[..., Any], pool: Pool) -> None:
    """What adapting has chosen may be out of date when it is done."""
    cluster = new_cluster(requirements="HasNoSuchThing")
    cluster.scale(3)
    cluster.gateway.sync(cluster.fleet.scale, 1, grow_only=True)
    assert len(pool.jobs(cluster.name)) == 3
    assert cluster.gateway.sync(cluster.fleet.scheduler.noted, "wanted") == 3  # else a later count would remove two


def test_the_gateway_client_adapts_a_cluster_until_it_is_closed(
    cluster: Any, system: LocalSystem, pool: Pool
) -> None:
    first = cluster.adapt(minimum=0, maximum=1, interval="0.2s")
    with system.gateway() as gateway:
        second = gateway.adapt_cluster(cluster.name, minimum=1, maximum=2, interval="0.2s")
        assert (second.minimum, second.maximum) == (1, 2)
        wait_until(lambda: first.state == "stopped", what="the first one makes room for the second")
        wait_until(lambda: len(pool.jobs(cluster.name)) == 1, what="the minimum is there")
        gateway.adapt_cluster(cluster.name, active=False)
        wait_until(lambda: second.state == "stopped")
        third = gateway.adapt_cluster(cluster.name, minimum=1, interval="0.2s")
        assert third.maximum == math.inf
    assert third.state == "stopped"
    assert cluster.fleet.scheduler.comm is not None
    assert len(pool.jobs(cluster.name)) == 1


@pytest.mark.long
def test_a_schedd_that_is_away_is_logged_once_and_adapting_goes_on(
    tool_calls: Tools, cluster: Any, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    with dask.config.set({"htcdaskgateway.condor.poll-interval": "0.1s"}), caplog.at_level(logging.INFO):
        tool_calls.answer("condor_q", stderr="Error: Can't find address for schedd x", code=1)
        tool_calls.forget()
        began = time.monotonic()
        cluster.adapt(minimum=1, maximum=2, interval="0.1s")
        wait_until(lambda: len(tool_calls.calls_of("condor_q")) >= 5, what="it is tried again and again")
        assert time.monotonic() - began >= 0.1 + 0.2 + 0.4 + 0.8  # ever more rarely
        tool_calls.restore("condor_q")
        wait_until(lambda: len(pool.jobs(cluster.name)) == 1, what="adapting goes on")
        wait_until(lambda: "adaptive scaling works again" in caplog.text)
    told = [record.getMessage() for record in caplog.records if "tries again" in record.getMessage()]
    assert len(told) == 1
    assert "Can't find address" in told[0]


@pytest.mark.core
@pytest.mark.long
def test_an_asynchronous_cluster_adapts(system: LocalSystem, pool: Pool) -> None:
    async def main() -> None:
        async with HTCGatewayCluster(asynchronous=True) as cluster:
            # At once, as dask-labextension takes it; awaited, it is in force.
            adaptive = cluster.adapt(minimum=1, maximum=2, interval="0.2s")
            assert (adaptive.minimum, adaptive.maximum) == (1, 2)
            assert await adaptive is adaptive
            await cluster.wait_for_workers(1, timeout=PATIENCE)
            await cluster.scale(0)
            assert adaptive.state == "stopped"
            assert not (await cluster.jobs()).live
            adaptive = await cluster.adapt(maximum=2)
            await cluster.adapt(active=False)
            assert adaptive.state == "stopped"
            adaptive = cluster.adapt(minimum=2)
        assert adaptive.state == "stopped"
        assert not pool.jobs(cluster.name)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("minimum", "maximum"),
    [
        (-1, None),
        (3, 2),
        (True, None),
        (0, "4"),
        (1.5, 2),
        (0, math.nan),
        (0, -math.inf),
        (math.inf, math.inf),
        (0, -1),
    ],
)
def test_bounds_that_are_none(minimum: Any, maximum: Any) -> None:
    with pytest.raises(ConfigError, match=r"adapt\(minimum="):
        Bounds.of(minimum, maximum)


def test_bounds_come_from_dasks_configuration() -> None:
    assert Bounds.of() == Bounds(0, math.inf)
    with dask.config.set({"distributed.adaptive.minimum": 2, "distributed.adaptive.maximum": 5}):
        assert Bounds.of() == Bounds(2, 5)
        assert Bounds.of(maximum=3) == Bounds(2, 3)


def test_settings_that_are_none(cluster: Any) -> None:
    for wrong in ({"interval": "soon"}, {"wait_count": 0}, {"target_duration": -1}, {"size": 3}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            cluster.adapt(**wrong)
    with pytest.raises(ConfigError, match="worker_type"):
        cluster.adapt(worker_type="slurm")
    with pytest.raises(ConfigError, match="worker_type"):
        cluster.scale(1, worker_type="slurm")
    assert cluster._session.adaptive is None


def test_adapt_by_hand_at_the_moment_when_another_has_ended_is_no_error(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster()
    adaptive = cluster.adapt(maximum=1, interval="1h")

    async def twice() -> None:
        first = asyncio.ensure_future(adaptive.adapt())
        await asyncio.sleep(0)
        while not adaptive._tick.done():
            await asyncio.sleep(0)
        await asyncio.gather(first, adaptive.adapt())

    cluster.gateway.sync(twice)


def test_jobs_that_are_held_are_made_up_for_but_not_without_end(
    new_cluster: Callable[..., Any], pool: Pool, runs: Any
) -> None:
    cluster = new_cluster(requirements="HasNoSuchThing")

    def hold() -> None:
        pool.run("condor_hold", "-constraint", f"{cluster.fleet.constraint} && JobStatus != 5")

    with dask.config.set({"htcdaskgateway.condor.poll-interval": "0.2s"}), cluster.get_client() as client:
        adaptive = cluster.adapt(maximum=3, interval="0.2s")
        futures = client.map(runs.task(), range(50))
        wait_until(lambda: pool.statuses(cluster.name) == [1] * 3, what="three jobs")
        hold()
        wait_until(lambda: pool.statuses(cluster.name) == [1] * 3 + [5] * 3, what="three in their place")
        # What holds every job must not fill the queue.
        hold()
        wait_until(lambda: cluster.fleet.seen.summary() == "0 running, 0 idle, 6 held", what="six are held")

        async def some_ticks() -> None:
            for _ in range(5):
                await cluster.fleet.look(max_age=0)
                await adaptive.adapt()

        cluster.gateway.sync(some_ticks)
        assert pool.statuses(cluster.name) == [5] * 6
        # Without work they go, too.
        del futures
        wait_until(lambda: not pool.jobs(cluster.name), what="the queue is empty")
