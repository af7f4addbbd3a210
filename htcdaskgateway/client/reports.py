"""What a user is told of a cluster's workers: jobs, explanation, logs, timeline, usage, script, versions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..condor.jobs import WorkerJobs
from ..errors import ConfigError, SchedulerError
from ..fleet import logs
from ..fleet.fleet import Fleet
from ..fleet.logs import WorkerLogs
from ..fleet.session import Session
from ..scheduler.link import Connections
from ..scheduler.versions import Versions
from ..worker import staging
from ..worker.spec import WorkerSpec
from .ending import no_fleet
from .gateway import HTCGateway

if TYPE_CHECKING:  # loaded when asked for, lest the import of this package costs much beside dask-gateway's
    from ..fleet.findings import Explanation
    from ..fleet.timeline import Timeline
    from ..fleet.usage import Usage


class WorkerReports:
    """What a user is told of a cluster's workers; a base of `WorkerCalls`."""

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
            raise SchedulerError(no_fleet(self.name, self.status))
        return self._session.fleet

    @property
    def _is_over(self) -> bool:
        """Whether the cluster is closed, and the event loop that would be asked has ended, too."""
        return self.status == "closed" and not self.asynchronous

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
        from ..fleet.explain import explain

        return await explain(self.fleet, network=True)

    def logs(self, workers: Iterable[str] | str | None = None) -> Any:
        """Return the output of the workers, those that run and those that have ended.

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
            from ..fleet.timeline import read_timeline

            return read_timeline(self._session.stage(self.name))
        return self.gateway.sync(self._timeline)

    async def _timeline(self) -> Timeline:
        from ..fleet.timeline import look_back, read_timeline

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
            from ..fleet.usage import read_usage_after

            return read_usage_after(self._session.condor, self.name)
        return self.gateway.sync(self._usage)

    async def _usage(self) -> Usage:
        from ..fleet.usage import read_usage

        return await read_usage(self._session.condor, self.name)

    def connections(self) -> Any:
        """Return how many pairs of workers reach one another directly, and how many through the relay.

        Returns
        -------
        Connections
            The numbers ``direct`` and ``relay``, of pairs that have met.

        Raises
        ------
        ConfigError
            The cluster was made with ``relay="never"``: nobody counts.
        """
        if self.spec.relay == "never":
            raise ConfigError("relay='never': the workers connect to one another's ports, and nobody counts")
        return self.gateway.sync(self._connections)

    async def _connections(self) -> Connections:
        return await self.fleet.scheduler.connections()

    def job_script(self) -> str:
        """Return what is submitted for each worker: the submit description and the script."""
        return staging.job_script(self.name, self.spec)

    def check_versions(self) -> Any:
        """Compare the versions of this process, the scheduler and the workers.

        Done once by itself when the first worker has joined; what differs is then told as a warning.

        Returns
        -------
        Versions
            Prints as a table; ``ok`` is true where all agree.
        """
        return self.gateway.sync(self._check_versions)

    async def _check_versions(self) -> Versions:
        return await self._session.versions(self.fleet)
