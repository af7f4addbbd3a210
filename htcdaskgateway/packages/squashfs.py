"""A squashfs of an environment, which lies in a container where the environment lies here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..display.progress import in_mebibytes, progress
from ..errors import ConfigError, StagingError
from ..files import replacing
from . import archive
from .archive import Entry
from .environment import Environment, Found, walk
from .keeping import Keeping, key_of
from .packed import EXTRAS, Packed

NAME = "packages.sqsh"
"""What the squashfs is called in the job's directory."""

_SYSTEM = ("/usr", "/usr/local")
# What a conda installation holds beside its own environment.
_NOT_OF_THE_PREFIX = frozenset(["pkgs", "envs"])
_TIMEOUT = 1800.0
_OPTIONS = ("-comp", "zstd", "-Xcompression-level", "3", "-all-root", "-no-progress", "-quiet", "-noappend")
_NEWER = "it has to be that of squashfs-tools 4.5 or newer"


class Squashing(Keeping):
    """A squashfs of one environment: that which is there already, or a new one."""

    @staticmethod
    def check(environment: Environment) -> None:
        """Check that it can be sent in this way."""
        _program()
        if environment.prefix in _SYSTEM:
            raise ConfigError(
                f"{environment.program} is the system's own: in a container all of {environment.prefix} would hide "
                "the image's. Run the notebook in an environment (python -m venv), or pass no container_image"
            )
        for bind in Layout(environment).binds():
            if re.search(r"[:,\\]", bind):
                raise ConfigError(f"{bind} cannot be bound into a container: its path has a colon, a comma or a \\")

    def files(self, editable: frozenset[str]) -> list[Found]:
        """Return the files but those of the local code, under the names that they have here."""
        layout = Layout(self.environment)
        interpreter = list(self.environment.interpreter())
        extras = [file for file in interpreter if file.name == "certificates.pem"]
        if not self.environment.is_conda:  # conda's has all that it needs
            extras += self.libraries(interpreter)
        place = f"{self.environment.prefix.strip('/')}/{EXTRAS}"
        return [*layout.files(editable), *(file._replace(name=f"{place}/{file.name}") for file in extras)]

    def run(self) -> Packed:
        """Pack what is not packed yet."""
        manifest, local = self.manifests()
        key, size = key_of(manifest), sum(entry.size for entry in manifest.values())
        place = self.directory / f"{key}.sqsh"
        if not place.exists():
            write(place, manifest, self.environment.tag, size)
        layout = Layout(self.environment)
        more = {"binds": layout.binds(), "program": f"{self.environment.prefix}/bin/python"}
        files = {**manifest, **local}
        return self.packed((key, key), {NAME: place}, files, local, place.stat().st_size, **more)


class Layout:
    """Where the parts of an environment lie here, and therefore in a container."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def binds(self) -> list[str]:
        """Return the files and directories that hold all."""
        environment = self.environment
        found = {environment.prefix, *self._interpreter(), *environment.sites}
        if environment.base_prefix not in _SYSTEM:
            found.add(environment.base_prefix)
        return sorted(path for path in found if not any(other in found for other in map(str, Path(path).parents)))

    def files(self, editable: frozenset[str]) -> Iterator[Found]:
        """Yield the files but the entries of installed packages whose names are in `editable`."""
        seen: set[str] = set()
        for root in [self.environment.prefix, *self.environment.sites, *self._interpreter()]:
            for file in self._below(root):
                if file.path not in seen and not self.environment.is_local(file.path, editable):
                    seen.add(file.path)
                    yield file

    @staticmethod
    def _below(root: str) -> Iterator[Found]:
        if Path(root).is_dir() and not Path(root).is_symlink():
            yield from walk(root, root.strip("/"), skip=lambda name: name in _NOT_OF_THE_PREFIX)
        else:
            yield Found(root.strip("/"), root, os.lstat(root))

    def _interpreter(self) -> list[str]:
        """Return what is needed of the Python that the environment was made with."""
        environment = self.environment
        # As its maker has named them, which may be by a link to a directory.
        library = f"{environment.base_prefix}/lib/python{environment.version}"
        same = Path(library).is_dir() and Path(library).samefile(environment.library)
        found = [library if same else environment.library, environment.program]
        step = Path(environment.prefix, "bin", "python")
        while step.is_symlink():
            step = Path(os.path.normpath(step.parent / step.readlink()))
            found.append(str(step))
        found += map(str, Path(environment.base_prefix, "lib").glob("libpython*.so*"))
        return list(dict.fromkeys(found))


def write(target: Path, manifest: Mapping[str, Entry], tag: str, size: int) -> None:
    """Write a squashfs of those files.

    Raises
    ------
    ConfigError
        There is no ``mksquashfs``, or an old one.
    StagingError
        It has failed.
    """
    with replacing(target) as fresh:
        command = [_program(), "-", str(fresh), "-tar", *_OPTIONS]
        with (
            tempfile.TemporaryFile() as said,
            subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=said, stderr=said
            ) as made,
        ):
            # Whatever it waits for: nobody waits for it for ever.
            limit = threading.Timer(_TIMEOUT, made.kill)
            limit.start()
            try:
                broken = _fill(made.stdin, manifest, tag, size)
                code = made.wait()
            except BaseException:
                made.kill()
                raise
            finally:
                limit.cancel()
            said.seek(0)
            words = said.read().decode(errors="replace").strip()
        if code != 0 or broken:
            raise StagingError(f"{command[0]} has failed ({_NEWER}): {words[-500:] or f'exit code {code}'}")
        fresh.chmod(0o600)


def _fill(stream: Any, manifest: Mapping[str, Entry], tag: str, size: int) -> bool:
    """Write all files to the program; return whether it has ended before."""
    try:
        with progress("packing", size // 2**20) as show, stream:
            archive.fill(stream, manifest, manifest, top=".", tag=tag, packed=in_mebibytes(show))
    except BrokenPipeError:
        return True
    return False


def _program() -> str:
    found = shutil.which("mksquashfs")
    if found is None:
        raise ConfigError(
            "packages with container_runtime='apptainer' need mksquashfs here, which makes one file of them: "
            f"install squashfs-tools ({_NEWER.partition('of ')[2]})"
        )
    return found
