"""The job event log, as HTCondor 23.9 and 25.14 write it, whole, cut and odd. A real pool's is in test_timeline."""

from __future__ import annotations

import os
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcdaskgateway.condor.eventlog import Event, EventType, Transfer, parse_events, read_events
from htcdaskgateway.condor.jobs import JobId
from htcdaskgateway.errors import StagingError

SUBMIT = (
    "000 (001.000.000) 2026-11-25 01:56:52 Job submitted from host: <127.0.0.1:28347?addrs=127.0.0.1-28347>\n...\n"
)
EXECUTE = """001 (001.000.000) 2026-11-25 01:56:53 Job executing on host: <127.0.0.1:28347?addrs=127.0.0.1-28347>
\tSlotName: slot1_1@localhost
\tCondorScratchDir = "/var/lib/condor/execute/dir_110"
\tCpus = 1
\tMemory = 1024
...
"""
MOVED = """040 (001.000.000) 2026-11-25 01:56:53 Started transferring input files
\tTransferring to host: <127.0.0.1:28347?addrs=127.0.0.1-28347>
...
040 (001.000.000) 2026-11-25 01:56:54 Finished transferring input files
...
"""
EVICTED = """004 (001.000.000) 2026-11-25 01:57:03 Job was evicted.
\t(0) CPU times
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Remote Usage
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Local Usage
\t0  -  Run Bytes Sent By Job
\t18654  -  Run Bytes Received By Job
\tUser requested the job to vacate
\tPartitionable Resources :    Usage  Request Allocated
\t   Cpus                 :     0.09        1         1
\t   Memory (MB)          :   115        1024      1024
...
"""
HELD = """012 (001.000.000) 2026-11-25 01:57:05 Job was held.
\tError from slot1_1@localhost: memory usage exceeded request_memory
\tCode 34 Subcode 102
...
"""
XML = """<c>
    <a n="Proc"><i>0</i></a>
    <a n="MyType"><s>SubmitEvent</s></a>
    <a n="Cluster"><i>1</i></a>
    <a n="EventTime"><s>2026-11-25T02:01:18.216</s></a>
    <a n="SubmitHost"><s>&lt;127.0.0.1:15580?addrs=127.0.0.1-15580&amp;alias=localhost&gt;</s></a>
    <a n="EventTypeNumber"><i>0</i></a>
</c>
<c>
    <a n="Proc"><i>0</i></a>
    <a n="Cluster"><i>1</i></a>
    <a n="EventTime"><s>2026-11-25T02:01:18.877</s></a>
    <a n="ExecuteProps"><c>
        <a n="Proc"><i>9</i></a>
        <a n="Cpus"><i>1</i></a>
    </c></a>
    <a n="EventTypeNumber"><i>1</i></a>
</c>
<c>
    <a n="Proc"><i>0</i></a>
    <a n="Cluster"><i>1</i></a>
    <a n="EventTime"><s>2026-11-25T02:01:20.1</s></a>
    <a n="HoldReason"><s>a &lt; b &amp; c</s></a>
    <a n="EventTypeNumber"><i>12</i></a>
</c>
"""
JOB = JobId(1, 0)


