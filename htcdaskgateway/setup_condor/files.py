"""Write several private files so that either all of them are there afterwards or nothing has changed."""

from __future__ import annotations

import contextlib
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..files import write_beside


@dataclass(frozen=True)
class NewFile:
    """A file to write, or to replace."""

    path: Path
    data: bytes = field(repr=False)
    mode: int = 0o600


def write_all(files: Sequence[NewFile]) -> None:
    """Write `files`: every one beside its place first, and then each into its place in one step."""
    made: list[Path] = []
    staged: list[tuple[Path, Path]] = []
    replaced: list[tuple[Path, NewFile | None]] = []
    try:
        for file in files:
            _make_directories(file.path.parent, made)
            staged.append((_stage(file), file.path))
        for temporary, path in staged:
            before = _read(path)
            temporary.replace(path)
            replaced.append((path, before))
    except BaseException:  # Ctrl-C too must leave nothing
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)
        for path, before in reversed(replaced):
            if before is None:
                path.unlink()
            else:
                _stage(before).replace(path)
        for directory in reversed(made):
            with contextlib.suppress(OSError):  # somebody else has put something there meanwhile
                directory.rmdir()
        raise


def backup_of(path: Path, directory: Path) -> NewFile | None:
    """Return a backup of `path` to write into `directory`; None if there is nothing to back up."""
    before = _read(path)
    if before is None:
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    backup = directory / f"{path.name}-{stamp}"
    number = 1
    while backup.exists():
        number += 1
        backup = directory / f"{path.name}-{stamp}-{number}"
    return NewFile(backup, before.data, 0o600)


def _make_directories(path: Path, made: list[Path]) -> None:
    if path.is_dir():
        return
    _make_directories(path.parent, made)
    path.mkdir(0o700)
    made.append(path)
    path.chmod(0o700)  # whatever the umask took away


def _stage(file: NewFile) -> Path:
    return write_beside(file.path, file.data, file.mode, sync=True)


def _read(path: Path) -> NewFile | None:
    try:
        return NewFile(path, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
    except FileNotFoundError:
        return None
