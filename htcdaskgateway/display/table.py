"""Rows as a table, in text and in HTML."""

from __future__ import annotations

import html
import io
import shutil
import time
from collections.abc import Iterable

from ..condor.jobs import JobStatus, WorkerJob, WorkerJobs

_COLUMNS = ("Job", "Status", "For", "Starts", "Machine", "Why")
_ROWS = 60
"""How many jobs a table shows; of more, those that need a look come first."""

# The jobs that the schedd has still to make come after all others.
_FIRST = (JobStatus.HELD, JobStatus.SUSPENDED, JobStatus.RUNNING, JobStatus.IDLE)


def printable(text: str) -> str:
    """Return `text` on one line, without what could steer a terminal; jobs and machines word it, not we."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def duration(seconds: float) -> str:
    """Return a time in its two largest units, such as ``3 min 20 s``."""
    left = max(0, round(seconds))
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _row(job: WorkerJob, now: float) -> tuple[str, ...]:
    return (
        str(job.id),
        job.status.name.lower().replace("_", " "),
        duration(now - job.since) if job.since else "",
        str(job.starts),
        printable(job.host or ""),
        printable(job.hold_reason or ""),
    )


def _rows(jobs: Iterable[WorkerJob]) -> tuple[list[tuple[str, ...]], int]:
    """Return the rows of a table, and how many jobs it leaves out."""
    everyone = list(jobs)
    shown = everyone
    if len(everyone) > _ROWS:
        rank = {status: place for place, status in enumerate(_FIRST)}
        shown = sorted(everyone, key=lambda job: (rank.get(job.status, len(rank)), job.id))[:_ROWS]
    now = time.time()
    return [_row(job, now) for job in shown], len(everyone) - len(shown)


def jobs_text(jobs: WorkerJobs, width: int | None = None) -> str:
    """Return the jobs as a table for a terminal.

    Parameters
    ----------
    jobs : WorkerJobs
        The jobs.
    width : int, optional
        How many columns the terminal has; its own width if not given.
    """
    if not jobs:
        return "no worker jobs"
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows, more = _rows(jobs)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    # A machine's name and a reason may be long; the rest is never shortened.
    for place, column in enumerate(_COLUMNS):
        if place < 4 or any(row[place] for row in rows):
            table.add_column(column, no_wrap=place < 4, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for place, cell in enumerate(row) if place < 4 or any(r[place] for r in rows)))
    width = width or shutil.get_terminal_size((100, 24)).columns
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    if more:
        lines.append(f"… and {more} more")
    return "\n".join([*lines, jobs.summary()])


def jobs_html(jobs: WorkerJobs) -> str:
    """Return the jobs as a table for a notebook; whatever a job's ad holds, it stays text."""
    if not jobs:
        return "<p>no worker jobs</p>"
    rows, more = _rows(jobs)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align: left'>{html.escape(cell)}</td>" for cell in row) + "</tr>\n"
        for row in rows
    )
    head = "".join(f"<th style='text-align: left'>{column}</th>" for column in _COLUMNS)
    rest = f"<p>… and {more} more</p>" if more else ""
    return (
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"
        f"{rest}<p>{html.escape(jobs.summary())}</p>"
    )


def facts_html(rows: Iterable[tuple[str, object]]) -> str:
    """Return a table of names and values for a notebook; the values stay text."""
    body = "".join(f"<tr><th>{name}</th> <td>{html.escape(str(value))}</td></tr>" for name, value in rows)
    return f"<table style='text-align: right'>{body}</table>"
