"""A scheduler of another Python minor version, in whose environment htcdaskgateway is not installed."""

from __future__ import annotations

import operator
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from htcdaskgateway.local import GatewayServer, LocalSystem

CANDIDATES = [(3, minor) for minor in (13, 12, 14, 11, 10) if (3, minor) != sys.version_info[:2]]


def find_python():
    """Return a Python of another minor version with venv and pip, or None."""
    pyenv = Path(os.environ["PYENV_ROOT"]) / "versions"
    for major, minor in CANDIDATES:
        name = f"python{major}.{minor}"
        for path in [*sorted(pyenv.glob(f"{major}.{minor}.*/bin/{name}")), Path(shutil.which(name) or "")]:
            if path.is_file():
                done = subprocess.run(
                    [path, "-c", "import ensurepip, venv"], capture_output=True, timeout=60, check=False
                )
                if done.returncode == 0:
                    return path
    return None


@pytest.fixture(scope="module")
def other_python(tmp_path_factory):
    """Another Python, with dask-gateway and with this Python's versions of dask and distributed."""
    python = find_python()
    if python is None:
        pytest.skip("no other Python on this machine")
    directory = tmp_path_factory.mktemp("other-python") / "venv"
    subprocess.run([python, "-m", "venv", directory], check=True, timeout=120)
    same = [f"{name}=={version(name)}" for name in ("dask", "distributed", "dask-gateway", "tornado")]
    pip = [directory / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "install", "--no-compile", *same]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=400, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no environment for {python}: {error} {str(error.stderr)[-500:]}")
    return directory / "bin" / "python"


@pytest.mark.filterwarnings("ignore:Mismatched versions", "ignore::distributed.versions.VersionMismatchWarning")
@pytest.mark.long
def test_the_plugin_lives_in_another_python(system, other_python, pool):
    with LocalSystem(pool=system.pool, server=GatewayServer(python=other_python)) as other:
        with other.gateway() as gateway, gateway.new_cluster() as cluster, cluster.get_client() as client:
            # Functions by reference only: what cloudpickle sends by value, another minor version cannot load.
            assert client.run_on_scheduler(platform.python_version_tuple)[:2] != platform.python_version_tuple()[:2]
            cluster.scale(2)
            client.wait_for_workers(2, timeout=60)
            held = client.map(operator.neg, range(10))
            cluster.scale(1)  # asks the plugin for the cheapest worker, and to retire it
            assert sum(client.gather(held)) == -45
            assert len(pool.jobs(cluster.name)) == 1
            with gateway.connect(cluster.name) as same:
                assert same.spec == cluster.spec
        assert pool.jobs(cluster.name) == []
