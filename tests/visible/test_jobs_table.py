"""The jobs as a table, in a terminal and in a notebook."""

from __future__ import annotations

import time

import pytest

from htcdaskgateway.condor.jobs import WorkerJobs
from htcdaskgateway.display.table import table_html, table_text

pytestmark = pytest.mark.core

EVIL = "<script>alert(1)</script> [red]\x1b[31m & \n\r\x07 'x'"


def ad(proc: int, status: int, **more: object) -> dict[str, object]:
    return {
        "ClusterId": 7,
        "ProcId": proc,
        "JobStatus": status,
        "EnteredCurrentStatus": time.time() - 9030,  # far from the next minute
        **more,
    }


def jobs() -> WorkerJobs:
    return WorkerJobs.from_ads(
        [
            ad(0, 2, NumShadowStarts=1, RemoteHost="slot1_1@node17.example.org"),
            ad(1, 1),
            ad(2, 5, HoldReason=EVIL, HoldReasonCode=13),
        ]
    )


def test_a_terminal_shows_a_line_for_each_job_and_the_counts() -> None:
    found = jobs()
    lines = str(found).splitlines()
    assert lines[0].split() == ["Job", "Status", "For", "Starts", "Machine", "Why"]
    assert lines[1].split()[:7] == ["7.0", "running", "2", "h", "30", "min", "1"]
    assert "node17.example.org" in lines[1]
    assert lines[2].split()[:2] == ["7.1", "idle"]
    assert lines[-1] == "1 running, 1 idle, 1 held"
    assert repr(found).splitlines()[0] == lines[0]


def test_a_hold_reason_cannot_steer_the_terminal() -> None:
    text = table_text(jobs().table(), width=200)
    assert "<script>alert(1)</script> [red] [31m & 'x'" in text
    assert all(character.isprintable() or character == "\n" for character in text)


def test_a_hold_reason_stays_text_in_a_notebook() -> None:
    page = jobs()._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<tr>") == 4


def test_no_job_is_said_in_words() -> None:
    assert str(WorkerJobs()) == "no worker jobs"
    assert "no worker jobs" in WorkerJobs()._repr_html_()


def test_a_narrow_terminal_folds_and_loses_nothing() -> None:
    text = table_text(jobs().table(), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "node17.example.org" in text.replace(" ", "").replace("\n", "")


def test_of_thousands_of_jobs_those_that_are_held_are_shown_and_the_rest_is_counted() -> None:
    many = WorkerJobs.from_ads([ad(proc, 1) for proc in range(10_000)] + [ad(10_000, 5, HoldReason="no such file")])
    text = str(many)
    assert len(text.splitlines()) < 70
    assert "no such file" in text
    assert "… and 9941 more" in text
    assert "0 running, 10000 idle, 1 held" in text
    assert "no such file" in table_html(many.table())
