"""Workers of the gateway server beside HTCondor's: each kind is scaled without touching the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, Pool, wait_until, workers_of

from htcdaskgateway.fleet.adaptive import Bounds


def names(client: Any, htcondor: bool) -> set[str]:
    """Return the names of the workers of one kind."""
    workers = workers_of(client).values()
    return {str(worker["name"]) for worker in workers if str(worker["name"]).startswith("htcondor-") == htcondor}


def kept(client: Any, futures: list[Any], workers: set[str]) -> bool:
    """Tell whether each of these results lies on one of these workers."""
    addresses = client.who_has(futures)
    by_name = {str(info["name"]): address for address, info in workers_of(client).items()}
    there = {by_name[name] for name in workers}
    return all(set(where) & there for where in addresses.values())


@pytest.mark.core
@pytest.mark.long
def test_either_kind_scales_to_0_and_back_beside_the_other(
    cluster: Any, gateway: Any, pool: Pool, runs: Any
) -> None:
    cluster.scale(2, worker_type="gateway")
    cluster.scale(4)
    with cluster.get_client() as client:
        cluster.wait_for_workers(6, timeout=PATIENCE)
        theirs, ours = names(client, htcondor=False), names(client, htcondor=True)
        assert (len(theirs), len(ours)) == (2, 4)
        # What the server hears of: it stops workers of its own where it hears of too many.
        assert (
            client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.services["gateway"].active_workers)
            == theirs
        )

        # They compute together.
        task = runs.task()
        client.gather(client.map(task, range(60), seconds=0.1))
        # A result on each worker.
        address = {str(info["name"]): addr for addr, info in workers_of(client).items()}
        results = {
            name: client.submit(task, 100 + i, 0, 1000, workers=address[name], allow_other_workers=True)
            for i, name in enumerate(sorted(theirs | ours))
        }
        futures = list(results.values())
        client.gather(futures)
        assert kept(client, [results[name] for name in theirs], theirs)
        before = dict(runs.counts)

        cluster.scale(0)
        assert not pool.jobs(cluster.name)
        wait_until(lambda: names(client, htcondor=True) == set())
        assert names(client, htcondor=False) == theirs
        assert kept(client, futures, theirs)
        assert not client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.services["gateway"].closed_workers)
        cluster.scale(4)
        cluster.wait_for_workers(6, timeout=PATIENCE)
        ours = names(client, htcondor=True)

        cluster.scale(1, worker_type="gateway")
        wait_until(lambda: len(names(client, htcondor=False)) == 1, what="one of the gateway's workers leaves")
        gateway.scale_cluster(cluster.name, 0, worker_type="gateway")
        wait_until(lambda: names(client, htcondor=False) == set(), what="the gateway's workers leave")
        assert names(client, htcondor=True) == ours
        assert pool.statuses(cluster.name) == [2] * 4
        assert kept(client, futures, ours)
        cluster.scale(2, worker_type="gateway")
        cluster.wait_for_workers(6, timeout=PATIENCE)
        assert names(client, htcondor=True) == ours

        assert [len(result) for result in client.gather(futures)] == [1000] * 6
        assert dict(runs.counts) == before, "nothing was computed again"


@pytest.mark.long
def test_either_kind_adapts_beside_the_other(cluster: Any, pool: Pool, runs: Any, tmp_path: Path) -> None:
    cluster.scale(1, worker_type="gateway")
    adaptive = cluster.adapt(minimum=0, maximum=2, interval="0.5s")
    with cluster.get_client() as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        theirs = names(client, htcondor=False)
        client.gather(client.map(runs.task(), range(100), seconds=0.1))
        assert runs.counts.total() == 100
        wait_until(lambda: not pool.jobs(cluster.name), what="HTCondor's workers leave")
        assert names(client, htcondor=False) == theirs
        assert any(entry["status"] == "up" for _, entry in adaptive.log), "they had come"

        cluster.scale(1)
        cluster.wait_for_workers(2, timeout=PATIENCE)
        ours = names(client, htcondor=True)
        bounds = cluster.adapt(minimum=0, maximum=2, worker_type="gateway")
        assert bounds == Bounds(0, 2)
        wait_until(lambda: names(client, htcondor=False) == set(), what="the idle worker of the gateway leaves")
        flag = tmp_path / "end"
        busy = client.submit(runs.held_until(flag), 200)
        wait_until(lambda: runs.counts.total() == 101, what="HTCondor's worker has all the work that there is")
        wanted = client.run_on_scheduler(
            lambda dask_scheduler: [
                view.adaptive_target() for view in (dask_scheduler, dask_scheduler.services["gateway"].scheduler)
            ]
        )
        assert wanted == [1, 0], "the server asks for what HTCondor's workers leave to do"
        flag.touch()
        assert busy.result(timeout=PATIENCE) == 200
        more = tmp_path / "enough"
        futures = client.map(runs.held_until(more), range(100, 200))
        wait_until(lambda: names(client, htcondor=False), what="work brings workers of the gateway")
        more.touch()
        client.gather(futures)
        del futures
        wait_until(lambda: names(client, htcondor=False) == set(), what="they leave again")
        assert names(client, htcondor=True) == ours
        assert runs.counts.total() == 201
        assert cluster.adapt(active=False, worker_type="gateway") is None
