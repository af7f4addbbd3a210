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
from .nodes import directories
from .packed import EXTRAS, HALVES, Packed

PACKAGES_FILES = ("packages_node.sh", "packages_preload.py")
"""What goes with the job beside the archives, and runs on the node."""

IMAGE_FILES = ("packages_image.sh", "packages_preload.py")
"""The same where the packages are a squashfs in a container."""

_EMPTY = "none"
_DELTA = "delta.tar.gz"
_STAGED = "packed.json"
_MACHINE = re.compile(r"[A-Za-z0-9_.-]+")
# An unpacked tree and its archives may be on a disk at the same time; an archive holds what is in a cache, too.
_ROOM = 1.6


class Request(NamedTuple):
    """What a submit description says of the packages; `common`: what a node gets once for all jobs of a submit."""

    files: list[str]
    common: list[str]
    machines: list[str]
    requirements: str
    disk_kib: int
    needs: str
    binds: Sequence[str]


def request(packed: Packed, *, plainly: bool) -> Request:
    """Return what a submit description says; `plainly`: no file is chosen at the moment of the start."""
    with_each_job = [*packed.with_each_job, *_no_delta(packed)]
    names = [conf(packed), *scripts(packed), *(_place(packed, name) for name in with_each_job)]
    machines = [] if plainly else [name for name in nodes.known(packed) if _MACHINE.fullmatch(name)]
    common = [] if plainly or machines or not _common() else [_place(packed, name) for name in packed.if_missing]
    for name in packed.if_missing:
        place = _place(packed, name)
        if not (machines or common):
            names.append(place)
            continue
        # Left out where the machine is known to have them, or where the schedd says that it sends them once for
        # all jobs of the submit; unless the start before was told otherwise there.
        there = "stringListIMember(TARGET.Machine, MY.HTCDaskPackagesOn)"
        if common:
            listed = f'stringListMember("{place}", MY.CommonInputFiles) =?= true'
            there = f"!isUndefined(MY.RequestedCatalogs) && {listed}"
        names.append(f'$$([ifThenElse(ExitCode =!= 76 && {there}, "packages/{_EMPTY}", "{place}")])')
    return Request(
        files=names,
        common=common,
        machines=machines,
        requirements=nodes.requirements(packed),
        disk_kib=int((1 if packed.binds else _ROOM) * packed.size) // 1024,
        needs=f"{packed.machine} and glibc 2.{packed.glibc}",
        binds=packed.binds,
    )


def scripts(packed: Packed) -> tuple[str, ...]:
    """Return the names of the scripts that go with the job."""
    return IMAGE_FILES if packed.binds else PACKAGES_FILES


def _no_delta(packed: Packed) -> list[str]:
    return [] if packed.binds or _DELTA in packed.archives else [_DELTA]


def conf(packed: Packed) -> str:
    """Return where the file is in the staging directory that ``packages_node.sh`` reads."""
    return f"packages/{packed.base}/packages.conf"


def _place(packed: Packed, name: str) -> str:
    """Return where an archive is in the staging directory.

    What belongs to a base has a directory of its own: jobs that were submitted with another one may start yet, and
    HTCondor may keep the files of theirs on a node.
    """
    return f"packages/{name}" if name.startswith("local") else f"packages/{packed.base}/{name}"


def settings(packed: Packed, **exits: int) -> str:
    """Return the text of ``packages.conf``, which the scripts read."""
    values: dict[str, Any] = {
        **exits,
        "KEY": packed.key,
        "LOCAL": packed.local,
        "MACHINE": packed.machine,
        "GLIBC": packed.glibc,
        "CERTIFICATES": packed.certificates,
    }
    if packed.binds:
        values |= {"PROGRAM": packed.program, "EXTRAS": f"{Path(packed.program).parents[1]}/{EXTRAS}"}
    else:
        values |= _of_archives(packed)
    return "".join(f"{name}={quote_shell(value)}\n" for name, value in values.items())


def _of_archives(packed: Packed) -> dict[str, Any]:
    base, more = (next(name for name in packed.if_missing if name.startswith(f"{half}.")) for half in HALVES)
    return {
        "BASE": packed.base,
        "BASE_NAME": base,
        "BASE_SUM": packed.checksums[base],
        "MORE_NAME": more,
        "MORE_SUM": packed.checksums[more],
        "BOOT_SUM": packed.checksums["boot.tar.gz"],
        "DELTA_SUM": packed.checksums.get("delta.tar.gz", ""),
        "VERSION": packed.version,
        "CONDA": "yes" if packed.conda else "",
        "DIRECTORIES": ":".join(directories()),
        "SIZE_KIB": _size() // 1024,
    }


def _common() -> bool:
    value = config.get("packages.common-transfer")
    if not isinstance(value, bool):
        raise ConfigError(f"htcdaskgateway.packages.common-transfer={value!r} is neither true nor false")
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
    for private in (place, place / packed.base):
        private_directory(private)
    write_private(place / _EMPTY, "")
    for name, path in packed.archives.items():
        put(Path(path), directory / _place(packed, name))
    for name in _no_delta(packed):
        # Each job names one, because later there may be changes which a job that waits gets, too.
        put(place / _EMPTY, directory / _place(packed, name))
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
        archives = {name: str(directory / _place(packed, name)) for name in packed.archives}
        whole = packed.binds or {*HALVES} <= {name.partition(".")[0] for name in archives}
        if whole and all(Path(path).is_file() for path in archives.values()):
            return Packed(**{**vars(packed), "archives": archives})
    return None
