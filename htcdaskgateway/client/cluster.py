"""HTCGatewayCluster: a Dask Gateway cluster whose workers are HTCondor jobs."""

from __future__ import annotations

import asyncio
import functools
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from dask_gateway import Gateway, GatewayCluster
from distributed import Client

from ..display.notebook import NotebookView
from ..display.overview import Overview
from ..fleet.overview import overview
from ..fleet.session import Session
from ..scheduler.versions import NotifyingComm
from ..worker.spec import UNDERSTOOD
from ..worker.staging import remove_credentials
from .carrying_on import UNFINISHED, carry_on
from .finalizing import finalize
from .gateway import CONNECTION, HTCGateway
from .package_calls import PackageCalls
from .refusals import check_proxy


class HTCGatewayCluster(PackageCalls, NotebookView, GatewayCluster):  # type: ignore[misc]
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
        Something that the workers need is wrong. Raised before the server is asked for anything.
    CondorError, SchedulerError
        By any method: the schedd cannot be asked; the cluster has ended, or its scheduler does not answer.
    """

    @functools.wraps(GatewayCluster.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._worker = {name: kwargs.pop(name) for name in UNDERSTOOD & kwargs.keys()}
        super().__init__(*args, **kwargs)

    @classmethod
    def from_name(cls, cluster_name: str, shutdown_on_close: bool = False, **kwargs: Any) -> HTCGatewayCluster:
        """Connect to a cluster that runs already.

        Parameters
        ----------
        cluster_name : str
            The cluster's name.
        shutdown_on_close : bool, optional
            Whether closing this object shuts the cluster down.
        **kwargs
            ``address``, ``proxy_address``, ``public_address``, ``auth``, ``asynchronous`` and ``loop`` as for the
            class, and keywords of `WorkerSpec` that differ from what the cluster was made with.

        Returns
        -------
        HTCGatewayCluster
        """
        self = object.__new__(cls)
        connection = {name: kwargs.pop(name) for name in CONNECTION & kwargs.keys()}
        self._worker = kwargs
        self._init_internal(name=cluster_name, shutdown_on_close=shutdown_on_close, **connection)
        return self

    def _init_internal(self, name: str | None = None, **kwargs: Any) -> None:
        self.status = "created"
        gateway: HTCGateway = HTCGateway(**{name: kwargs.pop(name) for name in CONNECTION & kwargs.keys()})
        try:
            # What cannot work is found out here, before the server starts a scheduler.
            self._session = Session(self._worker, name)
        except BaseException:
            if not gateway.asynchronous:
                gateway.close()
            raise
        self._gateway = gateway
        super()._init_internal(**gateway._settings(), name=name, **kwargs)

    @property
    def gateway(self) -> HTCGateway:
        """The client of the gateway server."""
        return self._gateway

    @gateway.setter
    def gateway(self, stock: Gateway) -> None:
        # GatewayCluster makes a plain Gateway of its own, by name; this cluster's is in place already. That one has
        # opened nothing, and its __del__ would wait for the event loop at a place where Python drops a Ctrl-C.
        if not stock.asynchronous:
            stock._loop_runner.stop()
            stock._asynchronous = True

    async def _start_async(self) -> None:
        if self.status in ("closing", "closed"):
            return
        await self._session.check_pool()
        await check_proxy(self.gateway)
        await super()._start_async()
        await self._session.open(
            self.name,
            self.scheduler_comm,
            self.scheduler_address,
            self.security,
            functools.partial(self.gateway._ending, self.name),
            self.gateway._known,
        )
        if self.scheduler_info.get("workers"):
            self._session.worker_joined()

    async def _stop_internal(self, shutdown: bool | None = None) -> None:
        await carry_on(self, shutdown, lambda: self._end(self.shutdown_on_close if shutdown is None else shutdown))

    async def _end(self, shutdown: bool) -> None:
        shutdown = shutdown and self.name is not None
        fleet = self._session.leave()
        try:
            if self._view is not None:
                await self._view.end()
            await self._session.close(self.name, fleet, shutdown=shutdown)
        finally:
            # The server is told also where jobs could not be removed: workers without a scheduler leave.
            await super()._stop_internal(shutdown=False)
            if shutdown:
                try:
                    await Gateway._stop_cluster(self.gateway, self.name)
                finally:
                    await self.gateway._cleanup()
        if shutdown:
            remove_credentials(self.name)

    def close(self, shutdown: bool | None = None) -> Any:
        """Close this object, and shut the cluster down or leave it running.

        Parameters
        ----------
        shutdown : bool, optional
            True: remove all worker jobs, whichever client submitted them, stop the scheduler and remove the
            credentials. False: leave everything as it is, for the next client. Default: ``shutdown_on_close``.

        Raises
        ------
        CondorError
            Jobs may remain in the queue; the message says how to remove them.
        """
        if shutdown is None and _called_by(Client._shutdown):
            # Dask's Client.shutdown(), which says nothing more, and awaits this on the event loop.
            shutdown = True
        if self.asynchronous or self._on_loop():
            return self._stop_internal(shutdown=shutdown)
        try:
            if self.gateway._loop_runner.is_started() and (self.status != "closed" or self in UNFINISHED):
                self.gateway.sync(self._stop_internal, shutdown=shutdown)
        except KeyboardInterrupt:  # the end goes on, and needs the event loop
            raise
        except BaseException:
            self.gateway.close()
            raise
        return self.gateway.close()

    def __del__(self) -> None:
        finalize(super().__del__)

    def _watch_worker_status(self, comm: Any) -> Any:
        # No coroutine of its own: its frame would keep this object alive.
        return super()._watch_worker_status(NotifyingComm(comm, self._session.worker_joined))

    def __repr__(self) -> str:
        fleet = self._session.fleet
        jobs = "" if fleet is None else f", jobs: {fleet.seen.summary()}"
        return f"HTCGatewayCluster<{self.name}, status={self.status}{jobs}>"

    def _overview(self) -> Overview:
        fleet = self._session.fleet
        workers = self.scheduler_info.get("workers", {}).values()
        return Overview(open=False) if fleet is None else overview(fleet, workers, fleet.asked)

    def _widget_look(self) -> Callable[[float | None], Awaitable[Any]]:
        return self.fleet.look_at_all

    def _on_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self.loop.asyncio_loop
        except RuntimeError:
            return False


def _called_by(function: Callable[..., Any]) -> bool:
    return any(frame.f_code is function.__code__ for frame, _ in traceback.walk_stack(sys._getframe(2)))


HTCGateway.cluster_cls = HTCGatewayCluster
