"""Warnings of which a person sees the words, and no line of this package."""

from __future__ import annotations

import warnings
from typing import Any

_shown: dict[Any, Any] = {}
"""What Python keeps lest it shows the same warning twice."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn; most warnings come from the event loop, where no frame is the user's that ``stacklevel`` could find."""
    warnings.warn_explicit(message, category, "htcdaskgateway", 1, "htcdaskgateway", _shown)
