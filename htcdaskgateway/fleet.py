"""The worker jobs of one cluster: bring what the schedd holds to the number that is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from typing import Any

from dask_gateway.client import GatewayWarning

from . import config, materialization
from .condor import Condor, check_schedd, quote_classad, same_schedd
from .errors import ClusterEndedError, CondorError, HTCDaskGatewayError, ScaleError, SchedulerError
from .jobs import ATTRIBUTES, CLUSTER_ATTRIBUTE, SPOOLING, JobId, JobStatus, WorkerJob, WorkerJobs, ids_constraint
from .scheduler import SCHEDD, SchedulerLink
from .staging import Staging, note_schedd

logger = logging.getLogger(__name__)

_OVER = "the cluster is being shut down"
_ROUNDS = 5
_SETTLE_AFTER = 1.0
_SETTLE_PAUSE = 16.0
# Linux takes 128 KiB as one argument of a program.
_LONGEST_CONSTRAINT = 100_000


def cluster_constraint(cluster: str) -> str:
    """Return the ClassAd expression that is true for the jobs of the Dask cluster with that name."""
    return f"{CLUSTER_ATTRIBUTE} =?= {quote_classad(cluster)}"


def clusters_constraint(clusters: Collection[str]) -> str:
    """Return a ClassAd expression that is true for the jobs of the Dask clusters with these names."""
    listed = ", ".join(map(quote_classad, clusters))
    if len(listed) > _LONGEST_CONSTRAINT:
        return f"{CLUSTER_ATTRIBUTE} =!= undefined"
    return f"member({CLUSTER_ATTRIBUTE}, {{{listed}}})"


class Fleet:
    """The worker jobs of one cluster.

    Parameters
    ----------
    condor : Condor
        The schedd that holds them, and the only record of them.
    staging : Staging
        Where they are submitted from.
    scheduler : SchedulerLink
        The cluster's scheduler.
    schedd : str, optional
        The name of the schedd that holds the cluster's jobs, where another client has noted it.
    """

    def __init__(self, condor: Condor, staging: Staging, scheduler: SchedulerLink, *, schedd: str = "") -> None:
        self.condor = condor
        self.staging = staging
        self.scheduler = scheduler
        self.constraint = cluster_constraint(staging.cluster)
        self.seen = WorkerJobs()
        self._seen_at = self._changed_at = -float("inf")
        self._held: dict[JobId, float] = {}
        self.schedd = schedd
        self._located = False
        self._over = self._dropped = False
        self._submitting: asyncio.Task[tuple[int, int]] | None = None
        self._looking: asyncio.Task[WorkerJobs] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._scaling = asyncio.Lock()
        self._closing = asyncio.Event()
        # Until then a submit whose outcome is unknown may yet bring jobs.
        self._unsure_until = -float("inf")

    async def look(self, max_age: float | None = None) -> WorkerJobs:
        """Return the cluster's jobs as the schedd has them; everyone who asks at once shares one ``condor_q``.

        Parameters
        ----------
        max_age : float, optional
            How old the answer may be, in seconds; the configured ``poll-interval`` if not given.

        Raises
        ------
        CondorError
            The queue could not be read.
        """
        limit = config.seconds("condor.poll-interval") if max_age is None else max_age
        if self._seen_at > self._changed_at and time.monotonic() - self._seen_at <= limit:
            return self.seen
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        # One who gives up must not take the answer from the others.
        return await asyncio.shield(self._looking)

    async def _look(self) -> WorkerJobs:
        asked_at = time.monotonic()
        making, made = await self._query()
        if not self._located and await self._is_elsewhere(made):
            making, made = await self._query()
        jobs = WorkerJobs.ordered([*made, *materialization.unmaterialized(making, made)])
        # Ten thousand jobs take as long to forget as to sort: the event loop goes on between the two.
        await asyncio.sleep(0)
        if asked_at > self._seen_at:
            self.seen, self._seen_at = jobs, asked_at
            self._report_holds()
        return jobs

    async def _query(self) -> tuple[list[Mapping[str, Any]], list[WorkerJob]]:
        """Return the factories and the jobs that the schedd has."""
        late = bool(self.staging.spec.max_idle)
        # Before the jobs, so that none is made between the two unseen.
        making = await materialization.factories(self.condor, self.constraint) if late else []
        return making, await self.condor.query_each(self.constraint, ATTRIBUTES, WorkerJob.from_ad)

    async def _is_elsewhere(self, made: list[WorkerJob]) -> bool:
        """Tell whether another schedd than the one that has answered holds the jobs; it is asked from now on."""
        if not self.schedd and not made:
            try:
                await self._read_schedd()
            except SchedulerError as error:  # who only looks needs no scheduler
                logger.info("which schedd holds the jobs is not known: %s", error)
        answered = made[0].schedd if made else self.condor.answered
        self._located = bool(self.schedd and answered)
        if not self._located or same_schedd(answered, self.schedd):
            return False
        self.condor = self.condor.named(self.schedd)
        return True

    async def _read_schedd(self) -> None:
        if not self.schedd:
            self.schedd = check_schedd(await self.scheduler.noted(SCHEDD))

    async def _note_schedd(self) -> None:
        """Let the other clients know where the jobs are, before there are any."""
        await self._read_schedd()
        if not self.schedd:
            self.schedd = check_schedd(self.seen[0].schedd if self.seen else self.condor.answered)
            if self.schedd:
                await self.scheduler.note(**{SCHEDD: self.schedd})
        if self.schedd:
            note_schedd(self.staging.cluster, self.schedd)
        if not self._located:  # another client may have been the first since the jobs were counted
            self.condor = await self.condor.at(self.schedd)

    async def _count(self) -> WorkerJobs:
        """Return the live jobs of now. The first time there are none as a rule, and to count them is quicker."""
        if self._seen_at < 0 and not self.staging.spec.max_idle:
            await self._read_schedd()
            if not self.schedd and await self.condor.totals(self.constraint) == 0:
                return WorkerJobs()
        return (await self._look()).live

    def _report_holds(self) -> None:
        """Warn of jobs that have gone on hold since the last look."""
        held = [job for job in self.seen.having(JobStatus.HELD) if job.hold_code != SPOOLING]
        fresh = [job for job in held if self._held.get(job.id) != job.since]
        self._held = {job.id: job.since for job in held}
        kinds: dict[tuple[int | None, int | None], list[WorkerJob]] = {}
        for job in fresh:
            kinds.setdefault((job.hold_code, job.hold_subcode), []).append(job)
        for jobs in kinds.values():
            more = f" and {len(jobs) - 3} more" if len(jobs) > 3 else ""
            # The time, lest Python takes a second hold of the same job for the first.
            at = time.strftime("%H:%M:%S", time.localtime(jobs[-1].since))
            warnings.warn(
                f"worker jobs on hold since {at}: {', '.join(str(job.id) for job in jobs[:3])}{more}. "
                f"HTCondor's reason: {jobs[0].hold_reason}",
                GatewayWarning,
                stacklevel=2,
            )

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Change the jobs; what was asked before the end of that is out of date."""
        try:
            yield
        finally:
            self._changed_at = time.monotonic()

    async def scale(self, n: int, *, grow_only: bool = False) -> None:
        """Bring the cluster to `n` worker jobs. Jobs that wait or are held count: they have been asked for.

        Parameters
        ----------
        n : int
            The number that is wanted; asking for it again changes nothing.
        grow_only : bool
            Leave it at more, where there are more.

        Raises
        ------
        HTCDaskGatewayError
            It could not be done. What was reached is what the schedd holds; scaling again is safe.
        """
        await self._stop_settling()
        submitted = False
        async with self._alone():
            try:
                await self.scheduler.note(wanted=n)
                live = await self._count()
                if not grow_only:
                    live = await self._unmake(live, n)
                if len(live) < n:
                    submitted = True
                    await self._submit(n - len(live))
                elif len(live) > n and grow_only:
                    await self.scheduler.note(wanted=len(live))
                elif len(live) > n:
                    await self._shrink(live, n)
            finally:
                # Another client may have done the same at this moment.
                if submitted or time.monotonic() < self._unsure_until:
                    self._settling = asyncio.ensure_future(self._settle())

    async def shrink(self, workers: Iterable[str], waiting: int = 0) -> None:
        """Remove `waiting` of the jobs that wait, and of these workers those that process nothing.

        Parameters
        ----------
        workers : iterable of str
            Names of workers; one that has got work by now stays, and so does one whose data cannot be moved.
        waiting : int
            How many of the jobs that wait or are held, at most.

        Raises
        ------
        HTCDaskGatewayError
            It could not be done.
        """
        await self._stop_settling()
        async with self._alone():
            before = (await self._look()).live
            live = await self._unmake(before, len(before) - waiting)
            waiting -= len(before) - len(live)
            if waiting < 0:
                await self._submit(-waiting)
            named = {JobId.of_worker(name) for name in workers}
            idle = [job for job in live if job.id in named and job.worker_name]
            await self._release([*_waiting_first(live)[: max(0, waiting)], *idle], force=False, unoccupied=True)
            await self.scheduler.note(wanted=len((await self.look()).live))

    async def _unmake(self, live: WorkerJobs, n: int) -> WorkerJobs:
        """Where there are more than `n` jobs, stop factories that have jobs to make, the newest first.

        Returns the jobs that remain. They may be fewer than `n`, because a factory stops as a whole.
        """
        unmade = Counter(job.id.cluster for job in live.having(JobStatus.UNMATERIALIZED))
        surplus = len(live) - n
        for cluster in sorted(unmade, reverse=True):
            if surplus > 0:
                with self._change():
                    await materialization.stop(self.condor, cluster)
                surplus -= unmade[cluster]
        # Some may have been made meanwhile.
        return (await self._look()).live if unmade and len(live) > n else live

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

    async def _submit(self, count: int) -> None:
        spec = self.staging.spec
        await self.scheduler.check_open()
        self.staging.check()
        await self._note_schedd()
        if self._over:
            raise ClusterEndedError(_OVER)
        limit = self.staging.spool_limit(count) if spec.spool else self.condor.timeout
        submit = self.condor.submit(
            self.staging.description, count, extra=spec.submit_command_extra, spool=spec.spool, timeout=limit
        )
        # Of its own: were it killed with who asked for it, its jobs might come after they have been removed.
        self._submitting = asyncio.ensure_future(submit)
        self._submitting.add_done_callback(self._submitted)
        try:
            cluster_id, queued = await (self._submitting if spec.spool else asyncio.shield(self._submitting))
        except BaseException:
            # What the schedd has got already may be carried out after the next count.
            self._unsure_until = time.monotonic() + limit
            if self._dropped:
                raise ClusterEndedError(_OVER) from None
            raise
        await self._check_wanted(cluster_id)
        logger.info("submitted %d worker job(s) as HTCondor cluster %d", queued, cluster_id)
        if queued != count:
            raise ScaleError(f"{count} worker jobs were asked for, but HTCondor queued {queued}")

    def _submitted(self, task: asyncio.Task[tuple[int, int]]) -> None:
        self._changed_at = time.monotonic()
        if not task.cancelled():
            task.exception()  # its caller, if there is one still, has it

    async def _check_wanted(self, cluster_id: int) -> None:
        """Remove the jobs of a submit that has come while somebody shut the cluster down."""
        if self._over:  # this client itself, which removes all jobs now
            raise ClusterEndedError(_OVER)
        try:
            await self.scheduler.check_open()
        except ClusterEndedError:
            with self._change():
                await self.condor.remove(f"{self.constraint} && ClusterId == {cluster_id}")
            raise
        except SchedulerError as error:  # jobs that find no scheduler leave
            logger.warning("whether the cluster still runs is not known: %s", error)

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
            warnings.warn(
                f"{len(kept)} worker(s) stay, because they hold results that no other worker could take over: "
                f"{', '.join(sorted(kept))}. scale(0) or shutdown() removes them with their results.",
                GatewayWarning,
                stacklevel=2,
            )
        await self._see_off(set(joined.values()).difference(joined[name] for name in kept))

    async def _see_off(self, ids: Iterable[JobId]) -> None:
        """Wait until the jobs of retired workers have left the queue, and remove those that do not."""
        deadline = time.monotonic() + config.seconds("retire-grace")
        pause = 0.2
        staying = set(ids)
        while staying and time.monotonic() < deadline:
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)
            staying &= {job.id for job in (await self._look()).live}
        await self._remove(staying)

    async def _remove(self, ids: Iterable[JobId]) -> None:
        chosen = sorted(ids)
        wanted = ids_constraint(chosen)
        if len(wanted) > _LONGEST_CONSTRAINT:
            for half in (chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]):
                await self._remove(half)
        elif wanted:
            with self._change():
                await self.condor.remove(f"{self.constraint} && ({wanted})")

    async def _settle(self) -> None:
        """Count again, and end the disagreement of two clients that have scaled at the same moment.

        Each looks after it has submitted, so the one that looks last sees all jobs. Both remove the same jobs,
        those with the highest ids, and "no such job" is as good; what counts is the number asked for last. After
        a submit of unknown outcome this goes on until its jobs cannot arrive any more.
        """
        trimmed = False
        pause = _SETTLE_AFTER
        await asyncio.sleep(pause)
        rounds = 0
        while rounds < _ROUNDS or time.monotonic() < self._unsure_until:
            rounds += 1
            try:
                agreed, trimmed = await self._agree(trimmed)
            except HTCDaskGatewayError as error:
                # Nobody waits for this task; the next scale() counts again and raises what is still wrong.
                logger.warning("the worker jobs could not be counted again: %s", error)
                agreed = True
            if agreed and time.monotonic() >= self._unsure_until:
                return
            pause = min(2 * pause, _SETTLE_PAUSE) if agreed else _SETTLE_AFTER
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)

    async def _agree(self, trimmed: bool) -> tuple[bool, bool]:
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
            live = await self._unmake(live, wanted)
            await self._remove([job.id for job in live[wanted:]])
            return False, True

    async def _stop_settling(self) -> None:
        task, self._settling = self._settling, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        """End what runs in the background. A count that is still owed is made now."""
        task, self._settling = self._settling, None
        if task is not None:
            self._unsure_until = -float("inf")
            self._closing.set()
            await asyncio.wait([task])
        if self._looking is not None and not self._looking.done():
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def abandon(self) -> None:
        """End what runs in the background; the jobs are about to be removed.

        Nobody submits any more from here on. A submit of this client that is under way is waited for, and another
        client's removes its own jobs.
        """
        self._over = True
        try:
            await self.scheduler.note_closing()
            await self._read_schedd()
        except SchedulerError as error:
            logger.info("that the cluster ends could not be noted: %s", error)
        await self._stop_settling()
        await self._await_submit()
        await self.close()


