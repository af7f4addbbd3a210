"""Ads of condor_q as plain data."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcdaskgateway import JobStatus, WorkerJob, WorkerJobs
from htcdaskgateway.condor.jobs import JobId, ids_constraint
from htcdaskgateway.fleet.fleet import Fleet


def ad(proc=0, status=2, **more):
    return {"ClusterId": 7, "ProcId": proc, "JobStatus": status, **more}


def test_a_running_job_leads_to_its_worker_and_back():
    job = WorkerJob.from_ad(ad(3, NumShadowStarts=2, RemoteHost="slot1_2@node.example.org", EnteredCurrentStatus=5))
    assert (job.host, job.starts, job.since) == ("node.example.org", 2, 5)
    assert job.worker_name == "htcondor-7.3-2"
    assert JobId.of_worker(job.worker_name) == job.id


def test_a_job_that_runs_and_whose_start_is_not_counted_yet_has_the_name_of_its_first():
    assert WorkerJob.from_ad(ad(3)).worker_name == "htcondor-7.3-1"


@pytest.mark.parametrize("name", ["htcondor-7.3", "x-htcondor-7.3-2", "worker", 3, "htcondor-7.3-2\n"])
def test_a_foreign_worker_is_no_job(name):
    assert JobId.of_worker(name) is None


def test_only_a_held_job_has_a_hold_reason():
    held = WorkerJob.from_ad(ad(status=5, HoldReason="no", HoldReasonCode=13, HoldReasonSubCode=2))
    assert (held.hold_reason, held.hold_code, held.hold_subcode) == ("no", 13, 2)
    again = WorkerJob.from_ad(ad(status=1, HoldReason="no", HoldReasonCode=13))
    assert (again.hold_reason, again.hold_code) == (None, None)
    assert held.worker_name is None


def test_null_and_absent_attributes_read_the_same():
    empty = ad(status=1, RemoteHost=None, NumShadowStarts=None, QDate=None)
    assert WorkerJob.from_ad(empty) == WorkerJob.from_ad(ad(status=1))


def test_jobs_come_in_the_order_of_their_ids_and_are_counted_by_status():
    jobs = WorkerJobs.from_ads([ad(10, 1), ad(9, 2), ad(2, 5), ad(1, 3), ad(0, 4)])
    assert [job.id.proc for job in jobs] == [0, 1, 2, 9, 10]
    assert [job.id.proc for job in jobs.live] == [2, 9, 10]
    assert [job.id.proc for job in jobs.with_status(JobStatus.HELD)] == [2]
    assert jobs.summary() == "1 running, 1 idle, 1 held"


def test_neighbours_are_named_as_a_range():
    ids = [JobId(7, proc) for proc in range(10000)] + [JobId(8, 2)]
    assert ids_constraint(ids) == (
        "(ClusterId == 7 && ProcId >= 0 && ProcId <= 9999) || (ClusterId == 8 && ProcId >= 2 && ProcId <= 2)"
    )
    assert ids_constraint([]) == ""


@given(st.sets(st.tuples(st.integers(1, 3), st.integers(0, 12)), min_size=1))
def test_a_constraint_is_true_for_just_those_jobs(ids):
    text = ids_constraint(JobId(*each) for each in ids).replace("||", "or").replace("&&", "and")
    expression = compile(text, "constraint", "eval")
    for cluster in range(1, 4):
        for proc in range(13):
            assert eval(expression, {"ClusterId": cluster, "ProcId": proc}) == ((cluster, proc) in ids)


def test_scattered_jobs_are_removed_by_arguments_that_the_kernel_takes():
    constraints = []

    class Noting:
        async def all_answering(self):
            return ()

        def of_job(self, schedd):
            return self

        async def remove(self, constraint):
            constraints.append(constraint)
            return True

    fleet = Fleet(Noting(), SimpleNamespace(cluster="c"), None)
    ids = [JobId(7, proc) for proc in range(0, 20000, 2)]
    asyncio.run(fleet._remove(ids))
    assert max(map(len, constraints)) < 128 * 1024
    found = [int(proc) for constraint in constraints for proc in re.findall(r"ProcId >= (\d+)", constraint)]
    assert sorted(found) == [job.proc for job in ids]
    constraints.clear()
    asyncio.run(fleet._remove(JobId(7, proc) for proc in range(20000)))
    assert len(constraints) == 1


def test_a_job_that_transfers_its_output_before_it_runs_again_counts():
    jobs = WorkerJobs.from_ads({"ClusterId": 1, "ProcId": status, "JobStatus": status} for status in range(1, 8))
    assert {job.status.value for job in jobs.live} == {1, 2, 5, 6, 7}
    assert jobs.live[3].worker_name is None


def test_a_state_that_newer_versions_of_htcondor_have_counts_as_waiting():
    assert JobStatus(9) is JobStatus.IDLE
    with pytest.raises(ValueError, match="0 is not a valid JobStatus"):
        JobStatus(0)
