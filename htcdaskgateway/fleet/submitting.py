"""Submit worker jobs: one submit at a time, and none for a cluster that ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator

from ..condor import materialization
from ..condor.jobs import JobStatus, WorkerJobs
from ..condor.schedd import Condor, same_schedd
from ..errors import ClusterEndedError, CondorError, SchedulerError
from ..plain import counted
from ..scheduler.link import Noted, SchedulerLink
from ..worker.staging import Staging
from .queue import Queue

logger = logging.getLogger(__name__)

_OVER = "the cluster is being shut down"


class Submitting(Queue):
    """The jobs of one cluster, and more of them."""

    def __init__(self, condor: Condor, staging: Staging, scheduler: SchedulerLink, *, schedd: str = "") -> None:
        super().__init__(condor, staging, scheduler, schedd)
        self._over = self._dropped = False
        self._submitting: asyncio.Task[tuple[int, int]] | None = None
        self._scaling = asyncio.Lock()
        # Until then a submit whose outcome is unknown may yet bring jobs.
        self._unsure_until = -float("inf")

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Scale while nobody else of this client does, nor a submit is under way whose caller has given up."""
        async with self._scaling:
            await self._await_submit()
            yield

    async def _await_submit(self) -> None:
        if self._submitting is not None and not self._submitting.done():
            if self._over and self.staging.spec.spool:
                # It may take hours. Its jobs are in the queue already, and are removed with the others.
                self._dropped = self._submitting.cancel()
            await asyncio.wait([self._submitting])

    async def _submit(self, count: int, noted: Noted | None = None) -> None:
        """Submit `count` jobs; `noted`: what the scheduler has told just now."""
        spec = self.staging.spec
        (noted or await self._note()).check_open()
        self.staging.check()
        self._keep_schedd()
        await self._go_there()
        if self._over:
            raise ClusterEndedError(_OVER)
        condor = self.condor
        limit = self.staging.spool_limit(count) if spec.spool else condor.timeout
        submit = condor.submit(
            self.staging.description, count, extra=spec.submit_command_extra, spool=spec.spool, timeout=limit
        )
        # Of its own: were it killed with who asked for it, its jobs might come after they have been removed.
        self._submitting = asyncio.ensure_future(submit)
        self._submitting.add_done_callback(self._submitted)
        # Beside it, where this is the first: one tool of HTCondor after the other would take twice as long.
        naming = asyncio.ensure_future(self._name_schedd())
        try:
            cluster_id, queued = await (self._submitting if spec.spool else asyncio.shield(self._submitting))
            await naming
        except BaseException:
            # What the schedd has got already may be carried out after the next count.
            self._unsure_until = time.monotonic() + limit
            if self._dropped:
                raise ClusterEndedError(_OVER) from None
            raise
        finally:
            naming.cancel()
        await self._check_wanted(condor, cluster_id)
        logger.info("submitted %s as HTCondor cluster %d", counted(queued, "worker job"), cluster_id)
        if queued != count:
            raise CondorError(
                f"{count} worker jobs were asked for, but HTCondor queued {queued}",
                hint="you may have reached the schedd's limit for one user; scale again",
            )

    def _submitted(self, task: asyncio.Task[tuple[int, int]]) -> None:
        self._changed_at = time.monotonic()
        if not task.cancelled():
            task.exception()  # its caller, if there is one still, has it

    async def _check_wanted(self, condor: Condor, cluster_id: int) -> None:
        """Remove the jobs of a submit that has come while somebody shut the cluster down, or began elsewhere."""
        if self._over:  # this client itself, which removes all jobs now
            raise ClusterEndedError(_OVER)
        try:
            (await self._note()).check_open()
            await self._go_there()
            here = any(same_schedd(self.schedd, one) for one in condor.answering)
            if self.condor is not condor and not here:
                raise CondorError(f"another client has begun to submit at {self.schedd}; scale again")
        except (ClusterEndedError, CondorError):
            with self._change():
                await condor.remove(f"{self.constraint} && ClusterId == {cluster_id}")
            raise
        except SchedulerError as error:  # jobs that find no scheduler leave
            logger.warning("whether the cluster still runs is not known: %s", error)

    async def _stop_factories(self, live: WorkerJobs, n: int) -> WorkerJobs:
        """Where there are more than `n` jobs, stop factories that have jobs to make, the newest first.

        Returns the jobs that remain. They may be fewer than `n`, because a factory stops as a whole.
        """
        unmade = Counter(job.id.cluster for job in live.with_status(JobStatus.UNMATERIALIZED))
        surplus = len(live) - n
        for cluster in sorted(unmade, reverse=True):
            if surplus > 0:
                with self._change():
                    await materialization.stop(self.condor, cluster)
                surplus -= unmade[cluster]
        # Some may have been made meanwhile.
        return (await self._look()).live if unmade and len(live) > n else live
