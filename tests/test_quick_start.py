"""What users of version 1.0.4 have in their notebooks runs as it is.

Only addresses, images and the password are others: without a container image the workers run in this Python.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support import wait_until

pytestmark = pytest.mark.core

NOTEBOOK = """\
from htcdaskgateway import HTCGateway
from dask_gateway.auth import BasicAuth
import os

gateway = HTCGateway(
    address="https://dask.software-dev.ncsa.illinois.edu",
    proxy_address=8786,
    auth=BasicAuth(username=None, password=os.environ["DASK_GATEWAY_PASSWORD"]),
)

cluster = gateway.new_cluster(
    image="ncsa/dask-public-health:latest",
    container_image="/u/bengal1/condor/PublicHealth.sif",
)
cluster.scale(2)
client = cluster.get_client()
client
"""

DOTENV = """\
from dotenv import load_dotenv

load_dotenv()  # take environment variables from .env.
"""

FERMILAB = """\
from htcdaskgateway import HTCGateway

gateway = HTCGateway()
cluster = gateway.new_cluster()
cluster

# Scale my cluster to 5 HTCondor workers
cluster.scale(5)

# Obtain a client for connecting to your cluster scheduler
# Your cluster should be ready to take requests
client = cluster.get_client()
client

# When computations are finished, shutdown the cluster
cluster.shutdown()
"""

LISTING = """\
# Verify that the gateway is responding to requests by asking to list all its clusters
clusters = gateway.list_clusters()
clusters
"""

CONNECTING = """\
cluster = gateway.connect(cluster_name)
cluster
cluster.shutdown()
"""

CHECK = """
client.wait_for_workers({n}, timeout=60)
import dask.array
assert dask.array.ones((100, 100), chunks=50).sum().compute() == 10_000
print(cluster.name, len(cluster.jobs()))
"""


def script(path, text, env=None):
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, path], cwd=path.parent, env=env, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def at_home(text, system):
    """Return the cell with this system's addresses and image, and nothing else changed."""
    for theirs, ours in (
        ('"https://dask.software-dev.ncsa.illinois.edu"', repr(system.address)),
        ("proxy_address=8786", f"proxy_address={system.proxy_address}"),
        ('"/u/bengal1/condor/PublicHealth.sif"', "None"),
    ):
        assert theirs in text
        text = text.replace(theirs, ours)
    return text


def left_nothing(gateway, pool, name):
    wait_until(lambda: not pool.jobs(name), what="the jobs are gone")
    wait_until(lambda: name not in {report.name for report in gateway.list_clusters()}, what="the cluster is gone")


def test_the_notebook_of_ncsa(system, gateway, pool, tmp_path):
    name, jobs = script(tmp_path / "cell.py", at_home(NOTEBOOK, system) + CHECK.format(n=2)).split()
    assert jobs == "2"
    left_nothing(gateway, pool, name)


def test_its_password_in_a_dotenv_file(system, gateway, pool, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DASK_GATEWAY")}
    (tmp_path / ".env").write_text(f"DASK_GATEWAY_PASSWORD={system.password}\n")
    name = script(
        tmp_path / "cell.py", DOTENV + at_home(NOTEBOOK, system) + "print(cluster.name)\n", environment
    ).strip()
    left_nothing(gateway, pool, name)


def test_the_notebook_of_fermilab(system, gateway, pool, tmp_path):
    cell = FERMILAB.replace("client\n\n#", "client\n" + CHECK.format(n=5) + LISTING + "assert clusters\n\n#")
    assert CHECK.format(n=5) in cell
    name, jobs = script(tmp_path / "cell.py", cell + "print(cluster.status)\n").split()[:2]
    assert jobs == "5"
    left_nothing(gateway, pool, name)


def test_connecting_to_a_cluster_of_the_list(system, gateway, pool, tmp_path):
    kept = gateway.new_cluster(shutdown_on_close=False)
    kept.close()
    head = "from htcdaskgateway import HTCGateway\ngateway = HTCGateway()\n"
    pick = f"cluster_name = [each.name for each in clusters if each.name == {kept.name!r}][0]\n"
    script(tmp_path / "cell.py", head + LISTING + pick + CONNECTING)
    left_nothing(gateway, pool, kept.name)
