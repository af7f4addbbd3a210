"""What is configured, and who said so."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import dask.config
import dotenv

from ..setup_condor.verdict import Verdict
from ..sites import profile

_TOPS = ("gateway", "htcdaskgateway")
_HIDDEN = ("gateway.auth.kwargs", "htcdaskgateway.worker.environment", "gateway.http-client.proxy")
"""What may hold a secret: its value is not shown."""

_DEFAULT = "a default"


def site(problem: str = "") -> Verdict:
    """Return the verdict on the site that is chosen; `problem` is why its profile is not in force."""
    name = dask.config.get(profile.KEY, None)
    if problem:
        return Verdict("site", False, problem, "`htcdaskgateway sites` lists the names")
    return Verdict("site", True, f"{name if name else 'none'}, from {origin(profile.KEY)}")


def settings() -> Iterator[Verdict]:
    """Yield a line for each value that is not the package's or dask-gateway's own."""
    for key in _keys(dask.config.config):
        where = origin(key)
        if key != profile.KEY and where != _DEFAULT:
            value = "(not shown)" if key.startswith(_HIDDEN) else repr(dask.config.get(key))
            yield Verdict("setting", True, f"{key} = {value}, from {where}")


def origin(key: str) -> str:
    """Return in words who has said what a key is: the environment, a file, the site, or nobody."""
    value = dask.config.get(key, None)
    file = dotenv.find_dotenv(usecwd=True)
    lying = dotenv.dotenv_values(file) if file else {}
    for name, text in sorted(os.environ.items()):
        if name.startswith("DASK_") and _has(dask.config.collect_env({name: text}), key):
            return f"{name} in {file}" if lying.get(name) == text else f"the environment's {name}"
    found = ""
    for path, values in dask.config.collect_yaml(dask.config.paths, return_paths=True):
        if _has(values, key):
            found = str(path)
    if found:
        return found
    chosen = profile.in_force()
    if chosen is not None and _has(chosen, key) and dask.config.get(key, None, config=chosen) == value:
        return f"the profile of {chosen.site}"
    return _DEFAULT if value == dask.config.get(key, None, config=profile.beneath()) else "this program"


def _has(values: Mapping[str, Any], key: str) -> bool:
    missing = object()
    return dask.config.get(key, missing, config=values) is not missing


def _keys(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in sorted(values.items()):
        name = f"{above}{key}".replace("_", "-")
        if name.partition(".")[0] not in _TOPS:
            continue
        if isinstance(value, Mapping) and value and not name.endswith(("kwargs", "environment", "directives")):
            yield from _keys(value, f"{name}.")
        else:
            yield name
