"""What the relay leaves running or open: nothing, neither after an outage nor after the end of a cluster."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import psutil
import pytest
from dask.distributed import Client
from support import PATIENCE, children_with, processes, wait_until, workers_of

pytestmark = [pytest.mark.core, pytest.mark.long]


def passed(client: Client) -> None:
    """Have each worker take what the other has made."""
    one, other = workers_of(client)
    for maker, taker in ((one, other), (other, one)):
        made = client.submit(lambda: os.urandom(1_000_000), workers=[maker], pure=False)
        assert client.submit(len, made, workers=[taker], pure=False).result(PATIENCE) == 1_000_000


def scheduler_of(client: Client) -> psutil.Process:
    return psutil.Process(client.run_on_scheduler(os.getpid))


def helpers(client: Client) -> dict[str, int]:
    """How many children of the relay's there are: of the scheduler, and of each worker."""
    count = children_with("-S")
    found = {"scheduler": client.run_on_scheduler(count), **client.run(count)}
    return {whose: len(pids) for whose, pids in found.items()}


def connections(client: Client) -> Counter[tuple[str, str]]:
    """How many open connections are in the pools of the scheduler and of the workers: whose, and with whom."""

    def at_worker(dask_worker: Any) -> list[str]:
        pools = (dask_worker.rpc.available, dask_worker.rpc.occupied)
        found = [(address, comm) for pool in pools for address, comms in pool.items() for comm in comms]
        return [address for address, comm in found if address.startswith("relay://") and not comm.closed()]

    def at_scheduler(dask_scheduler: Any) -> list[str]:
        return at_worker(dask_scheduler)

    found = {"scheduler": client.run_on_scheduler(at_scheduler), **client.run(at_worker)}
    return Counter((whose, to) for whose, addresses in found.items() for to in addresses)


def pulses(cluster: str) -> list[int]:
    """The processes of this machine that answer for the links of a cluster's workers."""
    return [
        pid for pid, command, environ in processes() if "A worker's own child" in command and cluster in environ
    ]


def waiting(client: Client) -> int:
    """How many tokens the scheduler has given out and not taken back."""
    return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.plugins["htcdaskrelay-1"].waiting))  # type: ignore[no-any-return]


def one_helper_each(client: Client) -> bool:
    """Whether two workers have one pulse each, and the scheduler one child, and nobody is awaited."""
    found = helpers(client)
    return len(found) == 3 and set(found.values()) == {1} and not waiting(client)


@pytest.mark.parametrize("relay", ["always", "auto"])
def test_nothing_of_the_relay_is_left_after_an_outage_nor_after_the_end(
    relay: str, new_cluster: Any, system: Any
) -> None:
    cluster = new_cluster(cpus=1, memory="1GB", relay=relay)
    cluster.scale(2)
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        passed(client)
        wait_until(lambda: one_helper_each(client), what="each has its one helper")
        scheduler, before = scheduler_of(client), set(workers_of(client))
        child = psutil.Process(client.sync(client.scheduler.htcdaskgateway_relay_child))
        files = child.num_fds()
    system.server.stop_proxy()
    system.server.start_proxy()
    with cluster.get_client() as client:

        def both() -> bool:
            now = set(workers_of(client))
            return len(now) == 2 and not now & before

        wait_until(both, what="both workers have joined again")
        passed(client)
        wait_until(lambda: one_helper_each(client), what=lambda: f"one helper each: {helpers(client)}")
        assert client.sync(client.scheduler.htcdaskgateway_relay_child) == child.pid

        def few() -> bool:
            found = connections(client)
            return max(found.values()) <= 2 and not before & {to for _, to in found}

        wait_until(few, what=lambda: f"two connections each at most, none with who has gone: {connections(client)}")
        wait_until(lambda: child.num_fds() <= files, what=lambda: f"{files} open files: {child.num_fds()}")
        assert len(pulses(cluster.name)) == 2
    cluster.shutdown()
    wait_until(lambda: not scheduler.is_running(), what="the scheduler has ended")
    wait_until(lambda: not child.is_running(), what="its child has ended")
    wait_until(lambda: not pulses(cluster.name), what="no worker's pulse is left")
