"""What Dask's client offers on a LocalCluster it offers on HTCondor's workers."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from checks import CHECKS, COVERED, TIMEOUT, addresses
from dask.distributed import Client, Environ, LocalCluster, Nanny, NannyPlugin, PipInstall, UploadDirectory
from support import wait_until

from htcdaskgateway.local import LocalSystem

pytestmark = pytest.mark.core

# The clusters that the list runs on, by name: the keywords of `new_cluster`, or None for Dask's own.
KINDS: dict[str, dict[str, Any] | None] = {
    "LocalCluster": None,
    "HTCGatewayCluster": {},
    "relayed": {"relay": "always"},
}

# What only the tests below use, because it leaves another cluster than it finds.
COVERED_HERE = {"restart", "restart_workers", "retire_workers", "shutdown"}
# What is no check, and why.
NOT_CHECKED = {
    "io_loop": "the old name of `loop`",
    "register_worker_plugin": "an old name of `register_plugin`",
    "register_scheduler_plugin": "an old name of `register_plugin`",
    "collections_to_dsk": "asks no cluster",
    "write_scheduler_file": "writes what `scheduler_info` returns; fails on some measurements, of whatever cluster",
    "start": "done by whoever makes a client",
    "close": "done by whoever leaves a client's block",
    "benchmark_hardware": "keeps both workers busy for half a minute, and asks them as `run` does",
}

Make = Callable[..., Any]


class PatientNanny(Nanny):  # type: ignore[misc]
    """A nanny that gives its worker time to end: by default 4 s, after which a busy machine is an error."""

    async def close(self, timeout: float = 60, reason: str = "nanny-close") -> Any:
        return await super().close(timeout=60, reason=reason)


def new_cluster(kind: str, gateway: Any, nanny: bool = False) -> Any:
    """Return a cluster that has or gets two workers with one thread; Dask's own has always nannies."""
    keywords = KINDS[kind]
    if keywords is None:
        return LocalCluster(
            n_workers=2,
            worker_class=PatientNanny,
            threads_per_worker=1,
            resources={"slots": 1},
            dashboard_address=":0",
            memory_limit="1GiB",
        )
    cluster = gateway.new_cluster(
        cpus=1, memory="1GB", worker_extra_args=["--resources", "slots=1"], nanny=nanny, **keywords
    )
    cluster.scale(2)
    return cluster


@pytest.fixture(scope="module")
def clusters(system: LocalSystem) -> Iterator[dict[str, Any]]:
    """The clusters that the checks share, one of each kind; made when one is asked for."""
    with system.gateway() as gateway, ExitStack() as stack:

        class Made(dict[str, Any]):
            def __missing__(self, kind: str) -> Any:
                self[kind] = stack.enter_context(new_cluster(kind, gateway))
                return self[kind]

        yield Made()


# That the list holds on Dask's own cluster is to be seen when the list or Dask changes, not each time.
EVERY_KIND = [pytest.param(kind, marks=[] if words == {} else [pytest.mark.long]) for kind, words in KINDS.items()]


@pytest.fixture(params=EVERY_KIND)
def make(request: pytest.FixtureRequest, system: LocalSystem) -> Iterator[Make]:
    """A maker of clusters of a test's own."""
    with system.gateway() as gateway, ExitStack() as stack:
        yield lambda **settings: stack.enter_context(new_cluster(request.param, gateway, **settings))


# The checks of one kind share its cluster, and nothing with those of the others.
SHARED = [
    pytest.param(*kind.values, marks=[*kind.marks, pytest.mark.xdist_group(f"conformance of {kind.values[0]}")])
    for kind in EVERY_KIND
]


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("name", CHECKS)
def test_what_holds_on_a_local_cluster_holds_on_htcondor(
    name: str, kind: str, clusters: dict[str, Any], tmp_path: Path
) -> None:
    with Client(clusters[kind]) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        CHECKS[name](client, tmp_path)


def test_a_check_uses_the_methods_that_it_is_said_to() -> None:
    for name, methods in COVERED.items():
        source = inspect.getsource(CHECKS[name]).partition("\ndef ")[2]
        assert not [method for method in methods if not re.search(rf"\b{method}\b", source)], name


def test_every_public_method_of_the_client_is_checked() -> None:
    public = {name for name in dir(Client) if not name.startswith("_")}
    new = public.difference(*COVERED.values(), COVERED_HERE, NOT_CHECKED)
    assert not new, f"neither checked nor said why not: {sorted(new)}"


