"""Only who has the cluster's certificate takes part: scheduler and proxy refuse everyone else."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support import PATIENCE, wait_until
from trouble import names

from htcdaskgateway.worker.job import worker_command


@pytest.fixture
def two(new_cluster):
    """Two clusters of one gateway: ours and another user's."""
    return new_cluster(death_timeout=5), new_cluster()


def credentials(cluster) -> Path:
    return cluster.fleet.staging.directory / "credentials"


def greeted(address, sni, ca, own=None) -> bool:
    """Tell whether a scheduler greets who connects so, as it does before anything else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(ca / "dask.crt")
    if own is not None:
        context.load_cert_chain(own / "dask.crt", own / "dask.pem")
    try:
        with (
            socket.create_connection(address, timeout=PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=sni) as comm,
        ):
            # Which certificate the client has is looked at after its side of the handshake is done.
            return len(comm.recv(8)) > 0
    except (ssl.SSLError, ConnectionError):
        return False


@pytest.mark.parametrize("way", ["through the proxy", "straight to the scheduler"])
def test_connection_is_greeted_only_with_the_clusters_certificate(two, way):
    ours, other = two
    if way == "through the proxy":
        parts = urlsplit(ours.scheduler_address)
    else:
        with ours.get_client() as client:
            parts = urlsplit(client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.address))
    address, sni = (parts.hostname, parts.port), f"daskgateway-{ours.name}"
    assert greeted(address, sni, credentials(ours), credentials(ours))
    assert not greeted(address, sni, credentials(ours))
    assert not greeted(address, sni, credentials(ours), credentials(other))
    assert not greeted(address, sni, credentials(other), credentials(other))
    if way == "through the proxy":
        # With another name it is another cluster's door, or none.
        assert not greeted(address, f"daskgateway-{other.name}", credentials(ours), credentials(ours))
        assert not greeted(address, "daskgateway-nobody", credentials(ours), credentials(ours))
        assert not greeted(address, "localhost", credentials(ours), credentials(ours))


@pytest.mark.long
def test_worker_joins_only_with_the_clusters_own_credentials_and_name(two, tmp_path):
    """Real workers: one with all that is needed, and three that each lack something."""
    ours, other = two
    command = worker_command(ours.name, ours.fleet.staging.spec, ours.scheduler_address)
    wrong_name = [part.replace(ours.name, other.name) for part in command]
    bare = [part for part in command if part not in ("--tls-cert", "--tls-key", "dask.pem")]
    bare.remove("dask.crt")
    workers, right = {}, {"htcondor-right"}
    try:
        for name, line, has in (
            ("right", command, ours),
            ("other-certificate", command, other),
            ("wrong-sni", wrong_name, ours),
            ("no-certificate", bare, ours),
        ):
            directory = tmp_path / name
            directory.mkdir()
            for file in (*credentials(has).iterdir(), *ours.fleet.staging.directory.glob("*.py")):
                (directory / file.name).symlink_to(file)
            with (directory / "output").open("wb") as output:
                workers[name] = subprocess.Popen(
                    [sys.executable, *line[1:], "--name", f"htcondor-{name}"],
                    cwd=directory,
                    stdout=output,
                    stderr=output,
                )
        with ours.get_client() as client, other.get_client() as others:
            wait_until(lambda: names(client) == right, what=(tmp_path / "right" / "output").read_text)
            for name in ("other-certificate", "wrong-sni", "no-certificate"):
                workers[name].wait(timeout=60)
                assert names(client) == right
                assert names(others) == set()
            assert workers["right"].poll() is None
    finally:
        for process in workers.values():
            process.kill()
            process.wait()
