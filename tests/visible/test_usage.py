"""What the jobs asked for and used, checked against HTCondor's own ads."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from support import PATIENCE, Pool, Tools, wait_until

from htcdaskgateway.errors import CondorError, CondorTimeoutError
from htcdaskgateway.fleet import proposals
from htcdaskgateway.fleet.timeline import event_log
from htcdaskgateway.fleet.usage import JobUsage, Usage

MIB, GIB = 2**20, 2**30
AD = {"ClusterId": 1, "ProcId": 0, "JobStatus": 4, "RequestCpus": 4, "RequestMemory": 32 * 1024}


def usage(**attributes: Any) -> Usage:
    """Return the usage of one job that has ended, of an hour unless told otherwise."""
    ad = {
        **AD,
        "RemoteWallClockTime": 3600.0,
        "LastRemoteWallClockTime": 3600.0,
        "RemoteUserCpu": 14000.0,
        **attributes,
    }
    return Usage([JobUsage.from_ad(ad)])


@pytest.mark.long
def test_it_agrees_with_the_ads_of_the_queue_and_of_the_history(
    new_cluster: Callable[..., Any], pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "_SHORTEST", 5.0)
    cluster = new_cluster(cpus=2, memory="3GB")
    cluster.scale(2)
    client = cluster.get_client()
    client.wait_for_workers(2, timeout=PATIENCE)

    def hold() -> int:  # here, because a worker cannot import this module
        import builtins
        import time

        held = bytearray(400 * 2**20)  # not a copy: it would be twice in memory for a moment
        for page in range(0, len(held), 4096):
            held[page] = 1
        vars(builtins)["held"] = held  # until the worker ends: HTCondor looks now and then only
        end = time.monotonic() + 12
        while time.monotonic() < end:
            pass
        return len(held)

    evicted = cluster.jobs()[0].id
    pool.run("condor_vacate_job", "-fast", evicted)
    wait_until(
        lambda: next(j for j in pool.jobs(cluster.name) if j["ProcId"] == evicted.proc)["NumShadowStarts"] == 2
    )
    client.wait_for_workers(2, timeout=PATIENCE)
    client.gather([client.submit(hold, pure=False, workers=[worker]) for worker in client.nthreads()])

    def noticed() -> bool:  # HTCondor looks now and then only, and the queue is told ever more rarely
        events = event_log(cluster.fleet.staging).read_text()
        seen = re.findall(r"^006 \(\d+\.(\d+)\.(?:.*\n)*?\t(\d+)  -  MemoryUsage", events, re.MULTILINE)
        return {int(job) for job, mebibytes in seen if int(mebibytes) > 400} == {0, 1}

    wait_until(noticed)
    live = cluster.usage()
    assert [job.id for job in live.jobs] == [job.id for job in cluster.jobs()]
    assert all(job.seconds > 12 for job in live.jobs)
    cluster.shutdown()
    wait_until(lambda: len(pool.history(cluster.name)) == 2)
    told = cluster.usage()
    for job, ad in zip(told.jobs, sorted(pool.history(cluster.name), key=lambda ad: ad["ProcId"]), strict=True):
        assert job.seconds == pytest.approx(ad["RemoteWallClockTime"])
        assert job.core_hours == pytest.approx(ad["RemoteWallClockTime"] * 2 / 3600)
        assert job.memory == ad["RequestMemory"] * MIB == 3 * GIB
        assert job.memory_used == pytest.approx(ad["ResidentSetSize_RAW"] * 1024, rel=0.01)
        assert job.memory_used > 400 * MIB
        assert job.lost == pytest.approx(ad["RemoteWallClockTime"] - ad["LastRemoteWallClockTime"])
        assert (job.lost > 0) is (job.id == evicted)
        assert (job.cores_used is None) is (ad["RemoteUserCpu"] + ad["RemoteSysCpu"] == 0)
    assert told.lost_hours < told.core_hours
    assert told.core_hours == pytest.approx(sum(job.core_hours for job in told.jobs))
    most = max(job.memory_used for job in told.jobs) / MIB
    (less,) = re.findall(r'ask for memory="(\d+)MB" and start sooner', "\n".join(told.proposals))
    assert 0 <= int(less) - most / 0.7 < 128, str(told)


@pytest.mark.long
def test_a_job_that_runs_counts_until_now(cluster: Any, pool: Pool) -> None:
    cluster.scale(1)
    wait_until(lambda: pool.statuses(cluster.name) == [2])
    before = cluster.usage().jobs[0].seconds
    after = wait_until(lambda: (found := cluster.usage().jobs[0].seconds) > before + 1 and found)
    assert after < PATIENCE
    assert "not run long enough for a proposal" in str(cluster.usage())


def test_a_cluster_without_jobs(cluster: Any) -> None:
    assert "No job of this cluster" in str(cluster.usage())
    assert cluster.usage().core_hours == 0


def test_a_history_that_cannot_be_read_is_an_error(
    tool_calls: Tools, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool_calls.answer("condor_history", stderr="no history today", code=1)
    with pytest.raises(CondorError, match="HTCondor's history could not be read"):
        cluster.usage()
    tool_calls.answer("condor_history", stdout='[{"ClusterId": 1,')
    with pytest.raises(CondorError, match="condor_history answered something that is not a list of jobs"):
        cluster.usage()
    tool_calls.script("condor_history", "exec sleep 60")
    with monkeypatch.context() as context:
        context.setattr(cluster._session.condor, "timeout", 3.0)  # of condor_q, which is asked first, too
        with pytest.raises(CondorTimeoutError, match="the history of a busy schedd is long"):
            cluster.usage()


def test_much_memory_for_little_use() -> None:
    (words,) = usage(MemoryUsage=3174).proposals
    assert words.startswith(
        'A worker asked for 32 GiB of memory and used 3.1 GiB at most: ask for memory="5GB" and start sooner.'
    )


def test_memory_that_is_tight() -> None:
    (words,) = usage(MemoryUsage=31 * 1024).proposals
    assert "that is tight" in words
    assert 'memory="48GB"' in words


def test_of_a_request_that_fits_this_is_said() -> None:
    assert usage(MemoryUsage=22 * 1024).proposals == ["The request fits what was used."]


def test_cores_that_have_nothing_to_do() -> None:
    told = usage(MemoryUsage=22 * 1024, RemoteUserCpu=1800.0)
    assert told.idle_hours == pytest.approx(3.5)
    assert "kept 0.5 of 4 cores busy" in told.proposals[0]
    assert "cpus=1" in told.proposals[0]


def test_the_cpu_time_of_a_run_that_has_ended_goes_before_a_rate() -> None:
    told = usage(CpusUsage=0.1, RemoteUserCpu=7000.0, RemoteSysCpu=200.0)
    assert told.jobs[0].cores_used == pytest.approx(2.0)


def test_runs_that_ended_early_are_lost() -> None:
    told = usage(RemoteWallClockTime=7200.0, MemoryUsage=22 * 1024)
    assert (told.core_hours, told.lost_hours) == (8.0, 4.0)
    assert "50% of the core-hours are of runs that ended early" in told.proposals[0]
    assert usage(JobStatus=1, LastRemoteWallClockTime=3600.0).jobs[0].lost == 3600.0, "it waits again"


def test_disk_that_was_asked_for_in_vain() -> None:
    told = usage(MemoryUsage=22 * 1024, RequestDisk=100 * MIB, DiskUsage_RAW=2 * MIB)
    assert told.proposals == ['A worker asked for 100 GiB of disk and used 2 GiB at most: ask for disk="3GB".']


def test_what_htcondor_has_not_measured_is_not_made_up() -> None:
    told = usage(
        RemoteUserCpu=0.0,
        CpusUsage=0.2,
        RequestMemory="/Expr(ImageSize)/",
        MemoryUsage="/Expr(ResidentSetSize / 1024)/",
    )
    job = told.jobs[0]
    assert (job.cores_used, job.memory_used, job.memory, job.idle_hours) == (None, None, 0, 0.0)
    assert told.proposals == ["HTCondor has measured no CPU time here, so idle core-hours are not known."]


def test_a_table_of_many_jobs_is_cut_and_has_the_sum() -> None:
    told = Usage(
        JobUsage.from_ad({**AD, "ProcId": proc, "RemoteWallClockTime": 3600.0, "CommittedTime": 3600})
        for proc in range(100)
    )
    lines = str(told).splitlines()
    assert len(lines) < 70
    assert any("… 40 more" in line for line in lines)
    assert next(line for line in lines if line.startswith("All")).split()[-2:] == ["400.0", "0.00"]
    assert max(map(len, lines[:63])) <= 110
    shown = told._repr_html_()
    assert shown.count("white-space: pre;") == 1, "the table's lines do not wrap"
    assert shown.count("white-space: pre-wrap") == 1, "the proposals' lines do"
    assert "word-break: normal" in shown, "JupyterLab's own style breaks words anywhere"
