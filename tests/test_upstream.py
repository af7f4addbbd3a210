"""dask-gateway's own tests of its client, with this package's classes in place of the stock ones, on a real pool.

Only its source has them; neither PyPI nor Debian does. ``SOURCE_OF_DASK_GATEWAY`` names a checkout of the installed
version; else its repository is cloned, and where that cannot be done they are skipped. The tests of this project's
own that see the same are in `test_gateway`, `test_async`, `test_collected` and `visible.test_widget`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dask_gateway
import pytest
from support import Pool

REPOSITORY = "https://github.com/dask/dask-gateway"
TESTS = ("tests/test_client.py", "tests/test_options.py", "tests/test_auth.py")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the installed dask-gateway's source."""
    named = os.environ.get("SOURCE_OF_DASK_GATEWAY")
    if named:
        return Path(named)
    git = shutil.which("git")
    if git is None:
        pytest.skip("dask-gateway's source cannot be had: no git; SOURCE_OF_DASK_GATEWAY may name a checkout")
    clone = tmp_path_factory.mktemp("source") / "dask-gateway"
    version = dask_gateway.__version__
    command = [git, "clone", "--quiet", "--depth", "1", "--branch", version, REPOSITORY, str(clone)]
    try:
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
        why = done.stderr.strip() if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        why = str(error)
    if why:
        pytest.skip(f"dask-gateway's source cannot be had ({why}); SOURCE_OF_DASK_GATEWAY may name a checkout")
    return clone


@pytest.mark.long
@pytest.mark.timeout(800)
def test_dask_gateways_own_tests_of_its_client_pass(source: Path, pool: Pool) -> None:
    # They make servers of their own, for users of any name.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("DASK_GATEWAY", "PYTEST"))
    }
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    options = ["-p", "upstream", "-p", "no:cacheprovider", "-o", "filterwarnings=", "--timeout", "100", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *TESTS],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-3000:]
