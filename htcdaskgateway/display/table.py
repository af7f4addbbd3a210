"""Rows as a table, in text and in HTML."""

from __future__ import annotations

import html
import io
import shutil
from collections.abc import Iterable
from typing import NamedTuple


class Table(NamedTuple):
    """What a table shows.

    Attributes
    ----------
    columns : tuple of str
        Their names.
    rows : list of tuple of str
        The cells.
    whole : int
        How many columns, from the left, are always there and never folded.
    more : int
        How many rows are left out.
    summary : str
        What is said below.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    whole: int
    more: int
    summary: str


def duration(seconds: float) -> str:
    """Return a time in its two largest units, such as ``3 min 20 s``."""
    left = max(0, round(seconds))
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def table_text(table: Table, width: int | None = None) -> str:
    """Return a table for a terminal; `width`: how many columns that has, its own if not given."""
    from rich import table as rich_table
    from rich.console import Console
    from rich.text import Text

    shown = rich_table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    there = [place < table.whole or any(row[place] for row in table.rows) for place in range(len(table.columns))]
    for place, column in enumerate(table.columns):
        if there[place]:
            shown.add_column(column, no_wrap=place < table.whole, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell, wanted in zip(row, there, strict=True) if wanted))
    width = width or shutil.get_terminal_size((100, 24)).columns
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(shown)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    if table.more:
        lines.append(f"… and {table.more} more")
    return "\n".join([*lines, table.summary])


def table_html(table: Table) -> str:
    """Return a table for a notebook; whatever a cell holds, it stays text."""
    # Where there is little room, a machine's name and a reason wrap, and a number does not.
    styles = [
        "text-align: left; padding: 3px 5px; "
        + ("white-space: nowrap" if place < table.whole else "overflow-wrap: anywhere; min-width: 3em")
        for place in range(len(table.columns))
    ]

    def line(tag: str, cells: Iterable[str]) -> str:
        return "".join(
            f"<{tag} style='{style}'>{html.escape(cell)}</{tag}>" for style, cell in zip(styles, cells, strict=True)
        )

    head = line("th", table.columns)
    body = "".join(f"<tr>{line('td', row)}</tr>\n" for row in table.rows)
    rest = f"<p>… and {table.more} more</p>" if table.more else ""
    return (
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"
        f"{rest}<p>{html.escape(table.summary)}</p>"
    )
