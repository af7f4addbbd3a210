"""A cluster in a notebook, as HTML."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from ..condor.jobs import JobStatus, WorkerJobs
from .table import facts_html

if TYPE_CHECKING:
    from ..client.cluster import HTCGatewayCluster

_COUNTED = (JobStatus.IDLE, JobStatus.RUNNING, JobStatus.HELD)
ERROR = "<pre class='htcdaskgateway-error' style='color: #b00020; white-space: pre-wrap'>"
"""How the HTML of an error begins."""


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
    text = facts_html(rows)
    seen = cluster.seen
    if seen is not None:
        counted = [*_COUNTED, *([JobStatus.UNMATERIALIZED] if seen.having(JobStatus.UNMATERIALIZED) else [])]
        counts = [(status.name.capitalize(), len(seen.having(status))) for status in counted]
        text += f"<p style='margin: 6px 0 0 0'><b>HTCondor jobs</b></p>{facts_html(counts)}"
    return f"<div class='htcdaskgateway-status'>{text}</div>"


def held_html(cluster: HTCGatewayCluster) -> str:
    """Return why jobs are held and what to do about it, in the words of `explain`; nobody is asked."""
    from ..fleet.explain import held

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
