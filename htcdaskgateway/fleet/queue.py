"""The jobs of a cluster as the schedd has them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from dask_gateway.client import GatewayWarning

from .. import config
from ..condor import materialization
from ..condor.jobs import (
    ATTRIBUTES,
    CLUSTER_ATTRIBUTE,
    SPOOLING,
    JobId,
    JobStatus,
    WorkerJob,
    WorkerJobs,
    ids_constraint,
)
from ..condor.quoting import quote_classad
from ..condor.schedd import Condor, check_schedd, same_schedd
from ..display.warn import warn
from ..errors import CondorError, ConfigError, SchedulerError
from ..scheduler.link import SCHEDD, Noted, SchedulerLink
from ..worker.staging import Staging, note_schedd

logger = logging.getLogger(__name__)

_One = TypeVar("_One")
_Other = TypeVar("_Other")

# How long who scales waits for another client, which begins at this moment, to note its schedd, in seconds.
_NAMING = 5.0
# Linux takes 128 KiB as one argument of a program.
_LONGEST_CONSTRAINT = 100_000


async def look_by_cluster(condor: Condor, constraint: str) -> dict[str, WorkerJobs]:
    """Return the user's worker jobs that fulfil `constraint`, by the name of their cluster."""
    making = await materialization.factories(condor, constraint)
    ads = await condor.query(constraint, [*ATTRIBUTES, CLUSTER_ATTRIBUTE])
    found = {}
    for name in {_cluster_of(ad) for ad in [*making, *ads]}:
        made = WorkerJobs.from_ads(ad for ad in ads if _cluster_of(ad) == name)
        late = materialization.unmaterialized([ad for ad in making if _cluster_of(ad) == name], made)
        found[name] = WorkerJobs.ordered([*made, *late])
    return found


def _cluster_of(ad: Mapping[str, Any]) -> str:
    return str(ad[CLUSTER_ATTRIBUTE])


def cluster_constraint(cluster: str) -> str:
    """Return the ClassAd expression that is true for the jobs of the Dask cluster with that name."""
    return f"{CLUSTER_ATTRIBUTE} =?= {quote_classad(cluster)}"


def clusters_constraint(clusters: Collection[str]) -> str:
    """Return a ClassAd expression that is true for the jobs of the Dask clusters with these names."""
    listed = ", ".join(map(quote_classad, clusters))
    if len(listed) > _LONGEST_CONSTRAINT:
        return f"{CLUSTER_ATTRIBUTE} =!= undefined"
    return f"member({CLUSTER_ATTRIBUTE}, {{{listed}}})"