def local(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_events_of_a_plain_log_have_their_kind_job_time_and_reason() -> None:
    events = parse_events(SUBMIT + EXECUTE + MOVED + EVICTED + HELD)
    assert [event.type for event in events] == [
        EventType.SUBMIT,
        EventType.EXECUTE,
        EventType.TRANSFER,
        EventType.TRANSFER,
        EventType.EVICTED,
        EventType.HELD,
    ]
    assert {event.job for event in events} == {JOB}
    assert events[0].time == local("2026-11-25 01:56:52")
    assert [event.transfer for event in events[2:4]] == [Transfer.STARTED_IN, Transfer.FINISHED_IN]
    assert events[4].reason == "User requested the job to vacate"
    of_25 = EVICTED.replace(
        "User requested the job to vacate", "Reason: Job vacated by schedd\n\tCode 1004 Subcode 0"
    )
    assert parse_events(of_25)[0].reason == "Job vacated by schedd"
    assert events[5].reason == "Error from slot1_1@localhost: memory usage exceeded request_memory"


@pytest.mark.parametrize(
    ("number", "said", "kind"),
    [
        ("005", "Job terminated.", EventType.TERMINATED),
        ("007", "Shadow exception!", EventType.SHADOW_EXCEPTION),
        ("009", "Job was aborted.", EventType.ABORTED),
        ("010", "Job was suspended.", EventType.SUSPENDED),
        ("011", "Job was unsuspended.", EventType.UNSUSPENDED),
        ("013", "Job was released.", EventType.RELEASED),
    ],
)
def test_what_becomes_of_a_job_is_told_by_htcondors_number(number: str, said: str, kind: EventType) -> None:
    events = parse_events(f"{number} (001.000.000) 2026-11-25 01:57:09 {said}\n\tand why\n...\n")
    assert [event.type for event in events] == [kind]


def test_events_of_an_xml_log_are_read_too() -> None:
    events = parse_events(XML)
    assert [event.type for event in events] == [EventType.SUBMIT, EventType.EXECUTE, EventType.HELD]
    assert {event.job for event in events} == {JOB}
    assert events[1].time == local("2026-11-25 02:01:18.877")
    assert events[2].reason == "a < b & c"


def test_times_in_utc_and_with_fractions() -> None:
    event = parse_events(SUBMIT.replace("01:56:52", "01:56:52.433Z"))[0]
    assert event.time == datetime(2026, 11, 25, 1, 56, 52, 433000, tzinfo=timezone.utc).timestamp()


def test_times_without_a_year_are_the_last_that_were_not_in_the_future() -> None:
    old = SUBMIT.replace("2026-11-25", "11/25")
    assert parse_events(old, local("2026-11-25 02:00:00"))[0].time == local("2026-11-25 01:56:52")
    assert parse_events(old, local("2027-01-02 00:00:00"))[0].time == local("2026-11-25 01:56:52")
    leap = SUBMIT.replace("2026-11-25", "02/29")
    assert parse_events(leap, local("2029-01-01 00:00:00"))[0].time == local("2028-02-29 01:56:52")


def test_an_event_that_is_still_being_written_waits_for_its_end() -> None:
    whole = SUBMIT + EXECUTE + HELD
    for cut in range(len(SUBMIT + EXECUTE), len(whole) - 1):
        assert len(parse_events(whole[:cut])) == 2
    assert len(parse_events(whole)) == 3
    assert len(parse_events(XML[:-6])) == 2


@pytest.mark.parametrize(
    "odd",
    [
        "",
        "...\n",
        "...\n...\n\n",
        "somebody's note\n...\n",
        "999 (001.000.000) 2026-11-25 01:56:52 An event of the future\n\twith words\n...\n",
        "000 (001.000.000) 2026-13-45 99:56:52 Job submitted\n...\n",
        "000 (001.000.000) 13/45 01:56:52 Job submitted\n...\n",
        "035 (002.-01.000) 2026-11-25 02:01:18 Cluster submitted from host: <127.0.0.1:15580>\n...\n",
        "001 (001.000.000) 2026-11-25 01:5",
        "\x00\ufffd\n...\n",
        '<c>\n    <a n="Proc"><i>zero</i></a>\n</c>\n',
    ],
)
def test_what_is_not_understood_is_left_out(odd: str) -> None:
    assert parse_events(odd) == []
    if not odd.startswith(("<", "001")):
        assert len(parse_events(odd + SUBMIT)) == 1
        assert len(parse_events(SUBMIT + odd)) == 1


def test_the_half_of_an_event_that_a_crash_left_does_not_take_the_next_along() -> None:
    assert [event.type for event in parse_events(EXECUTE[:60] + "\n" + HELD)] == [EventType.HELD]


def test_a_log_with_windows_line_ends_is_read_too() -> None:
    assert len(parse_events((SUBMIT + EXECUTE).replace("\n", "\r\n"))) == 2


@given(st.text())
def test_no_text_is_an_error(text: str) -> None:
    assert isinstance(parse_events(text + "\n...\n" + SUBMIT), list)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    log = tmp_path / "condor.log"
    log.write_bytes(b"\xff\xfe\n...\n" + SUBMIT.encode())
    assert read_events(log) == [Event(local("2026-11-25 01:56:52"), JOB, EventType.SUBMIT)]


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StagingError, match=r"condor\.log cannot be read: No such file"):
        read_events(tmp_path / "condor.log")


@pytest.mark.long
def test_a_log_of_ten_thousand_jobs_is_read_in_seconds(tmp_path: Path) -> None:
    log = tmp_path / "condor.log"
    one = SUBMIT + EXECUTE + MOVED + HELD
    log.write_text("".join(one.replace("(001.000.", f"(001.{job}.") for job in range(10_000)))
    os.utime(log)
    began = time.process_time()
    assert len(read_events(log)) == 50_000
    assert time.process_time() - began < 20
