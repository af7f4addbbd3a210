"""Count again after a submit, until what the schedd holds is what is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from ..errors import HTCDaskGatewayError
from .submitting import Submitting

logger = logging.getLogger(__name__)

_ROUNDS = 5
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 16.0


class Reconciling(Submitting):
    """The jobs of one cluster, whose number is brought to the one that was asked for last."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reconciling: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def settled(self) -> None:
        """Wait until the count that is owed after a submit has been made."""
        if self._reconciling is not None:
            await asyncio.wait([self._reconciling])

    async def _reconcile(self) -> None:
        """Count again, and end the disagreement of two clients that have scaled at the same moment.

        Each looks after it has submitted, so the one that looks last sees all jobs. Both remove the same jobs,
        those with the highest ids, and "no such job" is as good; what counts is the number asked for last. After
        a submit of unknown outcome this goes on until its jobs cannot arrive any more.
        """
        trimmed = False
        pause = _FIRST_PAUSE
        await asyncio.sleep(pause)
        rounds = 0
        while rounds < _ROUNDS or time.monotonic() < self._unsure_until:
            rounds += 1
            try:
                agreed, trimmed = await self._reconcile_once(trimmed)
            except HTCDaskGatewayError as error:
                # Nobody waits for this task; the next scale() counts again and raises what is still wrong.
                logger.warning("the worker jobs could not be counted again: %s", error)
                agreed = True
            if agreed and time.monotonic() >= self._unsure_until:
                return
            pause = min(2 * pause, _LONGEST_PAUSE) if agreed else _FIRST_PAUSE
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)

    async def _reconcile_once(self, trimmed: bool) -> tuple[bool, bool]:
        """Bring the jobs nearer to the number that was asked for last; return whether they agree, and `trimmed`."""
        async with self._alone():
            wanted = await self.scheduler.noted("wanted")
            live = (await self._look()).live
            if wanted is None or len(live) == wanted or (len(live) < wanted and not trimmed):
                return True, trimmed
            if len(live) < wanted:
                await self._submit(wanted - len(live))
                return False, trimmed
            logger.warning(
                "%d worker jobs where %d are wanted: another client scales too, or a submit came late",
                len(live),
                wanted,
            )
            live = await self._stop_factories(live, wanted)
            await self._remove([job.id for job in live[wanted:]])
            return False, True

    async def _stop_reconciling(self) -> None:
        task, self._reconciling = self._reconciling, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        """End what runs in the background. A count that is still owed is made now."""
        task, self._reconciling = self._reconciling, None
        if task is not None:
            self._unsure_until = -float("inf")
            self._closing.set()
            await asyncio.wait([task])
        if self._looking is not None and not self._looking.done():
            self._looking.cancel()
            await asyncio.wait([self._looking])
