"""HTCGatewayCluster: a Dask Gateway cluster whose workers are HTCondor jobs."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dask_gateway import Gateway, GatewayCluster
from distributed import Client

from .. import config
from ..condor.jobs import CLUSTER_ATTRIBUTE, WorkerJobs
from ..condor.schedd import Condor, check_schedd, same_schedd
from ..display.notebook import NotebookView
from ..errors import CondorError, ConfigError, SchedulerError, StagingError
from ..fleet import logs
from ..fleet.counting import check_count, jobs_of
from ..fleet.explain import explain, held
from ..fleet.findings import Explanation
from ..fleet.fleet import Fleet
from ..fleet.joins import keep_last_joins
from ..fleet.logs import WorkerLogs
from ..fleet.queue import clusters_constraint, remove_jobs
from ..fleet.timeline import Timeline, look_back, read_timeline
from ..fleet.usage import Usage, read_usage, read_usage_after
from ..scheduler.link import ADAPTIVE, SCHEDD, SchedulerLink
from ..scheduler.versions import Announcing, VersionMismatchWarning, Versions, compare
from ..worker import containers, staging
from ..worker.spec import KEYWORDS, WorkerSpec
from .gateway import GATEWAY, HTCGateway, check_worker_type, finalize

if TYPE_CHECKING:
    from ..fleet.adaptive import FleetAdaptive

logger = logging.getLogger(__name__)

# How long a look at the queue may hold up the text that describes a cluster, in seconds.
_REPR_TIMEOUT = 5.0


class HTCGatewayCluster(NotebookView, GatewayCluster):  # type: ignore[misc]
    """A Dask Gateway cluster whose workers are HTCondor jobs.

    Usually made by `HTCGateway.new_cluster` or `HTCGateway.connect`.

    Parameters
    ----------
    address, proxy_address, public_address, auth, asynchronous, loop
        As for `dask_gateway.GatewayCluster`.
    cluster_options : dask_gateway.options.Options, optional
        Options of the gateway server; they reach it untouched.
    shutdown_on_close : bool, optional
        Whether closing this object shuts the cluster down and removes its jobs.
    **kwargs
        The keywords of `WorkerSpec` describe a worker. All others are options of the gateway server.

    Raises
    ------
    ConfigError, ContainerError, CondorNotFoundError, StagingError, TemplateError
        Something that the workers need is not right; raised before the server is asked for anything.
    """

    def __init__(
        self,
        address: str | None = None,
        proxy_address: str | int | None = None,
        public_address: str | None = None,
        auth: Any = None,
        cluster_options: Any = None,
        shutdown_on_close: bool = True,
        asynchronous: bool = False,
        loop: Any = None,
        **kwargs: Any,
    ) -> None:
        config.load_dotenv()
        self._worker = {name: kwargs.pop(name) for name in KEYWORDS & kwargs.keys()}
        super().__init__(
            address=address,
            proxy_address=proxy_address,
            public_address=public_address,
            auth=auth,
            cluster_options=cluster_options,
            shutdown_on_close=shutdown_on_close,
            asynchronous=asynchronous,
            loop=loop,
            **kwargs,
        )

    @classmethod
    def from_name(
        cls,
        cluster_name: str,
        shutdown_on_close: bool = False,
        address: str | None = None,
        proxy_address: str | int | None = None,
        public_address: str | None = None,
        auth: Any = None,
        asynchronous: bool = False,
        loop: Any = None,
        **worker: Any,
    ) -> HTCGatewayCluster:
        """Connect to a cluster that runs already.

        Parameters
        ----------
        cluster_name : str
            The cluster's name.
        shutdown_on_close : bool, optional
            Whether closing this object shuts the cluster down.
        address, proxy_address, public_address, auth, asynchronous, loop
            As for the class.
        **worker
            Keywords of `WorkerSpec` that differ from what the cluster was made with.

        Returns
        -------
        HTCGatewayCluster
        """
        self = object.__new__(cls)
        self._worker = worker
        self._init_internal(
            address=address,
            proxy_address=proxy_address,
            public_address=public_address,
            auth=auth,
            asynchronous=asynchronous,
            loop=loop,
            shutdown_on_close=shutdown_on_close,
            name=cluster_name,
        )
        return self

    def _init_internal(
        self,
        address: str | None = None,
        proxy_address: str | int | None = None,
        public_address: str | None = None,
        auth: Any = None,
        asynchronous: bool = False,
        loop: Any = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        config.load_dotenv()
        self.status = "created"
        self._fleet: Fleet | None = None
        self._adaptive: FleetAdaptive | None = None
        self._comparing: asyncio.Task[None] | None = None
        self._fresh = name is None
        self._spec = WorkerSpec.from_keywords(**self._worker)
        self._condor = Condor()
        if name is not None:
            staging.check_cluster_name(name)
        if self._fresh:
            # What cannot work is found out before the server starts a scheduler.
            staging.check_root()
            containers.check_image(self.spec)
            staging.Staging("probe", self.spec).rendered("gateway://localhost:8786/probe")
        self._gateway = HTCGateway(
            address=address,
            proxy_address=proxy_address,
            public_address=public_address,
            auth=auth,
            asynchronous=asynchronous,
            loop=loop,
        )
        super()._init_internal(
            address=self._gateway.address,
            proxy_address=self._gateway.proxy_address,
            public_address=self._gateway._public_address,
            auth=self._gateway.auth,
            asynchronous=asynchronous,
            loop=self._gateway.loop,
            name=name,
            **kwargs,
        )

    @property
    def gateway(self) -> HTCGateway:
        """The client of the gateway server."""
        return self._gateway

    @gateway.setter
    def gateway(self, stock: Gateway) -> None:
        # GatewayCluster makes a plain Gateway of its own, by name; this cluster's is in place already.
        pass

    @property
    def spec(self) -> WorkerSpec:
        """What one worker needs."""
        return self._spec

    @property
    def fleet(self) -> Fleet:
        """The cluster's worker jobs.

        Raises
        ------
        SchedulerError
            The cluster has not been started or is closed.
        """
        if self._fleet is None:
            raise SchedulerError(f"the cluster {self.name or ''} is {self.status}")
        return self._fleet

    async def _start_async(self) -> None:
        if self.status in ("closing", "closed"):
            return
        if self._fresh:
            await containers.check_slots(self._condor, self.spec)
        await super()._start_async()
        link = SchedulerLink(self.scheduler_comm, functools.partial(self.gateway._ending, self.name))
        await link.install()
        noted = None if self._fresh else await link.noted("spec")
        schedd = "" if self._fresh else check_schedd(await link.noted(SCHEDD))
        if noted:
            self._spec = WorkerSpec.from_dict({**noted, **self._worker})
            if self._spec.max_idle != noted.get("max_idle"):
                # Who does not know of it would not count the jobs that the schedd has still to make.
                raise ConfigError(
                    f"max_idle={self._spec.max_idle!r} was given, but the cluster was made with "
                    f"{noted.get('max_idle')!r}, which stays; make a new cluster"
                )
        if self._worker or not noted:
            await link.note(spec=self.spec.to_dict())
        if self._fresh:
            await self._sweep()
        stage = staging.Staging(self.name, self.spec)
        stage.write(self.scheduler_address, self.security.tls_cert, self.security.tls_key)
        self._fleet = Fleet(self._condor, stage, link, schedd=schedd)
        if self.scheduler_info.get("workers"):
            self._worker_joined()

    async def _sweep(self) -> None:
        """Remove what clients that died have left in the staging directory."""
        try:
            leftovers = [name for name in staging.leftovers(self.scheduler_address) if name != self.name]
            if not leftovers:
                return
            # Another account of the gateway may have the same home.
            known = await self.gateway._known(filter(staging.has_credentials, leftovers))
            gone = [name for name in leftovers if name not in known]
            if not gone:
                return
            # Most often there is no job, and one question for all is enough.
            any_jobs = clusters_constraint(gone)
            queued: set[Any] = set()
            if await self._condor.totals(any_jobs) != 0:
                queued = {
                    ad.get(CLUSTER_ATTRIBUTE) for ad in await self._condor.query(any_jobs, [CLUSTER_ATTRIBUTE])
                }
            for name in gone:
                schedd = staging.noted_schedd(name)
                # Of a cluster whose jobs another schedd holds this one knows nothing.
                if name not in queued and (not schedd or same_schedd(schedd, self._condor.answered or schedd)):
                    staging.sweep(name)
        except (CondorError, StagingError) as error:
            logger.warning("what former clusters left behind could not be cleaned up: %s", error)

    async def _stop_internal(self, shutdown: bool | None = None) -> None:
        if shutdown is None:
            shutdown = self.shutdown_on_close
        shutdown = shutdown and self.name is not None
        fleet, self._fleet = self._fleet, None
        if self._comparing is not None:
            self._comparing.cancel()
        try:
            if self._view is not None:
                await self._view.end()
            if self._adaptive is not None:
                await self._adaptive.leave(now=shutdown)
            if fleet is not None:
                if shutdown:
                    await keep_last_joins(fleet.scheduler, fleet.staging.directory)
                await (fleet.abandon() if shutdown else fleet.close())
            if shutdown and not (self._fresh and fleet is None):  # else it never got as far as submitting
                schedd = fleet.schedd if fleet else staging.noted_schedd(self.name)
                await remove_jobs(fleet.condor if fleet else self._condor, self.name, schedd)
        finally:
            # The server is told also where jobs could not be removed: workers without a scheduler leave.
            await super()._stop_internal(shutdown=False)
            if shutdown:
                try:
                    await Gateway._stop_cluster(self.gateway, self.name)
                finally:
                    await self.gateway._cleanup()
        if shutdown:
            staging.remove_credentials(self.name)

    def close(self, shutdown: bool | None = None) -> Any:
        """Close this object, and shut the cluster down or leave it running.

        Parameters
        ----------
        shutdown : bool, optional
            True: remove all worker jobs, whoever has submitted them, stop the scheduler and remove the
            credentials. False: leave all that as it is for who connects next. Default: ``shutdown_on_close``.

        Raises
        ------
        CondorError
            Jobs may remain in the queue; the message says how to remove them.
        """
        if not self.asynchronous and self.status == "closed":
            return self.gateway.close()
        if shutdown is None and sys._getframe(1).f_code is Client._shutdown.__code__:
            # Dask's Client.shutdown(), which says nothing more, and awaits this on the event loop.
            shutdown = True
        if not self.asynchronous and self._on_loop():
            return self._stop_internal(shutdown=shutdown)
        try:
            return super().close(shutdown=shutdown)
        except BaseException:
            if not self.asynchronous:
                self.gateway.close()
            raise

    def scale(self, n: int | None = None, worker_type: str = "htcondor", **kwargs: Any) -> Any:
        """Bring the cluster to `n` workers.

        Jobs that wait in the queue or are held count as workers that have been asked for. Scaling down removes
        those first, then the workers that the scheduler finds cheapest, after their results have moved. Adaptive
        scaling of that kind of workers ends.

        Parameters
        ----------
        n : int
            The number of workers, at least 0. Asking for the same number again changes nothing. Where a job has
            several workers (``processes``), it is rounded up to whole jobs.
        worker_type : str, optional
            ``"htcondor"`` for HTCondor's workers, ``"gateway"`` for those that the gateway server starts itself
            beside them. One kind is scaled without touching the other.
        jobs, cores, memory : int, int, int or str, optional
            For HTCondor's workers, and in place of `n`: the number of jobs, or of CPUs or bytes (``"1 TB"``, as
            ``memory`` of a worker) in all, rounded up to whole jobs.

        Raises
        ------
        ConfigError
            `n` is not such a number, there is no such type, or not just one number is given.
        CondorError, SchedulerError
            It could not be done; scaling again is safe.
        """
        return self.gateway.sync(self._scale, n, worker_type=worker_type, **kwargs)

    async def _scale(self, n: int | None = None, worker_type: str = "htcondor", **amounts: Any) -> None:
        if check_worker_type(worker_type) == GATEWAY:
            if amounts:
                raise ConfigError(f"scale(): workers of the gateway server are not counted in {', '.join(amounts)}")
            await self.gateway._scale_cluster(self.name, check_count(n), worker_type=GATEWAY)
            return
        count = jobs_of(self.spec, n, **amounts)
        await self._end_adapting("scale() is called")
        await self.fleet.scale(count)

    def adapt(
        self,
        minimum: int | None = None,
        maximum: int | None = None,
        active: bool = True,
        worker_type: str = "htcondor",
        **settings: Any,
    ) -> Any:
        """Scale the cluster with its work, between `minimum` and `maximum` workers.

        It goes on until ``adapt(active=False)``, ``scale(n)`` or the end of this object: it is this process that
        submits the jobs. Shrinking removes jobs that wait, then workers that process nothing.

        Parameters
        ----------
        minimum, maximum : int, optional
            The bounds; what is not given comes from ``distributed.adaptive.minimum`` and ``maximum`` of dask's
            configuration (0, and no limit).
        active : bool, optional
            False ends adaptive scaling and leaves the workers as they are.
        worker_type : str, optional
            As for `scale`. The gateway server adapts its own workers by itself, to what HTCondor's leave to do.
        **settings
            For HTCondor's workers: ``interval``, ``wait_count`` and ``target_duration`` in place of dask's
            configuration, ``distributed.adaptive.*``; times in seconds or as ``"5s"``.

        Returns
        -------
        FleetAdaptive or Bounds or None
            An object with ``minimum`` and ``maximum``; None for ``active=False``. For an asynchronous cluster it
            is there at once and can be awaited.

        Raises
        ------
        ConfigError
            The bounds or a setting cannot be used, or there is no such type.
        SchedulerError
            The cluster has ended, or its scheduler does not answer.
        """
        if self.asynchronous and active and check_worker_type(worker_type) != GATEWAY:
            # dask-labextension does not await it, and looks at its bounds.
            return self._start_adapting(minimum, maximum, **settings)
        return self.gateway.sync(self._adapt, minimum, maximum, active=active, worker_type=worker_type, **settings)

    async def _adapt(
        self,
        minimum: int | None = None,
        maximum: int | None = None,
        active: bool = True,
        worker_type: str = "htcondor",
        **settings: Any,
    ) -> Any:
        if check_worker_type(worker_type) == GATEWAY:
            return await self.gateway._adapt_cluster(
                self.name, minimum, maximum, active=active, worker_type=GATEWAY, **settings
            )
        if not active:
            await self._end_adapting("adapt(active=False) is called")
            return None
        new = self._start_adapting(minimum, maximum, **settings)
        try:
            return await new
        except BaseException:
            new.stop(reason="it could not begin")
            raise

    def _start_adapting(self, minimum: Any, maximum: Any, **settings: Any) -> FleetAdaptive:
        from ..fleet.adaptive import Bounds, FleetAdaptive, check_settings

        bounds = Bounds.of(minimum, maximum)
        new = FleetAdaptive(self.fleet, self.loop, bounds, **check_settings(settings))
        if self._adaptive is not None:
            self._adaptive.stop(reason="adapt() is called again")
        self._adaptive = new
        return new

    async def _end_adapting(self, reason: str) -> None:
        """End adaptive scaling of HTCondor's workers, by whatever client."""
        own, self._adaptive = self._adaptive, None
        if own is not None:
            await own.end(reason)
        await self.fleet.scheduler.note(**{ADAPTIVE: None})

    def wait_for_workers(self, n: int, timeout: float | str | None = None) -> Any:
        """Wait until the cluster has `n` workers, and show how it goes meanwhile.

        ``client.wait_for_workers(n)`` does the same.

        Parameters
        ----------
        n : int
            The number of workers, of whatever kind.
        timeout : float or str, optional
            How long to wait at most, in seconds or as ``"5m"``. By default as long as workers can come,
            also where nobody has asked for `n`: `adapt` may bring fewer.

        Raises
        ------
        WaitError
            Waiting cannot help: so many jobs are held, or match no machine, that `n` workers will not come.
        WaitTimeoutError
            They have not come in time. It is a `WaitError` and a `dask.distributed.TimeoutError`.
        ConfigError
            `n` or `timeout` is no such number.
        SchedulerError
            The cluster has ended.
        """
        return self.gateway.sync(self._wait_for_workers, n, timeout)

    async def _wait_for_workers(self, n: int, timeout: float | str | None = None) -> None:
        from ..fleet.waiting import wait_for_workers

        # For dask's client 0 means no limit.
        limit = config.parse_seconds(timeout, "timeout") if timeout else None
        await wait_for_workers(self.fleet, check_count(n, "wait_for_workers"), limit)

    def jobs(self) -> Any:
        """Return the cluster's worker jobs.

        Returns
        -------
        WorkerJobs
            A list of `WorkerJob`, as the schedd has them now.

        Raises
        ------
        CondorError
            The queue could not be read.
        """
        return self.gateway.sync(self._jobs)

    async def _jobs(self) -> WorkerJobs:
        return await self.fleet.look(max_age=0)

    def explain(self) -> Any:
        """Say in words why jobs do not run, and what to do about it.

        Returns
        -------
        Explanation
            Prints as text; ``hopeless`` is true where no job runs and no waiting can help.

        Raises
        ------
        CondorError
            The queue could not be read.
        SchedulerError
            The cluster has ended.
        """
        return self.gateway.sync(self._explain)

    async def _explain(self) -> Explanation:
        return await explain(self.fleet)

    def logs(self, workers: Iterable[str] | str | None = None) -> Any:
        """Return what the workers wrote, those that have ended and those that run.

        Parameters
        ----------
        workers : str or iterable of str, optional
            The names of workers or the ids of jobs (``"16.0"``) to return; by default all.

        Returns
        -------
        WorkerLogs
            A dictionary of texts by the worker's name, which ends in the number of the job's start. After the
            cluster was closed: what came back to this machine.

        Raises
        ------
        CondorError
            The queue could not be read, or the output of spooled jobs not be fetched.
        StagingError
            A file cannot be read.
        """
        if self.status == "closed" and not self.asynchronous:  # its event loop has ended too
            return logs.read(staging.Staging(self.name, self.spec), workers)
        return self.gateway.sync(self._logs, workers)

    async def _logs(self, workers: Iterable[str] | str | None = None) -> WorkerLogs:
        if self._fleet is None:
            return logs.read(staging.Staging(self.name, self.spec), workers)
        return await logs.collect(self._fleet, workers)

    def timeline(self) -> Any:
        """Return what became of the worker jobs over time: a plot, and where the time went.

        It is read from the jobs' own event log, which costs the schedd nothing, and works after a shutdown, too.

        Returns
        -------
        Timeline
            Prints as text and shows a plot in a notebook; ``save("timeline.html")`` or ``.png`` writes it.

        Raises
        ------
        StagingError
            There is no event log on this machine, or it cannot be read.
        """
        if self.status == "closed" and not self.asynchronous:  # its event loop has ended too
            return read_timeline(staging.Staging(self.name, self.spec))
        return self.gateway.sync(self._timeline)

    async def _timeline(self) -> Timeline:
        if self._fleet is None:
            return read_timeline(staging.Staging(self.name, self.spec))
        return await look_back(self._fleet)

    def usage(self) -> Any:
        """Return what the worker jobs have asked for and used, and a proposal for the next request.

        It is read from the jobs' ads, in the queue and in HTCondor's history, and works after a shutdown, too.

        Returns
        -------
        Usage
            Prints as a table.

        Raises
        ------
        CondorError
            The queue or the history could not be read.
        """
        if self.status == "closed" and not self.asynchronous:
            return read_usage_after(self._condor, self.name)
        return self.gateway.sync(self._usage)

    async def _usage(self) -> Usage:
        return await read_usage(self._condor, self.name)

    def job_script(self) -> str:
        """Return what is submitted for each worker: the submit description and the script.

        Raises
        ------
        StagingError
            It cannot be read; the cluster has not been started.
        """
        return staging.job_script(self.name, self.spec)

    def __del__(self) -> None:
        finalize(super().__del__)

    def check_versions(self) -> Any:
        """Compare the versions that this process, the scheduler and the workers have.

        Done once by itself when the first worker has joined; what differs is then told as a warning.

        Returns
        -------
        Versions
            Prints as a table; ``ok`` is true where all agree.

        Raises
        ------
        SchedulerError
            The scheduler could not be asked.
        """
        return self.gateway.sync(self._check_versions)

    async def _check_versions(self) -> Versions:
        image = None if self.spec.container_runtime == "none" else self.spec.container_image
        return compare(await self.fleet.scheduler.versions(), image)

    def _watch_worker_status(self, comm: Any) -> Any:
        # No coroutine of its own: its frame would keep this object alive.
        return super()._watch_worker_status(Announcing(comm, self._worker_joined))

    def _worker_joined(self) -> None:
        """Compare the versions, once; the scheduler knows those of the workers, so no worker is held up."""
        if self._fleet is not None and self._comparing is None:
            self._comparing = asyncio.ensure_future(self._warn_of_versions())

    async def _warn_of_versions(self) -> None:
        try:
            found = await self._check_versions()
        except SchedulerError as error:
            logger.info("the versions could not be compared: %s", error)
            return
        if not found.ok:
            warnings.warn(f"versions differ\n{found}", VersionMismatchWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"HTCGatewayCluster<{self.name}, status={self.status}{self._jobs_in_words()}>"

    def _jobs_in_words(self) -> str:
        if self._fleet is None:
            return ""
        if not self.asynchronous and self.status == "running" and not self._on_loop():
            try:
                self.gateway.sync(asyncio.wait_for, self._fleet.look(), _REPR_TIMEOUT)
            except (CondorError, asyncio.TimeoutError) as error:
                return f", jobs unknown ({str(error).splitlines()[0] if str(error) else 'the schedd is slow'})"
        return f", jobs: {self._fleet.seen.summary()}"

    def _job_counts(self) -> Mapping[str, int] | None:
        return None if self._fleet is None else self._fleet.seen.counts()

    def _held(self) -> Iterable[str]:
        return [] if self._fleet is None else map(str, held(self._fleet.seen, self.spec))

    def _widget_look(self) -> Callable[[], Awaitable[Any]]:
        return self.fleet.look

    def _on_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self.loop.asyncio_loop
        except RuntimeError:
            return False


HTCGateway.cluster_cls = HTCGatewayCluster
