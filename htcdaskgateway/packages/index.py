"""What a file holds, by its stat: a second look reads no file that has not changed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from pathlib import Path
from typing import NamedTuple

from ..files import write_private

# A file that was changed later than this before the look may change again within the same tick of the clock.
_SETTLED_NS = 10**9
_CHUNK = 2**20
_WANTED = re.compile(rb"GLIBC_2\.(\d+)(?:\.\d+)*\0")
# No name of a version is longer, so that one that lies across the border of two chunks is seen.
_OVERLAP = 32


class Content(NamedTuple):
    """What a file holds: its hash or a link's target, and the minor version of the glibc 2 that it asks for."""

    digest: str
    glibc: int


class Index:
    """The contents of files by their stat, kept in a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read = 0
        self._old: dict[str, list[int | str]] = {}
        self._new: dict[str, list[int | str]] = {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet, or one that is cut off: as good as none
            return
        self._old = found if isinstance(found, dict) else {}

    def look(self, path: str, found: os.stat_result) -> Content:
        """Return what a file holds; `found` is its stat, not that of what a link leads to."""
        if stat.S_ISLNK(found.st_mode):
            return Content(f"-> {Path(path).readlink()}", 0)
        mark: list[int | str] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        known = self._old.get(path)
        if known and known[:4] == mark:
            content = Content(str(known[4]), int(known[5]))
        else:
            content = _read(path)
            self.read += found.st_size
        if time.time_ns() - found.st_ctime_ns > _SETTLED_NS:
            self._new[path] = [*mark, *content]
        return content

    def save(self) -> None:
        """Keep what was seen this time."""
        if self._new != self._old:
            write_private(self.path, json.dumps(self._new))


def _read(path: str) -> Content:
    digest, glibc, rest = hashlib.sha256(), 0, b""
    with Path(path).open("rb") as file:
        chunk = file.read(_CHUNK)
        is_program = chunk[:4] == b"\x7fELF"
        while chunk:
            digest.update(chunk)
            if is_program:
                glibc = max([glibc, *map(int, _WANTED.findall(rest + chunk))])
                rest = chunk[-_OVERLAP:]
            chunk = file.read(_CHUNK)
    return Content(digest.hexdigest(), glibc)
