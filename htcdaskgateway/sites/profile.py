"""A site's profile: above the package's defaults, beneath each YAML file, the environment and `dask.config.set`."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import dask.config
import yaml

from ..errors import ConfigError

KEY = "htcdaskgateway.site"
_NONE = (None, "", "null", "none", "None")
_MISSING = object()

# Ten times as quick where PyYAML was built with libyaml, as its wheels are.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Profile(dict[str, Any]):
    """The configuration of one site, as it stands among dask's defaults.

    Attributes
    ----------
    site : str or None
        The name or the path that was configured.
    complete : bool
        Whether dask-gateway's own defaults were there already when this was put in force.
    """

    def __init__(self, site: str | None, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.site = site
        self.complete = "dask_gateway" in sys.modules


def names() -> list[str]:
    """Return the names of the sites whose profiles come with this package."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("htcdaskgateway.sites").iterdir()
        if entry.name.endswith(".yaml")
    )


def is_path(site: str) -> bool:
    """Tell whether a site is named by the path of its file."""
    return "/" in site or site.startswith("~") or site.endswith((".yaml", ".yml"))


def text(site: str) -> str:
    """Return the text of a site's profile; `site` is a name or a path.

    Raises
    ------
    ConfigError
        There is no such site, or its file cannot be read.
    """
    if is_path(site):
        path = Path(site).expanduser()
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{KEY}={site!r} cannot be read: {getattr(error, 'strerror', error)}") from error
    if site not in names():
        raise ConfigError(f"{KEY}={site!r} is none of {', '.join(names())}, nor the path of a file, nor null")
    return resources.files("htcdaskgateway.sites").joinpath(f"{site}.yaml").read_text(encoding="utf-8")


def read(site: str) -> dict[str, Any]:
    """Return the configuration that a site's profile has."""
    try:
        values = yaml.load(text(site), Loader)  # noqa: S506 - it is a safe one
    except yaml.YAMLError as error:
        raise ConfigError(f"{KEY}={site!r} is no YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(one, dict) for one in values.values()):
        raise ConfigError(f"{KEY}={site!r} is no dask configuration: htcdaskgateway: and below it the keys")
    if "site" in values.get("htcdaskgateway", {}):
        raise ConfigError(f"{KEY}={site!r} names a site itself; take that key out of it")
    return values


def in_force() -> Profile | None:
    """Return the profile that is in force."""
    return next((entry for entry in dask.config.defaults if isinstance(entry, Profile)), None)


def beneath() -> dict[str, Any]:
    """Return what is configured where no user has said anything: the defaults of all packages, and the site's."""
    merged: dict[str, Any] = dask.config.merge(*_defaults(), in_force() or {})
    return merged


def _defaults() -> list[Mapping[str, Any]]:
    return [entry for entry in dask.config.defaults if not isinstance(entry, Profile)]


def apply(said: Mapping[str, Any] | None = None) -> None:
    """Put the profile of the configured site in force; once that is done, nothing changes.

    What a YAML file or the environment says stays, also where it is what a default says; `said` is what else does.
    """
    found = dask.config.get(KEY, None)
    site = None if found in _NONE else str(found)
    old = in_force()
    if old is not None and old.site == site and old.complete == ("dask_gateway" in sys.modules):
        return
    new = Profile(site, read(site) if site else {})
    config, before = dask.config.config, copy.deepcopy(dask.config.config)
    then, now = beneath(), dask.config.merge(*_defaults(), new)
    if old is not None and old.site == site:
        # dask-gateway has come since, and has put its defaults in the place of the site's.
        then, now = (
            {"gateway": dask.config.merge(*_defaults()).get("gateway", {})},
            {"gateway": now.get("gateway", {})},
        )
    for path in _leaves(then):
        if _at(now, path) is _MISSING and _at(config, path) == _at(then, path):
            _drop(config, path)
    dask.config.update(config, now, priority="new-defaults", defaults=then)
    # An explicit value that equals a default was taken for it.
    explicit = dask.config.merge(
        *dask.config.collect_yaml(dask.config.paths), dask.config.collect_env(), said or {}
    )
    for path in _leaves(explicit):
        if _at(before, path) == _at(explicit, path) != _at(config, path):
            _put(config, path, _at(explicit, path))
    # The first, because `dask.config.refresh` keeps what it has found first.
    dask.config.defaults[:] = [new, *_defaults()]


def _leaves(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key)


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        key = dask.config.canonical_name(key, values) if isinstance(values, Mapping) else key
        if not isinstance(values, Mapping) or key not in values:
            return _MISSING
        values = values[key]
    return values


def _put(values: Any, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        values = values[dask.config.canonical_name(key, values)]
    values[dask.config.canonical_name(path[-1], values)] = value


def _drop(values: Any, path: tuple[str, ...]) -> None:
    for key in path[:-1]:
        values = values[dask.config.canonical_name(key, values)]
    del values[dask.config.canonical_name(path[-1], values)]
