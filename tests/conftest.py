"""The fixtures of all tests. No test sees the configuration, the home or the working directory of who runs it.

* ``system``: an HTCondor pool and a stock dask-gateway server of this machine, one for the whole run of a process.
  A test may break either, if all is well again at its end. ``shared_pool`` and ``shared_server`` are its parts.
* ``gateway``, ``new_cluster``, ``cluster``: a client of it, a maker of clusters and a cluster; what a test has made
  is shut down after it, also when it fails.
* ``pool``: the queue as HTCondor's own tools show it.
* ``tool_calls``: HTCondor's real tools, each call noted, in force as ``CONDOR_BIN_DIR``.
* ``fake_tools``: a directory of made-up tools, in force as ``CONDOR_BIN_DIR``.
* ``bare``: neither pool nor server in the configuration, for tests that need none.

`support` has what is no fixture: ``wait_until``, ``Tools``, ``Pool``.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# A shell that starts this in the background lets it, and every program that a test starts, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before dask reads its configuration; the cache keeps the unpacked HTCondor, so it stays where it is.
os.environ.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))
os.environ.setdefault("PYENV_ROOT", str(Path.home() / ".pyenv"))
_home = tempfile.TemporaryDirectory(prefix="htcdaskgateway-home-", ignore_cleanup_errors=True)
os.environ["HOME"] = _home.name
for _name in [name for name in os.environ if name.startswith(("DASK_", "HTCDASK", "JUPYTERHUB_"))]:
    del os.environ[_name]

import dask.config  # noqa: E402
import dask_gateway  # noqa: E402 - its defaults have to be there before a test puts the configuration back
import hypothesis  # noqa: E402
import pytest  # noqa: E402
from coverage import Coverage  # noqa: E402
from daemon_logs import DaemonLogs  # noqa: E402
from status_line import StatusLine  # noqa: E402
from support import COVERAGE, JOBS, SCHEDULERS, Pool, Tools, running_processes, wait_until  # noqa: E402

from htcdaskgateway.local import GatewayServer, LocalSystem, PersonalPool  # noqa: E402
from htcdaskgateway.local.debian import cache_directory  # noqa: E402
from htcdaskgateway.local.pool import _user_name  # noqa: E402
from htcdaskgateway.local.pool_config import DOMAIN  # noqa: E402

_end_of_client = dask_gateway.Gateway.__del__


def _end_of_our_client(client: Any) -> None:
    if type(client) is not dask_gateway.Gateway:
        _end_of_client(client)


# A stock client that is collected closes itself, also again, which newer distributed refuses, and in the middle of
# whatever: an ast.parse, which CPython 3.11 does not survive, or with a lock that its own loop waits for.
dask_gateway.Gateway.__del__ = _end_of_our_client


hypothesis.settings.register_profile("unhurried", deadline=None)  # the machine may be busy
hypothesis.settings.load_profile("unhurried")

_daemon_logs = DaemonLogs()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--keep-pool",
        action="store_true",
        help="use the pool of `scripts/personal-condor start`, start it if need be, and leave it running",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        if config.getoption("--keep-pool"):
            raise pytest.UsageError("--keep-pool is one pool, which several processes cannot share")
        for named in config.args:  # pytest-xdist says nothing of it
            if not (config.invocation_params.dir / named.partition("::")[0]).exists():
                raise pytest.UsageError(f"file or directory not found: {named}")
        if config.get_verbosity() <= 0:
            config.pluginmanager.register(StatusLine(config))


# What takes longest comes first, so that no process ends with it while the others have nothing left to do.
_FIRST = ["tests/container", "tests/faults", "tests/scaling", "tests/test_slot", "tests/visible"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests of several processes, the slow ones first; keep together what shares more than a pool."""

    def place(item: pytest.Item) -> int:
        slow = item.get_closest_marker("long") is not None
        return (
            -1 if slow else next((n for n, path in enumerate(_FIRST) if item.nodeid.startswith(path)), len(_FIRST))
        )

    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=place)
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        made = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
        # What a module makes once is made once only if the tests that ask for it run in one process.
        for name in sorted(name for name, found in made.items() if found and found[-1].scope == "module"):
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {name}"))
            break


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    if "COVERAGE_CONTEXTS" in COVERAGE:  # scripts/mutate.py asks which test runs which line
        running = Coverage.current()
        assert running is not None
        group = item.get_closest_marker("xdist_group")
        test = item.nodeid.removesuffix(f"@{group.args[0]}") if group else item.nodeid
        running.switch_context(test)
        # For the processes that it starts, and those for which one process makes room for another.
        os.environ["COVERAGE_OF_TEST"] = COVERAGE["COVERAGE_OF_TEST"] = test
        running.set_option("run:context", test)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Put the daemons' words into the report of a test that fails."""
    report = yield
    values = list(item.funcargs.values())
    if report.failed:
        report.sections.append(("Logs since the test began", _daemon_logs.news(values)))
    if call.when == "teardown":
        _daemon_logs.end(values)
    return report


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


