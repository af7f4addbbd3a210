"""What the user configured: dask's configuration, the environment, and a `.env` file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dask.config
import yaml
from dask.utils import parse_timedelta

from .errors import ConfigError

_PREFIXES = ("DASK_HTCDASKGATEWAY__", "DASK_GATEWAY__")


def set_defaults() -> None:
    """Put this package's defaults beneath what the user's configuration says."""
    text = Path(__file__).with_name("htcdaskgateway.yaml").read_text(encoding="utf-8")
    dask.config.update_defaults(yaml.safe_load(text))


def get(key: str) -> Any:
    """Return the configured value of ``htcdaskgateway.<key>``."""
    return dask.config.get(f"htcdaskgateway.{key}")


def seconds(key: str) -> float:
    """Return the configured time of ``htcdaskgateway.<key>`` in seconds.

    Raises
    ------
    ConfigError
        The value is not a time of more than zero seconds.
    """
    return parse_seconds(get(key), f"htcdaskgateway.{key}")


def parse_seconds(value: Any, name: str, *, zero: bool = False) -> float:
    """Return `value`, a number of seconds or a text such as ``"60s"`` or ``"1d"``, in seconds.

    Raises
    ------
    ConfigError
        The value is not a time of more than zero seconds, or of zero where it may be; the message calls it `name`.
    """
    try:
        found = float(parse_timedelta(value, default="seconds"))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        found = -1.0
    if not 0 <= found < float("inf") or (found == 0 and not zero) or isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} is not a time; write 60, '60s', '5m', '2h' or '1d'")
    return found


def load_dotenv() -> None:
    """Read a ``.env`` file of the working directory or of one above it; the environment wins.

    Dask reads its ``DASK_…`` variables when it is imported, so those of the file are handed to it here.
    """
    import dotenv

    path = dotenv.find_dotenv(usecwd=True)
    if not path:
        return
    fresh = {
        name: value
        for name, value in dotenv.dotenv_values(path).items()
        if value is not None and name not in os.environ
    }
    os.environ.update(fresh)
    ours = {name: value for name, value in fresh.items() if name.startswith(_PREFIXES)}
    if ours:
        # As from the environment they win over files and defaults; what a program has set wins over them.
        beneath = dask.config.merge(*dask.config.defaults, *dask.config.collect_yaml(dask.config.paths))
        dask.config.update(
            dask.config.config, dask.config.collect_env(ours), priority="new-defaults", defaults=beneath
        )
