"""What the relay costs beside workers that connect to each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import dask
import dask.array as da
import psutil
from distributed import Client

from .pairs import Fact, Row, pairs, timed
from .world import DEADLINE, empty_queue, until

PART = 50_000_000  # bytes of one object
AT_MOST = 1 / 0.65  # of the time of a direct transfer
WORKERS = 12
CORES = 2 * WORKERS  # of two clusters at once
PAIRS = 5
MEGABYTES = PAIRS * PART / 1e6
AT_ONCE, IN_TURN = 100, 20  # connections
SETTLING = 3.0  # seconds until what was connected through the relay before it was known better is closed


def relay(gateway: Any, directory: Path, quick: bool) -> Iterator[Row | Fact]:
    """Move bytes from one worker to another, for one and five pairs, connect, and shuffle."""
    del directory
    rounds = 3 if quick else 10
    # No more workers than take part: on two cores, twenty that only wait cost as much as one that works.
    with workers(gateway, "always", 2) as ours, workers(gateway, "never", 2) as other:
        yield one_pair(ours, other, rounds)
        yield from connections(ours, other, rounds)
    empty_queue()
    with workers(gateway, "always", 2 * PAIRS) as ours, workers(gateway, "never", 2 * PAIRS) as other:
        yield from several_pairs(ours, other, rounds)
    empty_queue()
    for how, goal in (("always", None), ("auto", 1.1)):
        with workers(gateway, how, WORKERS) as ours, workers(gateway, "never", WORKERS) as other:
            yield from shuffles(ours, other, how, rounds, goal)
        empty_queue()


@contextmanager
def workers(gateway: Any, how: str, count: int) -> Iterator[Client]:
    """Start a cluster with so many workers."""
    with gateway.new_cluster(cpus=1, memory="400MB", disk="100MB", relay=how) as cluster:
        cluster.scale(count)
        with Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=DEADLINE)
            yield client


class Watched:
    """A cluster's scheduler: what it spends while others work, and how late its event loop comes."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.cpu: list[float] = []
        self.late: list[float] = []

    def during(self, action: Callable[[Client], float]) -> float:
        """Return what `action` returns, and note the scheduler's CPU time and its loop's longest delay, in ms."""

        def begin(dask_scheduler: Any) -> None:
            import asyncio
            import time

            delays = []

            async def tick(pause: float = 0.01) -> None:
                while True:
                    due = time.perf_counter() + pause
                    await asyncio.sleep(pause)
                    delays.append(time.perf_counter() - due)

            dask_scheduler.watched = delays, asyncio.ensure_future(tick()), time.process_time()

        def end(dask_scheduler: Any) -> tuple[float, float]:
            import time

            delays, task, cpu = dask_scheduler.watched
            task.cancel()
            return 1000 * (time.process_time() - cpu), 1000 * max(delays)

        self.client.run_on_scheduler(begin)
        try:
            result = action(self.client)
        finally:
            cpu, late = self.client.run_on_scheduler(end)
        self.cpu.append(cpu)
        self.late.append(late)
        return result


def one_pair(ours: Client, other: Client, rounds: int) -> Row:
    """Move one object from one worker to another: how long it takes."""
    for client in (ours, other):  # the first one connects
        moved(client, 1)
    return pairs(
        f"1 pair, {PART // 10**6} MB, always",
        "never",
        lambda: moved(ours, 1),
        lambda: moved(other, 1),
        rounds=rounds,
        goal=AT_MOST,
    )


def several_pairs(ours: Client, other: Client, rounds: int) -> Iterator[Row | Fact]:
    """Move objects from some workers to others: how long it takes, and what it costs the scheduler's side."""
    for client in (ours, other):
        moved(client, PAIRS)
    child = psutil.Process(ours.sync(ours.scheduler.htcdaskgateway_relay_child))
    mine, its, before = Watched(ours), Watched(other), child.cpu_times()
    yield pairs(
        f"{PAIRS} pairs, {PART // 10**6} MB each, always",
        "never",
        lambda: mine.during(lambda client: moved(client, PAIRS)),
        lambda: its.during(lambda client: moved(client, PAIRS)),
        rounds=rounds,
        goal=AT_MOST,
    )
    spent = sum(child.cpu_times()[:2]) - sum(before[:2])
    per_megabyte = [[cpu / MEGABYTES for cpu in watched.cpu] for watched in (mine, its)]
    yield Row(f"CPU of the scheduler for each MB, {PAIRS} pairs", "never", "ms", *per_megabyte, goal=1.5)
    yield Fact("CPU of the relay's child for each MB", 1000 * spent / MEGABYTES / rounds, "ms")
    yield Row(f"longest delay of the scheduler's event loop, {PAIRS} pairs", "never", "ms", mine.late, its.late)


