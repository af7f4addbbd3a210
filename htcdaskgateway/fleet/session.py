"""One client's hold on the workers of one cluster: open, adapt, close, sweep."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dask_gateway import GatewayWarning

from ..condor.choosing import choose_schedd
from ..condor.jobs import CLUSTER_ATTRIBUTE
from ..condor.schedd import Condor, check_schedd
from ..display.warn import warn
from ..errors import CondorError, ConfigError, SchedulerError, StagingError
from ..packages.packed import Packed
from ..scheduler.link import ADAPTIVE, SCHEDD, SchedulerLink
from ..scheduler.versions import VersionMismatchWarning, Versions, compare
from ..worker import containers, fermilab, sending, staging
from ..worker.spec import WorkerSpec
from .fleet import Fleet
from .joins import keep_last_joins
from .queue import clusters_constraint, remove_jobs

if TYPE_CHECKING:
    from .adaptive import FleetAdaptive

logger = logging.getLogger(__name__)


class Session:
    """One client's hold on the workers of one cluster: `worker` is what the user gave of a `WorkerSpec`'s keywords.

    `name` is the cluster's, if it runs already. Whatever is not right with the workers is raised before anybody is
    asked for anything.
    """

    def __init__(self, worker: Mapping[str, Any], name: str | None = None) -> None:
        self.spec = WorkerSpec.from_keywords(**worker)
        self.condor = Condor()
        self.fleet: Fleet | None = None
        self.adaptive: FleetAdaptive | None = None
        self._packed: Packed | None = None
        self._given = fermilab.translated(worker)
        self._fresh = name is None
        self._comparing: asyncio.Task[None] | None = None
        self._learning: asyncio.Task[None] | None = None
        if name is not None:
            staging.check_cluster_name(name)
            return
        staging.check_root()
        containers.check_image(self.spec)
        sending.check_files(self.spec)
        if self.spec.packages:
            from ..packages import packing

            packing.check(self.spec.packages, image=self.spec.packages_image)
        staging.Staging("probe", self.spec).rendered("gateway://localhost:8786/probe")

    async def check_pool(self) -> None:
        """Check that the pool could run the workers, before a scheduler is started for them."""
        if self._fresh:
            await containers.check_slots(self.condor, self.spec)
            if self.spec.packages:
                from ..packages import nodes

                self._packed = await self._pack()
                await nodes.check(self.condor, self._packed)

    async def _pack(self) -> Packed:
        from ..packages import packing

        return await packing.pack_beside(self.spec.packages or "", image=self.spec.packages_image)

    async def open(
        self,
        name: str,
        comm: Any,
        address: str,
        security: Any,
        ending: Callable[[], Awaitable[str | None]],
        known: Callable[[Iterable[str]], Awaitable[Collection[str]]],
    ) -> None:
        """Make ready for workers, now that the scheduler runs.

        `ending` returns why the cluster has ended, as far as the gateway server tells; `known` the names of the
        user's clusters, and of those it is given that are another user's.
        """
        link = SchedulerLink(comm, ending)
        await link.install()
        noted = None if self._fresh else await link.noted("spec")
        schedd = "" if self._fresh else check_schedd(await link.noted(SCHEDD))
        if noted:
            self.spec = WorkerSpec.from_dict({**noted, **self._given})
            if self.spec.max_idle != noted.get("max_idle"):
                # Who does not know of it would not count the jobs that the schedd has still to make.
                raise ConfigError(
                    f"max_idle={self.spec.max_idle!r}: the cluster was made with "
                    f"max_idle={noted.get('max_idle')!r}, and that cannot change. Make a new cluster."
                )
        if self.spec.relay != "never":
            await self._install_relay(link)
        elif noted and noted.get("relay", "never") != "never":
            from ..scheduler.relay import know_addresses

            know_addresses()
        if self._given or not noted:
            await link.note(spec=self.spec.to_dict())
        if self._fresh:
            if chosen := await choose_schedd(self.condor):
                schedd = chosen
                self.condor = self.condor.named(schedd)
                await link.note(**{SCHEDD: schedd})
            await self._sweep(name, address, known)
        stage = self.stage(name)
        if self.spec.packages:
            from ..packages.sending import staged
            from .code import at_scheduler

            self._packed = self._packed or staged(stage.directory)
            self._packed = self._packed or await self._pack()
            stage.packed = self._packed
            await at_scheduler(link, self._packed)
        stage.write(address, security.tls_cert, security.tls_key)
        self.fleet = Fleet(self.condor, stage, link, schedd=schedd)

    async def _install_relay(self, link: SchedulerLink) -> None:
        """Let workers go through the relay; with ``auto`` they do without one at a scheduler that cannot run it."""
        try:
            await link.install_relay(self.spec.relay)
        except SchedulerError as error:
            if self.spec.relay == "always":
                raise
            warn(f"Workers have to reach one another at {self.spec.worker_port}: {error}", GatewayWarning)
            self.spec = dataclasses.replace(self.spec, relay="never")

    def stage(self, name: str) -> staging.Staging:
        """Return the staging directory, which outlives the cluster."""
        return staging.Staging(name, self.spec)

    async def _sweep(
        self, own: str, address: str, known: Callable[[Iterable[str]], Awaitable[Collection[str]]]
    ) -> None:
        """Remove what clients that died have left in the staging directory."""
        try:
            leftovers = [name for name in staging.leftovers(address) if name != own]
            if not leftovers:
                return
            # Another account of the gateway may have the same home.
            there = await known(filter(staging.has_credentials, leftovers))
            gone = [name for name in leftovers if name not in there]
            if not gone:
                return
            # Most often there is no job, and one question for all is enough.
            any_jobs = clusters_constraint(gone)
            queued: set[Any] = set()
            if await self.condor.totals(any_jobs) != 0:
                queued = {
                    ad.get(CLUSTER_ATTRIBUTE) for ad in await self.condor.query(any_jobs, [CLUSTER_ATTRIBUTE])
                }
            for name in gone:
                schedd = staging.noted_schedd(name)
                # Of a cluster whose jobs another schedd holds this one knows nothing.
                if name not in queued and (not schedd or await self.condor.reaches(schedd) is not False):
                    staging.sweep(name)
        except (CondorError, StagingError) as error:
            logger.warning("Could not delete the files of former clusters: %s", error)

    def leave(self) -> Fleet | None:
        """Let nobody begin anything any more, and return the jobs that there may be."""
        fleet, self.fleet = self.fleet, None
        for task in (self._comparing, self._learning):
            if task is not None:
                task.cancel()
        return fleet

    async def close(self, name: str, fleet: Fleet | None, *, shutdown: bool) -> None:
        """End what runs for the workers; `shutdown`: remove their jobs, too, whoever has submitted them.

        `fleet` is what `leave` returned.
        """
        try:
            if self.adaptive is not None:
                await self.adaptive.leave(now=shutdown)
            if fleet is not None:
                if shutdown:
                    await keep_last_joins(fleet.scheduler, fleet.staging.directory)
                await (fleet.abandon() if shutdown else fleet.close())
        finally:
            # Whatever else fails, the jobs go.
            if shutdown and not (self._fresh and fleet is None):  # else it never got as far as submitting
                schedd = fleet.schedd if fleet else staging.noted_schedd(name)
                await remove_jobs(fleet.condor if fleet else self.condor, name, schedd)

    def adapt(self, fleet: Fleet, loop: Any, minimum: Any, maximum: Any, **settings: Any) -> FleetAdaptive:
        """Begin adaptive scaling in place of any that this client has begun."""
        from .adaptive import Bounds, FleetAdaptive, check_settings

        bounds = Bounds.of(minimum, maximum)
        new = FleetAdaptive(fleet, loop, bounds, **check_settings(settings))
        if self.adaptive is not None:
            self.adaptive.stop(reason="adapt() is called again")
        self.adaptive = new
        return new

    async def end_adapting(self, reason: str) -> None:
        """End adaptive scaling of HTCondor's workers by this client."""
        own, self.adaptive = self.adaptive, None
        if own is not None:
            await own.end(reason)

    async def end_all_adapting(self, fleet: Fleet, reason: str) -> None:
        """End adaptive scaling of HTCondor's workers, by whatever client."""
        await self.end_adapting(reason)
        await fleet.scheduler.note(**{ADAPTIVE: None})

    async def versions(self, fleet: Fleet) -> Versions:
        """Return the versions on all sides."""
        image = None if self.spec.container_runtime == "none" else self.spec.container_image
        return compare(await fleet.scheduler.versions(), image)

    def worker_joined(self) -> None:
        """Compare the versions, once; the scheduler knows those of the workers, so no worker is held up."""
        if self.fleet is not None and self.spec.packages and self._learning is None:
            self._learning = asyncio.ensure_future(self._learn(self.fleet))
        if self.fleet is not None and self._comparing is None:
            self._comparing = asyncio.ensure_future(self._warn_of_versions(self.fleet))

    async def _learn(self, fleet: Fleet) -> None:
        """Take note of the machines that have the packages now."""
        from .code import learn

        try:
            await learn(fleet)
        except (SchedulerError, StagingError, OSError) as error:
            logger.info("which machines have the packages is not known: %s", error)
        finally:
            self._learning = None

    async def _warn_of_versions(self, fleet: Fleet) -> None:
        try:
            found = await self.versions(fleet)
        except SchedulerError as error:
            logger.info("Could not compare versions: %s", error)
            return
        if not found.ok:
            warn(f"versions differ\n{found}", VersionMismatchWarning)
