"""HTCGateway: the Dask Gateway client that makes clusters of HTCondor workers."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import aiohttp
from dask_gateway import Gateway
from dask_gateway.auth import BasicAuth

from .. import config
from ..condor.schedd import Condor
from ..errors import ConfigError, GatewayAccessError
from ..fleet.queue import remove_jobs
from ..worker.keywords import hints
from ..worker.spec import KEYWORDS, UNDERSTOOD, WorkerSpec
from ..worker.staging import check_cluster_name, remove_credentials
from .carrying_on import all_or_nothing
from .ending import announce_end, why_ended
from .finalizing import finalize
from .refusals import told
from .resolving import LastingResolver

HTCONDOR = "htcondor"
GATEWAY = "gateway"

CONNECTION = frozenset(["address", "proxy_address", "public_address", "auth", "asynchronous", "loop"])
"""What says which server is asked, and from which event loop; the keywords of `HTCGateway`."""


def check_worker_type(worker_type: str) -> str:
    """Return `worker_type` if it is a kind of workers: ``"htcondor"`` or ``"gateway"``."""
    if worker_type not in (HTCONDOR, GATEWAY):
        raise ConfigError(f"worker_type={worker_type!r}: choose {HTCONDOR!r} or {GATEWAY!r}")
    return worker_type


class HTCGateway(Gateway):  # type: ignore[misc]
    """A client of a Dask Gateway server whose clusters have HTCondor jobs for workers.

    A ``.env`` file of the working directory, or of one above it, is honoured. Where the authentication in force is
    basic and has no password, ``DASK_GATEWAY_PASSWORD`` is used.

    Parameters
    ----------
    address, proxy_address, public_address, auth, asynchronous, loop
        As for `dask_gateway.Gateway`; what is not given comes from dask's configuration, ``gateway.*``.

    Attributes
    ----------
    cluster_cls : type
        What `new_cluster` and `connect` make.
    """

    auth: Any
    cluster_cls: ClassVar[Any]  # cluster.py sets it; this package's __init__ imports both

    @functools.wraps(Gateway.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        config.load()
        self._submitted: dict[str, dict[str, Any]] = {}
        self._adapted: dict[str, Any] = {}
        self._undoing: set[asyncio.Future[None]] = set()
        self._resolver = LastingResolver()
        self._session: aiohttp.ClientSession | None = None
        super().__init__(*args, **kwargs)
        password = os.environ.get("DASK_GATEWAY_PASSWORD")
        if type(self.auth) is BasicAuth and not self.auth.password and password:
            self.auth = BasicAuth(self.auth.username, password)

    def __repr__(self) -> str:
        return f"HTCGateway<{self.address}>"

    def sync(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a coroutine function on this client's loop and wait for it; for an asynchronous client, return it."""
        if self.asynchronous:
            return func(*args, **kwargs)
        future = asyncio.run_coroutine_threadsafe(func(*args, **kwargs), self.loop.asyncio_loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
        finally:
            # Kept, as the stock one does, the future, its error and this frame hold each other, and the cluster.
            del future

    def close(self) -> Any:
        """Close this client. The clusters go on; closing it again does nothing."""
        # The stock client asks a loop that has ended, and a closed client is closed again by its __del__.
        if self.asynchronous or self._loop_runner.is_started():
            return super().close()
        return None

    def __del__(self) -> None:
        finalize(super().__del__)

    async def _request(self, method: str, url: str, json: Any = None) -> Any:
        if self._session is None:
            # As the stock client's, but for the look-up of names.
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.CookieJar(unsafe=True), connector=aiohttp.TCPConnector(resolver=self._resolver)
            )
        with told(self):
            return await super()._request(method, url, json=json)

    async def _cleanup(self) -> None:
        for name in list(self._adapted):
            await self._leave(name)
        if self._undoing:
            await asyncio.wait(self._undoing)
        await super()._cleanup()
        await self._resolver.close()

    async def _known(self, names: Iterable[str]) -> set[str]:
        """Return the names of this user's clusters, and of those among `names` that are another user's."""
        known = {report.name for report in await self._clusters()}
        for name in sorted({*names} - known):
            try:
                await self._cluster_report(name)
            except ValueError:  # there is none
                continue
            except GatewayAccessError:
                known.add(name)
        return known

    async def _leave(self, cluster_name: str) -> None:
        """End adaptive scaling that `adapt_cluster` of this client has begun."""
        if (cluster := self._adapted.pop(cluster_name, None)) is not None:
            await cluster._stop_internal(shutdown=False)

    def _settings(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in CONNECTION - {"public_address"}}
        return {**own, "public_address": self._public_address}

    def new_cluster(self, cluster_options: Any = None, shutdown_on_close: bool = True, **kwargs: Any) -> Any:
        """Ask for a new cluster and wait for its scheduler.

        Parameters
        ----------
        cluster_options : dask_gateway.options.Options, optional
            Options of the gateway server; they reach it untouched.
        shutdown_on_close : bool, optional
            Whether closing the cluster object shuts the cluster down.
        **kwargs
            The keywords of `WorkerSpec` (``container_image``, ``cpus``, ``memory``, …) describe a worker. All
            others (``image``, say) are options of the gateway server.

        Returns
        -------
        HTCGatewayCluster
        """
        return self.cluster_cls(
            **self._settings(), cluster_options=cluster_options, shutdown_on_close=shutdown_on_close, **kwargs
        )

    async def _submit(self, cluster_options: Any = None, **kwargs: Any) -> str:
        worker = {name: kwargs.pop(name) for name in UNDERSTOOD & kwargs.keys()}
        WorkerSpec.from_keywords(**worker)
        with hints(kwargs, KEYWORDS):
            submitting = super()._submit(cluster_options=cluster_options, **kwargs)
            name = await all_or_nothing(submitting, super()._stop_cluster, self._undoing)
        # The server knows nothing of workers; connect() takes them from here.
        self._submitted[name] = worker
        return str(name)

    def connect(self, cluster_name: str, shutdown_on_close: bool = False, **worker: Any) -> Any:
        """Connect to a cluster that runs already, from whatever process or machine it was started.

        Parameters
        ----------
        cluster_name : str
            The cluster's name.
        shutdown_on_close : bool, optional
            Whether closing the cluster object shuts the cluster down.
        **worker
            Keywords of `WorkerSpec` that differ from what the cluster was made with.

        Returns
        -------
        HTCGatewayCluster
        """
        worker = {**self._submitted.get(cluster_name, {}), **worker}
        return self.cluster_cls.from_name(
            cluster_name, shutdown_on_close=shutdown_on_close, **self._settings(), **worker
        )

    async def _stop_cluster(self, cluster_name: str) -> None:
        check_cluster_name(cluster_name)
        await self._leave(cluster_name)
        schedd = await announce_end(self, cluster_name)
        try:
            await remove_jobs(Condor(), cluster_name, schedd)
        finally:
            await super()._stop_cluster(cluster_name)
        remove_credentials(cluster_name)

    async def _ending(self, cluster_name: str) -> str | None:
        return await why_ended(self, cluster_name)

    def scale_cluster(
        self, cluster_name: str, n: int | None = None, worker_type: str = HTCONDOR, **kwargs: Any
    ) -> Any:
        """Bring a cluster to `n` workers of one kind; see `HTCGatewayCluster.scale`.

        Parameters
        ----------
        cluster_name : str
            The cluster's name.
        n : int
            The number of workers.
        worker_type : str, optional
            ``"htcondor"``, or ``"gateway"`` for the workers that the server starts itself.
        **kwargs
            ``jobs``, ``cores`` or ``memory`` in place of `n`.
        """
        return self.sync(self._scale_cluster, cluster_name, n, worker_type=worker_type, **kwargs)

    async def _scale_cluster(
        self, cluster_name: str, n: int | None = None, worker_type: str = HTCONDOR, **amounts: Any
    ) -> None:
        if check_worker_type(worker_type) == GATEWAY:
            await super()._scale_cluster(cluster_name, n)
            return
        async with self._connected(cluster_name) as cluster:
            await cluster._scale(n, **amounts)

    def adapt_cluster(
        self,
        cluster_name: str,
        minimum: int | None = None,
        maximum: int | None = None,
        active: bool = True,
        worker_type: str = HTCONDOR,
        **settings: Any,
    ) -> Any:
        """Scale a cluster with its work; see `HTCGatewayCluster.adapt`.

        HTCondor's workers are adapted until this client is closed: it is this process that submits the jobs.

        Parameters
        ----------
        cluster_name : str
            The cluster's name.
        minimum, maximum : int, optional
            The bounds.
        active : bool, optional
            False ends adaptive scaling, whichever client has begun it.
        worker_type : str, optional
            ``"htcondor"``, or ``"gateway"`` for the workers that the server starts itself.
        **settings
            As for `HTCGatewayCluster.adapt`.

        Returns
        -------
        FleetAdaptive or Bounds or None
            An object with ``minimum`` and ``maximum``; None for ``active=False``.
        """
        return self.sync(self._adapt_cluster, cluster_name, minimum, maximum, active, worker_type, **settings)

    async def _adapt_cluster(
        self,
        cluster_name: str,
        minimum: int | None = None,
        maximum: int | None = None,
        active: bool = True,
        worker_type: str = HTCONDOR,
        **settings: Any,
    ) -> Any:
        from ..fleet.adaptive import Bounds, check_settings

        bounds = Bounds.of(minimum, maximum) if active else None
        if check_worker_type(worker_type) == GATEWAY:
            if settings:
                raise ConfigError(f"worker_type='gateway' takes no {', '.join(sorted(settings))}")
            limits = bounds.for_server() if bounds else (None, None)
            await super()._adapt_cluster(cluster_name, *limits, active=active)
            return bounds
        check_settings(settings)
        await self._leave(cluster_name)
        if bounds is None:
            async with self._connected(cluster_name) as cluster:
                await cluster._adapt(active=False)
            return None
        cluster = await self._connected(cluster_name)
        self._adapted[cluster_name] = cluster
        try:
            return await cluster._adapt(minimum, maximum, **settings)
        except BaseException:
            await self._leave(cluster_name)
            raise

    def _connected(self, cluster_name: str) -> Any:
        """Return the cluster, to be awaited or entered; it lives on this client's loop."""
        return self.cluster_cls.from_name(cluster_name, **{**self._settings(), "asynchronous": True})
