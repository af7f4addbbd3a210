"""The client dies without a word: nothing runs on without an owner, and what it left behind is swept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import dask.config
import pytest
from support import Pool, wait_until
from trouble import Trouble

from htcdaskgateway.local import GatewayServer, LocalSystem

# Seconds. A worker that is cut off is started again, five seconds on a busy machine, and then waits for DEATH.
DEATH, WAIT, HELD = 10, 20, 20

CLIENT = f"""
import time
from htcdaskgateway import HTCGateway

cluster = HTCGateway().new_cluster(cpus=4, death_timeout={DEATH}, max_idle_time={WAIT}, max_held_time={HELD})
cluster.scale(4)
print(cluster.name, flush=True)
time.sleep(600)
"""


@pytest.fixture
def short_lived(breakable_pool):
    """A system whose schedulers end after twenty seconds without work, from their start."""
    with GatewayServer(idle_timeout=20) as server, LocalSystem(pool=breakable_pool, server=server) as system:
        yield system


@pytest.mark.long
def test_killed_client_leaves_nothing_that_lasts(short_lived, breakable_pool):
    pool, trouble = Pool(breakable_pool.installation.bin), Trouble(short_lived)
    client = subprocess.Popen([sys.executable, "-c", CLIENT], stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout is not None
        name = client.stdout.readline().strip()
        # Two of the four jobs fit; of those that wait one is held, and one can never start.
        wait_until(lambda: pool.statuses(name) == [1, 1, 2, 2], what="two jobs run and two wait")
        held, stuck = (f"{ad['ClusterId']}.{ad['ProcId']}" for ad in pool.jobs(name) if ad["JobStatus"] == 1)
        pool.run("condor_hold", held)
        pool.run("condor_qedit", stuck, "Requirements", "false")
        wait_until(lambda: len(trouble.workers(name)) == 2, what="two workers run")
    finally:
        client.kill()
        client.communicate()
    stage = Path(os.environ["HTCDASK_STAGEDIR"]) / name
    assert (stage / "credentials" / "dask.pem").exists()

    with short_lived.gateway() as gateway:
        wait_until(lambda: not gateway.list_clusters(), what="the idle scheduler ends")
        ended = time.monotonic()
        wait_until(lambda: not trouble.workers(name), what="the workers end")
        assert time.monotonic() - ended < DEATH + 30  # not the minute that is the default
        wait_until(lambda: not pool.jobs(name), what=lambda: f"all jobs leave: {pool.statuses(name)}")
        assert time.monotonic() - ended < max(WAIT, HELD) + 25  # the schedd looks every 5 s here
        assert sorted(ad["JobStatus"] for ad in pool.history(name)) == [3, 3, 4, 4]  # two removed, two ended
        gateway.new_cluster().shutdown()
        assert not (stage / "credentials").exists()
        assert (stage / "logs").is_dir()  # kept for a while, for whoever asks what happened
        with dask.config.set({"htcdaskgateway.keep-staging": "1ms"}):
            gateway.new_cluster().shutdown()
        assert not stage.exists()
