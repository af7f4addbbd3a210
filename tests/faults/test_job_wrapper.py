"""A site's wrapper of jobs (USER_JOB_WRAPPER), which may take from a job where it is and what it was told."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support import wait_until

from htcdaskgateway import JobStatus
from htcdaskgateway.worker.job import EXIT_UNNAMED


@pytest.fixture
def wrap_jobs(system, tmp_path) -> Iterator[Callable[[str], None]]:
    """Let the pool start each job by a shell script from now on: each starter reads the configuration anew."""
    configuration, wrapper = system.pool.directory / "condor_config", tmp_path / "wrapper"
    before = configuration.read_text()

    def wrap(script: str) -> None:
        wrapper.write_text(f"#!/bin/sh\n{script}\n")
        wrapper.chmod(0o755)
        configuration.write_text(f"{before}\nUSER_JOB_WRAPPER = {wrapper}\n")

    yield wrap
    configuration.write_text(before)


@pytest.mark.parametrize(
    "script",
    ['exec env -u _CONDOR_JOB_AD "$@"', 'cd / && exec "$@"', 'cd / && exec env -i "$@"'],
    ids=["hides the ad", "elsewhere", "elsewhere without an environment"],
)
@pytest.mark.long
def test_a_worker_joins_behind_a_sites_wrapper(wrap_jobs, cluster, script):
    wrap_jobs(script)
    cluster.scale(1)
    cluster.wait_for_workers(1, timeout=90)
    with cluster.get_client() as client:
        assert client.submit(sum, [1, 2]).result(60) == 3


@pytest.mark.filterwarnings("ignore:HTCondor holds worker jobs")
@pytest.mark.long
def test_a_worker_whose_ad_a_wrapper_hides_for_good_is_held_with_the_reason(wrap_jobs, cluster, pool, tmp_path):
    wrap_jobs(f'cp "$1" {tmp_path}/job && cd / && exec env -i {tmp_path}/job')
    cluster.scale(1)
    (ad,) = wait_until(
        lambda: [ad for ad in pool.jobs(cluster.name) if ad["JobStatus"] == JobStatus.HELD],
        120,
        lambda: [(ad["JobStatus"], ad["NumJobCompletions"]) for ad in pool.jobs(cluster.name)],
    )
    assert f"exit code {EXIT_UNNAMED} (it cannot read its job's ad)" in ad["HoldReason"]
    assert "the job's ad cannot be read" in str(cluster.logs())
