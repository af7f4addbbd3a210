"""A real JupyterHub with its proxy, the gateway server as its service, and a pool that knows its people."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import pytest
from support import COVERAGE, wait_until

from htcdaskgateway.local import GatewayServer, PersonalPool
from htcdaskgateway.local.processes import GuardedProcess, free_ports, run

PAGE = Path(__file__).parents[2] / "docs/administrators.md"
PREFIX = "/services/dask-gateway"


@pytest.fixture(scope="session")
def needs_hub() -> str:
    """Return the path of the hub's proxy; skip where there is no hub."""
    missing = [name for name in ("jupyterhub", "jupyter_server") if importlib.util.find_spec(name) is None]
    proxy = shutil.which("configurable-http-proxy")
    if missing or proxy is None:
        want = [*(["pip install " + " ".join(missing)] if missing else [])]
        want += [] if proxy else ["npm install -g configurable-http-proxy"]
        pytest.skip(f"no JupyterHub here: {' and '.join(want)}")
    return proxy


@pytest.fixture(params=[False], ids=["with the scope"])
def hub(request: pytest.FixtureRequest, tmp_path: Path, needs_hub: str) -> Iterator[SimpleNamespace]:
    """The hub, its pool, and where their files are."""
    public, inner, proxy_api = free_ports(3)
    tokens = {name: secrets.token_hex(32) for name in ("gateway_token", "people_token", "password")}
    extra = f"""
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.JupyterHubAuthenticator"
c.JupyterHubAuthenticator.jupyterhub_api_token = {tokens["gateway_token"]!r}
c.JupyterHubAuthenticator.jupyterhub_api_url = "http://127.0.0.1:{inner}/hub/api"
c.JupyterHubAuthenticator.jupyterhub_service_name = "dask-gateway"
"""
    with contextlib.ExitStack() as stack:
        # A pool of this machine takes its owner alone.
        accounts = {f"ALLOW_{level}": "*@pool.test" for level in ("READ", "WRITE", "DAEMON", "NEGOTIATOR")}
        pool = stack.enter_context(PersonalPool(cpus=4, config=accounts))
        server = stack.enter_context(GatewayServer(extra_config=extra, prefix=PREFIX))
        for name in ("alice", "bob"):
            _account(pool, tmp_path / "home" / name, name)
        address = f"http://127.0.0.1:{public}{PREFIX}/"
        site = {
            "gateway": {
                "address": address,
                "public-address": address,
                "proxy-address": f"tls://127.0.0.1:{server.proxy_address}",
                "auth": {"type": "jupyterhub"},
            },
            "htcdaskgateway": {
                "site": None,
                "worker": {"container-runtime": "none", "python": sys.executable, "cpus": 1, "memory": "1GB"},
            },
        }
        (tmp_path / "etc-dask").mkdir()
        (tmp_path / "etc-dask/site.yaml").write_text(json.dumps(site))
        environ = {"DASK_ROOT_CONFIG": str(tmp_path / "etc-dask"), "CONDOR_BIN_DIR": str(pool.installation.bin)}
        told = {
            "public": public,
            "hub": inner,
            "proxy_api": proxy_api,
            "proxy": needs_hub,
            "directory": str(tmp_path),
            "gateway": server.address.removesuffix(PREFIX),
            "environ": {**environ, **COVERAGE},
            "page": str(PAGE),
            "without_scope": request.param,
            **tokens,
        }
        process = GuardedProcess(tmp_path / "hub.lock", tmp_path / "hub.log", grace=10)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        stack.callback(process.stop)
        process.start(
            [sys.executable, "-m", "jupyterhub", "-f", Path(__file__).with_name("jupyterhub_config.py")],
            env={
                "PATH": path,
                "HOME": str(tmp_path),
                "LANG": "C.UTF-8",
                "HUB": json.dumps(told),
                "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(16),
            },
            cwd=tmp_path,
        )
        url = f"http://127.0.0.1:{public}"
        wait_until(lambda: _answers(f"{url}/hub/api/"), what=lambda: (tmp_path / "hub.log").read_text()[-3000:])
        yield SimpleNamespace(url=url, token=tokens["people_token"], pool=pool, server=server, directory=tmp_path)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _account(pool: PersonalPool, home: Path, name: str) -> None:
    """Make somebody's home, with a token of the pool's and a configuration for HTCondor's tools."""
    directory = home / ".condor/tokens.d"
    directory.mkdir(parents=True, mode=0o700)
    command = [pool.installation.bin / "condor_token_create", "-identity", f"{name}@pool.test", "-key", "POOL"]
    done = run(command, timeout=30, env=pool._tool_env())
    assert done.returncode == 0, done.stderr
    (directory / "hub").touch(0o600)
    (directory / "hub").write_text(done.stdout)
    lines = (pool.directory / "condor_config").read_text().splitlines()
    port = next(line.split("=")[1].strip() for line in lines if line.startswith("SHARED_PORT_PORT"))
    (home / "condor_config").write_text(
        f"RELEASE_DIR = {pool.installation.prefix}\nLOCAL_DIR = {home}\nLOG = {home}\n"
        f"CONDOR_HOST = 127.0.0.1:{port}\nCOLLECTOR_HOST = $(CONDOR_HOST)\nSCHEDD_HOST = schedd@\n"
        "TRUST_DOMAIN = pool.test\nUID_DOMAIN = pool.test\nFILESYSTEM_DOMAIN = pool.test\nENABLE_IPV6 = false\n"
        f"SEC_CLIENT_AUTHENTICATION_METHODS = IDTOKENS\nSEC_TOKEN_DIRECTORY = {directory}\n"
        f"BIN = {pool.installation.bin}\nLIBEXEC = {pool.installation.libexec}\nLIB = {pool.installation.lib}\n"
    )
