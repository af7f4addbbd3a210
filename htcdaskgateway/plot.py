"""A plot of counts over time, drawn by Bokeh or matplotlib, whichever is there."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from typing import Any, NamedTuple

from .errors import ConfigError

# Told apart by those who see colours otherwise, too.
_COLOURS = {
    "running": "#88bde6",
    "idle": "#f4cf6a",
    "held": "#d9534f",
    "asked": "#444444",
    "joined": "#0b6e4f",
}
_MARKS = {
    "evicted": ("v", "inverted_triangle", "#b8500b"),
    "held": ("X", "x", "#a51c1c"),
    "restarted": ("^", "triangle", "#1f5fa8"),
}
_OTHER = ("o", "circle", "#666666")


class Mark(NamedTuple):
    """A point in the plot: when, how high, of what kind, and what it says."""

    time: float
    height: float
    kind: str
    text: str


@dataclass(frozen=True)
class Plot:
    """What is drawn.

    Attributes
    ----------
    title, caption : str
        The texts above and below.
    times : sequence of float
        When the counts change, in seconds since the epoch.
    areas : mapping of str to sequence of int
        Counts that are stacked.
    lines : mapping of str to sequence of int
        Counts that are lines.
    marks : sequence of Mark
        What happened between.
    """

    title: str
    caption: str
    times: Sequence[float]
    areas: Mapping[str, Sequence[int]]
    lines: Mapping[str, Sequence[int]]
    marks: Sequence[Mark]


def render(plot: Plot, suffix: str) -> bytes:
    """Return the plot as the content of a file whose name ends in `suffix`.

    Raises
    ------
    ConfigError
        The suffix is another, or what draws it is not installed.
    """
    if suffix == ".html":
        return _page(plot).encode()
    if suffix in (".png", ".svg"):
        if not _there("matplotlib"):
            raise ConfigError(f"a {suffix} file is drawn by matplotlib, which is not installed; save it as .html")
        return _drawn(plot, suffix[1:])
    raise ConfigError(f"{suffix!r} is no kind of file that a plot can be saved as; use .html, .png or .svg")


def notebook_html(plot: Plot) -> str:
    """Return the plot for a notebook; nothing where neither library is there."""
    if _there("matplotlib"):
        picture = _drawn(plot, "svg").decode()
        return picture[picture.index("<svg") :]
    if _there("bokeh"):
        page = html.escape(_page(plot), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 420px; border: 0"></iframe>'
    return ""


def _there(library: str) -> bool:
    return find_spec(library) is not None


def _page(plot: Plot) -> str:
    """Return a page of its own, which needs no network."""
    if _there("bokeh"):
        return _bokeh_page(plot)
    if not _there("matplotlib"):
        raise ConfigError("a plot is drawn by Bokeh or matplotlib, and neither is installed")
    picture = _drawn(plot, "svg").decode()
    title, caption = html.escape(plot.title), html.escape(plot.caption)
    return (
        f"<!doctype html>\n<html lang='en'>\n<head><meta charset='utf-8'><title>{title}</title></head>\n<body>"
        f"{picture[picture.index('<svg') :]}\n<pre style='white-space: pre-wrap'>{caption}</pre></body>\n</html>\n"
    )


def _steps(plot: Plot) -> tuple[list[Any], dict[str, list[int]]]:
    """Return the times and counts with a corner at each change, in local time, as plots take it."""
    times: list[Any] = []
    names = {**plot.areas, **plot.lines}
    counts: dict[str, list[int]] = {name: [] for name in names}
    for place, time in enumerate(plot.times):
        if place:
            times.append(datetime.fromtimestamp(time))
            for name, values in names.items():
                counts[name].append(values[place - 1])
        times.append(datetime.fromtimestamp(time))
        for name, values in names.items():
            counts[name].append(values[place])
    return times, counts


def _drawn(plot: Plot, kind: str) -> bytes:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    times, counts = _steps(plot)
    # No pyplot: a program's own figures are not touched.
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    if plot.times:
        colours = [_COLOURS.get(name, "#999999") for name in plot.areas]
        stacks = [counts[name] for name in plot.areas]
        axes.stackplot(times, *stacks, labels=list(plot.areas), colors=colours, alpha=0.85)
        for name in plot.lines:
            style = "--" if name == "asked" else "-"
            axes.plot(times, counts[name], style, color=_COLOURS.get(name, "#000000"), label=name, linewidth=1.8)
    for mark_kind in dict.fromkeys(mark.kind for mark in plot.marks):
        own = [mark for mark in plot.marks if mark.kind == mark_kind]
        shape, _, colour = _MARKS.get(mark_kind, _OTHER)
        when: list[Any] = [datetime.fromtimestamp(mark.time) for mark in own]
        axes.scatter(
            when,
            [mark.height for mark in own],
            marker=shape,
            color=colour,
            edgecolors="white",
            s=70,
            zorder=5,
            label=f"{mark_kind} ({len(own)})",
            clip_on=False,
        )
    locator = AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.set_ylabel("jobs, workers")
    axes.set_title(plot.title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if plot.times:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=130)
    return buffer.getvalue()


def _bokeh_page(plot: Plot) -> str:
    from bokeh.embed import file_html
    from bokeh.layouts import column
    from bokeh.models import AdaptiveTicker, ColumnDataSource, Div, HoverTool
    from bokeh.plotting import figure
    from bokeh.resources import INLINE

    times, counts = _steps(plot)
    shown: Any = figure(
        title=plot.title,
        x_axis_type="datetime",
        height=380,
        sizing_mode="stretch_width",
        y_axis_label="jobs, workers",
        tools="xpan,xwheel_zoom,box_zoom,reset,save",
    )
    shown.y_range.start = 0
    shown.yaxis.ticker = AdaptiveTicker(min_interval=1, num_minor_ticks=0, mantissas=[1, 2, 5])
    source = ColumnDataSource({"time": times, **counts})
    areas = list(plot.areas)
    shown.varea_stack(
        areas,
        x="time",
        source=source,
        color=[_COLOURS.get(name, "#999999") for name in areas],
        alpha=0.85,
        legend_label=areas,
    )
    drawn = []
    for name in plot.lines:
        dash = "dashed" if name == "asked" else "solid"
        colour = _COLOURS.get(name, "#000000")
        drawn.append(
            shown.line("time", name, source=source, color=colour, line_width=2, line_dash=dash, legend_label=name)
        )
    tips = [(name, f"@{name}") for name in (*plot.lines, *plot.areas)]
    shown.add_tools(
        HoverTool(
            renderers=drawn[:1],
            tooltips=[("time", "@time{%F %T}"), *tips],
            formatters={"@time": "datetime"},
            mode="vline",
        )
    )
    for mark_kind in dict.fromkeys(mark.kind for mark in plot.marks):
        own = [mark for mark in plot.marks if mark.kind == mark_kind]
        _, shape, colour = _MARKS.get(mark_kind, _OTHER)
        data = {
            "time": [datetime.fromtimestamp(mark.time) for mark in own],
            "height": [mark.height for mark in own],
            "text": [mark.text for mark in own],
        }
        points = shown.scatter(
            "time",
            "height",
            source=ColumnDataSource(data),
            marker=shape,
            size=11,
            color=colour,
            line_color=colour,
            line_width=2,
            legend_label=f"{mark_kind} ({len(own)})",
        )
        told = [("", "@text"), ("time", "@time{%F %T}")]
        shown.add_tools(HoverTool(renderers=[points], tooltips=told, formatters={"@time": "datetime"}))
    shown.add_layout(shown.legend[0], "right")
    caption = Div(text=f"<pre style='white-space: pre-wrap'>{html.escape(plot.caption)}</pre>")
    page: str = file_html(column(shown, caption, sizing_mode="stretch_width"), INLINE, plot.title)
    return page