async def remove_jobs(condor: Condor, cluster: str, schedd: str = "") -> None:
    """Remove all jobs of the Dask cluster `cluster`, whoever has submitted them from this account.

    `condor` leads to the schedd that is configured here; `schedd` names the one that holds the jobs, if it is
    known. An error says which may remain and how to remove them by hand.
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


async def _both(one: Awaitable[_One], other: Awaitable[_Other]) -> tuple[_One, _Other]:
    """Wait for two things at once; where one fails, the other is given up."""
    tasks = asyncio.ensure_future(one), asyncio.ensure_future(other)
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@contextlib.contextmanager
def _unknown_where() -> Iterator[None]:
    """Go on where the scheduler does not answer: who only looks needs none."""
    try:
        yield
    except SchedulerError as error:
        logger.info("which schedd holds the jobs is not known: %s", error)


class Queue:
    """The jobs of one cluster as the schedd has them; one look is shared by all who ask."""

    def __init__(self, condor: Condor, staging: Staging, scheduler: SchedulerLink, schedd: str) -> None:
        self.condor = condor
        self.staging = staging
        self.scheduler = scheduler
        self.constraint = cluster_constraint(staging.cluster)
        self.seen = WorkerJobs()
        self.asked: int | None = None
        self._seen_at = self._changed_at = -float("inf")
        self._held: dict[JobId, float] = {}
        self.schedd = schedd
        self._located = self._began = False
        self._looking: asyncio.Task[WorkerJobs] | None = None

    async def look(self, max_age: float | None = None) -> WorkerJobs:
        """Return the cluster's jobs as the schedd has them; everyone who asks at once shares one ``condor_q``.

        They may be `max_age` seconds old; by default as old as the configured ``poll-interval``. With 0 they are
        from after the call.
        """
        limit = config.seconds("condor.poll-interval") if max_age is None else max_age
        oldest = time.monotonic() - limit
        if self._seen_at > self._changed_at and self._seen_at >= oldest:
            return self.seen
        if self._looking is not None and not self._looking.done():
            # One who gives up must not take the answer from the others.
            jobs = await asyncio.shield(self._looking)
            # It was asked for before; whoever waited with us may have asked again by now.
            if max_age is None or self._seen_at >= oldest:
                return jobs
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        return await asyncio.shield(self._looking)

    async def look_at_all(self, max_age: float | None = None) -> None:
        """Look at the jobs, and at how many are asked for, by whatever client."""
        await self.look(max_age)
        self.asked = await self.scheduler.noted("wanted")

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
        await self._check_factories()
        # Before the jobs, so that none is made between the two unseen.
        making = await materialization.factories(self.condor, self.constraint) if self.staging.spec.max_idle else []
        return making, await self.condor.query_each(self.constraint, ATTRIBUTES, WorkerJob.from_ad)

    async def _check_factories(self) -> None:
        """Check that one schedd answers, if it is to make the jobs."""
        if self.staging.spec.max_idle and len(await self.condor.all_answering()) > 1:
            raise ConfigError(
                f"max_idle={self.staging.spec.max_idle!r} needs one schedd, and here {len(self.condor.answering)} "
                f"answer ({', '.join(self.condor.answering)}): name one in htcdaskgateway.condor.schedd"
            )

    async def _is_elsewhere(self, made: list[WorkerJob]) -> bool:
        """Tell whether another schedd than the one that has answered holds the jobs; it is asked from now on."""
        if made:  # perhaps by a client that was cut off before it could note where
            await self._name_schedd(made)
        elif not self.schedd:
            with _unknown_where():
                self.schedd = check_schedd(await self.scheduler.noted(SCHEDD))
        schedds = {job.schedd for job in made} - {""} or {*self.condor.answering}
        self._located = bool(self.schedd and schedds)
        if not self._located or any(same_schedd(schedd, self.schedd) for schedd in schedds):
            return False
        # Where a site's wrapper asks several schedds, jobs that another of them holds are here all the same.
        if await self.condor.reaches(self.schedd) is not False:
            return False
        self.condor = self.condor.named(self.schedd)
        return True

    async def _name_schedd(self, jobs: Sequence[WorkerJob] = ()) -> None:
        """Let the scheduler keep where the jobs are, unless that is known: who has `jobs`, or else who answers."""
        if not self.schedd:
            with _unknown_where():
                await self.condor.all_answering()
                await self._note(jobs)
                self._keep_schedd()

    def _holder(self, jobs: Sequence[WorkerJob]) -> str:
        """Return who has these jobs, by the name under which it answers; a job's ad lacks the ``@`` at its end."""
        name = jobs[0].schedd if jobs else ""
        known = next((one for one in self.condor.answering if same_schedd(one, name)), name)
        return check_schedd(known or self.condor.answered)

    async def _note(self, jobs: Sequence[WorkerJob] = (), /, **values: Any) -> Noted:
        """Let the scheduler keep values, and where the jobs are to be, unless another client was there first."""
        noted = await self.scheduler.note(self.schedd or self._holder(jobs or self.seen), **values)
        self.schedd = check_schedd(noted.schedd)
        return noted

    def _keep_schedd(self) -> None:
        """Keep the schedd's name for when the scheduler cannot be asked any more."""
        if self.schedd:
            note_schedd(self.staging.cluster, self.schedd)

    async def _go_there(self) -> None:
        """Turn to the schedd that is noted."""
        if not self._located:  # another client may have been the first since the jobs were counted
            self.condor = await self.condor.at(self.schedd)

    async def _count(self, **values: Any) -> tuple[WorkerJobs, Noted]:
        """Return the live jobs of now, and let the scheduler keep values; a call of it takes a millisecond.

        Whoever is the first to tell it how many jobs are wanted need not ask HTCondor: nobody has submitted any.
        """
        if self.schedd and self._seen_at > 0:
            jobs, noted = await _both(self._look(), self._note(**values))
            return jobs.live, noted
        await self._check_factories()
        noted = await self._note(**values)
        self._began |= noted.first
        if noted.first and values["wanted"]:
            return WorkerJobs(), noted
        if not noted.schedd and not self._began:
            noted = await self._wait_for_schedd(noted)
        jobs = await self._look()  # for scale(0), too: a person may have submitted some
        if noted.first:
            await self._name_schedd()
        return jobs.live, noted

    async def _wait_for_schedd(self, noted: Noted) -> Noted:
        """Wait while the client that is the first submits, and has not noted yet where; it may fail at that."""
        end = time.monotonic() + _NAMING
        while not noted.schedd and time.monotonic() < end:
            await asyncio.sleep(0.05)
            noted = await self._note()
        return noted

    def _report_holds(self) -> None:
        """Warn of jobs that have gone on hold since the last look."""
        held = [job for job in self.seen.with_status(JobStatus.HELD) if job.hold_code != SPOOLING]
        fresh = [job for job in held if self._held.get(job.id) != job.since]
        self._held = {job.id: job.since for job in held}
        kinds: dict[tuple[int | None, int | None], list[WorkerJob]] = {}
        for job in fresh:
            kinds.setdefault((job.hold_code, job.hold_subcode), []).append(job)
        for jobs in kinds.values():
            more = f" and {len(jobs) - 3} more" if len(jobs) > 3 else ""
            # The time, lest Python takes a second hold of the same job for the first.
            at = time.strftime("%H:%M:%S", time.localtime(jobs[-1].since))
            warn(
                f"HTCondor holds worker jobs since {at}: {', '.join(str(job.id) for job in jobs[:3])}{more}. "
                f"HTCondor's reason: {jobs[0].hold_reason}",
                GatewayWarning,
            )

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Change the jobs; what was asked before the end of that is out of date."""
        try:
            yield
        finally:
            self._changed_at = time.monotonic()

    async def _remove(self, ids: Iterable[JobId]) -> None:
        """Remove these jobs; where several schedds answer, each of them its own, for two may have equal ids."""
        by_schedd: dict[str, list[JobId]] = {}
        for job in sorted(ids):
            by_schedd.setdefault(job.schedd, []).append(job)
        if by_schedd:
            await self.condor.all_answering()
        for schedd, own in by_schedd.items():
            await self._remove_at(self.condor.of_job(schedd), own)

    async def _remove_at(self, condor: Condor, chosen: list[JobId]) -> None:
        wanted = ids_constraint(chosen)
        if len(wanted) > _LONGEST_CONSTRAINT:
            for half in (chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]):
                await self._remove_at(condor, half)
        else:
            with self._change():
                await condor.remove(f"{self.constraint} && ({wanted})")
