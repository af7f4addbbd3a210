"""Words as they are shown: what others have written, without what would steer a terminal, and counted things."""

from __future__ import annotations

import re

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Return `text` without what would steer a terminal: escape sequences and control characters."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def printable(text: str) -> str:
    """Return `text` on one line, what cannot be printed as a space; jobs and machines word it, not we."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def counted(number: float, thing: str) -> str:
    """Return how many of a thing there are: "1 worker", "2 workers"."""
    return f"{number:g} {thing}" if number == 1 else f"{number:g} {thing}s"
