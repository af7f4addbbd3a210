"""Spooled jobs: what a submit sends may be much, and may break off."""

from __future__ import annotations

import subprocess
import time

import dask.config
import pytest
from support import wait_until

from htcdaskgateway import WorkerSpec
from htcdaskgateway.worker.staging import Staging

NOWHERE = "HasNoSuchThing"
SPOOLING = 16


@pytest.mark.long
def test_a_spooled_submit_may_take_as_long_as_what_it_sends(tool_calls, new_cluster, pool):
    with dask.config.set({"htcdaskgateway.condor.timeout": "4s"}):
        cluster = new_cluster(spool=True, requirements=NOWHERE)
        tool_calls.script("condor_submit", f'sleep 6; exec "{pool.bin / "condor_submit"}" "$@"')
        cluster.scale(20)  # a second more for each
    assert len(pool.jobs(cluster.name)) == 20


def test_the_limit_of_a_spooled_submit_grows_with_the_image_that_each_job_is_sent(bare, stage, tmp_path):
    image = tmp_path / "big.sif"
    with image.open("wb") as file:
        file.truncate(100 * 2**20)

    def limit(count, **keywords):
        return Staging(
            "c1", WorkerSpec.from_keywords(spool=True, container_image=str(image), **keywords)
        ).spool_limit(count)

    assert limit(3) == 60 + 3 * 101
    assert limit(3, transfer_container=False) == 60 + 3
    assert limit(0) == 60


@pytest.mark.long
def test_jobs_whose_input_never_arrived_leave_by_themselves_and_do_not_count_for_ever(new_cluster, pool, trouble):
    with dask.config.set({"htcdaskgateway.condor.timeout": "12s"}):
        cluster = new_cluster(spool=True, requirements=NOWHERE)
    stage = cluster.fleet.staging
    with (stage.directory / "big").open("wb") as file:
        file.truncate(4 * 2**30)
    text = stage.description.read_text().replace("transfer_input_files = ", "transfer_input_files = big, ")
    (stage.directory / "broken.sub").write_text(text)
    command = [pool.bin / "condor_submit", "-spool", "broken.sub", "-queue", "2"]
    with subprocess.Popen(command, cwd=stage.directory, stdout=subprocess.DEVNULL) as submit:
        wait_until(lambda: len(pool.jobs(cluster.name)) == 2, what="the jobs are in the queue")
        submit.kill()
    assert {ad.get("HoldReasonCode") for ad in pool.jobs(cluster.name)} == {SPOOLING}
    (schedd,) = cluster.gateway.sync(cluster.fleet.condor.all_answering)
    cluster.gateway.sync(cluster.fleet.scheduler.note, schedd, wanted=2)  # as who submitted them did
    cluster.scale(2)
    assert len(pool.jobs(cluster.name)) == 2  # they may still arrive
    began = time.monotonic()
    wait_until(lambda: not pool.jobs(cluster.name), what=lambda: f"they leave: {pool.statuses(cluster.name)}")
    assert time.monotonic() - began < 60
    cluster.scale(2)
    assert len(pool.jobs(cluster.name)) == 2
    assert SPOOLING not in {ad.get("HoldReasonCode") for ad in pool.jobs(cluster.name) if ad["JobStatus"] == 1}
