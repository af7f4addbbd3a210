"""A line of progress, in a terminal or in a notebook; none where nobody looks."""

from __future__ import annotations

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterator
from threading import Lock

Show = Callable[[int, str], None]
"""Shows how many have come, and a text beside that."""


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Show]:
    """Give a function that shows how many of `total` have come, while the block runs."""
    if _in_notebook():
        yield _notebook(title, total)
    elif sys.stderr.isatty():
        with _terminal(title, total) as show:
            yield show
    else:
        yield lambda done, note: None


def in_mebibytes(show: Show) -> Callable[[int], None]:
    """Return what is told of each part that has come, in bytes, by any thread; every 8 MiB it shows the sum."""
    done, one_at_a_time = 0, Lock()

    def come(size: int) -> None:
        nonlocal done
        with one_at_a_time:
            before, done = done, done + size
            if done >> 23 != before >> 23:
                show(done // 2**20, "MiB")

    return come


def tell(line: str) -> None:
    """Show a line where progress is shown."""
    if _in_notebook():
        from IPython.display import display

        display({"text/plain": line, "text/html": f"<div>{html.escape(line)}</div>"}, raw=True)
    elif sys.stderr.isatty():
        from rich.console import Console

        Console(stderr=True).print(line, markup=False, highlight=False)


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


@contextlib.contextmanager
def _terminal(title: str, total: int) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    note = TextColumn("{task.fields[note]}", markup=False)
    columns = (TextColumn(title), BarColumn(20), MofNCompleteColumn(), note, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda done, note: bar.update(task, completed=done, note=note)


def _notebook(title: str, total: int) -> Show:
    from IPython.display import display

    started = time.monotonic()

    def rendered(done: int, note: str) -> dict[str, str]:
        text = f"{title} {done}/{total}  {note}  {time.monotonic() - started:.0f} s"
        bar = f"<progress value='{done}' max='{total}'></progress>"
        return {"text/plain": text, "text/html": f"<div>{bar} {html.escape(text)}</div>"}

    handle = display(rendered(0, ""), raw=True, display_id=True)
    return lambda done, note: handle.update(rendered(done, note), raw=True)
