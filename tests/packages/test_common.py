"""What one submit's jobs have in common: sent once to a node where HTCondor can, and never mixed with another's."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.long


@pytest.fixture
def once_to_a_node(shared_pool):
    """A pool whose HTCondor sends files once to a node for all jobs of a submit."""
    program = Path(shared_pool.installation.bin, "condor_version")
    said = subprocess.run([program], capture_output=True, text=True, timeout=60, env=shared_pool.environ).stdout
    version = re.search(r"\$CondorVersion: (\d+)\.(\d+)", said)
    if (int(version[1]), int(version[2])) < (25, 14):
        pytest.skip("HTCondor sends files once for several jobs from version 25.14 on; HTCONDOR_SUITE=sid has it")


def test_four_workers_of_a_new_node_are_sent_their_packages_once(once_to_a_node, notebook, shared):
    told = notebook.run(
        """
        import json
        from pathlib import Path
        from htcdaskgateway import HTCGateway

        def prefix():
            import sys
            return sys.prefix

        with HTCGateway() as gateway:
            cluster = gateway.new_cluster(packages="notebook", cpus=1, memory="500MB")
            try:
                cluster.scale(4)
                cluster.wait_for_workers(4, timeout=200)
                mine = f'HTCDaskGatewayCluster == "{cluster.name}"'
                stage = cluster.fleet.staging
                print(json.dumps({
                    "prefixes": list(cluster.get_client().run(prefix).values()),
                    "log": (stage.logs / "condor.log").read_text(),
                    "ads": gateway.sync(cluster.fleet.condor.query, mine, ["BytesRecvd", "NumShadowStarts"]),
                    "sizes": [Path(stage.packed.archives[name]).stat().st_size for name in stage.packed.if_missing],
                }))
            finally:
                cluster.shutdown()
        """,
        DASK_HTCDASKGATEWAY__PACKAGES__NODE_DIRECTORIES=json.dumps([str(shared)]),
        DASK_HTCDASKGATEWAY__PACKAGES__COMMON_TRANSFER="True",
    )
    assert len(told["prefixes"]) == 4
    assert len(set(told["prefixes"])) == 1
    assert told["log"].count("Finished transferring common files") == 1
    assert [ad["NumShadowStarts"] for ad in told["ads"]] == [1] * 4
    # All that went to the four jobs themselves is less than one copy.
    assert sum(ad["BytesRecvd"] for ad in told["ads"]) < min(told["sizes"])


def test_a_job_that_starts_again_has_packages_that_fit_together_whatever_was_installed_since(notebook):
    told = notebook.run(
        """
        import json, sys, time
        from pathlib import Path
        from htcdaskgateway import HTCGateway
        from htcdaskgateway.packages import packing

        def has(name):
            import importlib.util
            return importlib.util.find_spec(name) is not None

        def install(name):
            site = next(path for path in sys.path if path.endswith("site-packages"))
            Path(site, f"{name}.py").write_text("VALUE = 1\\n")
            return cluster.sync_packages().packages_changed

        def names():
            return {worker["name"] for worker in client.sync(client.scheduler.identity)["workers"].values()}

        def start_again():
            before = names()
            vacate = ["condor_vacate_job", "-constraint", mine]
            gateway.sync(cluster.fleet.condor.checked, *vacate, failing="no vacate")
            deadline = time.monotonic() + 100
            while before & (now := names()) or not now:
                assert time.monotonic() < deadline, cluster.explain()
                time.sleep(0.2)
            return list(client.run(has, "installed").values())[0], list(client.run(has, "many").values())[0]

        with HTCGateway() as gateway:
            cluster = gateway.new_cluster(packages="notebook", cpus=1, memory="500MB")
            try:
                client = cluster.get_client()
                mine = f'HTCDaskGatewayCluster == "{cluster.name}"'
                cluster.scale(1)
                cluster.wait_for_workers(1, timeout=100)
                told = [install("installed"), start_again()]
                # From now on each change is too large for a difference.
                packing._MOST_CHANGED = -1.0
                before = cluster.fleet.staging.packed.base
                told += [install("many"), cluster.fleet.staging.packed.base != before, start_again()]
                cluster.scale(2)
                cluster.wait_for_workers(2, timeout=100)
                told.append(sorted(client.run(has, "many").values()))
                ads = gateway.sync(cluster.fleet.condor.query, mine, ["NumShadowStarts", "NumHolds"])
                log = (cluster.fleet.staging.logs / "condor.log").read_text()
                print(json.dumps([*told, ads, log]))
            finally:
                cluster.shutdown()
        """
    )
    *changes, seen, ads, log = told
    # A small change comes to jobs that were submitted before it; a new base to those that are submitted later.
    assert changes == [True, [True, False], True, True, [True, False]]
    assert seen == [False, True]
    assert sum(ad["NumShadowStarts"] for ad in ads) == 4, log
    assert not any(ad.get("NumHolds") for ad in ads)
