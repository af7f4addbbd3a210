"""Adaptive scaling of HTCondor's workers: distributed's own, over a view of the fleet that it can drive."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Collection, Generator
from dataclasses import dataclass
from typing import Any

import dask.config
from distributed.core import Status
from distributed.deploy import Adaptive

from .. import config
from ..condor.jobs import SPOOLING, JobId, JobStatus
from ..errors import ClusterEndedError, ConfigError, HTCDaskGatewayError, SchedulerError
from ..scheduler.link import ADAPTIVE
from .counting import whole
from .fleet import Fleet

logger = logging.getLogger(__name__)


# How long at most until the next try after a failure, in seconds.
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Bounds:
    """How few and how many workers there may be.

    Attributes
    ----------
    minimum : int
        At least so many.
    maximum : int or float
        At most so many; infinity for no limit.
    """

    minimum: int
    maximum: float

    @classmethod
    def of(cls, minimum: Any = None, maximum: Any = None) -> Bounds:
        """Return the bounds a user gave; None stands for ``distributed.adaptive.minimum`` and ``maximum``."""
        given = f"adapt(minimum={minimum!r}, maximum={maximum!r})"
        low = dask.config.get("distributed.adaptive.minimum") if minimum is None else minimum
        high = dask.config.get("distributed.adaptive.maximum") if maximum is None else maximum
        try:
            bounds = cls(whole(low), high if high == math.inf else whole(high))
        except (TypeError, ValueError):
            raise ConfigError(
                f"{given}: give whole numbers of workers, 0 or more, not {low!r} and {high!r}"
            ) from None
        if bounds.minimum > bounds.maximum:
            raise ConfigError(f"{given}: the minimum, {low}, is above the maximum, {high}")
        return bounds

    def for_server(self) -> tuple[int, int | None]:
        """Return the bounds as the gateway server takes them: JSON has no infinity."""
        return self.minimum, None if math.isinf(self.maximum) else int(self.maximum)


def check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of `distributed.deploy.Adaptive` if they are such."""
    for name, value in settings.items():
        if name in ("interval", "target_duration"):
            config.parse_seconds(value, f"adapt({name}=…): {name}")
        elif name == "wait_count":
            try:
                whole(value, least=1)
            except (TypeError, ValueError):
                raise ConfigError(f"adapt(wait_count={value!r}): give a whole number, 1 or more") from None
        else:
            raise ConfigError(f"adapt() has no {name!r}; it has interval, wait_count and target_duration")
    return settings


class FleetView:
    """The worker jobs as `distributed.deploy.Adaptive` wants to see a cluster; its tokens are job ids.

    Jobs that wait have been asked for and have not arrived. A job that starts counts as arrived, so that it is left
    in peace until its worker has joined. Jobs that are held bring no worker: each is made up for by another, but no
    more of them than are wanted at all, lest a failure that holds every job brings new ones without end.
    """

    status = Status.running

    def __init__(self, fleet: Fleet, loop: Any) -> None:
        self.fleet = fleet
        self.loop = loop
        self.scheduler_comm = fleet.scheduler.comm
        self._joined: dict[JobId, list[str]] = {}
        self._unoccupied: list[JobId] = []
        self._wanted = 0

    async def refresh(self, target_duration: float) -> int:
        """Look at the work, the workers and the jobs, and return how many workers the work asks for."""
        # The scheduler first: where it is gone, the schedd need not be asked.
        target, joined, unoccupied = await self.fleet.scheduler.adaptive(
            target_duration, self.fleet.staging.spec.nthreads
        )
        await self.fleet.look()
        self._joined = {}
        for name in joined:
            if job := JobId.of_worker(name):
                self._joined.setdefault(job, []).append(name)
        self._unoccupied = list(dict.fromkeys(job for name in unoccupied if (job := JobId.of_worker(name))))
        return target

    @property
    def plan(self) -> set[JobId]:
        """The jobs that can bring the workers that are wanted: the schedd is their only record."""
        return {job.id for job in self.fleet.seen.live}.difference(self._made_up_for())

    requested = plan

    def want(self, n: int) -> None:
        """Take note of how many jobs are wanted."""
        self._wanted = n

    def _made_up_for(self) -> list[JobId]:
        held = self.fleet.seen.with_status(JobStatus.HELD)
        return [job.id for job in held if job.hold_code != SPOOLING][: self._wanted]

    @property
    def observed(self) -> set[JobId]:
        """The jobs whose workers have joined or are about to."""
        live = self.fleet.seen.live
        return {job.id for job in live if job.worker_name or job.id in self._joined}

    @property
    def unoccupied(self) -> list[JobId]:
        """The workers that process nothing, those that are the least loss first."""
        there = self.plan
        return [job for job in self._unoccupied if job in there]

    async def scale(self, n: int) -> None:
        """Submit what is missing to `n` jobs."""
        await self.fleet.scale(n + len(self._made_up_for()), grow_only=True)

    async def scale_down(self, jobs: Collection[JobId]) -> None:
        """Retire the workers among these jobs, and remove as many jobs that wait as there are others."""
        joined = [job for job in jobs if job in self._joined]
        names = [name for job in joined for name in self._joined[job]]
        await self.fleet.shrink(names, waiting=len(jobs) - len(joined))


