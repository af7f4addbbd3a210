"""A table of text for the terminal."""

from __future__ import annotations

import io
from collections.abc import Container, Sequence

MOST = 60
"""How many rows a table shows."""


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    total: Sequence[str] | None = None,
    *,
    numbers: Container[int] = (),
    most: int = MOST,
) -> str:
    """Return a table; a column that is empty everywhere is left out.

    Parameters
    ----------
    columns : sequence of str
        The titles.
    rows : sequence of sequence of str
        The cells.
    total : sequence of str, optional
        The last row.
    numbers : container of int
        The places of columns that are set to the right.
    most : int
        How many rows are shown.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    body = [*rows[:most], *([total] if total else [])]
    places = [place for place in range(len(columns)) if any(row[place] for row in body)]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place in places:
        made.add_column(columns[place], no_wrap=True, justify="right" if place in numbers else "left")
    for row in rows[:most]:
        made.add_row(*(Text(row[place]) for place in places))
    if len(rows) > most:
        made.add_row(Text(f"… and {len(rows) - most} more"))
    if total:
        made.add_row(*(Text(total[place]) for place in places))
    # As wide as it is: who looks at numbers does not want them wrapped.
    console = Console(file=io.StringIO(), width=500, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(made)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
