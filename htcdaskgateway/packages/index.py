"""What a file holds, by its stat: a second look reads no file that has not changed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from pathlib import Path
from typing import Any

from ..files import write_private

# A file that was changed later than this before the look may change again within the same tick of the clock.
_SETTLED_NS = 10**9
_CHUNK = 2**20
_WANTED = re.compile(rb"GLIBC_2\.(\d+)(?:\.\d+)*\0")
# No name of a version is longer, so that one that lies across the border of two chunks is seen.
_OVERLAP = 32


class Index:
    """The contents of files by their stat, kept in a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read = 0
        self._begun = time.time_ns()
        self._old: dict[str, list[Any]] = {}
        self._new: dict[str, list[Any]] = {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet, or one that is cut off: as good as none
            return
        self._old = found if isinstance(found, dict) else {}

    def look(self, path: str, found: os.stat_result) -> tuple[str, int]:
        """Return what a file holds, and the minor version of the glibc 2 that it asks for.

        That is its hash, or a link's target; `found` is its stat, not that of what a link leads to.
        """
        if stat.S_ISLNK(found.st_mode):
            return f"-> {Path(path).readlink()}", 0
        mark = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        seen = self._old.get(path)
        if seen is None or seen[:4] != mark:
            seen = [*mark, *_read(path)]
            self.read += found.st_size
        if self._begun - mark[2] > _SETTLED_NS:
            self._new[path] = seen
        return seen[4], seen[5]

    def save(self) -> None:
        """Keep what was seen this time."""
        if self._new != self._old:
            write_private(self.path, json.dumps(self._new))


def _read(path: str) -> tuple[str, int]:
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
    return digest.hexdigest(), glibc
