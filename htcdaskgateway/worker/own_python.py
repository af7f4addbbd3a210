"""Whose Python a worker has where ``packages`` bring one along: theirs, an image's, or the execute node's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

PACKED = "the packages' own"
"""What stands for `WorkerSpec.python` where the packages bring it along."""


def choose(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Let a worker have packages, an image or a Python of its own: what is given goes before what is configured."""
    if values["packages"] is None:
        return
    others = [name for name in ("container_image", "python") if given.get(name) not in (None, PACKED)]
    if others and given.get("packages") is not None:
        raise ConfigError(
            f"packages={given['packages']!r} and {others[0]}={given[others[0]]!r} exclude each other: the packages "
            "bring their Python along"
        )
    if others:
        values["packages"] = None
    else:
        # What belongs to a container goes with it.
        values.update(container_image=None, container_runtime="none", mapped_port=None, python=PACKED)
