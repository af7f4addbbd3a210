"""Wait until workers have joined, or until it is known that they will not."""

from __future__ import annotations

import asyncio
import logging
import time

from dask_gateway.client import GatewayWarning

from .. import config
from ..condor.jobs import SPOOLING, JobStatus, WorkerJobs
from ..display.progress import progress, tell
from ..display.warn import warn
from ..errors import CondorError, WaitError, WaitTimeoutError
from ..scheduler.link import ADAPTIVE, WorkerCounts
from .explain import explain
from .fleet import Fleet
from .timeline import time_spent

logger = logging.getLogger(__name__)

# How often the scheduler is asked who has joined, in seconds; the schedd is asked as everywhere.
_PAUSE = 0.2
# How long after an analysis of the idle jobs by HTCondor the next is made, in seconds.
_ANALYZE_AGAIN = 60.0


async def wait_for_workers(fleet: Fleet, n: int, timeout: float | None) -> None:
    """Wait until the cluster has `n` workers, of whatever kind, for `timeout` seconds at most.

    Shows progress, and then where the time went. A `WaitError` says why they will not come.
    """
    started, since = time.monotonic(), time.time()
    counts = await fleet.scheduler.counts()
    if counts.joined >= n:
        return
    watch = _Watch(fleet, n)
    with progress("workers joined", n) as show:
        while counts.joined < n:
            jobs = await watch.look(counts)
            show(counts.joined, f"jobs: {jobs.summary()}")
            if timeout is not None and time.monotonic() - started > timeout:
                jobs = await watch.last()
                raise WaitTimeoutError(
                    f"{counts.joined} of {n} workers have joined after {timeout:g} s; jobs: {jobs.summary()}. "
                    "The jobs stay in the queue: wait again, or ask cluster.explain()."
                )
            await asyncio.sleep(_PAUSE)
            counts = await fleet.scheduler.counts()
        show(counts.joined, f"jobs: {(await watch.last()).summary()}")
    if spent := await time_spent(fleet, since):
        logger.info("%s", spent)
        tell(spent)


class _Watch:
    """Look at the jobs that are waited for, and tell when waiting cannot help."""

    def __init__(self, fleet: Fleet, n: int) -> None:
        self.fleet = fleet
        self.n = n
        # A job that is matched at once needs no analysis.
        self._analyze_at = time.monotonic() + 2 * config.seconds("condor.poll-interval")
        self._blind = self._warned = False

    async def look(self, counts: WorkerCounts) -> WorkerJobs:
        """Return the jobs; where no waiting will make them workers enough, raise that."""
        try:
            jobs = await self._look(counts)
        except CondorError as error:
            # Workers may well join while the schedd is away.
            if not self._blind:
                logger.warning("Cannot read the queue; still waiting: %s", error)
            self._blind = True
            return self.fleet.seen
        self._blind = False
        return jobs

    async def last(self) -> WorkerJobs:
        """Return the jobs as they are at the end of the wait; as last seen, if the schedd is away."""
        try:
            return await self.fleet.look(max_age=0)
        except CondorError as error:
            if not self._blind:
                logger.warning("Cannot read the queue; showing the last counts: %s", error)
            return self.fleet.seen

    async def _look(self, counts: WorkerCounts) -> WorkerJobs:
        jobs = (await self.fleet.look()).live
        missing = self.fleet.staging.spec.jobs(self.n - max(counts.gateway, counts.gateway_wanted))
        if len(jobs) < missing and not self._warned:
            await self._warn_of_few(missing)
        # Where there are too few jobs, others may make more, as long as those that there are can run.
        needed = 1 if len(jobs) < missing else missing
        held = sum(job.hold_code != SPOOLING for job in jobs.with_status(JobStatus.HELD))
        overdue = jobs.with_status(JobStatus.IDLE) and time.monotonic() > self._analyze_at
        if overdue or (held and len(jobs) - held < needed):
            # An analysis costs HTCondor a look at the whole pool.
            self._analyze_at = time.monotonic() + _ANALYZE_AGAIN
            why = await explain(self.fleet)
            live = len(why.jobs.live)
            if why.stuck and live - why.stuck < needed:
                if self.n == live == 1:
                    raise WaitError(f"Cannot get 1 worker: its job cannot run.\n{why}")
                workers = "1 worker" if self.n == 1 else f"{self.n} workers"
                raise WaitError(f"Cannot get {workers}: {why.stuck} of {live} jobs cannot run.\n{why}")
        return jobs

    async def _warn_of_few(self, missing: int) -> None:
        """Say once that there are too few jobs; as dask does, wait all the same: others may scale the cluster."""
        adaptive = await self.fleet.scheduler.noted(ADAPTIVE)
        if adaptive and adaptive["maximum"] >= missing:
            return
        # What was seen may be older than another client's scale().
        jobs = (await self.fleet.look(max_age=0)).live
        if len(jobs) >= missing:
            return
        self._warned = True
        asked = f"adapt() makes {adaptive['maximum']} at most" if adaptive else f"there are {len(jobs)} worker jobs"
        workers = "1 worker" if self.n == 1 else f"{self.n} workers"
        n = missing * self.fleet.staging.spec.processes
        warn(f"You wait for {workers}, but {asked}. Call scale({n}). Jobs: {jobs.summary()}.", GatewayWarning)
