"""Whether a worker only dials out, and what goes with its job then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

MODES = ("never", "auto", "always")


def mode(value: Any, name: str) -> str:
    """Check how workers reach each other."""
    if value not in MODES:
        raise ConfigError(f"{name}={value!r} is none of {', '.join(map(repr, MODES))}")
    return str(value)


def check(values: Mapping[str, Any]) -> None:
    """Refuse a nanny, which listens at a port of its own, beside workers whose ports nobody may use."""
    if values["relay"] == "always" and values["nanny"]:
        raise ConfigError(
            "relay='always' and nanny=True exclude each other: a nanny listens at a port of its own. "
            "Pass relay='never' if that port is open; otherwise do without a nanny"
        )


def preload(how: str) -> str:
    """Return what ``worker_preload.py`` ends with: in that file, a site's own template sends it, too."""
    from ..remote.relay import source, worker_source

    text = f"{worker_source(how)}\n\nPULSE_SOURCE = {source('pulse')!r}\n"
    return f"\nRELAY = {text!r}\n"
