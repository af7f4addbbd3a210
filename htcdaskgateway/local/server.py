"""An unmodified dask-gateway server and its proxy, as processes on the loopback address of this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from ..files import write_private
from .errors import LocalSystemError
from .processes import GuardedProcess, Startable, free_ports, tail, wait_until

HOST = "127.0.0.1"
PROBE_TIMEOUT = 2.0
# Seconds the server has to end its clusters in good order before all is killed.
SERVER_GRACE = 15.0

_IMAGE_OPTION = """
from dask_gateway_server.options import Options, String

def option_handler(options):
    return {"image": options.image}

c.Backend.cluster_options = Options(
    String("image", default="daskgateway/dask-gateway:latest", label="Image"),
    handler=option_handler,
)
"""


class GatewayServer(Startable):
    """A dask-gateway server whose schedulers are processes of this machine.

    Its ports stay the same for the object's life. As a context manager it ends, with its proxy, schedulers
    and workers, at the end of the block, and also if this process dies.

    Parameters
    ----------
    password : str, optional
        What its users log in with, under any name; random by default.
    python : path, optional
        The Python interpreter that schedulers, and workers of the server's own, run on; its environment needs
        dask-gateway. By default the one that runs this.
    server_python : path, optional
        The Python interpreter that the server runs on; its environment needs dask-gateway-server[local].
    cluster_max_workers : int, optional
        How many workers of its own the server starts for a cluster at most; 0 for none.
    idle_timeout : float
        Seconds without work after which a scheduler ends its cluster; 0 for never.
    persistent : bool
        Keep the clusters in a database, so that they outlive a restart of the server.
    host : str
        The address that the proxy listens on; the server itself is on loopback.
    prefix : str
        The path that the proxy serves the server below: ``/services/dask-gateway`` behind a JupyterHub.
    tls : pair of paths, optional
        The certificate and key with which the proxy serves HTTPS.
    extra_config : str
        More lines of Python for the server's configuration file, run last.
    start_timeout : float
        Seconds that the server and its proxy have until they answer.
    """

    def __init__(
        self,
        *,
        password: str | None = None,
        python: str | os.PathLike[str] | None = None,
        server_python: str | os.PathLike[str] | None = None,
        cluster_max_workers: int | None = None,
        idle_timeout: float = 0,
        persistent: bool = False,
        host: str = HOST,
        prefix: str = "",
        tls: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        extra_config: str = "",
        start_timeout: float = 60,
    ) -> None:
        self.password = secrets.token_hex(16) if password is None else password
        self.python = os.fspath(python or sys.executable)
        self.server_python = os.fspath(server_python or sys.executable)
        self.cluster_max_workers = cluster_max_workers
        self.idle_timeout = float(idle_timeout)
        self.persistent = persistent
        self.host = host
        self.prefix = prefix.rstrip("/")
        self.tls = tls
        self.extra_config = extra_config
        self.start_timeout = start_timeout
        self._api_port, self._http_port, self.proxy_address = free_ports(3)
        self._directory: Path | None = None
        self._server: GuardedProcess | None = None
        self._proxy: GuardedProcess | None = None

    @property
    def address(self) -> str:
        """The URL that users give to their client."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self._http_port}{self.prefix}"

    @property
    def directory(self) -> Path:
        """The running server's directory.

        Raises
        ------
        LocalSystemError
            If it is not running.
        """
        if self._directory is None:
            raise LocalSystemError("the gateway server is not running")
        return self._directory

    @property
    def log(self) -> str:
        """The running server's log."""
        return (self.directory / "server.log").read_text(errors="replace")

    def start(self) -> None:
        """Start the server and its proxy and wait until both answer.

        Raises
        ------
        LocalSystemError
            If they do not answer in time; the end of the server's log is in the text.
        """
        if self._directory is not None:
            raise LocalSystemError("the gateway server is running already")
        self._directory = Path(tempfile.mkdtemp(prefix="htcdaskgateway-server-"))
        try:
            (self.directory / "clusters").mkdir()
            config = self.directory / "config.py"
            write_private(config, self._config_text())
            program = [self.server_python, "-m", "dask_gateway_server"]
            self._server = self._process("server", SERVER_GRACE)
            self._server.start([*program, "-f", config], env=self._env(), cwd=self.directory, remove=self.directory)
            self._wait(self._server, self._api_up)
            self._proxy = self._process("proxy", 0)
            self._proxy.start([*program, "proxy", "-f", config], env=self._env(), cwd=self.directory)
            self._wait(self._proxy, self._proxy_up)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server, its proxy and every scheduler and worker, and remove its directory.

        Raises
        ------
        LocalSystemError
            If one of them cannot be ended.
        """
        if self._directory is None:
            return
        for process in (
            self._server,
            self._proxy,
        ):  # clusters end in good order while the proxy still is there
            if process is not None:
                process.stop()
        shutil.rmtree(self._directory)
        self._directory = self._server = self._proxy = None

    def running(self) -> bool:
        """Whether the server has been started and not stopped."""
        return self._directory is not None

    def stop_server(self) -> None:
        """End the server alone; its proxy goes on, and so do its clusters if it is persistent."""
        self._halt(self._server, HOST, self._api_port)

    def start_server(self) -> None:
        """Start the server again after `stop_server`, and wait until it answers."""
        self._resume(self._server, self._proxy_up)

    def stop_proxy(self) -> None:
        """End the proxy alone: every connection of clients and workers breaks."""
        self._halt(self._proxy, self.host, self.proxy_address)

    def start_proxy(self) -> None:
        """Start the proxy again after `stop_proxy`, and wait until it answers."""
        self._resume(self._proxy, self._proxy_up)

    def _process(self, name: str, grace: float) -> GuardedProcess:
        return GuardedProcess(self.directory / f"{name}.lock", self.directory / f"{name}.log", grace=grace)

    def _config_text(self) -> str:
        values: Mapping[str, object] = {
            "DaskGateway.address": f"{HOST}:{self._api_port}",
            "DaskGateway.backend_class": "dask_gateway_server.backends.local.UnsafeLocalBackend",
            "DaskGateway.authenticator_class": "dask_gateway_server.auth.SimpleAuthenticator",
            "SimpleAuthenticator.password": self.password,
            "Proxy.address": f"{self.host}:{self._http_port}",
            "Proxy.tcp_address": f"{self.host}:{self.proxy_address}",
            "Proxy.prefix": self.prefix,
            "Proxy.tls_cert": os.fspath(self.tls[0]) if self.tls else None,
            "Proxy.tls_key": os.fspath(self.tls[1]) if self.tls else None,
            # Not by the proxy, whose certificate a scheduler need not trust.
            "Backend.api_url": f"http://{HOST}:{self._api_port}/api",
            "Proxy.externally_managed": True,
            "Proxy.api_token": secrets.token_hex(32),
            "UnsafeLocalBackend.clusters_directory": str(self.directory / "clusters"),
            # Not PYTHONPATH: the scheduler's environment may be another Python's.
            "UnsafeLocalBackend.inherited_environment": ["PATH", "LANG", "LC_ALL"],
            # Full commands: the scripts that are the default are gone from newer versions of distributed.
            "ClusterConfig.scheduler_cmd": [self.python, "-m", "distributed.cli.dask_scheduler"],
            "ClusterConfig.worker_cmd": [self.python, "-m", "distributed.cli.dask_worker"],
            "ClusterConfig.environment": {"DASK_TEMPORARY_DIRECTORY": str(self.directory)},
            "ClusterConfig.idle_timeout": self.idle_timeout,
            "ClusterConfig.cluster_max_workers": self.cluster_max_workers,
        }
        if self.persistent:
            values = {
                **values,
                "UnsafeLocalBackend.db_url": f"sqlite:///{self.directory / 'clusters.sqlite'}",
                "UnsafeLocalBackend.db_encrypt_keys": [secrets.token_hex(16)],
                "UnsafeLocalBackend.stop_clusters_on_shutdown": False,
            }
        lines = [f"c.{name} = {value!r}" for name, value in values.items() if value is not None]
        return "\n".join(lines) + "\n" + _IMAGE_OPTION + self.extra_config + "\n"

    def _env(self) -> dict[str, str]:
        # Settings of another dask-gateway server or client must not reach this one.
        return {name: value for name, value in os.environ.items() if not name.startswith("DASK_GATEWAY")}

    def _api_up(self) -> bool:
        return _healthy(f"http://{HOST}:{self._api_port}")

    def _proxy_up(self) -> bool:
        own = self.tls[0] if self.tls else None
        return _healthy(self.address, own) and _listening(self.host, self.proxy_address)

    def _wait(self, process: GuardedProcess, up: Callable[[], bool]) -> None:
        def up_or_ended() -> bool:
            return self._ended() is not None or up()

        came = wait_until(up_or_ended, self.start_timeout)
        if ended := self._ended():
            raise LocalSystemError(f"the gateway's {ended.log.stem} ended:\n{tail(ended.log)}")
        if not came:
            name, limit = process.log.stem, f"{self.start_timeout:g} s"
            raise LocalSystemError(f"the gateway's {name} does not answer after {limit}:\n{tail(process.log)}")

    def _ended(self) -> GuardedProcess | None:
        return next((p for p in (self._server, self._proxy) if p is not None and not p.running()), None)

    def _halt(self, process: GuardedProcess | None, host: str, port: int) -> None:
        if process is None:
            raise LocalSystemError("the gateway server is not running")
        process.halt()
        if not wait_until(lambda: not _listening(host, port), process.grace + 5):
            raise LocalSystemError(f"the gateway's {process.log.stem} still listens at port {port}")

    def _resume(self, process: GuardedProcess | None, up: Callable[[], bool]) -> None:
        if process is None:
            raise LocalSystemError("the gateway server is not running")
        process.resume()
        self._wait(process, up)


def _listening(host: str, port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(PROBE_TIMEOUT)
        return sock.connect_ex((host, port)) == 0


def _healthy(address: str, certificate: str | os.PathLike[str] | None = None) -> bool:
    """Tell whether a server answers at `address`; over HTTPS one that shows this very `certificate`."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if certificate is not None:
        context = ssl.create_default_context(cafile=os.fspath(certificate))
        # It is made out to the server's name, and asked for at its address; nor need whoever signed it be known.
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(
            f"{address}/api/health", timeout=PROBE_TIMEOUT
        ) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
