"""All that Dask's client offers, with `auto` between two nodes that cannot reach each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from field_site import CLOSED, documented, field

pytestmark = [pytest.mark.core, pytest.mark.long, pytest.mark.timeout(900)]

# Each of the nodes has room for one such worker. What the checks write, all hosts can read.
_LIST = """
import faulthandler, json, sys, traceback
from pathlib import Path
import pytest
from dask.distributed import Client
from htcdaskgateway import HTCGateway

faulthandler.dump_traceback_later(600, exit=True)
tests, shared = map(Path, sys.argv[1:])
sys.path[:0] = [str(tests), str(tests / "conformance")]
import support, test_client
from checks import CHECKS, TIMEOUT

found = {}

def tried(name, check, *arguments):
    print(name, flush=True)
    try:
        check(*arguments)
    except pytest.skip.Exception as reason:
        found[name] = f"skipped: {reason}"
    except (Exception, pytest.fail.Exception):
        found[name] = traceback.format_exc()
    else:
        found[name] = ""

def on_a_client_of_its_own(name):
    (shared / name).mkdir()
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        CHECKS[name](client, shared / name)

words = {"cpus": 1, "memory": "5GB", "worker_extra_args": ["--resources", "slots=1"]}
with HTCGateway() as gateway, gateway.new_cluster(relay="auto", **words) as cluster:
    cluster.scale(2)
    cluster.wait_for_workers(2, timeout=90)
    for name in CHECKS:
        tried(name, on_a_client_of_its_own, name)
    met = cluster.connections()
    make = lambda **_: cluster
    tried("restart", test_client.test_restarted_workers_are_others_and_compute, make, False, None)
    tried("retire_workers", test_client.test_results_of_a_retired_worker_stay, make)
    support.wait_until(lambda: len(cluster.jobs().live) == 1, what="the retired worker's job has left")
    cluster.scale(2)
    tried("shutdown", test_client.test_shutdown_of_a_client_closes_its_cluster, make)
print(json.dumps({"found": found, "met": met}))
"""


def test_with_auto_behind_a_firewall_everything_that_the_client_offers_works(
    tmp_path: Path, needs_hosts: None
) -> None:
    ports = [rule for rule in documented() if rule.ports != CLOSED]
    (tmp_path / "shared").mkdir()
    with field(tmp_path / "field", open_ports=ports) as site:
        site.set_up()
        done = site.notebook(_LIST, Path(__file__).parents[1], tmp_path / "shared", timeout=700)
        refused = {connection[:2] for connection in site.hosts.refused()}
    failed = {name: said for name, said in done["found"].items() if said and not said.startswith("skipped")}
    assert not failed, "\n".join(f"{name}: {said}" for name, said in failed.items())
    assert len(done["found"]) > 20
    assert done["met"] == [0, 1], "the two workers have met through the relay alone"
    # The workers have tried, and the scheduler has not.
    assert refused
    assert refused <= {("exec1", "exec2"), ("exec2", "exec1")}
