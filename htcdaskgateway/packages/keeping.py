"""What was packed on this machine: where it is kept, by which keys, and for how long."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import private_directory, write_private
from . import archive
from .archive import Entry, Manifest
from .environment import Environment, Found
from .index import Index
from .local_code import LocalCode
from .packed import Packed

# Part of each key: what is unpacked in another way is another tree.
_LAYOUT = 2
_BASES_KEPT = 3
_LOCAL_KEPT = 86400
_KEY_LENGTH = 32


def cache() -> Path:
    """Return the directory of what was packed on this machine."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "htcdaskgateway"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for directory in (root / "packages", root / "packages" / "known"):
        private_directory(directory)
    return root / "packages"


def key_of(manifest: Manifest) -> str:
    """Return the key of files: a hash of their names and contents."""
    lines = [f"{name}\0{entry.digest}\0{entry.program:d}\n" for name, entry in sorted(manifest.items())]
    text = f"{_LAYOUT}\n{''.join(lines)}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_KEY_LENGTH]


class Keeping:
    """What this machine keeps of one environment, packed."""

    def __init__(self, environment: Environment, directory: Path) -> None:
        self.environment = environment
        self.directory = directory
        name = hashlib.sha256(f"{environment.prefix}\0{environment.version}".encode()).hexdigest()[:_KEY_LENGTH]
        self.index = Index(directory / f"{name}.index")

    @staticmethod
    def check(environment: Environment) -> None:
        """Check, in a moment, that an environment can be sent in this way."""
        raise NotImplementedError

    def run(self) -> Packed:
        """Pack what is not packed yet."""
        raise NotImplementedError

    def files(self, editable: frozenset[str]) -> list[Found]:
        """Return the files but those of the local code, whose names among the installed packages are `editable`."""
        raise NotImplementedError

    def manifests(self) -> tuple[dict[str, Entry], dict[str, Entry]]:
        """Return what there is now: the Python with its packages, and the local code."""
        code = LocalCode(self.environment)
        found = self._look(self.files(frozenset(code.editable))), self._look(code.files())
        self.index.save()
        return found

    def packed(
        self,
        key: tuple[str, str],
        archives: dict[str, Path],
        files: Manifest,
        local: Manifest,
        size: int,
        **more: Any,
    ) -> Packed:
        """Pack the local code, too, and return what there is; `key`: that of the packages, and of their base."""
        local_key = key_of(local)
        archives["local.tar.gz"] = place = self.directory / f"{local_key}.local.tar.gz"
        if not place.exists():
            with archive.into(place) as stream:
                archive.fill(stream, local, local, top=f"local-{local_key}")
        (self.directory / f"{key[1]}.json").touch()
        self._forget({key[1], local_key})
        return Packed(
            key=key[0],
            base=key[1],
            local=local_key,
            archives={name: str(path) for name, path in archives.items()},
            checksums={name: self._checksum(path) for name, path in archives.items()},
            glibc=max([entry.glibc for entry in files.values()], default=0),
            machine=self.environment.machine,
            version=self.environment.version,
            size=size,
            certificates=self.environment.certificates,
            **more,
        )

    def _look(self, files: Iterable[Found]) -> dict[str, Entry]:
        manifest = {}
        for name, path, found in files:
            digest, glibc = self.index.look(path, found)
            manifest[name] = Entry(digest, found.st_mode & 0o111 != 0, found.st_size, path, glibc)
        return manifest

    def libraries(self, interpreter: list[Found]) -> list[Found]:
        """Return the interpreter's libraries; `ldd` is asked again only where the interpreter has changed."""
        program, _ = self.index.look(interpreter[0].path, interpreter[0].stat)
        note = self.directory / f"{program[:_KEY_LENGTH]}.libraries"
        try:
            known = json.loads(note.read_text(encoding="utf-8"))
            return [Found(name, path, os.lstat(path)) for name, path in known]
        except (OSError, ValueError):  # not asked yet, or the system has been updated
            found = list(self.environment.libraries(interpreter))
        write_private(note, json.dumps([(file.name, file.path) for file in found]))
        return found

    def _checksum(self, path: Path) -> str:
        note = path.with_name(f"{path.name}.sha256")
        try:
            if note.stat().st_mtime_ns >= path.stat().st_mtime_ns:
                return note.read_text(encoding="ascii")
        except FileNotFoundError:
            pass
        write_private(note, archive.checksum(path))
        return note.read_text(encoding="ascii")

    def _forget(self, used: set[str]) -> None:
        """Remove bases that were not used for long, with what belongs to them, and older deltas and local code."""
        notes = sorted(self.directory.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        kept = {note.stem for note in notes[:_BASES_KEPT]} | used
        for path in self.directory.glob("*.*"):
            key = path.name.partition(".")[0].rpartition("-")[2]
            small = path.name.endswith((".local.tar.gz", ".local.tar.gz.sha256"))
            if path.suffix in (".index", ".libraries") or path.name.startswith(".") or key in kept:
                continue
            if not small or path.stat().st_mtime < notes[0].stat().st_mtime - _LOCAL_KEPT:
                path.unlink(missing_ok=True)
