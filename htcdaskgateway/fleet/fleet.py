"""The worker jobs of one cluster: bring what the schedd holds to the number that is wanted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from dask_gateway.client import GatewayWarning

from .. import config
from ..condor.jobs import JobId, JobStatus, WorkerJob, WorkerJobs
from ..condor.schedd import check_schedd
from ..display.warn import warn
from ..errors import SchedulerError
from ..plain import counted
from ..scheduler.link import ADAPTIVE
from .reconcile import Reconciling

logger = logging.getLogger(__name__)


class Fleet(Reconciling):
    """The worker jobs of one cluster."""

    async def scale(self, n: int, *, grow_only: bool = False) -> None:
        """Bring the cluster to `n` worker jobs.

        `grow_only`, for adaptive scaling: leave it at more, where there are more. Else nobody adapts it any more.
        Jobs that wait or are held count: they have been asked for. Scaling again is safe, also after an error.
        """
        await self._stop_reconciling()
        submitted = False
        async with self._alone():
            try:
                live, noted = await self._count(wanted=n, **({} if grow_only else {ADAPTIVE: None}))
                if not grow_only:
                    live = await self._stop_factories(live, n)
                if len(live) < n:
                    submitted = True
                    await self._submit(n - len(live), noted)
                elif len(live) > n and grow_only:
                    await self.scheduler.note(wanted=len(live))
                elif len(live) > n:
                    await self._shrink(live, n)
            finally:
                # Another client may have done the same at this moment.
                if submitted or time.monotonic() < self._unsure_until:
                    self._reconciling = asyncio.ensure_future(self._reconcile())

    async def shrink(self, workers: Iterable[str], waiting: int = 0) -> None:
        """Remove `waiting` jobs that wait or are held, at most, and of these workers those that process nothing.

        A worker that has got work by now stays, and so does one whose data cannot be moved.
        """
        await self._stop_reconciling()
        async with self._alone():
            before = (await self._look()).live
            live = await self._stop_factories(before, len(before) - waiting)
            waiting -= len(before) - len(live)
            if waiting < 0:
                await self._submit(-waiting)
            named = {JobId.of_worker(name) for name in workers}
            idle = [job for job in live if job.id in named and job.worker_name]
            await self._release([*_waiting_first(live)[: max(0, waiting)], *idle], force=False, unoccupied=True)
            await self.scheduler.note(wanted=len((await self.look()).live))

    async def _shrink(self, live: WorkerJobs, n: int) -> None:
        surplus = len(live) - n
        if n == 0:
            await self._release(live, force=True)
            return
        victims = _waiting_first(live)[:surplus]
        if len(victims) < surplus:
            running = {job.id: job for job in live if job.worker_name}
            # A job is as dear as the dearest of its workers.
            processes = self.staging.spec.processes
            joined, cheapest = await self.scheduler.workers(cheapest=len(running) * processes)
            having = {JobId.of_worker(name) for name in joined}
            # A worker that has not joined yet holds nothing.
            order = [job for job in running if job not in having]
            ranks = {job: rank for rank, name in enumerate(cheapest) if (job := JobId.of_worker(name)) in running}
            order += sorted(ranks, key=ranks.__getitem__)
            victims += [running[job] for job in dict.fromkeys(order)][: surplus - len(victims)]
        await self._release(victims, force=False)

    async def _release(self, victims: list[WorkerJob], *, force: bool, unoccupied: bool = False) -> None:
        """Remove jobs: those that hold nothing at once, workers after they have handed over their data."""
        if not victims:
            return
        ids = {job.id for job in victims}
        # By the ids: a job may have started, or started again, since the queue was looked at.
        names, _ = await self.scheduler.workers()
        joined = {name: job for name in names if (job := JobId.of_worker(name)) in ids}
        await self._remove(ids.difference(joined.values()))
        if not joined:
            return
        with self._change():
            kept = await self.scheduler.retire(
                list(joined), config.seconds("retire-timeout"), unoccupied=unoccupied, force=force
            )
        if force:
            await self._remove(joined[name] for name in kept)
        elif kept and not unoccupied:
            warn(
                f"Kept {counted(len(kept), 'worker')}, with results that no other worker could take over: "
                f"{', '.join(sorted(kept))}. scale(0) or shutdown() removes workers with their results.",
                GatewayWarning,
            )
        await self._wait_gone(set(joined.values()).difference(joined[name] for name in kept))

    async def _wait_gone(self, ids: Iterable[JobId]) -> None:
        """Wait until the jobs of retired workers have left the queue, and remove those that do not."""
        deadline = time.monotonic() + config.seconds("retire-grace")
        pause = 0.2
        staying = set(ids)
        while staying and time.monotonic() < deadline:
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)
            staying &= {job.id for job in (await self._look()).live}
        await self._remove(staying)

    async def abandon(self) -> None:
        """End what runs in the background; the jobs are about to be removed.

        Nobody submits any more from here on. A submit of this client that is under way is waited for, and another
        client's removes its own jobs.
        """
        self._over = True
        try:
            noted = await self.scheduler.note_closing()
            self.schedd = self.schedd or check_schedd(noted.schedd)
        except SchedulerError as error:
            logger.info("that the cluster ends could not be noted: %s", error)
        await self._stop_reconciling()
        await self._await_submit()
        await self.close()


def _waiting_first(live: WorkerJobs) -> list[WorkerJob]:
    """Return the jobs that do not run, in the order in which they are dispensable: held, then the newest."""
    waiting = [job for job in live if job.status in (JobStatus.IDLE, JobStatus.HELD)]
    return sorted(waiting, key=lambda job: (job.status is JobStatus.HELD, job.id), reverse=True)
