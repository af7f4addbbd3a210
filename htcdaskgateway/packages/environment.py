"""The files of a Python environment, and the names that they have on a node."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError
from . import layout

NOTEBOOK = "notebook"
"""The value of ``packages`` that means the environment of this process."""

_SITES = ("site-packages", "dist-packages")
_NOT_LIBRARY = frozenset(
    ["__pycache__", "test", "idlelib", "ensurepip", "lib2to3", "turtledemo", "tkinter", *_SITES]
)
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
# What belongs to glibc has to be the node's own.
_GLIBC = re.compile(
    r"(ld-linux.*|linux-vdso.*|lib(c|m|dl|rt|pthread|resolv|util|nsl|nss_\w+|anl|mvec|BrokenLocale|thread_db)\.so.*)"
)
_LDD = re.compile(r"^\s+(\S+) => (/\S+) \(", re.M)
# Wheels take these from the system without saying so.
_FOR_WHEELS = ("libstdc++.so.6", "libgcc_s.so.1", "libz.so.1")
_TIMEOUT = 60.0


class Found(NamedTuple):
    """A file: its name on a node, where it is, and its stat."""

    name: str
    path: str
    stat: os.stat_result


@dataclass(frozen=True)
class Environment:
    """Where a Python environment has its parts, as `layout.describe` tells."""

    prefix: str
    base_prefix: str
    program: str
    library: str
    version: str
    tag: str
    machine: str
    libc: str
    path: list[str]
    certificates: str
    libpython: str
    is_notebook: bool

    @classmethod
    def of(cls, packages: str) -> Environment:
        """Return the environment that ``packages=`` names.

        Raises
        ------
        ConfigError
            There is none, or it is one that cannot be sent.
        """
        described = layout.describe() if packages == NOTEBOOK else _ask(packages)
        found = cls(**described, is_notebook=packages == NOTEBOOK)
        if found.libc != "glibc":
            raise ConfigError(
                f"packages={packages!r}: its Python has {found.libc or 'no GNU libc'}, but only glibc can be sent"
            )
        return found

    @property
    def is_conda(self) -> bool:
        """Whether conda has made it, so that its files contain its path."""
        return (Path(self.prefix) / "conda-meta").is_dir()

    @cached_property
    def sites(self) -> list[str]:
        """The directories of installed packages; the first goes before the others."""
        return list(dict.fromkeys(entry for entry in self.path if entry.endswith(_SITES) and Path(entry).is_dir()))

    def is_local(self, path: str, editable: frozenset[str]) -> bool:
        """Tell whether a file belongs to an entry of the installed packages whose name is in `editable`."""
        site = next((site for site in self.sites if path.startswith(f"{site}/")), None)
        name = path.removeprefix(f"{site}/").partition("/")[0] if site else ""
        return name in editable or name.startswith("__editable__")

    def interpreter(self) -> Iterator[Found]:
        """Yield the interpreter, the standard library and the certificates."""
        yield _one(f"base/bin/python{self.version}", self.program)
        yield from walk(self.library, f"base/lib/python{self.version}", skip=_is_not_library)
        for path in sorted((Path(self.base_prefix) / "lib").glob("libpython*.so*")):
            yield _one(f"base/lib/{path.name}", str(path))
        bundle = next((path for path in (self.certificates, *_BUNDLES) if path and Path(path).is_file()), None)
        if bundle:
            yield _one("certificates.pem", os.path.realpath(bundle))

    def packages(self, editable: frozenset[str]) -> Iterator[Found]:
        """Yield the installed packages, but the entries whose names are in `editable`."""
        seen: set[str] = set()

        def skip(name: str) -> bool:
            return name in editable or name == "__pycache__" or name.startswith("__editable__") or name in seen

        for site in self.sites:
            yield from walk(site, f"lib/python{self.version}/site-packages", skip=skip)
            seen |= {entry.name for entry in os.scandir(site)}

    def libraries(self, found: list[Found]) -> Iterator[Found]:
        """Yield the shared libraries that the interpreter takes from this system; a node may lack them."""
        asking = [file.path for file in found if ".so" in file.name or file.name.startswith("base/bin/")]
        command = ["/usr/bin/ldd", *(path for path in asking if not Path(path).is_symlink())]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"cannot tell which libraries {self.program} needs: {error}") from error
        needed = {
            name: path
            for name, path in _LDD.findall(done.stdout)
            if not _GLIBC.fullmatch(name) and not name.startswith("libpython")
        }
        for name in _FOR_WHEELS:
            for place in (
                f"/lib/{self.machine}-linux-gnu",
                f"/usr/lib/{self.machine}-linux-gnu",
                "/usr/lib64",
                "/lib64",
            ):
                if name not in needed and Path(place, name).exists():
                    needed[name] = f"{place}/{name}"
        for name, path in sorted(needed.items()):
            yield _one(f"libraries/{name}", os.path.realpath(path))


def _is_not_library(name: str) -> bool:
    return name in _NOT_LIBRARY or name.startswith("config-")


def _one(name: str, path: str) -> Found:
    return Found(name, path, os.lstat(path))


def _ask(packages: str) -> dict[str, Any]:
    python = Path(packages).expanduser().absolute() / "bin" / "python"
    if not python.exists():
        raise ConfigError(
            f"packages={packages!r}: it is {NOTEBOOK!r} or the path of an environment, but there is no {python}"
        )
    try:
        command = [str(python), "-I", layout.__file__]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, cwd="/")  # noqa: S603
        described: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"packages={packages!r}: cannot run its Python: {error}") from error
    # A program's own directory is the first of its path.
    described["path"] = [entry for entry in described["path"] if entry != str(Path(layout.__file__).parent)]
    return described


def walk(root: str, name: str, skip: Callable[[str], bool] = lambda name: False) -> Iterator[Found]:
    """Yield the files and links below `root`; `skip` is asked about the entries of `root` itself."""
    stack = [(root, name)]
    while stack:
        directory, here = stack.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name == "__pycache__" or (directory == root and skip(entry.name)):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    stack.append((entry.path, f"{here}/{entry.name}"))
                elif entry.is_symlink() or entry.is_file():
                    yield Found(f"{here}/{entry.name}", entry.path, entry.stat(follow_symlinks=False))


def own_python() -> str:
    """Return the words for this process's Python."""
    return f"Python {sys.version_info[0]}.{sys.version_info[1]} ({sys.executable})"