# A personal pool has no cgroups that would notice too much memory or disk: this is the policy in HTCondor's manual
# for such machines, here for jobs that ask for it.
_DISK = "(HoldAboveRequest =?= true && (TARGET.DiskUsage > MY.Disk) =?= true)"
_TOO_MUCH = f"{_DISK} || (HoldAboveRequest =?= true && (MemoryUsage > RequestMemory) =?= true)"
_OWNER = _user_name(os.getuid() or 1)
POOL: dict[str, object] = {
    # The master waits this long before it starts a daemon again that was killed; 10 s by default.
    "MASTER_BACKOFF_CONSTANT": 1,
    "MASTER_BACKOFF_CEILING": 2,
    # Another account's name, for the tests of tokens.
    **{f"ALLOW_{level}": f"{_OWNER}@{DOMAIN}, games@{DOMAIN}" for level in ("READ", "WRITE")},
    "WANT_HOLD": _TOO_MUCH,
    "WANT_HOLD_REASON": f'strcat(ifThenElse({_DISK}, "disk", "memory"), " usage exceeded the request")',
    "WANT_HOLD_SUBCODE": f"ifThenElse({_DISK}, 104, 102)",
    "PREEMPT": _TOO_MUCH,
    "WANT_SUSPEND": "false",
    "WANT_VACATE": "false",
    "MAXJOBRETIREMENTTIME": 0,
    "STARTER_UPDATE_INTERVAL": 2,
    "STARTER_INITIAL_UPDATE_INTERVAL": 2,
    "POLLING_INTERVAL": 2,
    **JOBS,
}


@pytest.fixture(scope="session")
def shared_pool(request: pytest.FixtureRequest) -> Iterator[PersonalPool]:
    """A pool; with --keep-pool the one that `scripts/personal-condor start` starts."""
    if not request.config.getoption("--keep-pool"):
        with PersonalPool(cpus=10, config=POOL) as pool:
            yield pool
        return
    # A test may break a pool for a while, which another run would take for a defect.
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "pool-of-tests.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pytest.exit("another run of tests has the pool of --keep-pool", returncode=pytest.ExitCode.USAGE_ERROR)
        pool = PersonalPool(cache_directory() / "pool", cpus=10, config=POOL)
        if not pool.running():
            pool.start(detached=True)
        _daemon_logs.end([pool])  # what earlier runs have left is no news
        yield pool


@contextlib.contextmanager
def _forked_schedulers(directory: Path) -> Iterator[str]:
    """Return the configuration of a server whose schedulers share one import of Dask, for a quick run."""
    if not os.environ.get("TEST_FORKED_SCHEDULERS"):
        yield ""
        return
    program, place = Path(__file__).with_name("forked_scheduler.py"), directory / "socket"
    serve = subprocess.Popen(
        [sys.executable, program, "--serve", place],
        stdin=subprocess.PIPE,
        cwd=directory,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    try:
        wait_until(place.exists, what="schedulers can be forked")
        command = [sys.executable, "-S", "-E", str(program), str(place)]
        yield f"\nc.ClusterConfig.scheduler_cmd = {command!r}"
    finally:
        serve.communicate(timeout=30)
    # The server has ended, and the schedulers with it: one that has not would keep a core from all later tests.
    wait_until(lambda: not running_processes(str(place)), what="no scheduler is left")


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    """A gateway server whose clusters outlive its restart."""
    with (
        # Named so that another run, which may see an own /tmp below the same names, has none of that name.
        _forked_schedulers(tmp_path_factory.mktemp(f"schedulers-{os.getpid()}-")) as forked,
        GatewayServer(persistent=True, extra_config=SCHEDULERS + forked) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def system(shared_pool: PersonalPool, shared_server: GatewayServer) -> Iterator[LocalSystem]:
    """A pool and a gateway server; ``HTCGateway()`` without arguments finds them."""
    with LocalSystem(pool=shared_pool, server=shared_server) as running:
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
