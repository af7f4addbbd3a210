"""The keywords of Fermilab's own ``htcdaskgateway``, in this package's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

REGISTRIES = "/cvmfs/unpacked.cern.ch"
"""Where images of registries lie unpacked."""

ALIASES = {
    "apptainer_image": "container_image",
    "image_registry": "image_prefix",
    "worker_cores": "cpus",
    "worker_memory": "memory",
}
"""Fermilab's keywords and ours."""


def translated(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return `keywords` with ours in the place of Fermilab's.

    Raises
    ------
    ConfigError
        Both words for one thing are given.
    """
    found = dict(keywords)
    for theirs, ours in ALIASES.items():
        if theirs not in found:
            continue
        if ours in found:
            raise ConfigError(f"{theirs} and {ours} are two words for one thing; give one of them")
        value = found.pop(theirs)
        # A registry is named by its host, and memory without a unit counts GB.
        if theirs == "image_registry" and isinstance(value, str) and not value.startswith("/"):
            value = f"{REGISTRIES}/{value}"
        if theirs == "worker_memory" and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = f"{value}GB"
        found[ours] = value
    return found
