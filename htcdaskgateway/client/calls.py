"""What a user asks of a cluster's workers: scale, adapt, wait, look, explain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import config
from ..condor.jobs import WorkerJobs
from ..errors import ConfigError, SchedulerError
from ..fleet import logs
from ..fleet.counting import check_count, jobs_of
from ..fleet.explain import explain
from ..fleet.findings import Explanation
from ..fleet.fleet import Fleet
from ..fleet.logs import WorkerLogs
from ..fleet.session import Session
from ..fleet.timeline import Timeline, look_back, read_timeline
from ..fleet.usage import Usage, read_usage, read_usage_after
from ..scheduler.versions import Versions
from ..worker import staging
from ..worker.spec import WorkerSpec
from .gateway import GATEWAY, HTCGateway, check_worker_type


class WorkerCalls:
    """What a user asks of a cluster's workers; goes before dask-gateway's class among the bases of its own."""

    # What the cluster has.
    name: Any
    status: Any
    loop: Any
    asynchronous: Any
    gateway: HTCGateway
    _session: Session

    @property
    def spec(self) -> WorkerSpec:
        """What one worker needs."""
        return self._session.spec

    @property
    def fleet(self) -> Fleet:
        """The cluster's worker jobs."""
        if self._session.fleet is None:
            raise SchedulerError(f"the cluster {self.name or ''} is {self.status}")
        return self._session.fleet

    @property
    def _is_over(self) -> bool:
        """Whether the cluster is closed, and the event loop that would be asked has ended, too."""
        return self.status == "closed" and not self.asynchronous

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
        await self._session.end_adapting(self.fleet, "scale() is called")
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
        """
        if self.asynchronous and active and check_worker_type(worker_type) != GATEWAY:
            # dask-labextension does not await it, and looks at its bounds.
            return self._session.adapt(self.fleet, self.loop, minimum, maximum, **settings)
        return self.gateway.sync(self._adapt, minimum, maximum, active=active, worker_type=worker_type, **settings)

    async def _adapt(
        self,
        minimum: Any = None,
        maximum: Any = None,
        active: bool = True,
        worker_type: str = "htcondor",
        **settings: Any,
    ) -> Any:
        if check_worker_type(worker_type) == GATEWAY:
            return await self.gateway._adapt_cluster(
                self.name, minimum, maximum, active=active, worker_type=GATEWAY, **settings
            )
        if not active:
            await self._session.end_adapting(self.fleet, "adapt(active=False) is called")
            return None
        new = self._session.adapt(self.fleet, self.loop, minimum, maximum, **settings)
        try:
            return await new
        except BaseException:
            new.stop(reason="it could not begin")
            raise

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
        StagingError
            A file cannot be read.
        """
        if self._is_over:
            return logs.read(self._session.stage(self.name), workers)
        return self.gateway.sync(self._logs, workers)

    async def _logs(self, workers: Iterable[str] | str | None = None) -> WorkerLogs:
        fleet = self._session.fleet
        if fleet is None:
            return logs.read(self._session.stage(self.name), workers)
        return await logs.collect(fleet, workers)

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
        if self._is_over:
            return read_timeline(self._session.stage(self.name))
        return self.gateway.sync(self._timeline)

    async def _timeline(self) -> Timeline:
        fleet = self._session.fleet
        return read_timeline(self._session.stage(self.name)) if fleet is None else await look_back(fleet)

    def usage(self) -> Any:
        """Return what the worker jobs have asked for and used, and a proposal for the next request.

        It is read from the jobs' ads, in the queue and in HTCondor's history, and works after a shutdown, too.

        Returns
        -------
        Usage
            Prints as a table.
        """
        if self._is_over:
            return read_usage_after(self._session.condor, self.name)
        return self.gateway.sync(self._usage)

    async def _usage(self) -> Usage:
        return await read_usage(self._session.condor, self.name)

    def job_script(self) -> str:
        """Return what is submitted for each worker: the submit description and the script."""
        return staging.job_script(self.name, self.spec)

    def check_versions(self) -> Any:
        """Compare the versions that this process, the scheduler and the workers have.

        Done once by itself when the first worker has joined; what differs is then told as a warning.

        Returns
        -------
        Versions
            Prints as a table; ``ok`` is true where all agree.
        """
        return self.gateway.sync(self._check_versions)

    async def _check_versions(self) -> Versions:
        return await self._session.versions(self.fleet)
