"""The scheduler's plugin with very many workers: what it does grows no faster than they do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

from distributed.core import Status

from htcdaskgateway.remote.scheduler_plugin import HTCondorWorkers

MANY = 10_000


class Counting(dict):
    """A dictionary that counts how many of its values it has given away."""

    given = 0

    def values(self) -> Iterator[object]:
        for value in super().values():
            self.given += 1
            yield value


class Names(list):
    """A list that counts how many of its items it has given away."""

    given = 0

    def __iter__(self) -> Iterator[str]:
        for name in super().__iter__():
            self.given += 1
            yield name


def test_no_answer_goes_over_the_workers_once_for_each_of_them():
    class Worker(SimpleNamespace):
        __hash__ = object.__hash__

    workers = [
        Worker(
            name=f"htcondor-1.{i}-1@here", address=f"tls://{i}", processing={}, actors=set(), nbytes=0,
            status=Status.running, versions={}, long_running=set(),
        )
        for i in range(MANY)
    ]  # fmt: skip
    service = SimpleNamespace(active_workers={ws.name for ws in workers}, closed_workers=set(), count=0)

    async def retire_workers(workers, **_):
        for address in workers:
            plugin.remove_worker(scheduler, address)
            del scheduler.workers[address]

    scheduler = SimpleNamespace(
        workers=Counting((ws.address, ws) for ws in workers),
        services={"gateway": service},
        plugins={},
        task_metadata={},
        handlers={},
        extensions={},
        register_nanny_plugin=None,
        broadcast=None,
        workers_to_close=lambda n, attribute: [ws.name for ws in scheduler.workers.values()][:n],
        adaptive_target=lambda duration: 5,
        handle_worker_status_change=lambda status, ws, stimulus: setattr(ws, "status", status),
        retire_workers=retire_workers,
    )
    plugin = HTCondorWorkers()
    leaving = Names(ws.name for ws in workers[: MANY // 2])

    async def body():
        await plugin.start(scheduler)
        await plugin.workers()
        assert len((await plugin.workers(MANY))["cheapest"]) == MANY
        assert len((await plugin.adaptive(5.0, 1))["unoccupied"]) == MANY
        await plugin.versions()
        assert await plugin.retire(leaving, 10, unoccupied=True) == []

    asyncio.run(body())
    assert not service.active_workers
    assert len(scheduler.workers) == MANY // 2
    assert scheduler.workers.given < 20 * MANY
    assert leaving.given < 3 * MANY
