"""One wire of a whole site is cut: what the user is told, and how soon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from field_site import Site, field

pytestmark = [pytest.mark.long]

_EXPLAIN = """
import json, subprocess, sys, time
from htcdaskgateway import HTCGateway
with HTCGateway() as gateway, gateway.new_cluster(relay="never") as cluster:
    cluster.scale(8)
    cluster.wait_for_workers(8, timeout=90)
    print("cut", flush=True)
    sys.stdin.readline()
    begun = time.monotonic()
    told = str(cluster.explain())
    took = time.monotonic() - begun
print(json.dumps({"told": told, "took": took}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, needs_hosts: None) -> Iterator[Site]:
    """A site that works, and is mended after each test."""
    with field(tmp_path_factory.mktemp("cut") / "field") as made:
        made.set_up()
        yield made


def test_nodes_that_cannot_reach_each_other_are_named_in_seconds(site: Site) -> None:
    process = site.begin(_EXPLAIN)
    site.expect(process, "cut")
    with site.hosts.closed("exec1", "exec2", "10000-10070"):
        told = site.answer(process)
    assert told["took"] < 15
    assert "but other workers do not reach it" in told["told"], told["told"]
    assert "10.77.4.2:100" in told["told"]
    assert "TCP 10000:10070 (worker_port) has to be open between the execute nodes" in told["told"]
    assert "relay='auto'" in told["told"]


def test_nodes_that_the_scheduler_does_not_reach_are_named_in_seconds(site: Site) -> None:
    process = site.begin(_EXPLAIN)
    site.expect(process, "cut")
    with site.hosts.closed("gateway", "exec2", "10000-10070"):
        told = site.answer(process)
    assert told["took"] < 15
    assert "but the scheduler does not reach it" in told["told"], told["told"]
    assert "scheduler -> 10.77.5.2:100" in told["told"]
    assert "from the gateway's schedulers to the execute nodes" in told["told"]


_FAILS = """
import json, time
from htcdaskgateway import HTCGateway
begun = time.monotonic()
with HTCGateway() as gateway:
    try:
        with gateway.new_cluster() as cluster:
            cluster.scale(1)
        told = "nothing"
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    took = time.monotonic() - begun
    try:
        left = len(gateway.list_clusters())
    except Exception:
        left = -1
print(json.dumps({"told": told, "took": took, "left": left}))
"""

_NEVER_JOINS = """
import json
from htcdaskgateway import HTCGateway
with HTCGateway() as gateway, gateway.new_cluster(death_timeout=3) as cluster:
    cluster.scale(1)
    try:
        cluster.wait_for_workers(1, timeout=150)
        told = "nothing"
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    (job,) = cluster.jobs()
    reason, explained = str(job.hold_reason), str(cluster.explain())
print(json.dumps({"told": told, "reason": reason, "explained": explained}))
"""


def test_nodes_that_cannot_reach_the_proxy_are_held_with_its_address(site: Site) -> None:
    site.hosts.close("exec1", "gateway", "8786")
    with site.hosts.closed("exec2", "gateway", "8786"):
        told = site.notebook(_NEVER_JOINS, timeout=240)
    assert "WaitError: Cannot get 1 worker" in told["told"], told["told"]
    assert "it cannot reach the gateway's scheduler proxy at gateway.pool.test:8786" in told["reason"]
    assert "its machine cannot reach the gateway's scheduler proxy" in told["explained"]
    assert "scheduler_proxy=…" in told["explained"]


def test_a_notebook_that_cannot_reach_the_proxy_is_told_in_seconds_and_leaves_no_scheduler(site: Site) -> None:
    with site.hosts.closed("notebook", "gateway", "8786"):
        told = site.notebook(_FAILS)
    assert told["told"].startswith("ProxyUnreachableError: "), told["told"]
    assert "gateway.pool.test:8786 cannot be reached from here" in told["told"]
    assert told["took"] < 20
    assert told["left"] == 0


def test_a_notebook_that_cannot_reach_the_schedd_is_told_so(site: Site) -> None:
    with site.hosts.closed("notebook", "login", "9618"):
        told = site.notebook(_FAILS, timeout=200, DASK_HTCDASKGATEWAY__CONDOR__TIMEOUT="5s")
    assert told["told"].startswith("CondorTimeoutError: "), told["told"]
    assert "htcdaskgateway doctor" in told["told"]
    assert told["left"] == 0


def test_a_gateway_whose_name_is_not_known_is_named(site: Site) -> None:
    told = site.notebook(_FAILS, DASK_GATEWAY__ADDRESS="https://gateway.nowhere.test")
    assert "gateway.nowhere.test" in told["told"]
    assert told["took"] < 20


_FETCHES_NOTHING = """
import json, sys, time
from htcdaskgateway import HTCGateway
with HTCGateway() as gateway, gateway.new_cluster() as cluster:
    print("cut", flush=True)
    sys.stdin.readline()
    cluster.scale(1)
    told, deadline = "", time.monotonic() + 150
    while "never ran" not in told and time.monotonic() < deadline:
        time.sleep(1)
        told = str(cluster.explain())
print(json.dumps(told))
"""


def test_jobs_whose_input_cannot_be_fetched_do_not_wait_for_their_turn(site: Site) -> None:
    process = site.begin(_FETCHES_NOTHING)
    site.expect(process, "cut")
    site.hosts.close("exec1", "login", "9618")
    with site.hosts.closed("exec2", "login", "9618"):
        told = site.answer(process, timeout=240)
    assert "HTCondor has started it" in told, told
    assert "its worker never ran" in told
    assert "file transfer" in told
    assert "waits for its turn" not in told
