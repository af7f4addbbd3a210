"""The calls that explain() proposes."""

from __future__ import annotations

import dask

from htcdaskgateway.condor.jobs import JobId, JobStatus, WorkerJob
from htcdaskgateway.fleet import remedies


def test_held_jobs_are_released_where_they_are() -> None:
    here, there = (
        WorkerJob(JobId(17, proc, schedd), JobStatus.HELD, schedd=schedd)
        for proc, schedd in ((0, "a.test"), (1, "b.test"))
    )
    assert remedies.release([here]) == "`condor_release 17.0`"
    assert remedies.release([here, there]) == (
        "`condor_release -name a.test 17.0` and `condor_release -name b.test 17.1`"
    )
    with dask.config.set({"htcdaskgateway.condor.schedd": "a.test"}):
        assert remedies.release([here]) == "`condor_release -name a.test 17.0`"