class FleetAdaptive(Adaptive):  # type: ignore[misc]
    """Adaptive scaling of one cluster's HTCondor workers; what `HTCGatewayCluster.adapt` returns.

    It can be awaited, and is then in force. ``stop()`` ends it. ``minimum`` and ``maximum`` are the bounds; the
    settings are ``interval``, ``wait_count`` and ``target_duration`` of `distributed.deploy.Adaptive`.
    """

    def __init__(self, fleet: Fleet, loop: Any, bounds: Bounds, **settings: Any) -> None:
        self._link = fleet.scheduler
        self._id = uuid.uuid4().hex
        self._in_charge = False
        self._pause, self._not_before = 0.0, -math.inf
        self._tick: asyncio.Task[None] | None = None
        super().__init__(FleetView(fleet, loop), minimum=bounds.minimum, maximum=bounds.maximum, **settings)

    def __repr__(self) -> str:
        return f"FleetAdaptive<minimum={self.minimum}, maximum={self.maximum}, {self.state}>"

    def __await__(self) -> Generator[Any, None, FleetAdaptive]:
        return self._take_charge().__await__()

    async def _take_charge(self) -> FleetAdaptive:
        """Note at the scheduler that this is the one that adapts the cluster; any other one stops then."""
        if not self._in_charge:
            await self._link.note(**{ADAPTIVE: {"id": self._id, "minimum": self.minimum, "maximum": self.maximum}})
            self._in_charge = True
        return self

    async def adapt(self) -> None:
        """Look once, and scale if there is reason to.

        A failure is logged when it begins and when it is over. Until then it is tried again ever more rarely, at
        first after ``htcdaskgateway.condor.poll-interval``: the cluster may have ended, or the schedd be busy.
        """
        if time.monotonic() < self._not_before or (self._tick and not self._tick.done()):
            return
        # By the time that this goes on, another may have begun the next one.
        tick = self._tick = asyncio.ensure_future(self._adapt_once())
        await asyncio.wait([tick])
        if not tick.cancelled():
            tick.result()

    async def _adapt_once(self) -> None:
        try:
            await self._take_charge()
            if not await self._is_noted():
                self.stop(reason="another client scales the cluster")
                return
            await super().adapt()
        except ClusterEndedError as error:
            logger.warning("adaptive scaling ends: %s", error)
            self.stop(reason="the cluster has ended")
        except HTCDaskGatewayError as error:
            if not self._pause:
                logger.warning("Adaptive scaling failed and tries again: %s", error)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE) or config.seconds("condor.poll-interval")
            self._not_before = time.monotonic() + self._pause
        else:
            if self._pause:
                logger.info("adaptive scaling works again")
            self._pause = 0.0

    async def end(self, reason: str, *, now: bool = False) -> None:
        """Stop, and wait for what is under way; `now`: cancel that."""
        self.stop(reason=reason)
        if self._tick is not None and not self._tick.done():
            if now:
                self._tick.cancel()
            await asyncio.wait([self._tick])

    async def leave(self, *, now: bool) -> None:
        """End with the client; `now`: the jobs are about to be removed."""
        await self.end("the cluster is closed", now=now)
        if now:
            return
        try:
            if await self._is_noted():
                await self._link.note(**{ADAPTIVE: None})
        except SchedulerError as error:
            logger.info("Could not note the end of adaptive scaling: %s", error)

    async def _is_noted(self) -> bool:
        """Tell whether this is still the one that adapts the cluster."""
        noted = await self._link.noted(ADAPTIVE)
        return bool(noted) and noted["id"] == self._id

    async def target(self) -> int:
        """Return how many workers of HTCondor's the work asks for."""
        return int(await self.cluster.refresh(self.target_duration))

    async def recommendations(self, target: int) -> dict[str, Any]:
        """Return what to do to reach `target` workers, in jobs; nothing, if this has been stopped meanwhile."""
        if self.state == "stopped":
            return {"status": "same"}
        jobs = self.cluster.fleet.staging.spec.jobs(target)
        self.cluster.want(jobs)
        return dict(await super().recommendations(jobs))

    async def scale_up(self, n: int) -> None:
        """Submit what is missing, unless another client has scaled the cluster since this look began."""
        if await self._is_noted():
            await super().scale_up(n)

    async def workers_to_close(self, target: int) -> list[JobId]:
        """Return jobs whose workers process nothing, as many as are too many when nothing waits any more."""
        view: FleetView = self.cluster
        return view.unoccupied[: max(0, len(view.observed) - target)]

    async def scale_down(self, workers: Collection[JobId]) -> None:
        """Remove these: jobs that wait at once, workers when their data has moved, unless they have got work.

        But none where another client has scaled the cluster since this look began.
        """
        if await self._is_noted():
            await self.cluster.scale_down(workers)
