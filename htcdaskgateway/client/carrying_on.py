"""The end of a cluster goes on where its caller is interrupted, and a program waits for it before it ends."""

from __future__ import annotations

import asyncio
import atexit
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

UNFINISHED: dict[Any, tuple[asyncio.Future[None], bool]] = {}
"""The clusters that are ending at this moment, each with its task and whether it was told what to do."""


async def carry_on(cluster: Any, shutdown: bool | None, end: Callable[[], Awaitable[None]]) -> None:
    """Bring a cluster to its end; one that is ending already is waited for.

    `shutdown` is what the caller said: who says nothing asks for no more than what is under way.
    """
    task, said = UNFINISHED.get(cluster, (None, None))
    if task is not None and shutdown is not None and shutdown != said:
        await asyncio.wait([task])
        task = None
    if task is None:
        task = asyncio.ensure_future(end())
        UNFINISHED[cluster] = task, bool(shutdown)
        task.add_done_callback(lambda done: _forget(cluster, done))
    await asyncio.shield(task)


async def all_or_nothing(
    making: Awaitable[str], undo: Callable[[str], Awaitable[None]], undoing: set[asyncio.Future[None]]
) -> str:
    """Return what `making` makes; where the caller is interrupted, undo it, since the server makes it all the same.

    The undoing goes on where its caller is interrupted again; until it is done, it is among `undoing`.
    """
    made = asyncio.ensure_future(making)
    try:
        return await asyncio.shield(made)
    except asyncio.CancelledError:

        async def unmake() -> None:
            await undo(await made)

        task = asyncio.ensure_future(unmake())
        undoing.add(task)
        task.add_done_callback(undoing.discard)
        await asyncio.shield(task)
        raise


def _forget(cluster: Any, task: asyncio.Future[None]) -> None:
    if UNFINISHED.get(cluster, (None, None))[0] is task:
        del UNFINISHED[cluster]


# Python runs this before what dask-gateway has registered, and while event loops still run.
@atexit.register
def finish() -> None:
    """Wait for the clusters whose end was interrupted; a further Ctrl-C gives up."""
    for cluster in list(UNFINISHED):
        if not cluster.asynchronous:
            try:
                cluster.close()
            except Exception as error:
                warnings.warn(f"{cluster.name} did not end as it should: {error}", stacklevel=1)
