"""What the relay costs beside workers that connect to each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.array as da
from distributed import Client

from .pairs import Row, pairs, timed
from .world import DEADLINE, empty_queue

PART = 50_000_000  # bytes of one object
AT_MOST = 1 / 0.65  # of the time of a direct transfer
WORKERS = 12
CORES = 2 * WORKERS  # of two clusters at once


def relay(gateway: Any, directory: Path, quick: bool) -> Iterator[Row]:
    """Move bytes from one worker to another, for one and five pairs, and shuffle among twelve."""
    del directory
    rounds = 3 if quick else 10
    for how, goal in (("always", None), ("auto", 1.1)):
        with workers(gateway, how) as ours, workers(gateway, "never") as other:
            for count in (1, 5) if how == "always" else ():
                for client in (ours, other):  # the first one connects
                    moved(client, count)
                yield pairs(
                    f"{count} pair(s), {PART // 10**6} MB each, {how}",
                    "never",
                    lambda ours=ours, count=count: moved(ours, count),
                    lambda other=other, count=count: moved(other, count),
                    rounds=rounds,
                    goal=AT_MOST,
                )
            yield pairs(
                f"P2P of {WORKERS} workers, {how}, open network",
                "never",
                lambda ours=ours: shuffled(ours),
                lambda other=other: shuffled(other),
                rounds=rounds,
                goal=goal,
            )
        empty_queue()


@contextmanager
def workers(gateway: Any, how: str) -> Iterator[Client]:
    """Start a cluster's workers."""
    with gateway.new_cluster(cpus=1, memory="400MB", disk="100MB", relay=how) as cluster:
        cluster.scale(WORKERS)
        with Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(WORKERS, timeout=DEADLINE)
            yield client


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


def shuffled(client: Client) -> float:
    """Return how long a shuffle of all workers takes."""
    with dask.config.set({"array.rechunk.method": "p2p"}):
        x = da.random.default_rng(1).random((2400, 2400), chunks=(200, 2400)).rechunk((2400, 200)).sum()
        return timed(lambda: client.compute(x).result(DEADLINE))


# What is measured on a pool of its own, and only when it is asked for.
ALONE = {"relay": relay}
