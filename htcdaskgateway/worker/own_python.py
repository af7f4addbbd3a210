"""Whose Python a worker has: the packages', an image's, or the execute node's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from . import sites

PACKED = "the packages' own"
"""What stands for `WorkerSpec.python` where the packages bring it along."""


def choose(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Settle it in the checked `values` of a spec: what is `given` goes before what is configured.

    Raises
    ------
    ConfigError
        What is given does not go together.
    """
    if values["packages"] is not None:
        _check_packages(values, given)
    if values["container_runtime"] == "none" and given.get("container_image") is not None:
        raise ConfigError(
            f"container_image={given['container_image']!r} needs container_runtime='htcondor' or "
            "'apptainer', but it is 'none'. Pass one of them, or no image."
        )
    values["container_image"] = sites.image(values)
    if values["container_runtime"] == "apptainer" and values["container_image"] is None:
        raise ConfigError("container_runtime='apptainer' needs a container_image")
    if values["python"] is None:
        values["python"] = "python" if values["container_image"] or not sys.executable else sys.executable


def _check_packages(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    if _in_a_container(given):
        # The image has the system, the packages their own Python.
        values["python"] = PACKED
        return
    others = [name for name in ("container_image", "python") if given.get(name) not in (None, PACKED)]
    if others and given.get("packages") is not None:
        raise ConfigError(
            f"packages={given['packages']!r} and {others[0]}={given[others[0]]!r} exclude each other: the packages "
            "bring their own Python. An image goes beside them with container_runtime='apptainer'"
        )
    if others:
        values["packages"] = None
    else:
        # What belongs to a container goes with it.
        values.update(container_image=None, container_runtime="none", mapped_port=None, python=PACKED)


def _in_a_container(given: Mapping[str, Any]) -> bool:
    asked = given.get("packages") is not None and given.get("container_image") is not None
    return asked and given.get("container_runtime") == "apptainer" and given.get("python") in (None, PACKED)
