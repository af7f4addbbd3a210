"""Whether a worker only dials out, and what goes with its job then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

MODES = ("never", "auto", "always")
FILE = "worker_relay.py"
"""The preload, beside the job's other files."""


def mode(value: Any, name: str) -> str:
    """Check how workers reach each other."""
    if value not in MODES:
        raise ConfigError(f"{name}={value!r} is none of {', '.join(map(repr, MODES))}")
    return str(value)


def check(values: Mapping[str, Any]) -> None:
    """Refuse what does not work with a relay."""
    if values["relay"] != "never" and values["nanny"]:
        raise ConfigError(
            f"relay={values['relay']!r} and nanny=True exclude each other: a nanny listens at a port of its own. "
            "Pass relay='never' if that port is open; otherwise do without a nanny"
        )


def preload(how: str) -> str:
    """Return the text of the preload."""
    from ..remote.relay import source

    parts = ["wire", "worker", *(["auto"] if how == "auto" else [])]
    return f"{source(*parts)}\n\nPULSE_SOURCE = {source('pulse')!r}\n"