def moved(client: Client, count: int) -> float:
    """Return how long it takes so many workers to fetch one object each from as many others."""
    found = sorted(client.scheduler_info(n_workers=-1)["workers"])[: 2 * count]
    made = [client.submit(bytes, PART, workers=[one], pure=False) for one in found[:count]]
    client.gather([client.submit(type, part, pure=False) for part in made])

    def take() -> None:
        taken = zip(made, found[count:], strict=True)
        sizes = [client.submit(len, part, workers=[one], pure=False) for part, one in taken]
        if client.gather(sizes) != [PART] * count:
            raise RuntimeError("what came is not what was sent")

    return timed(take)


def connections(ours: Client, other: Client, rounds: int) -> Iterator[Row | Fact]:
    """Connect one worker with another, in turn and at once."""
    mine = Watched(ours)
    yield pairs(
        f"one connection of {IN_TURN} in turn, always",
        "never",
        lambda: 1000 * connected(ours, IN_TURN, 1) / IN_TURN,
        lambda: 1000 * connected(other, IN_TURN, 1) / IN_TURN,
        rounds=rounds,
        unit="ms",
    )
    row = pairs(
        f"{AT_ONCE} connections at once, always",
        "never",
        lambda: mine.during(lambda client: connected(client, 1, AT_ONCE)),
        lambda: connected(other, 1, AT_ONCE),
        rounds=rounds,
    )
    yield row
    yield Fact(f"{AT_ONCE} connections at once, always: median", median(row.ours), "s", goal=1.0)
    yield Fact("CPU of the scheduler for each connection", median(mine.cpu) / AT_ONCE, "ms")
    yield Fact(f"longest delay of its event loop, {AT_ONCE} connections at once", median(mine.late), "ms")


def connected(client: Client, turns: int, at_once: int) -> float:
    """Return how long one worker takes to connect to another so many times."""
    one, another = sorted(client.scheduler_info(n_workers=-1)["workers"])[:2]

    async def connect(to: str, turns: int, at_once: int, dask_worker: Any) -> float:
        import asyncio
        import time

        from distributed.comm import connect

        begin, comms = time.perf_counter(), []
        try:
            for _ in range(turns):
                begun = [connect(to, **dask_worker.connection_args) for _ in range(at_once)]
                comms += await asyncio.gather(*begun)
            return time.perf_counter() - begin
        finally:
            for comm in comms:
                comm.abort()

    return float(client.run(connect, another, turns, at_once, workers=[one])[one])


def shuffles(ours: Client, other: Client, how: str, rounds: int, goal: float | None) -> Iterator[Row]:
    """Shuffle on an open network: once while workers have not met yet, and then when all have."""
    what, ways = f"P2P of {WORKERS} workers, {how}, open network", (lambda: shuffled(ours), lambda: shuffled(other))
    yield pairs(f"{what}, the first one", "never", *ways, rounds=1)
    meet(other)
    if how == "auto":
        everybody = WORKERS * (WORKERS - 1) // 2
        until(lambda: meet(ours) or ours.cluster.connections().direct == everybody, "all pairs go directly", 1)
        time.sleep(SETTLING)
    meet(ours)
    yield pairs(what, "never", *ways, rounds=rounds, goal=goal)


def meet(client: Client) -> None:
    """Connect every worker with all others."""
    addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])

    async def greet(addresses: list[str], dask_worker: Any) -> None:
        import asyncio

        await asyncio.gather(*(dask_worker.rpc(address).identity() for address in addresses))

    client.run(greet, addresses)


def shuffled(client: Client) -> float:
    """Return how long a shuffle of all workers takes."""
    with dask.config.set({"array.rechunk.method": "p2p"}):
        x = da.random.default_rng(1).random((2400, 2400), chunks=(200, 2400)).rechunk((2400, 200)).sum()
        return timed(lambda: client.compute(x).result(DEADLINE))


# What is measured on a pool of its own, and only when it is asked for.
ALONE = {"relay": relay}
