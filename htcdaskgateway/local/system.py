"""The whole on one machine: an HTCondor pool, a dask-gateway server, and a client's settings for both."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import dask.config

from .apptainer import Apptainer
from .errors import LocalSystemError
from .pool import PersonalPool
from .processes import Startable, run, wait_until
from .server import GatewayServer

TOOL_TIMEOUT = 20.0

# How long, in seconds, the jobs of a system that ends may still write into its directory.
_ENDING = 10.0


class LocalSystem(Startable):
    """An HTCondor pool and a gateway server on this machine, and a client's settings for both.

    Inside its block ``HTCGateway()`` with no argument connects to it, in this process and those it starts.

    Parameters
    ----------
    pool : PersonalPool or "existing", optional
        The pool to use; a pool that runs already goes on running. ``"existing"`` is the pool that the
        HTCondor tools of this machine are configured for. By default a new one with 8 made-up cores.
    server : GatewayServer, optional
        The server to use; a server that runs already goes on running. By default a new one.

    Attributes
    ----------
    pool : PersonalPool or None
        The pool; None for an existing one.
    server : GatewayServer
        The server.
    """

    def __init__(
        self, *, pool: PersonalPool | Literal["existing"] | None = None, server: GatewayServer | None = None
    ) -> None:
        self.pool = None if pool == "existing" else pool or PersonalPool()
        self.server = server or GatewayServer()
        self._directory: Path | None = None
        self._stack: contextlib.ExitStack | None = None

    @property
    def address(self) -> str:
        """The server's URL."""
        return self.server.address

    @property
    def proxy_address(self) -> int:
        """The port of the server's scheduler proxy."""
        return self.server.proxy_address

    @property
    def password(self) -> str:
        """The password to log in with, under any name."""
        return self.server.password

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables that lead another process to the running system.

        Raises
        ------
        LocalSystemError
            The system is not running.
        """
        if self._directory is None:
            raise LocalSystemError("the local system is not running")
        return {
            **(self.pool.environ if self.pool else {}),
            "HTCDASK_STAGEDIR": str(self._directory),
            "DASK_GATEWAY_PASSWORD": self.password,
            **{_variable(key): str(value) for key, value in self._settings().items() if value is not None},
        }

    def start(self) -> None:
        """Start what is not running yet, and set this process's environment and dask configuration for it.

        Raises
        ------
        LocalSystemError
            A part does not start, or there is no existing pool.
        """
        if self._stack is not None:
            raise LocalSystemError("the local system is running already")
        with contextlib.ExitStack() as stack:
            if self.pool is None:
                _check_existing_pool()
            elif not self.pool.running():
                stack.enter_context(self.pool)
            if not self.server.running():
                stack.enter_context(self.server)
            self._directory = Path(tempfile.mkdtemp(prefix="stage-", dir=self.server.directory))
            stack.callback(self._remove_directory)
            stack.enter_context(_environ(self.environ))
            stack.enter_context(dask.config.set(self._settings()))
            stack.callback(self._shut_clusters_down)
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """Shut the clusters down that were made here, end everything that `start` started, put the settings back.

        Raises
        ------
        LocalSystemError
            A process cannot be ended.
        """
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def gateway(self, **kwargs: Any) -> Any:
        """Return an `HTCGateway` connected to this system; keywords as of that class."""
        from dask_gateway.auth import BasicAuth

        from ..client.gateway import HTCGateway

        own = {
            "address": self.address,
            "proxy_address": self.proxy_address,
            "auth": BasicAuth(password=self.password),
        }
        return HTCGateway(**{**own, **kwargs})

    def _settings(self) -> dict[str, Any]:
        """Return the dask configuration of a client: where the server is, and workers that fit this machine."""
        container = {}
        if self.pool is not None and self.pool.apptainer:
            container["htcdaskgateway.worker.container-command"] = str(Apptainer.find_or_install().program)
        return {
            **container,
            "gateway.address": self.address,
            "gateway.public-address": None,
            "gateway.proxy-address": self.proxy_address,
            "gateway.auth.type": "basic",
            "gateway.auth.kwargs": {"password": self.password},
            # An HTTP proxy of the environment does not reach this machine's loopback address.
            "gateway.http-client.proxy": False,
            "htcdaskgateway.worker.python": sys.executable,
            "htcdaskgateway.worker.container-runtime": "none",
            "htcdaskgateway.worker.cpus": 1,
            "htcdaskgateway.worker.memory": "1GB",
            "htcdaskgateway.worker.interface": "lo",
        }

    def _shut_clusters_down(self) -> None:
        """Shut down what uses this system, while its parts are still there to be told."""
        from dask_gateway import GatewayCluster

        # A server that was running already may have others' clusters, too.
        own = {path.name for path in self._directory.iterdir()} if self._directory else set()
        for cluster in list(GatewayCluster._instances):
            if cluster.name in own and not cluster.asynchronous:
                cluster.close(shutdown=True)
        if own:
            with self.gateway() as gateway:
                for report in gateway.list_clusters():
                    if report.name in own:
                        gateway.stop_cluster(report.name)

    def _remove_directory(self) -> None:
        if self._directory is None:
            return
        if not wait_until(self._is_removed, _ENDING):
            shutil.rmtree(self._directory)
        self._directory = None

    def _is_removed(self) -> bool:
        assert self._directory is not None  # noqa: S101
        try:
            shutil.rmtree(self._directory)
        except OSError as error:
            # The shadow of a job that was removed may bring its output back at this moment.
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
        return not self._directory.exists()


def _variable(key: str) -> str:
    """Return the environment variable from which dask reads a key of its configuration."""
    return "DASK_" + key.upper().replace(".", "__").replace("-", "_")


@contextlib.contextmanager
def _environ(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _check_existing_pool() -> None:
    directory = os.environ.get("CONDOR_BIN_DIR")
    program = shutil.which("condor_q", path=directory)
    if program is None:
        raise LocalSystemError("there is no condor_q in CONDOR_BIN_DIR or PATH, so no existing pool to use")
    done = run([program, "-af", "ClusterId"], timeout=TOOL_TIMEOUT)
    if done.returncode != 0:
        raise LocalSystemError(f"the existing pool does not answer: {done.stderr.strip()}")
