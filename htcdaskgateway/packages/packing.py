"""Pack an environment: the Python, the packages, what changed since, and the user's own code."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from ..display.progress import progress
from ..errors import ConfigError, StagingError
from ..files import private_directory, write_private
from . import archive
from .archive import Entry, Manifest
from .environment import Environment, Found
from .index import Index
from .local_code import LocalCode
from .packed import HALVES, Packed

# Part of each key: what is unpacked in another way is another tree.
_LAYOUT = 2
# A difference larger than this part of the environment is packed as a base of its own.
_MOST_CHANGED = 0.25
_BASES_KEPT = 3
_LOCAL_KEPT = 86400
_KEY_LENGTH = 32
_SUFFIXES = (".gz", ".zst")
# What a file takes on a node beside its bytes, in bytes that are written in the same time.
_FILE_COST = 2**14
_ZSTANDARD = re.compile(r".*/site-packages/(zstandard[/-]|_cffi_backend)")


def cache() -> Path:
    """Return the directory of what was packed on this machine."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "htcdaskgateway"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for directory in (root / "packages", root / "packages" / "known"):
        private_directory(directory)
    return root / "packages"


def pack(packages: str) -> Packed:
    """Pack the environment that ``packages=`` names; what is packed already is not packed again.

    Raises
    ------
    ConfigError
        It cannot be sent.
    StagingError
        There is no room for it.
    """
    try:
        return _Packing(Environment.of(packages), cache()).run()
    except OSError as error:
        raise StagingError(f"cannot pack packages={packages!r}: {error}") from error


def keys(packages: str) -> tuple[str, str]:
    """Return the keys that the packages and the local code have now, and pack nothing."""
    manifest, local = _Packing(Environment.of(packages), cache()).manifests()
    return key_of(manifest), key_of(local)


