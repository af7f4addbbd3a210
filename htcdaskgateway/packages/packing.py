"""Pack an environment: the Python, the packages, what changed since, and the user's own code."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..display.progress import in_mebibytes, progress
from ..errors import ConfigError, StagingError
from ..files import write_private
from . import archive, conda
from .archive import Manifest
from .conda import CondaFiles
from .environment import Environment, Found
from .keeping import Keeping, cache, key_of
from .packed import HALVES, Packed

# A difference larger than this part of the environment is packed as a base of its own.
_MOST_CHANGED = 0.25
_SUFFIXES = (".gz", ".zst")
# What a file takes on a node beside its bytes, in bytes that are written in the same time.
_FILE_COST = 2**14
_ZSTANDARD = re.compile(r".*/site-packages/(zstandard[/-]|_cffi_backend)")


def pack(packages: str, *, image: bool = False) -> Packed:
    """Pack the environment that ``packages=`` names; what is packed already is not packed again.

    `image`: into a squashfs that lies in a container where the environment lies here.

    Raises
    ------
    ConfigError
        It cannot be sent.
    StagingError
        There is no room for it.
    """
    try:
        return _maker(image)(Environment.of(packages), cache()).run()
    except OSError as error:
        raise StagingError(f"cannot pack packages={packages!r}: {error}") from error


def keys(packages: str, *, image: bool = False) -> tuple[str, str]:
    """Return the keys that the packages and the local code have now, and pack nothing."""
    manifest, local = _maker(image)(Environment.of(packages), cache()).manifests()
    return key_of(manifest), key_of(local)


def _maker(image: bool) -> type[Keeping]:
    if not image:
        return Packing
    from .squashfs import Squashing

    return Squashing


class Packing(Keeping):
    """Archives of one environment: those that are there already, and what is missing."""

    def __init__(self, environment: Environment, directory: Path) -> None:
        super().__init__(environment, directory)
        self._conda = CondaFiles(environment) if environment.is_conda else None

    @staticmethod
    def check(environment: Environment) -> None:
        """Check that it can be sent in this way."""
        if environment.is_conda:
            conda.check()

    def files(self, editable: frozenset[str]) -> list[Found]:
        """Return the files but those of the local code."""
        interpreter = list(self.environment.interpreter())
        if self._conda is not None:
            certificates = [file for file in interpreter if file.name == "certificates.pem"]
            return [*self._conda.found(editable), *certificates]
        return [*interpreter, *self.libraries(interpreter), *self.environment.packages(editable)]

    def run(self) -> Packed:
        """Pack what is not packed yet."""
        manifest, local = self.manifests()
        key, size = key_of(manifest), sum(entry.size for entry in manifest.values())
        base, changed, gone = (key, [], []) if self._has(key) else self.nearest(manifest, size)
        if base is None:
            base = key
            self._pack_base(base, manifest, size)
        archives = {path.name.partition(".")[2]: path for path in self._halves(base)}
        archives["boot.tar.gz"] = self.directory / f"{base}.boot.tar.gz"
        if changed or gone:
            archives["delta.tar.gz"] = delta = self.directory / f"{key}-{base}.delta.tar.gz"
            if not delta.exists():
                notes = {"removed": "".join(f"{name}\n" for name in gone), **self.notes(manifest)}
                with archive.into(delta) as stream:
                    archive.fill(stream, manifest, changed, top="env", tag=self.environment.tag, notes=notes)
        return self.packed(
            (key, base), archives, {**manifest, **local}, local, size, conda=self.environment.is_conda
        )

    def _has(self, base: str) -> bool:
        """Tell whether there is a base of that key, whole: its note is written last."""
        return (self.directory / f"{base}.json").exists() and len(self._halves(base)) == len(HALVES)

    def _halves(self, base: str) -> list[Path]:
        found = [path for half in HALVES for path in self.directory.glob(f"{base}.{half}.tar.*")]
        return [path for path in found if path.suffix in _SUFFIXES]

    def nearest(self, manifest: Manifest, size: int) -> tuple[str | None, list[str], list[str]]:
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

    def boot(self, manifest: Manifest) -> set[str]:
        """Return the names of what is unpacked first."""
        if self._conda is not None:  # whose Python needs all else, too, so that nothing is for it to unpack
            return {name for name in manifest if not name.startswith("lib/")}
        boot = {name for name in manifest if not name.startswith("lib/") or _ZSTANDARD.fullmatch(name[:200])}
        return boot | {name for name in manifest if _ZSTANDARD.match(name)}

    def notes(self, manifest: Manifest) -> Mapping[str, str]:
        """Return texts that go along with a base and a difference, beside the environment."""
        return {} if self._conda is None else self._conda.notes(manifest)

    def _pack_base(self, base: str, manifest: Manifest, size: int) -> None:
        # What unpacks the rest comes first, and in the one form that each node reads.
        boot = self.boot(manifest)
        zstandard = any(_ZSTANDARD.match(name) and "zstandard" in name for name in boot) and _has_zstandard()
        for path in self._halves(base):  # one of which the other was lost
            path.unlink(missing_ok=True)
        suffix = "tar.zst" if zstandard else "tar.gz"
        with progress("packing", size // 2**20) as show, ThreadPoolExecutor(3) as threads:
            tag = self.environment.tag

            def write(name: str, names: Iterable[str], **more: Any) -> None:
                with archive.into(self.directory / name) as stream:
                    archive.fill(stream, manifest, names, top="env", tag=tag, **more)

            packed = in_mebibytes(show)
            halves = zip(HALVES, _halves(manifest, manifest.keys() - boot), strict=True)
            writing = [
                threads.submit(write, f"{base}.{half}.{suffix}", names, packed=packed) for half, names in halves
            ]
            notes = self.notes(manifest)
            writing.append(threads.submit(write, f"{base}.boot.tar.gz", boot, notes=notes))
            for future in writing:
                future.result()
            show(size // 2**20, "MiB")
        note = {name: [entry.digest, entry.program] for name, entry in manifest.items()}
        write_private(self.directory / f"{base}.json", json.dumps(note))


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


def _has_zstandard() -> bool:
    try:
        import zstandard  # noqa: F401
    except ImportError:
        return False
    return True


async def pack_beside(packages: str, *, image: bool = False) -> Packed:
    """Pack in a thread, so that the event loop goes on."""
    return await asyncio.to_thread(pack, packages, image=image)


def check(packages: str, *, image: bool = False) -> None:
    """Check, in a moment and before anything is asked for, that ``packages=`` names what can be sent."""
    environment = Environment.of(packages)
    _maker(image).check(environment)
    if not environment.sites:
        raise ConfigError(f"packages={packages!r}: {environment.prefix} has no directory of installed packages")
