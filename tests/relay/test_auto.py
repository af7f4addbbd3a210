"""Workers with `relay="auto"` on an open network: what goes directly in the end, whatever went before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from dask.distributed import Client
from support import PATIENCE, wait_until, workers_of

pytestmark = [pytest.mark.core, pytest.mark.long]


@pytest.fixture
def auto(new_cluster: Any) -> Iterator[Client]:
    cluster = new_cluster(cpus=1, memory="1GB", relay="auto")
    cluster.scale(2)
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        yield client


def passed(client: Client) -> int:
    """Have one worker make bytes and the other take them."""
    one, other = workers_of(client)
    made = client.submit(lambda: os.urandom(1_000_000), workers=[one], pure=False)
    return client.submit(len, made, workers=[other], pure=False).result(PATIENCE)  # type: ignore[no-any-return]


def relayed(client: Client) -> int:
    """How many connections have gone through the relay so far, counted once a pair and direction."""
    return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.plugins["htcdaskrelay-1"].pairs))  # type: ignore[no-any-return]


def idle(client: Client) -> list[tuple[bool, str]]:
    """Each idle connection of a worker with another: whether it is at the proxy, and with whom."""

    def look(dask_worker: Any) -> list[tuple[bool, str]]:
        proxy = dask_worker.scheduler.address.rpartition(":")[2]
        return [
            (str(comm.stream.socket.getpeername()[1]) == proxy, address)
            for address, comms in dask_worker.rpc.available.items()
            if address.startswith("relay://")
            for comm in comms
            if not comm.closed()
        ]

    return [found for each in client.run(look).values() for found in each]


def test_what_was_connected_through_the_relay_before_it_was_known_better_goes_directly_afterwards(
    auto: Client,
) -> None:
    def wait_for_nothing() -> None:
        from distributed.comm.registry import backends

        backends["relay"].connector.direct.__globals__.update(HEAD_START=0, PATIENCE=0)

    auto.run(wait_for_nothing)
    assert passed(auto) == 1_000_000
    assert relayed(auto) == 1
    wait_until(lambda: auto.cluster.connections() == (1, 0), what="the pair is known to go directly")
    wait_until(lambda: not any(at_the_proxy for at_the_proxy, _ in idle(auto)), what="no connection is kept there")
    assert passed(auto) == 1_000_000
    assert [at_the_proxy for at_the_proxy, _ in idle(auto)] == [False]


def test_a_worker_whose_loop_comes_late_takes_no_host_for_one_that_does_not_answer(auto: Client) -> None:
    def come_late() -> None:
        import asyncio

        from distributed.comm.registry import backends

        loop = asyncio.get_event_loop()
        connect = loop.sock_connect

        async def late(*arguments: Any) -> None:
            await connect(*arguments)
            await asyncio.sleep(60)

        loop.sock_connect = late  # type: ignore[method-assign,assignment]
        # A worker waits for as long as it takes, so that the relay is not used meanwhile.
        backends["relay"].connector.direct.__globals__["HEAD_START"] = 30

    auto.run(come_late)
    assert passed(auto) == 1_000_000
    assert relayed(auto) == 0
    assert auto.cluster.connections() == (1, 0)
