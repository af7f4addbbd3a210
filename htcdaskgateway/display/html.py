"""A cluster in a notebook, as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from dask.utils import format_bytes

from .table import facts_html

ERROR = "<pre class='htcdaskgateway-error' style='color: #b00020; white-space: pre-wrap'>"
"""How the HTML of an error begins."""


def error_html(error: BaseException) -> str:
    """Return what went wrong, for a notebook."""
    return f"{ERROR}{html.escape(str(error) or type(error).__name__)}</pre>"


def status_html(workers: Iterable[Mapping[str, Any]], jobs: Mapping[str, int] | None) -> str:
    """Return the workers that have joined, as the scheduler describes them, and the number of jobs of each kind."""
    there = list(workers)
    text = facts_html(
        [
            ("Workers", len(there)),
            ("Threads", sum(worker["nthreads"] for worker in there)),
            ("Memory", format_bytes(sum(worker["memory_limit"] for worker in there))),
        ]
    )
    if jobs is not None:
        counts = facts_html((kind.capitalize(), count) for kind, count in jobs.items())
        text += f"<p style='margin: 6px 0 0 0'><b>HTCondor jobs</b></p>{counts}"
    return f"<div class='htcdaskgateway-status'>{text}</div>"


def held_html(findings: Iterable[str]) -> str:
    """Return why jobs are held and what to do about it."""
    style = (
        "margin: 6px 0 0 0; max-width: 100ch; line-height: normal; white-space: pre-wrap; overflow-wrap: anywhere"
    )
    return "".join(f"<p class='htcdaskgateway-held' style='{style}'>{html.escape(text)}</p>" for text in findings)


def links_html(name: str | None, dashboard: str | None) -> str:
    """Return a cluster's name and the address of its dashboard."""
    link = "Not Available"
    if dashboard is not None:
        address = html.escape(dashboard, quote=True)
        # An address has no space to break at.
        link = f"<a href='{address}' target='_blank' style='overflow-wrap: anywhere'>{address}</a>"
    return f"<p><b>Name: </b>{html.escape(str(name))}</p><p><b>Dashboard: </b>{link}</p>"


def cluster_html(links: str, workers: str, held: str, status: str) -> str:
    """Return a cluster's view where there are no widgets, of what the other functions here return."""
    return (
        "<div style='display: inline-block; padding: 10px; border: 1px solid #999999'>\n"
        f"<h3>HTCGatewayCluster</h3>\n{links}\n{workers}\n{held}\n"
        f"<p><b>Status: </b>{html.escape(status)}</p>\n</div>"
    )