def _waiting_first(live: WorkerJobs) -> list[WorkerJob]:
    """Return the jobs that do not run, in the order in which they are dispensable: held, then the newest."""
    waiting = [job for job in live if job.status in (JobStatus.IDLE, JobStatus.HELD)]
    return sorted(waiting, key=lambda job: (job.status is JobStatus.HELD, job.id), reverse=True)


async def remove_jobs(condor: Condor, cluster: str, schedd: str = "") -> None:
    """Remove all jobs of the Dask cluster `cluster`, whoever has submitted them from this account.

    Parameters
    ----------
    condor : Condor
        The command line for the schedd that is configured here.
    cluster : str
        The cluster's name.
    schedd : str, optional
        The name of the schedd that holds the jobs, where it is known.

    Raises
    ------
    CondorError
        They could not be removed; the message says which may remain and how to remove them by hand.
    """
    constraint = cluster_constraint(cluster)
    try:
        condor = await condor.at(schedd)
        await condor.remove(constraint)
    except CondorError as error:
        there = f"-name {condor.schedd} " if condor.schedd else ""
        error.hint = (
            f"worker jobs of the cluster may remain. When the schedd is back, "
            f"`HTCGateway(...).stop_cluster({cluster!r})` or `condor_rm {there}-constraint '{constraint}'` removes "
            "them. " + error.hint
        )
        raise
