"""Wait until workers have joined, or until it is known that they will not."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from . import config
from .adaptive import NOTE
from .errors import CondorError, WaitError, WaitTimeoutError
from .fleet import SPOOLING, Fleet
from .jobs import JobStatus, WorkerJobs
from .progress import progress

logger = logging.getLogger(__name__)

# How often the scheduler is asked who has joined, in seconds; the schedd is asked as everywhere.
_PAUSE = 0.5
# How long after an analysis of the idle jobs by HTCondor the next is made, in seconds.
_ANALYZE_AGAIN = 60.0


async def wait_for_workers(cluster: Any, n: int, timeout: float | None) -> None:
    """Wait until `n` of HTCondor's workers have joined; shows progress.

    Parameters
    ----------
    cluster : HTCGatewayCluster
        The cluster.
    n : int
        How many.
    timeout : float or None
        How long to wait at most, in seconds.

    Raises
    ------
    WaitTimeoutError
        They have not come in time.
    WaitError
        They will not come; the message says why.
    """
    fleet: Fleet = cluster.fleet
    started = time.monotonic()
    # A job that is matched at once needs no analysis.
    watch = _Watch(cluster, n, analyze_after=2 * config.seconds("condor.poll-interval"))
    joined, _ = await fleet.scheduler.workers()
    if len(joined) >= n:
        return
    with progress("workers joined", n) as show:
        while len(joined) < n:
            jobs = await watch.look()
            show(len(joined), f"{jobs.summary()}, {len(joined)} joined")
            if timeout is not None and time.monotonic() - started > timeout:
                raise WaitTimeoutError(
                    f"after {timeout:g} s {len(joined)} of {n} workers have joined; jobs: {jobs.summary()}. "
                    "The jobs go on: wait again, or call cluster.explain() to see why they do not run"
                )
            await asyncio.sleep(_PAUSE)
            joined, _ = await fleet.scheduler.workers()
        show(len(joined), f"{fleet.seen.summary()}, {len(joined)} joined")


class _Watch:
    """Look at the jobs that are waited for, and tell when waiting cannot help."""

    def __init__(self, cluster: Any, n: int, analyze_after: float) -> None:
        self.cluster = cluster
        self.fleet: Fleet = cluster.fleet
        self.n = n
        self._analyze_at = time.monotonic() + analyze_after
        self._blind = False

    async def look(self) -> WorkerJobs:
        """Return the jobs; where they will not become `n` workers, raise that."""
        try:
            jobs = await self._look()
        except CondorError as error:
            # Workers may well join while the schedd is away.
            if not self._blind:
                logger.warning("the queue cannot be read; waiting goes on: %s", error)
            self._blind = True
            return self.fleet.seen
        self._blind = False
        return jobs

    async def _look(self) -> WorkerJobs:
        jobs = (await self.fleet.look()).live
        adaptive = None
        if len(jobs) < self.n:
            adaptive = await self.fleet.scheduler.noted(NOTE)
            jobs = await self._check_number(jobs, adaptive)
        held = WorkerJobs(job for job in jobs.having(JobStatus.HELD) if job.hold_code != SPOOLING)
        if self._too_few(len(jobs) - len(held), held, adaptive):
            raise WaitError(f"{self.n} workers will not come:\n{(await self._explain(held))[1]}")
        if jobs.having(JobStatus.IDLE) and time.monotonic() > self._analyze_at:
            self._analyze_at = time.monotonic() + _ANALYZE_AGAIN
            stuck, why = await self._explain(held)
            if self._too_few(len(jobs) - stuck, stuck, adaptive):
                raise WaitError(f"{self.n} workers will not come:\n{why}")
        return jobs

    async def _check_number(self, jobs: WorkerJobs, adaptive: Any) -> WorkerJobs:
        """Raise where there are fewer jobs than are waited for, and nothing makes more."""
        if adaptive:
            if adaptive["maximum"] < self.n:
                raise WaitError(
                    f"{self.n} workers will not come: adaptive scaling makes {adaptive['maximum']} at most. "
                    f"Call adapt(maximum=…) with {self.n} or more, or scale({self.n})"
                )
            return jobs
        # What was seen may be older than another client's scale().
        jobs = (await self.fleet.look(max_age=0)).live
        if len(jobs) < self.n:
            raise WaitError(
                f"{self.n} workers will not come: there are {len(jobs)} worker jobs ({jobs.summary()}). "
                f"Call scale({self.n}) first, or adapt(minimum={self.n})"
            )
        return jobs

    def _too_few(self, possible: int, stuck: Any, adaptive: Any) -> bool:
        """Tell whether waiting cannot help; adaptive scaling may make more jobs as long as some can run."""
        return bool(stuck) and (possible == 0 if adaptive else possible < self.n)

    async def _explain(self, held: WorkerJobs) -> tuple[int, str]:
        """Return how many jobs no waiting will help, and why."""
        explain = getattr(self.cluster, "_explain", None)
        if explain is None:
            return len(held), "\n".join(f"job {job.id} is held: {job.hold_reason}" for job in held)
        explanation = await explain()
        return explanation.stuck, str(explanation)
