"""What the documentation shows of the figures: the tables, and one chart."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from .pairs import HEADER, Fact, Row

DOCS = Path(__file__).parents[2] / "docs"
FIGURES = DOCS / "benchmarks.json"

# The measurements of each page, in its order.
MEASURES = (
    *("submit", "ready", "worker_start", "restart", "computing", "shutdown", "looking", "adaptive", "importing"),
    "packages",
)
LIMITS = "jobs", "materialization", "connections", "workers", "files"
ALONE = ("relay",)
PAGES = {
    "benchmarks.md": ("Speed: every figure", MEASURES),
    "limits.md": ("The next limits: every figure", LIMITS),
    "relay.md": ("What a relay costs: every figure", ALONE),
}

# The bars of the chart: measurement, row, peer, and what a reader calls them.
BARS = [
    ("submit", "first scale(100)", "ncsa-htcdaskgateway 1.0.4", "Ask for 100 workers, beside version 1.0.4"),
    ("submit", "first scale(100)", "dask-jobqueue", "Ask for 100 workers, beside dask-jobqueue"),
    ("submit", "first scale(100)", "bare", "Ask for 100 workers, beside condor_submit"),
    ("ready", "4 worker(s) ready", "dask-jobqueue (no TLS)", "Until 4 workers are ready, beside dask-jobqueue"),
    ("ready", "4 worker(s) ready", "bare", "Until 4 workers are ready, beside condor_submit"),
    ("computing", "an SVD in blocks, on 2 threads", "dask-jobqueue", "An SVD in blocks, beside dask-jobqueue"),
    ("shutdown", "shutdown, 8 running, 0 waiting", "bare condor_rm", "Shutdown of 8 workers, beside condor_rm"),
]


def markdown(cells: list[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def rendered(known: dict[str, Any]) -> dict[Path, str]:
    """Return the files that the documentation shows, from the figures of all measurements."""
    files = {DOCS / "images" / "speed.svg": chart(known)}
    for name, (title, measures) in PAGES.items():
        tables = [table(measure, known[measure]) for measure in measures if measure in known]
        about = "`scripts/bench` makes this page. [Speed](../benchmarks.md) explains it."
        files[DOCS / "_generated" / name] = "\n".join([f"# {title}\n", about + "\n", *tables])
    return files


def table(name: str, figures: dict[str, Any]) -> str:
    """Return the table of one measurement."""
    rows = [dict(row) for row in figures["results"]]
    cells = []
    for row in rows:
        kind = Row if "ratio" in row else Fact
        known = {field.name: row[field.name] for field in dataclasses.fields(kind) if field.init}
        what, against, *numbers = kind(**known).cells()
        cells.append([what, against, *(number.replace(" ", "\u00a0") for number in numbers)])
    used = [index for index in range(len(HEADER)) if any(line[index] not in ("", "-") for line in cells)]
    header = HEADER if "ratio" in rows[0] else ["what", "", "figure", "", "", "goal", "verdict"]
    lines = [markdown([line[index] for index in used]) for line in (header, ["---"] * len(HEADER), *cells)]
    load = " and ".join(f"{value:.1f}" for value in figures["load"])
    about = f"{figures['date']}, commit {figures['commit']}; load of the machine before and after: {load}."
    return f"## {name.replace('_', ' ')}\n\n{about}\n\n" + "\n".join(lines) + "\n"


def chart(known: dict[str, Any]) -> str:
    """Return an SVG picture: for each bar the ratio to the other way, and its 95 % interval."""
    left, right, width, top, line = 20, 440, 540, 76, 50
    found = [(text, row) for name, what, peer, text in BARS if (row := _row(known, name, what, peer))]
    bottom = top + line * len(found)

    def x(ratio: float) -> float:
        low, high = math.log(1 / 32), math.log(2)
        return round(left + (right - left) * (min(max(math.log(ratio), low), high) - low) / (high - low), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom}" width="{width}" height="{bottom}"'
        ' role="img" font-family="Helvetica, Arial, sans-serif" font-size="16">',
        "<title>How much time this library takes beside another way; below 1 is less</title>",
        f'<rect width="{width}" height="{bottom}" rx="10" fill="#ffffff"/>',
        f'<text x="{x(1) - 8}" y="24" text-anchor="end" fill="#475569">less time than the other way</text>',
        f'<text x="{x(1) + 8}" y="24" fill="#475569">more time</text>',
    ]
    for power in range(-5, 1):
        colour, label = ("#334155", "1") if power == 0 else ("#e2e8f0", f"1/{2**-power}")
        parts.append(f'<path d="M{x(2**power)} {top - 24}V{bottom - 12}" stroke="{colour}"/>')
        parts.append(f'<text x="{x(2**power)}" y="{top - 30}" text-anchor="middle" fill="#475569">{label}</text>')
    for index, (text, row) in enumerate(found):
        y = top + line * index
        parts.append(f'<text x="{left}" y="{y}" fill="#0f172a">{escape(text)}</text>')
        parts.append(f'<path d="M{x(row.low)} {y + 16}H{x(row.high)}" stroke="#60a5fa" stroke-width="8"/>')
        parts.append(f'<circle cx="{x(row.ratio)}" cy="{y + 16}" r="6" fill="#1d4ed8"/>')
        parts.append(f'<text x="{width - 20}" y="{y + 21}" text-anchor="end" fill="#0f172a">{row.ratio:.2f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(known: dict[str, Any], name: str, what: str, peer: str) -> Row | None:
    for row in known.get(name, {}).get("results", []):
        if (row["what"], row.get("against")) == (what, peer):
            return Row(**{field.name: row[field.name] for field in dataclasses.fields(Row) if field.init})
    return None


def write(output: Path, name: str, figures: dict[str, Any]) -> None:
    """Put the figures of one measurement into the file beside the others, and into the documentation."""
    known = {**(json.loads(output.read_text()) if output.exists() else {}), name: figures}
    output.write_text(json.dumps(known, indent=1) + "\n")
    if output == FIGURES:
        for path, text in rendered(known).items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
