"""What the user sees: jobs as a table, and a cluster in a notebook, as text and as HTML."""

from __future__ import annotations

import html
import io
import shutil
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from .jobs import JobStatus, WorkerJob, WorkerJobs

if TYPE_CHECKING:
    from .cluster import HTCGatewayCluster

_COLUMNS = ("Job", "Status", "For", "Starts", "Machine", "Why")
_ROWS = 60
"""How many jobs a table shows; of more, those that need a look come first."""

_COUNTED = (JobStatus.IDLE, JobStatus.RUNNING, JobStatus.HELD)
ERROR = "<pre class='htcdaskgateway-error' style='color: #b00020; white-space: pre-wrap'>"
"""How the HTML of an error begins."""

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


def error_html(error: BaseException) -> str:
    """Return what went wrong, for a notebook."""
    return f"{ERROR}{html.escape(str(error) or type(error).__name__)}</pre>"


def status_html(cluster: HTCGatewayCluster) -> str:
    """Return the workers that have joined and the jobs as they were last seen; nobody is asked."""
    workers = cluster.scheduler_info.get("workers", {}).values()
    rows: list[tuple[str, object]] = [
        ("Workers", len(workers)),
        ("Threads", sum(worker["nthreads"] for worker in workers)),
        ("Memory", format_bytes(sum(worker["memory_limit"] for worker in workers))),
    ]
    text = _table(rows)
    seen = cluster.seen
    if seen is not None:
        counted = [*_COUNTED, *([JobStatus.UNMATERIALIZED] if seen.having(JobStatus.UNMATERIALIZED) else [])]
        counts = [(status.name.capitalize(), len(seen.having(status))) for status in counted]
        text += f"<p style='margin: 6px 0 0 0'><b>HTCondor jobs</b></p>{_table(counts)}"
    return f"<div class='htcdaskgateway-status'>{text}</div>"


def held_html(cluster: HTCGatewayCluster) -> str:
    """Return why jobs are held and what to do about it, in the words of `explain`; nobody is asked."""
    from .explain import held

    texts = [html.escape(str(finding)) for finding in held(cluster.seen or WorkerJobs(), cluster.spec)]
    style = (
        "margin: 6px 0 0 0; max-width: 100ch; line-height: normal; white-space: pre-wrap; overflow-wrap: anywhere"
    )
    return "".join(f"<p class='htcdaskgateway-held' style='{style}'>{text}</p>" for text in texts)


def cluster_links(cluster: HTCGatewayCluster) -> str:
    """Return a cluster's name and the address of its dashboard."""
    text = f"<p><b>Name: </b>{html.escape(str(cluster.name))}</p>"
    dashboard = "Not Available"
    if cluster.dashboard_link is not None:
        link = html.escape(cluster.dashboard_link, quote=True)
        # An address has no space to break at.
        dashboard = f"<a href='{link}' target='_blank' style='overflow-wrap: anywhere'>{link}</a>"
    return f"{text}<p><b>Dashboard: </b>{dashboard}</p>"


def cluster_html(cluster: HTCGatewayCluster) -> str:
    """Return a cluster's view where there are no widgets."""
    return (
        "<div style='display: inline-block; padding: 10px; border: 1px solid #999999'>\n"
        f"<h3>HTCGatewayCluster</h3>\n{cluster_links(cluster)}\n{status_html(cluster)}\n"
        f"{held_html(cluster)}\n"
        f"<p><b>Status: </b>{html.escape(str(cluster.status))}</p>\n</div>"
    )


def _table(rows: Iterable[tuple[str, object]]) -> str:
    body = "".join(f"<tr><th>{name}</th> <td>{html.escape(str(value))}</td></tr>" for name, value in rows)
    return f"<table style='text-align: right'>{body}</table>"