class _Packing:
    def __init__(self, environment: Environment, directory: Path) -> None:
        self.environment = environment
        self.directory = directory
        name = hashlib.sha256(f"{environment.prefix}\0{environment.version}".encode()).hexdigest()[:_KEY_LENGTH]
        self.index = Index(directory / f"{name}.index")

    def manifests(self) -> tuple[dict[str, Entry], dict[str, Entry]]:
        """Return what there is now: the Python with its packages, and the local code."""
        code = LocalCode(self.environment)
        interpreter = list(self.environment.interpreter())
        files = [*interpreter, *self._libraries(interpreter), *self.environment.packages(frozenset(code.editable))]
        found = self._look(files), self._look(code.files())
        self.index.save()
        return found

    def run(self) -> Packed:
        manifest, local = self.manifests()
        key, size = key_of(manifest), sum(entry.size for entry in manifest.values())
        base, changed, gone = (key, [], []) if self._has(key) else self._nearest(manifest, size)
        if base is None:
            base = key
            self._pack_base(base, manifest, size)
        archives = {path.name.partition(".")[2]: path for path in self._halves(base)}
        archives["boot.tar.gz"] = self.directory / f"{base}.boot.tar.gz"
        if changed or gone:
            archives["delta.tar.gz"] = delta = self.directory / f"{key}-{base}.delta.tar.gz"
            if not delta.exists():
                notes = {"removed": "".join(f"{name}\n" for name in gone)}
                archive.write(delta, manifest, changed, top="env", tag=self.environment.tag, notes=notes)
        local_key = key_of(local)
        archives["local.tar.gz"] = place = self.directory / f"{local_key}.local.tar.gz"
        if not place.exists():
            archive.write(place, local, local, top=f"local-{local_key}")
        (self.directory / f"{base}.json").touch()
        self._forget({base, local_key})
        return Packed(
            key=key,
            base=base,
            local=local_key,
            archives={name: str(path) for name, path in archives.items()},
            checksums={name: self._checksum(path) for name, path in archives.items()},
            glibc=max([entry.glibc for entry in (*manifest.values(), *local.values())], default=0),
            machine=self.environment.machine,
            version=self.environment.version,
            size=size,
            certificates=self.environment.certificates,
        )

    def _look(self, files: Iterable[Found]) -> dict[str, Entry]:
        manifest = {}
        for name, path, found in files:
            digest, glibc = self.index.look(path, found)
            manifest[name] = Entry(digest, found.st_mode & 0o111 != 0, found.st_size, path, glibc)
        return manifest

    def _libraries(self, interpreter: list[Found]) -> list[Found]:
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

    def _has(self, base: str) -> bool:
        """Tell whether there is a base of that key, whole: its note is written last."""
        return (self.directory / f"{base}.json").exists() and len(self._halves(base)) == len(HALVES)

    def _halves(self, base: str) -> list[Path]:
        found = [path for half in HALVES for path in self.directory.glob(f"{base}.{half}.tar.*")]
        return [path for path in found if path.suffix in _SUFFIXES]

    def _nearest(self, manifest: Manifest, size: int) -> tuple[str | None, list[str], list[str]]:
        """Return the base with the least difference, what changed and what went; no base if all are far."""
        best: tuple[int, str | None, list[str], list[str]] = (int(_MOST_CHANGED * size) + 1, None, [], [])
        for note in self.directory.glob("*.json"):
            if not self._has(note.stem):
                continue
            try:
                old = json.loads(note.read_text(encoding="utf-8"))
            except ValueError:  # cut off
                continue
            changed = [name for name, entry in manifest.items() if old.get(name) != [entry.digest, entry.program]]
            cost = sum(manifest[name].size for name in changed)
            if cost < best[0]:
                best = cost, note.stem, changed, [name for name in old if name not in manifest]
        return best[1:]

    def _pack_base(self, base: str, manifest: Manifest, size: int) -> None:
        # What unpacks the rest comes first, and in the one form that each node reads.
        boot = {name for name in manifest if not name.startswith("lib/") or _ZSTANDARD.fullmatch(name[:200])}
        boot |= {name for name in manifest if _ZSTANDARD.match(name)}
        zstandard = any(_ZSTANDARD.match(name) and "zstandard" in name for name in boot) and _has_zstandard()
        for path in self._halves(base):  # one of which the other was lost
            path.unlink(missing_ok=True)
        suffix = "tar.zst" if zstandard else "tar.gz"
        with progress("packing", size // 2**20) as show, ThreadPoolExecutor(3) as threads:
            done, one_at_a_time = 0, Lock()

            def packed(bytes_: int) -> None:
                nonlocal done
                with one_at_a_time:
                    before, done = done, done + bytes_
                    if done >> 23 != before >> 23:
                        show(done // 2**20, "MiB")

            def write(name: str, names: Iterable[str], count: Callable[[int], object]) -> None:
                target = self.directory / name
                archive.write(target, manifest, names, top="env", tag=self.environment.tag, packed=count)

            halves = zip(HALVES, _halves(manifest, manifest.keys() - boot), strict=True)
            writing = [threads.submit(write, f"{base}.{half}.{suffix}", names, packed) for half, names in halves]
            writing.append(threads.submit(write, f"{base}.boot.tar.gz", boot, lambda size: None))
            for future in writing:
                future.result()
            show(size // 2**20, "MiB")
        note = {name: [entry.digest, entry.program] for name, entry in manifest.items()}
        write_private(self.directory / f"{base}.json", json.dumps(note))

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


def _halves(manifest: Manifest, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names in two parts that take as long to unpack, with no package in both."""
    by_package: dict[str, list[str]] = {}
    for name in sorted(names):
        by_package.setdefault("/".join(name.split("/")[:4]), []).append(name)
    halves: tuple[list[str], list[str]] = ([], [])
    costs = [0, 0]
    weighed = [(sum(manifest[name].size + _FILE_COST for name in found), found) for found in by_package.values()]
    for cost, found in sorted(weighed, reverse=True):
        lighter = costs.index(min(costs))
        halves[lighter].extend(found)
        costs[lighter] += cost
    return halves


def key_of(manifest: Manifest) -> str:
    """Return the key of files: a hash of their names and contents."""
    lines = [f"{name}\0{entry.digest}\0{entry.program:d}\n" for name, entry in sorted(manifest.items())]
    text = f"{_LAYOUT}\n{''.join(lines)}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_KEY_LENGTH]


def _has_zstandard() -> bool:
    try:
        import zstandard  # noqa: F401
    except ImportError:
        return False
    return True


async def pack_beside(packages: str) -> Packed:
    """Pack in a thread, so that the event loop goes on."""
    return await asyncio.to_thread(pack, packages)


def check(packages: str) -> None:
    """Check, in a moment and before anything is asked for, that ``packages=`` names what can be sent."""
    environment = Environment.of(packages)
    if not environment.sites:
        raise ConfigError(f"packages={packages!r}: {environment.prefix} has no directory of installed packages")
