"""A live table in the terminal: the jobs, and the tasks beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ..plain import counted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_COLOURS = {"running": "green", "starting": "cyan", "idle": "yellow", "held": "red", "suspended": "magenta"}
_ORDER = ("running", "starting", "idle", "suspended", "held")
"""The states in the bar; in the table the other way round, so that those that need a look come first."""
_BAR = 40
_AROUND = 9
"""How many lines there are beside the table's rows."""


class Row(NamedTuple):
    """One job: all texts."""

    job: str
    status: str
    since: str
    starts: str
    machine: str
    worker: str
    why: str


_TITLES = Row("Job", "Status", "For", "Starts", "Machine", "Worker", "Why")
_NARROW = (3, 4, 2, 5)
"""The places of the columns that go where the terminal is narrow, the first one first."""

_WHY = 20
"""How much room the reason of a hold needs."""


@dataclass
class View:
    """What is shown.

    Attributes
    ----------
    title : str
        The first line.
    counts : dict of str to int
        How many jobs are in each state.
    joined : int
        How many workers have joined.
    done, to_do, erred : int
        How many tasks there were and are.
    rows : list of Row
        The jobs.
    note : str
        What is wrong with all this.
    """

    title: str
    counts: dict[str, int]
    joined: int = 0
    done: int = 0
    to_do: int = 0
    erred: int = 0
    rows: Sequence[Row] = field(default_factory=list)
    note: str = ""


def render(view: View, rows: int, width: int) -> RenderableType:
    """Return the view for a terminal that is so wide, with so many rows at most."""
    from rich.console import Group
    from rich.text import Text

    asked = sum(view.counts.values())
    states = sorted(view.counts, key=lambda state: _ORDER.index(state) if state in _ORDER else len(_ORDER))
    words = [(f"{view.counts[state]} {state}", _COLOURS.get(state, "")) for state in states if view.counts[state]]
    jobs = Text(f"Jobs   {asked} asked for")
    for word, colour in words:
        jobs.append(": " if word == words[0][0] else ", ")
        jobs.append(word, style=colour)
    jobs.append(f"; {counted(view.joined, 'worker')} joined")
    lines: list[RenderableType] = [
        Text(view.title, style="bold"),
        _bar({state: view.counts[state] for state in states}, _COLOURS),
        jobs,
        _bar({"done": view.done, "erred": view.erred, "to do": view.to_do}, {"done": "green", "erred": "red"}),
        Text(f"Tasks  {view.done} done, {view.to_do} to do" + (f", {view.erred} failed" if view.erred else "")),
        Text(""),
    ]
    rank = {state: place for place, state in enumerate(reversed(_ORDER))}
    shown = sorted(view.rows, key=lambda row: rank.get(row.status, len(rank)))[: max(1, rows)]
    lines += _table(shown, width)
    if len(view.rows) > len(shown):
        lines.append(Text(f"… and {len(view.rows) - len(shown)} more"))
    if view.note:
        lines.append(Text(view.note, style="red"))
    return Group(*lines)


def _table(rows: Sequence[Row], width: int) -> list[RenderableType]:
    """Return one line a row: what is not needed in a narrow terminal goes, and the reason of a hold is cut."""
    from rich.text import Text

    if not rows:
        return []
    body = [_TITLES, *rows]
    widths = {place: max(len(row[place]) for row in body) for place in range(len(_TITLES) - 1)}
    widths = {place: most for place, most in widths.items() if any(row[place] for row in rows)}
    why = any(row.why for row in rows)
    for place in _NARROW:
        if sum(widths.values()) + 2 * len(widths) + (_WHY if why else 0) > width:
            widths.pop(place, None)
    lines: list[RenderableType] = []
    for row in body:
        line = Text(style="bold" if row is _TITLES else "")
        for place, most in widths.items():
            style = _COLOURS.get(row.status, "") if place == 1 and row is not _TITLES else ""
            line.append(row[place].ljust(most), style=style)
            line.append("  ")
        if why:
            line.append(row.why)
        line.rstrip()
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def _bar(counts: dict[str, int], colours: dict[str, str]) -> RenderableType:
    from rich.text import Text

    total = sum(counts.values())
    if not total:
        return Text("·" * _BAR, style="dim")
    bar, drawn, so_far = Text(), 0, 0
    for state, count in counts.items():
        so_far += count
        end = round(_BAR * so_far / total)
        bar.append("█" * (end - drawn), style=colours.get(state, "dim"))
        drawn = end
    return bar


def show(look: Callable[[], View], interval: float, console: Console | None = None) -> None:
    """Show what `look` returns until Ctrl-C; once, where the output is no terminal.

    Parameters
    ----------
    look : callable
        Called for each picture.
    interval : float
        How long a picture stays, in seconds.
    console : rich.console.Console, optional
        Where it is shown.
    """
    from rich.console import Console
    from rich.live import Live

    console = console or Console()
    if not console.is_terminal:
        console.print(render(look(), 10**6, 10**6), soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        try:
            while True:
                live.update(render(look(), console.height - _AROUND, console.width), refresh=True)
                time.sleep(interval)
        except KeyboardInterrupt:
            return
