"""What of the packages goes with a job: the files in the staging directory, and what the job says of them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dask.utils import parse_bytes

from .. import config
from ..condor.quoting import quote_shell
from ..errors import ConfigError
from ..files import private_directory, write_private
from . import nodes
from .packed import HALVES, Packed

PACKAGES_FILES = ("packages_node.sh", "packages_preload.py")
"""What goes with the job beside the archives, and runs on the node."""

_EMPTY = "none"
_STAGED = "packed.json"
_MACHINE = re.compile(r"[A-Za-z0-9_.-]+")
# An unpacked tree and its archives may be on a disk at the same time; an archive holds what is in a cache, too.
_ROOM = 1.6


class Request(NamedTuple):
    """What a submit description says of the packages."""

    files: list[str]
    machines: list[str]
    requirements: str
    disk_kib: int
    needs: str


def request(packed: Packed, *, plainly: bool) -> Request:
    """Return what a submit description says; `plainly`: no file is chosen at the moment of the start."""
    names = ["packages.conf", *PACKAGES_FILES, *(f"packages/{name}" for name in packed.with_each_job)]
    machines = [] if plainly else [name for name in nodes.known(packed) if _MACHINE.fullmatch(name)]
    for name in packed.if_missing:
        # Left out where the machine is known to have them, unless the start before was told otherwise there.
        there = "ExitCode =!= 76 && stringListIMember(TARGET.Machine, MY.HTCDaskPackagesOn)"
        names.append(
            f'$$([ifThenElse({there}, "packages/{_EMPTY}", "packages/{name}")])' if machines else f"packages/{name}"
        )
    return Request(
        files=names,
        machines=machines,
        requirements=nodes.requirements(packed),
        disk_kib=int(_ROOM * packed.size) // 1024,
        needs=f"{packed.machine} and glibc 2.{packed.glibc}",
    )


def settings(packed: Packed, **exits: int) -> str:
    """Return the text of ``packages.conf``, which ``packages_node.sh`` reads."""
    base, more = (next(name for name in packed.if_missing if name.startswith(f"{half}.")) for half in HALVES)
    values: dict[str, Any] = {
        **exits,
        "KEY": packed.key,
        "BASE": packed.base,
        "BASE_NAME": base,
        "BASE_SUM": packed.checksums[base],
        "MORE_NAME": more,
        "MORE_SUM": packed.checksums[more],
        "BOOT_SUM": packed.checksums["boot.tar.gz"],
        "DELTA_SUM": packed.checksums.get("delta.tar.gz", ""),
        "LOCAL": packed.local,
        "MACHINE": packed.machine,
        "GLIBC": packed.glibc,
        "VERSION": packed.version,
        "CERTIFICATES": packed.certificates,
        "DIRECTORIES": ":".join(directories()),
        "SIZE_KIB": _size() // 1024,
    }
    return "".join(f"{name}={quote_shell(value)}\n" for name, value in values.items())


def directories() -> Sequence[str]:
    """Return the directories of the nodes that may keep packages, as they are configured."""
    value = config.get("packages.node-directories") or []
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(item, str) and item.startswith("/") and ":" not in item and item.isprintable() for item in value
    ):
        raise ConfigError(f"htcdaskgateway.packages.node-directories={value!r} is not a list of absolute paths")
    return value


def _size() -> int:
    value = config.get("packages.node-size")
    try:
        size = int(parse_bytes(value))
    except (ValueError, TypeError, AttributeError):
        size = 0
    if size <= 0:
        raise ConfigError(f"htcdaskgateway.packages.node-size={value!r} is not a size such as 20GB")
    return size


def stage(packed: Packed, directory: Path) -> None:
    """Put the archives into a staging directory; those that are there and right are left alone."""
    place = directory / "packages"
    private_directory(place)
    write_private(place / _EMPTY, "")
    for name, path in packed.archives.items():
        put(Path(path), place / name)
    for old in place.glob("*.tar.*"):
        if old.name not in packed.archives:
            old.unlink()
    write_private(place / _STAGED, packed.to_json())


def put(source: Path, target: Path) -> None:
    """Put a file where a job may be reading its forerunner: in one step, and without a copy where that can be."""
    with contextlib.suppress(OSError):
        if target.samefile(source):
            return
    fresh = target.with_name(f".{target.name}-{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        try:
            os.link(source, fresh)
        except OSError:  # on another file system
            shutil.copyfile(source, fresh)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def staged(directory: Path) -> Packed | None:
    """Return what is in a staging directory already."""
    with contextlib.suppress(OSError, ValueError, TypeError):  # none, or another version's
        packed = Packed.from_json((directory / "packages" / _STAGED).read_text(encoding="utf-8"))
        place = directory / "packages"
        archives = {name: str(place / name) for name in packed.archives}
        whole = {*HALVES} <= {name.partition(".")[0] for name in archives}
        if whole and all(Path(path).is_file() for path in archives.values()):
            return Packed(**{**vars(packed), "archives": archives})
    return None
