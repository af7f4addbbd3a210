"""The fixtures of all tests. No test sees the configuration, the home or the working directory of who runs it.

* ``system``: an HTCondor pool and a stock dask-gateway server of this machine, one for the whole run.
* ``gateway``, ``new_cluster``, ``cluster``: a client of it, a maker of clusters and a cluster; what a test has made
  is shut down after it, also when it fails.
* ``pool``: the queue as HTCondor's own tools show it.
* ``tool_calls``: HTCondor's real tools, each call noted, in force as ``CONDOR_BIN_DIR``.
* ``fake_tools``: a directory of made-up tools, in force as ``CONDOR_BIN_DIR``.
* ``bare``: neither pool nor server in the configuration, for tests that need none.

`support` has what is no fixture: ``wait_until``, ``Tools``, ``Pool``.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before dask reads its configuration; the cache keeps the unpacked HTCondor, so it stays where it is.
os.environ.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))
os.environ.setdefault("PYENV_ROOT", str(Path.home() / ".pyenv"))
_home = tempfile.TemporaryDirectory(prefix="htcdaskgateway-home-", ignore_cleanup_errors=True)
os.environ["HOME"] = _home.name
for _name in [name for name in os.environ if name.startswith(("DASK_", "HTCDASK", "JUPYTERHUB_"))]:
    del os.environ[_name]

import dask.config  # noqa: E402
import dask_gateway  # noqa: E402 - its defaults have to be there before a test puts the configuration back
import pytest  # noqa: E402
from support import Pool, Tools, wait_until  # noqa: E402

from htcdaskgateway.local import LocalSystem  # noqa: E402

_end_of_client = dask_gateway.Gateway.__del__


def _end_of_our_client(client: Any) -> None:
    if type(client) is not dask_gateway.Gateway:
        _end_of_client(client)


# A stock client that is collected closes itself, also again, which newer distributed refuses, and in the middle of
# whatever: an ast.parse, which CPython 3.11 does not survive, or with a lock that its own loop waits for.
dask_gateway.Gateway.__del__ = _end_of_our_client


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path) -> Iterator[None]:
    """Put the environment, dask's configuration and the working directory back after each test.

    It has to be the last to do so, and therefore asks for no ``monkeypatch``: that puts back what it has found,
    which may be the settings of a system that has ended meanwhile.
    """
    before, work = Path.cwd(), tmp_path / "work"
    work.mkdir()
    os.chdir(work)
    environment, configuration = dict(os.environ), copy.deepcopy(dask.config.config)
    yield
    os.chdir(before)
    os.environ.clear()
    os.environ.update(environment)
    dask.config.config.clear()
    dask.config.config.update(configuration)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment and a dask configuration that know no pool and no server; returns its HOME."""
    home = tmp_path / "home"
    home.mkdir()
    for name in list(os.environ):
        if name.startswith(("DASK_", "HTCDASK", "CONDOR_", "_CONDOR_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    dask.config.config.clear()
    dask.config.refresh(paths=[], env={})
    return home


@pytest.fixture(scope="session")
def system() -> Iterator[LocalSystem]:
    """A pool and a gateway server; ``HTCGateway()`` without arguments finds them."""
    with LocalSystem() as running:
        yield running


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A staging root of this test alone."""
    root = tmp_path / "stage"
    monkeypatch.setenv("HTCDASK_STAGEDIR", str(root))
    return root


@pytest.fixture
def pool(system: LocalSystem) -> Pool:
    """The queue, by HTCondor's own tools."""
    assert system.pool is not None
    return Pool(system.pool.installation.bin)


@pytest.fixture
def tool_calls(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """HTCondor's real tools with their calls noted. Ask for it before ``cluster``, which looks for the tools."""
    tools = Tools(tmp_path / "tools", pool.bin)
    monkeypatch.setenv("CONDOR_BIN_DIR", str(tools.directory))
    return tools


@pytest.fixture
def fake_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Tools that do nothing and succeed, until a test makes them play a part."""
    tools = Tools(tmp_path / "fake-tools")
    for tool in ("condor_submit", "condor_q", "condor_rm", "condor_status"):
        tools.answer(tool)
    monkeypatch.setenv("CONDOR_BIN_DIR", str(tools.directory))
    return tools


@pytest.fixture
def gateway(system: LocalSystem) -> Iterator[Any]:
    """A client of the system's server."""
    with system.gateway() as client:
        yield client


@pytest.fixture
def new_cluster(gateway: Any, pool: Pool) -> Iterator[Callable[..., Any]]:
    """A maker of clusters, with the keywords of ``HTCGateway.new_cluster``; all are shut down after the test."""
    made = []

    def make(**keywords: Any) -> Any:
        made.append(gateway.new_cluster(**keywords))
        return made[-1]

    yield make
    names = [cluster.name for cluster in made]
    try:
        for cluster in made:
            cluster.close(shutdown=True)
    finally:
        # A test may have closed its cluster without a shutdown, or left a second client's jobs.
        for name in names:
            gateway.stop_cluster(name)
    for name in names:
        wait_until(lambda name=name: not pool.jobs(name), what=f"the jobs of {name} leave the queue")


@pytest.fixture
def cluster(new_cluster: Callable[..., Any]) -> Any:
    """A cluster without workers."""
    return new_cluster()