def test_a_new_method_of_the_client_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "brand_new", lambda self: None, raising=False)
    with pytest.raises(AssertionError, match="brand_new"):
        test_every_public_method_of_the_client_is_checked()


def workers(client: Client) -> set[str]:
    """Return what tells a worker from the one that was there before a restart."""
    return set(client.run(lambda dask_worker: dask_worker.id, on_error="ignore").values())


def others(client: Client, before: set[str]) -> set[str]:
    """Wait until there are two workers that were not there before."""
    return wait_until(lambda: len(found := workers(client)) == 2 and not found & before and found)


# Restarts, on our clusters only: on a busy machine Dask's own nannies lose them, whatever the time limit.
ours = pytest.mark.parametrize(
    "make", [kind for kind in EVERY_KIND if KINDS[kind.values[0]] is not None], indirect=True
)
with_nannies = pytest.mark.parametrize("make", [kind for kind in KINDS if KINDS[kind] == {}], indirect=True)


@ours
@pytest.mark.parametrize("nanny", [False, True], ids=["without nanny", "nanny"])
@pytest.mark.long
def test_restarted_workers_are_others_and_compute(make: Make, nanny: bool, request: pytest.FixtureRequest) -> None:
    if nanny and "relayed" in request.node.callspec.id:
        pytest.skip("a nanny is reached at a port of its own")
    with Client(make(nanny=nanny)) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        for _ in range(2):
            before = workers(client)
            client.restart(timeout=TIMEOUT)
            others(client, before)
        CHECKS["clients_of_tasks"](client, Path())
        before = workers(client)
        if nanny:
            client.restart_workers(addresses(client), timeout=TIMEOUT)
            others(client, before)
        else:
            with pytest.raises(ValueError, match="nanny"):
                client.restart_workers(addresses(client), timeout=TIMEOUT)


@with_nannies
@pytest.mark.long
def test_nanny_plugins_and_what_a_nanny_does(make: Make, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "brought_along.py").write_text("ANSWER = 42\n")
    with Client(make(nanny=True)) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        client.register_plugin(Environ({"BROUGHT": "along"}))
        client.wait_for_workers(2, timeout=TIMEOUT)
        client.register_plugin(UploadDirectory(str(tmp_path / "code"), update_path=True))
        client.wait_for_workers(2, timeout=TIMEOUT)
        assert len(client.run(lambda: os.getpid(), nanny=True)) == 2
        before = workers(client)
        client.restart_workers(addresses(client), timeout=TIMEOUT)
        others(client, before)

        def look() -> tuple[str, int]:
            import brought_along  # type: ignore[import-not-found]

            return os.environ["BROUGHT"], brought_along.ANSWER

        assert client.submit(look, pure=False).result(TIMEOUT) == ("along", 42)

        class OnNannies(NannyPlugin):  # type: ignore[misc]
            name = "conformance-nanny"

            def setup(self, nanny: Any) -> None:
                nanny.conformance = "here"

            def teardown(self, nanny: Any) -> None:
                del nanny.conformance

        client.register_plugin(OnNannies())
        assert len(client.run(lambda dask_worker: dask_worker.conformance, nanny=True)) == 2
        client.unregister_worker_plugin("conformance-nanny", nanny=True)
        assert not any(client.run(lambda dask_worker: hasattr(dask_worker, "conformance"), nanny=True).values())


@with_nannies
@pytest.mark.long
def test_packages_are_installed_and_workers_restarted(make: Make) -> None:
    pytest.importorskip("pip")
    # A package that is there already: nothing is fetched.
    plugin = PipInstall(["pip"], restart_workers=True)
    with Client(make(nanny=True)) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        before = workers(client)
        client.register_plugin(plugin)
        others(client, before)


def test_results_of_a_retired_worker_stay(make: Make) -> None:
    with Client(make()) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        futures = client.map(lambda x: x, range(10), pure=False)
        client.gather(futures)
        client.retire_workers(addresses(client)[:1])
        wait_until(lambda: len(addresses(client)) == 1, what="one is left")
        assert client.gather(futures) == list(range(10))


def test_shutdown_of_a_client_closes_its_cluster(make: Make) -> None:
    cluster = make()
    client = Client(cluster)
    client.wait_for_workers(2, timeout=TIMEOUT)
    client.shutdown()
    wait_until(lambda: str(cluster.status).rpartition(".")[2] == "closed", what="the cluster is closed")
