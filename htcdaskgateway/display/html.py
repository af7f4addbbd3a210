"""A cluster in a notebook, as HTML; its colours are the notebook's own."""

from __future__ import annotations

import html
from collections.abc import Iterable

from dask.utils import format_bytes

from ..plain import counted
from .overview import Overview

ERROR = (
    "<pre class='htcdaskgateway-error' style='background: none; "
    "color: "
    "var(--jp-error-color1, var(--vscode-errorForeground, #d9534f)); white-space: pre-wrap; "
    "word-break: normal; overflow-wrap: anywhere; line-height: normal'>"
)
"""How the HTML of an error begins."""

_TEXT = "color: var(--jp-ui-font-color1, var(--vscode-foreground, inherit)); line-height: 1.5"
_LINE = "var(--jp-border-color2, var(--vscode-panel-border, rgba(128, 128, 128, 0.5)))"
_LINK = "color: var(--jp-content-link-color, var(--vscode-textLink-foreground, #1976d2)); overflow-wrap: anywhere"
# Told apart by those who see colours otherwise, too, on light and on dark.
_COLOURS = {"asked": "transparent", "idle": "#e5b93c", "running": "#6aaee0", "joined": "#1b8a62", "held": "#d9534f"}


def error_html(error: BaseException) -> str:
    """Return what went wrong, for a notebook."""
    return f"{ERROR}{html.escape(str(error) or type(error).__name__)}</pre>"


def pre_html(text: str, *, wrap: bool = True) -> str:
    """Return a text that is shown as it is, in lines that wrap between words; `wrap`: false for a table."""
    # JupyterLab's own style of a <pre> breaks words anywhere.
    lines = "white-space: pre-wrap; overflow-wrap: anywhere" if wrap else "white-space: pre; overflow-x: auto"
    style = f"{_TEXT}; {lines}; word-break: normal; margin: 4px 0"
    return f"<pre style='{style}'>{html.escape(text)}</pre>"


def status_html(seen: Overview) -> str:
    """Return how far a cluster is, and the bar of its jobs."""
    sentence = f"<div style='font-size: 115%; font-weight: 600'>{html.escape(seen.sentence())}</div>"
    bar = _bar(seen) if seen.open else ""
    return f"<div class='htcdaskgateway-status' style='{_TEXT}; width: 100%'>{sentence}{bar}</div>"


def _bar(seen: Overview) -> str:
    parts = {
        "joined": seen.joined_jobs,
        "running": max(0, seen.running - seen.joined_jobs),
        "idle": seen.idle,
        "held": seen.held,
    }
    parts["asked"] = max(0, seen.asked - sum(parts.values()))
    pieces = "".join(
        f"<div title='{count} {name}' style='flex: {count} 1 0; background: {_COLOURS[name]}'></div>"
        for name, count in parts.items()
        if count
    )
    bar = (
        "<div style='display: flex; height: 14px; margin: 6px 0; border-radius: 3px; overflow: hidden; "
        f"border: 1px solid {_LINE}'>{pieces}</div>"
    )
    counts = {
        "asked": seen.asked,
        "idle": seen.idle,
        "running": seen.running,
        "held": seen.held,
        "joined": seen.joined_jobs,
    }
    keys = "".join(
        "<span style='white-space: nowrap; margin-right: 16px'><span style='display: inline-block; width: 10px; "
        f"height: 10px; margin-right: 5px; border: 1px solid {_LINE}; background: {_COLOURS[name]}'></span>"
        f"{name.capitalize()} <b>{count}</b></span> "
        for name, count in counts.items()
    )
    workers, threads = counted(seen.joined + seen.others, "worker"), counted(seen.threads, "thread")
    size = f"{workers}, {threads}, {format_bytes(seen.memory)}"
    return f"{bar}<div>{keys}</div><div style='opacity: 0.75'>{size}</div>"


def held_html(findings: Iterable[str]) -> str:
    """Return why jobs are held and what to do about it."""
    style = (
        f"{_TEXT}; margin: 6px 0 0 0; padding: 4px 10px; border-left: 4px solid {_COLOURS['held']}; "
        "white-space: pre-wrap; overflow-wrap: anywhere"
    )
    return "".join(f"<p class='htcdaskgateway-held' style='{style}'>{html.escape(text)}</p>" for text in findings)


def links_html(name: str | None, dashboard: str | None) -> str:
    """Return a cluster's name and the address of its dashboard."""
    link = "Not Available"
    if dashboard is not None:
        address = html.escape(dashboard, quote=True)
        link = f"<a href='{address}' target='_blank' style='{_LINK}'>{address}</a>"
    title = f"<b style='font-size: 125%'>HTCGatewayCluster</b> <span>{html.escape(str(name))}</span>"
    return (
        f"<div style='{_TEXT}; overflow-wrap: anywhere'><div>{title}</div><div><b>Dashboard: </b>{link}</div></div>"
    )


def jobs_html(table: str) -> str:
    """Return the table of jobs, which wraps where there is little room."""
    return f"<div style='{_TEXT}; width: 100%'>{table}</div>"


def cluster_html(links: str, seen: Overview) -> str:
    """Return a cluster's view where there are no widgets."""
    jobs = f"<details><summary>Jobs</summary>{jobs_html(seen.jobs_html)}</details>" if seen.open else ""
    more = "<code>cluster.logs()</code> shows what the workers wrote, <code>cluster.explain()</code> why jobs wait."
    return (
        f"<div style='{_TEXT}; box-sizing: border-box; width: 100%; padding: 10px; border: 1px solid {_LINE}'>\n"
        f"{links}\n{status_html(seen)}\n{held_html(seen.holds)}\n{jobs}\n"
        f"{f'<div>{more}</div>' if seen.open else ''}</div>"
    )
