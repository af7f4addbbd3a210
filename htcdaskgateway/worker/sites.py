"""Check what sites ask of a job beside its resources: an image below a prefix, more input files, an X.509 proxy."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..sites.paths import expand
from . import checks

_PORT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.A)


def directory(value: Any, name: str) -> str:
    """Check the absolute path of a directory."""
    found = checks.text(value, name).rstrip("/")
    if not Path(found).is_absolute():
        raise ConfigError(f"{name}={value!r} is not the absolute path of a directory")
    return found


def below(image: str, prefix: str) -> str:
    """Return the path of an image that is below `prefix`, or named so that it is."""
    short = not checks.is_address(image.partition("/")[0]) and not image.startswith(("/", "~", "."))
    # A tag has a colon, too, as an address has.
    found = os.path.normpath(f"{prefix}/{image}" if short and "://" not in image else image)
    if not Path(found).is_relative_to(prefix):
        raise ConfigError(
            f"container_image={image!r} is not below image_prefix={prefix!r}: name an image of that directory, "
            "such as 'group/image:tag', or pass image_prefix=None if the execute nodes see others"
        )
    return found


def image(values: Mapping[str, Any]) -> str | None:
    """Return the address or the whole path of the image that checked `values` of a spec ask for."""
    found, prefix = values["container_image"], values["image_prefix"]
    if found is None or values["container_runtime"] == "none":
        return None
    return below(found, prefix) if prefix else checks.image(found, "container_image")


def check_mapped(values: Mapping[str, Any]) -> None:
    """Check that there is one port that HTCondor can map, where it is to."""
    if values["mapped_port"] and checks.port_count(values["worker_port"]) != 1:
        raise ConfigError(
            f"mapped_port={values['mapped_port']!r} is one port, but worker_port={values['worker_port']!r} is not; "
            "pass one port, such as worker_port=8786"
        )
    if values["mapped_port"] and values["interface"]:
        raise ConfigError(
            f"mapped_port={values['mapped_port']!r} and interface={values['interface']!r} exclude each other: "
            "such a worker listens on all interfaces of its container"
        )


def port_name(value: Any, name: str) -> str:
    """Check the name of a container's port, which becomes a part of submit commands."""
    if not isinstance(value, str) or not _PORT_NAME.fullmatch(value):
        raise ConfigError(f"{name}={value!r} is not a name of letters, digits and _")
    return value


def input_files(value: Any, name: str) -> tuple[str, ...]:
    """Check more input files, and make their paths absolute; an address stays as it is."""
    found = []
    for item in checks.texts(value, name):
        if "," in item:
            raise ConfigError(f"{name}: {item!r} has a comma, which separates the names in HTCondor's lists")
        path = item if checks.is_address(item) else os.path.normpath(expand(item, name).absolute())
        # With a slash at its end HTCondor sends what a directory holds, not the directory.
        found.append(path + "/" if item.endswith("/") and path == path.rstrip("/") else path)
    return tuple(found)


def proxy(value: Any, name: str) -> bool | str:
    """Check whether an X.509 proxy goes with the job, or which."""
    return value if isinstance(value, bool) else str(expand(checks.text(value, name), name).absolute())
