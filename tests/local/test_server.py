"""An unmodified dask-gateway server, used by the stock client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dask_gateway import Gateway
from dask_gateway.auth import BasicAuth
from support import PATIENCE, wait_until

from htcdaskgateway.local import GatewayServer, LocalSystemError

PARENT = """
import os
from htcdaskgateway.local import GatewayServer
with GatewayServer() as server:
    print(server.directory, flush=True)
    os.kill(os.getpid(), 9)
"""


def connect(server, password=None):
    auth = BasicAuth(password=password or server.password)
    return Gateway(address=server.address, proxy_address=server.proxy_address, auth=auth)


@pytest.mark.long
def test_cluster_computes_and_nothing_is_left(processes_of):
    with GatewayServer(cluster_max_workers=1) as server:
        directory = server.directory
        with pytest.raises(Exception, match=r"401|Authentication"):
            connect(server, "wrong").list_clusters()
        gateway = connect(server)
        with gateway.new_cluster(image="some/image:1") as cluster:
            cluster.scale(1)
            with cluster.get_client() as client:
                assert client.submit(sum, [1, 2]).result(timeout=PATIENCE) == 3
                assert client.run_on_scheduler(lambda: "PYTHONPATH" in os.environ) is False
        open_cluster = gateway.new_cluster(shutdown_on_close=False)
        assert len(processes_of(directory)) > 3
        open_cluster.close(shutdown=False)
    assert not processes_of(directory)
    assert not directory.exists()
    assert not server.running()


@pytest.mark.long
def test_server_and_proxy_restart_alone():
    with GatewayServer(persistent=True) as server:
        gateway = connect(server)
        cluster = gateway.new_cluster(shutdown_on_close=False)
        with cluster.get_client() as client:
            before = client.run_on_scheduler(os.getpid)
        cluster.close(shutdown=False)
        server.stop_server()
        with pytest.raises(Exception, match=r"[Cc]onnect|50[0-9]"):
            gateway.list_clusters()
        server.start_server()
        assert [report.name for report in gateway.list_clusters()] == [cluster.name]
        server.stop_proxy()
        server.start_proxy()
        with gateway.connect(cluster.name) as again, again.get_client() as client:
            assert client.run_on_scheduler(os.getpid) == before
            gateway.stop_cluster(cluster.name)


def test_start_that_fails_shows_the_log(processes_of, tmp_path, monkeypatch):
    directory = tmp_path / f"temporary-{os.getpid()}"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr("tempfile.tempdir", None)
    server = GatewayServer(extra_config="raise RuntimeError('this is wrong')")
    with pytest.raises(LocalSystemError, match=r"server ended(.|\n)*this is wrong"):
        server.start()
    assert not server.running()
    assert list(directory.iterdir()) == []
    assert not processes_of(f"{directory}/htcdaskgateway-server")


@pytest.mark.long
def test_server_that_another_listens_for_is_not_taken_for_ours():
    with GatewayServer() as server:
        other = GatewayServer()
        other._api_port = server._api_port
        with pytest.raises(LocalSystemError, match="server ended"):
            other.start()


@pytest.mark.long
def test_a_server_ends_with_the_program_that_was_killed_and_leaves_no_file(processes_of):
    done = subprocess.run(
        [sys.executable, "-c", PARENT], timeout=60, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    directory = done.stdout.strip()
    assert directory
    wait_until(lambda: not processes_of(directory))
    wait_until(lambda: not Path(directory).exists())


def test_a_server_behind_a_prefix_and_with_https_counts_as_up(tmp_path):
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    ends = ["-keyout", key, "-out", certificate, "-subj", "/CN=somewhere", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *made, *ends], check=True, capture_output=True, timeout=30)
    with GatewayServer(prefix="/services/dask-gateway", tls=(certificate, key), start_timeout=30) as server:
        assert server.address.startswith("https://127.0.0.1:")
        assert server.address.endswith("/services/dask-gateway")
