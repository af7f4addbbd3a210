"""Write what is the user's alone: with its mode from the moment it exists, whatever the umask, and in one step."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path


class NotOwnError(OSError):
    """A path is not a directory of the user's."""


def private_directory(path: Path) -> None:
    """Make `path` a directory that is the user's alone; raise NotOwnError if it is not theirs."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise NotOwnError(f"{path} does not belong to you")
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of what is to replace `path`; it does when the block ends well, and is removed otherwise."""
    temporary = _beside(path)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    # In the same directory, for a rename in one step; HTCondor skips names that begin with a dot.
    return path.with_name(f".{path.name}-{secrets.token_hex(8)}")


def write_private(path: Path, data: str | bytes, mode: int = 0o600) -> None:
    """Write `path`, or replace it."""
    temporary = write_beside(path, data, mode)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_beside(path: Path, data: str | bytes, mode: int = 0o600, *, sync: bool = False) -> Path:
    """Write what is to replace `path`, and return where it is; `sync`: only once it is on the disk."""
    temporary = _beside(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data.encode() if isinstance(data, str) else data)
            if sync:
                file.flush()
                os.fsync(descriptor)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
