"""What a user asks of a cluster's workers: scale, adapt, wait."""

from __future__ import annotations

from typing import Any

from .. import config
from ..errors import ConfigError
from ..fleet.counting import check_count, jobs_of
from .gateway import GATEWAY, check_worker_type
from .reports import WorkerReports


class WorkerCalls(WorkerReports):
    """What a user asks of a cluster's workers; goes before dask-gateway's class among the bases of its own."""

    def scale(self, n: int | None = None, worker_type: str = "htcondor", **kwargs: Any) -> Any:
        """Scale the cluster to `n` workers.

        Jobs that wait in the queue or are held count. Scaling down removes
        those first, then the workers that the scheduler finds cheapest, after their results have moved. Adaptive
        scaling of that kind of workers ends.

        Parameters
        ----------
        n : int
            The number of workers, at least 0. Asking for the same number again changes nothing. With
            ``processes``, it is rounded up to whole jobs.
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
                raise ConfigError(f"scale(): count the gateway's workers with n, not with {', '.join(amounts)}")
            await self.gateway._scale_cluster(self.name, check_count(n), worker_type=GATEWAY)
            return
        count = jobs_of(self.spec, n, **amounts)
        await self._session.end_adapting("scale() is called")
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
            await self._session.end_all_adapting(self.fleet, "adapt(active=False) is called")
            return None
        new = self._session.adapt(self.fleet, self.loop, minimum, maximum, **settings)
        try:
            return await new
        except BaseException:
            new.stop(reason="it could not begin")
            raise

    def wait_for_workers(self, n: int, timeout: float | str | None = None) -> Any:
        """Wait until the cluster has `n` workers, and show the progress.

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
