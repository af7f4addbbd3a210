"""What became of the jobs over time, from the event log that a real pool writes."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.config
import pytest
from support import PATIENCE, Pool, Tools, first_is_quick, wait_until

from htcdaskgateway import WorkerSpec
from htcdaskgateway.condor.eventlog import Event, EventType, Transfer
from htcdaskgateway.condor.jobs import JobId
from htcdaskgateway.errors import ConfigError, StagingError
from htcdaskgateway.fleet.joins import Join, joins_file
from htcdaskgateway.fleet.timeline import Timeline, read_timeline
from htcdaskgateway.worker.staging import Staging

JOB = JobId(7, 0)
WORKER = "htcondor-7.0-1@schedd"


def joined(cluster: Any, n: int) -> None:
    cluster.get_client().wait_for_workers(n, timeout=PATIENCE)


@pytest.mark.long
def test_what_happens_to_the_jobs_is_in_the_timeline_also_after_the_shutdown(
    tool_calls: Tools, new_cluster: Callable[..., Any], pool: Pool, tmp_path: Path
) -> None:
    cluster = new_cluster(cpus=1, memory="1GB")
    cluster.scale(3)
    joined(cluster, 3)
    cluster.gateway.sync(cluster.fleet.settled)
    tool_calls.forget()
    told = cluster.timeline()
    assert not tool_calls.calls, "HTCondor is asked nothing"
    assert (told.asked[-1], told.running[-1], told.joined[-1]) == (3, 3, 3)
    assert len(told.starts) == 3
    assert all(start.begin > 0 for start in told.starts), "Python takes its time"
    assert all(0 <= start.join < 30 for start in told.starts)
    assert told.marks == []
    first, second, _ = (job.id.alone for job in cluster.jobs())
    pool.run("condor_hold", "-reason", "for this test", first)
    pool.run("condor_vacate_job", "-fast", second)
    wait_until(lambda: any(mark.kind == "evicted" for mark in cluster.timeline().marks))
    wait_until(lambda: cluster.timeline().held[-1] == 1)
    pool.run("condor_release", first)
    wait_until(
        lambda: len(cluster.timeline().starts) == 5,
        what=lambda: [cluster.timeline(), cluster.jobs(), cluster.logs()],
    )
    cluster.get_client().restart(timeout=PATIENCE)
    wait_until(lambda: sum(mark.why == "in its slot" for mark in cluster.timeline().marks) == 3)
    ended = time.time()
    cluster.shutdown()
    assert cluster.timeline().times[-1] >= ended, "until the shutdown, of which HTCondor's log tells later"
    wait_until(lambda: not pool.jobs(cluster.name))
    tool_calls.forget()
    told = wait_until(lambda: (found := cluster.timeline()).asked[-1] == 0 and found)
    assert not tool_calls.calls
    held, evicted = sorted((mark for mark in told.marks if mark.kind != "restarted"), key=lambda mark: mark.job)
    assert held[1:] == ("held", first, "for this test (by user daemon)")
    assert evicted[1:3] == ("evicted", second)
    assert evicted.why in ("User requested the job to vacate", "Job vacated by schedd"), "as 23 and 25 word it"
    again = [mark.job for mark in told.marks if mark.kind == "restarted" and not mark.why]
    assert sorted(again) == [first, second]
    assert (max(told.asked), max(told.joined)) == (3, 3)
    assert (told.running[-1], told.joined[-1]) == (0, 0)
    for line in ("3 jobs in", "Evicted once", "Held once (for this test (by user daemon))", "Restarted 5 times"):
        assert line in str(told)
    assert "container and Python" in str(told)
    assert told.save(tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    page = told.save(tmp_path / "t.html").read_text()
    assert cluster.name in page
    assert not re.search(r'<(?:script|link|img)[^>]*\s(?:src|href)="http', page), "it needs no network"
    assert "<svg" in told._repr_html_()


@pytest.mark.long
def test_a_log_in_xml_is_read_too(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(cpus=1, job_extra_directives={"log_xml": "true"})
    cluster.scale(1)
    joined(cluster, 1)
    told = wait_until(lambda: (found := cluster.timeline()).starts and found)
    assert told.running[-1] == 1
    assert any(event.time % 1 for event in told._events), "it knows fractions of a second"


@pytest.mark.long
def test_the_wait_for_workers_ends_with_where_the_time_went(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr("htcdaskgateway.fleet.waiting.tell", shown.append)
    cluster.scale(1)
    cluster.wait_for_workers(1, timeout=PATIENCE)
    (line,) = shown
    took = r"\d[\d a-z]*"  # 5 s, or 1 min 5 s
    parts = f"queue {took}, transfer {took}, container and Python {took}, join {took}"
    assert re.fullmatch(rf"The worker joined after {took}: {parts}\.", line)
    cluster.wait_for_workers(1, timeout=PATIENCE)
    assert len(shown) == 1, "there was nothing to wait for"


@pytest.mark.long
def test_a_wait_succeeds_where_the_log_cannot_be_read(cluster: Any) -> None:
    cluster.scale(1)
    (cluster.fleet.staging.directory / "worker.sub").unlink()
    cluster.wait_for_workers(1, timeout=PATIENCE)
    with pytest.raises(StagingError, match=r"worker\.sub cannot be read"):
        cluster.timeline()


def test_before_any_job_it_says_so(cluster: Any) -> None:
    with pytest.raises(StagingError, match="no job has been submitted from this machine"):
        cluster.timeline()


@pytest.mark.long
def test_the_log_of_spooled_jobs_is_at_the_schedd_until_they_end(
    new_cluster: Callable[..., Any], pool: Pool
) -> None:
    cluster = new_cluster(spool=True, cpus=1)
    cluster.scale(1)
    joined(cluster, 1)
    with pytest.raises(StagingError, match="the jobs are spooled, so the schedd keeps it"):
        cluster.timeline()
    dask.config.set({"htcdaskgateway.retire-grace": "60s"})  # it ends by itself, on a slow machine too
    cluster.scale(0)
    told = wait_until(lambda: _timeline_or_none(cluster))
    assert (told.asked[-1], len(told.starts)) == (0, 1)


def _timeline_or_none(cluster: Any) -> Timeline | None:
    try:
        return cluster.timeline()  # type: ignore[no-any-return]
    except StagingError:
        return None


@pytest.mark.parametrize("line", ["", "log = here/$(ClusterId).log\n"])
def test_a_template_that_names_no_event_log_is_told(line: str, stage: Path) -> None:
    staging = Staging("c1", WorkerSpec.from_keywords())
    staging.directory.mkdir(parents=True)
    staging.description.write_text(f"executable = worker.sh\n{line}queue\n")
    with pytest.raises(StagingError, match="has no line `log = FILE`"):
        read_timeline(staging)


def test_a_timeline_is_read_of_the_files_alone(stage: Path) -> None:
    staging = Staging("c1", WorkerSpec.from_keywords())
    staging.directory.mkdir(parents=True)
    staging.description.write_text("log = a $(DOLLAR)log\n")
    (staging.directory / "a $log").write_text("000 (001.000.000) 2026-11-25 01:56:52 Job submitted\n...\n")
    assert max(read_timeline(staging).asked) == 1


def test_workers_whose_jobs_have_their_log_elsewhere_are_told_of() -> None:
    told = Timeline("c1", [Event(1.0, JOB, EventType.SUBMIT)], [Join(5.0, "htcondor-8.0-1@other", True)])
    assert max(told.joined) == 0
    assert "Not shown: 1 more worker joined whose jobs' event log is not here." in str(told)


def test_who_joined_is_not_known_either_of_a_job_that_ran_for_less_than_a_second() -> None:
    types = [EventType.SUBMIT, EventType.EXECUTE, EventType.ABORTED]
    told = Timeline("c1", [Event(time, JOB, event) for time, event in zip([1.0, 2.0, 2.0], types, strict=True)], [])
    assert "When workers joined is not known" in str(told)


def test_who_joined_is_not_known_where_nobody_has_asked_the_scheduler(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("htcdaskgateway.fleet.joins.LAST_WORD", PATIENCE)
    cluster.scale(1)
    joined(cluster, 1)
    cluster.shutdown()
    stage = Staging(cluster.name, cluster.spec)
    assert [join.joined for join in read_timeline(stage)._joins][:1] == [True], "the shutdown has kept it"
    joins_file(stage.directory).unlink()
    assert "When workers joined is not known" in str(read_timeline(stage))
    joins_file(stage.directory).write_text("{")
    with pytest.raises(StagingError, match=r"joins\.json cannot be read"):
        read_timeline(stage)


def test_where_the_time_went_adds_up_to_the_wait() -> None:
    events = [
        Event(100.0, JOB, EventType.SUBMIT),
        Event(130.0, JOB, EventType.TRANSFER, transfer=Transfer.STARTED_IN),
        Event(135.0, JOB, EventType.EXECUTE),
        Event(142.0, JOB, EventType.TRANSFER, transfer=Transfer.FINISHED_IN),
    ]
    (start,) = Timeline("c1", events, [Join(160.5, WORKER, True, 159.5)]).starts
    assert (start.queue, start.transfer, start.begin, start.join) == (30, 12, 17.5, 1)
    assert start.total == 60.5
    assert Timeline("c1", events, [Join(160.5, WORKER, True)]).spent(since=161) == ""


def test_clocks_that_disagree_make_no_negative_times() -> None:
    events = [
        Event(100.0, JOB, EventType.SUBMIT),
        Event(135.0, JOB, EventType.EXECUTE),
        Event(135.0, JOB, EventType.TRANSFER, transfer=Transfer.FINISHED_IN),
    ]
    (start,) = Timeline("c1", events, [Join(134.2, WORKER, True, 90.0)]).starts
    assert min(start[2:]) >= 0
    assert start.queue == 35


def test_a_start_that_follows_at_once_is_another_one() -> None:
    events = [
        Event(100.0, JOB, EventType.SUBMIT),
        Event(101.0, JOB, EventType.EXECUTE),
        Event(105.0, JOB, EventType.EVICTED),
        Event(105.0, JOB, EventType.EXECUTE),
    ]
    again = WORKER.replace("-1@", "-2@")
    joins = [Join(104.5, WORKER, True), Join(104.9, WORKER, False), Join(109.0, again, True)]
    assert [start.begin for start in Timeline("c1", events, joins).starts] == [3.5, 4.0]
    late = [Join(105.3, WORKER, True), Join(105.4, WORKER, False), Join(109.0, again, True)]
    assert [start.begin for start in Timeline("c1", events, late).starts] == [pytest.approx(4.3), 4.0], (
        "the log has whole seconds"
    )


def test_a_worker_whose_end_nobody_has_noted_is_gone_with_its_job() -> None:
    events = [
        Event(100.0, JOB, EventType.SUBMIT),
        Event(101.0, JOB, EventType.EXECUTE),
        Event(150.0, JOB, EventType.ABORTED),
    ]
    told = Timeline("c1", events, [Join(110.0, WORKER, True)])
    assert list(zip(told.times, told.asked, told.joined, strict=True)) == [
        (100.0, 1, 0),
        (101.0, 1, 0),
        (110.0, 1, 1),
        (150.0, 0, 0),
    ]


def test_a_job_that_is_removed_or_held_was_not_evicted() -> None:
    start = [
        Event(1.0, JOB, EventType.SUBMIT),
        Event(2.0, JOB, EventType.EXECUTE),
        Event(9.0, JOB, EventType.EVICTED),
    ]
    assert [m.kind for m in Timeline("c1", start, []).marks] == ["evicted"]
    assert Timeline("c1", [*start, Event(9.0, JOB, EventType.ABORTED)], []).marks == []
    assert [m.kind for m in Timeline("c1", [*start, Event(10.0, JOB, EventType.HELD)], []).marks] == ["held"]


@pytest.mark.parametrize("missing", first_is_quick(["bokeh", "matplotlib"]))
def test_one_of_the_two_libraries_is_enough(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("htcdaskgateway.display.plot._there", lambda library: library != missing)
    monkeypatch.setitem(sys.modules, missing, None)
    told = Timeline("c1", [Event(100.0, JOB, EventType.SUBMIT), Event(110.0, JOB, EventType.HELD, "<b>no</b>")], [])
    assert "c1" in told.save(tmp_path / "t.html").read_text()
    assert "<b>no" not in told._repr_html_()
    if missing == "matplotlib":
        with pytest.raises(ConfigError, match=r"drawn by matplotlib, which is not installed; save it as \.html"):
            told.save(tmp_path / "t.png")
    else:
        assert "<svg" in (tmp_path / "t.html").read_text()


def test_without_a_library_the_text_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("htcdaskgateway.display.plot._there", lambda library: False)
    told = Timeline("c1", [Event(100.0, JOB, EventType.SUBMIT)], [])
    assert "1 job in" in told._repr_html_()
    with pytest.raises(ConfigError, match="neither is installed"):
        told.save(tmp_path / "t.html")


def test_an_asynchronous_cluster_has_one_too(system: Any) -> None:
    async def go() -> None:
        async with system.gateway(asynchronous=True) as gateway, await gateway.new_cluster(cpus=1) as cluster:
            await cluster.scale(1)
            await asyncio.wait_for(cluster.wait_for_workers(1), PATIENCE)
            assert (await cluster.timeline()).joined[-1] == 1
            assert len((await cluster.usage()).jobs) == 1
            assert "request_cpus = 1" in cluster.job_script()

    asyncio.run(go())


def test_the_script_that_is_submitted_is_shown(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(cpus=2, job_extra_directives={"accounting_group": "physics"})
    told = cluster.job_script()
    assert "request_cpus = 2" in told
    assert "accounting_group = physics" in told
    assert "worker.sh" in told
    assert "#!/bin/sh" in told
    assert "PRIVATE KEY" not in told
    cluster.shutdown()
    assert cluster.job_script() == told
