"""What users of version 1.0.4 have in their notebooks runs as it is, and so does each block of docs/quickstart.md.

Only addresses, images and the password are others: without a container image the workers run in this Python.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
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


@pytest.mark.long
def test_the_notebook_of_ncsa_runs_word_for_word(system, gateway, pool, tmp_path):
    name, jobs = script(tmp_path / "cell.py", at_home(NOTEBOOK, system) + CHECK.format(n=2)).split()
    assert jobs == "2"
    left_nothing(gateway, pool, name)


@pytest.mark.long
def test_the_notebook_of_ncsa_runs_with_its_password_in_a_dotenv_file(system, gateway, pool, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DASK_GATEWAY")}
    (tmp_path / ".env").write_text(f"DASK_GATEWAY_PASSWORD={system.password}\n")
    name = script(
        tmp_path / "cell.py", DOTENV + at_home(NOTEBOOK, system) + "print(cluster.name)\n", environment
    ).strip()
    left_nothing(gateway, pool, name)


@pytest.mark.long
def test_the_notebook_of_fermilab_runs_word_for_word(system, gateway, pool, tmp_path):
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


PAGE = Path(__file__).parent.parent / "docs" / "quickstart.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(language):
    return [text for kind, text in FENCE.findall(PAGE.read_text(encoding="utf-8")) if kind == language]


def test_the_page_has_the_blocks_that_these_tests_run():
    assert [len(blocks(language)) for language in ("yaml", "bash", "text", "python")] == [3, 2, 1, 10]
    assert blocks("python")[:2] == [DOTENV, NOTEBOOK]
    assert len(FENCE.findall(PAGE.read_text(encoding="utf-8"))) == 16


def test_the_environment_of_the_page_brings_what_its_cells_use():
    environment = yaml.safe_load(blocks("yaml")[0])
    (pip,) = [each["pip"] for each in environment["dependencies"] if isinstance(each, dict)]
    listed = {Requirement(each).name for each in pip}
    # dask.array is NumPy's, and the dashboard is bokeh's.
    assert {"ncsa-htcdaskgateway", "dask", "distributed", "numpy", "bokeh"} <= listed
    assert "htcondor" in environment["dependencies"]
    brought = {Requirement(each).name for each in requires("ncsa-htcdaskgateway") if "extra ==" not in each}
    assert {"dask-gateway", "python-dotenv"} <= brought
    create, activate = blocks("bash")[0].splitlines()
    assert create == "conda env create -f conda.yaml"
    assert activate.split()[-1] == environment["name"]


def test_the_commands_of_the_page_are_there(pool):
    setup, look = blocks("bash")[1].split()
    assert setup in {script.name for script in entry_points(group="console_scripts")}
    assert pool.run(look)


def test_the_cells_of_the_page_run_in_their_order(system, gateway, pool, tmp_path):
    dotenv, cell, tools, *rest = blocks("python")
    tools = tools.replace("/home/myhome/.conda/envs/dask-gateway/bin", str(pool.bin))
    assert str(pool.bin) in tools
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "CONDOR_BIN_DIR" and not name.startswith("DASK_GATEWAY")
    }
    (tmp_path / ".env").write_text(blocks("text")[0].replace("...", system.password))
    show = "\nprint(cluster.name, end=' ')\n"
    *first, kept, back, _ = rest
    assert "shutdown_on_close=False" in kept
    cells = [
        dotenv,
        tools,
        at_home(cell, system),
        show,
        *first,
        kept.replace("cluster.close", show + "cluster.close"),
        back,
    ]
    names = script(tmp_path / "cell.py", "\n".join(cells), environment).split()
    for name in names:
        left_nothing(gateway, pool, name)


@pytest.mark.long
def test_a_site_makes_the_page_end_without_arguments(system, gateway, pool, tmp_path):
    text = blocks("yaml")[1]
    for theirs, ours in (
        ("https://dask.example.org", system.address),
        ("8786", str(system.proxy_address)),
        ("jupyterhub", "basic"),
        ("/images/dask.sif", "null"),
    ):
        assert theirs in text
        text = text.replace(theirs, ours)
    site = tmp_path / "site"
    site.mkdir()
    (site / "gateway.yaml").write_text(text)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DASK_GATEWAY__", "DASK_HTCDASKGATEWAY"))
    }
    # The workers of this machine have this Python and little memory.
    environment |= {
        "DASK_CONFIG": str(site),
        "DASK_HTCDASKGATEWAY__WORKER__PYTHON": sys.executable,
        "DASK_HTCDASKGATEWAY__WORKER__CPUS": "1",
        "DASK_HTCDASKGATEWAY__WORKER__MEMORY": "1GB",
    }
    cell = blocks("python")[-1].replace("cluster.shutdown()", CHECK.format(n=5) + "cluster.shutdown()")
    name, jobs = script(tmp_path / "cell.py", cell, environment).split()
    assert jobs == "5"
    left_nothing(gateway, pool, name)
