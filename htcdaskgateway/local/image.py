"""Make a small container image of this Python environment: its interpreter, dask, and what those need.

Nothing is fetched: the interpreter, its standard library, the installed distributions, the shared libraries that
they are linked with, and the few programs that a job's script calls are copied from this machine. So the image has
just the versions of the client that it is made by.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .apptainer import Apptainer
from .debian import cache_directory, locked, said
from .errors import LocalSystemError
from .processes import run

logger = logging.getLogger(__name__)

REQUIREMENTS = ("distributed", "numpy")
PIP_TIMEOUT = 300.0
TOOL_TIMEOUT = 60.0
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
# Counts the changes of what is in an image beside the distributions.
_LAYOUT = 5
_PROGRAMS = [
    "sh",
    "cat",
    "cp",
    "date",
    "dirname",
    "env",
    "head",
    "hostname",
    "id",
    "kill",
    "ls",
    "mkdir",
    "rm",
    "sed",
    "sleep",
    "tail",
    "test",
    "touch",
    "true",
    "uname",
]
# glibc loads it when a thread ends; no program is linked with it.
_LOADED_LATER = "libgcc_s.so.1"
_NOT_NEEDED = ["dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tkinter", "turtledemo"]
_DIRECTORIES = (
    "dev",
    "etc",
    "home",
    "mnt",
    "proc",
    "root",
    "srv",
    "sys",
    "tmp",
    "usr/bin",
    "usr/lib",
    "usr/sbin",
    "var/tmp",
)
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib"}
# Apptainer puts the machine's own over those that are there.
_ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "group": "root:x:0:\n",
    "hosts": "127.0.0.1 localhost\n",
    "resolv.conf": "",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_LIBRARY = re.compile(r"(?:^|\s)(/\S+) \(0x[0-9a-f]+\)$", re.M)


def sandbox(requirements: Sequence[str] = REQUIREMENTS, *, pip: Sequence[str] = ()) -> Path:
    """Return an image as a directory, made once and kept in the user's cache.

    It holds the distributions of `requirements`, less those that are not installed here, with all that they
    require; `pip` then installs its requirements, such as ``["msgpack==1.1.0"]``, beside or instead of them.
    """
    found = _closure(requirements)
    versions = sorted(f"{name}=={distribution.version}" for name, distribution in found.items())
    key = repr((_LAYOUT, _PROGRAMS, sys.version, sys.base_prefix, versions, sorted(pip)))
    name = f"{PYTHON}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    return made_once(cache_directory() / "images" / name, lambda path: _make(path, found.values(), pip))


def sif(requirements: Sequence[str] = REQUIREMENTS, *, pip: Sequence[str] = ()) -> Path:
    """Return the image of `sandbox` as a ``.sif`` file."""
    source = sandbox(requirements, pip=pip)
    target = source.with_name(f"{source.name}.sif")
    return made_once(target, lambda path: Apptainer.find_or_install().build(path, source))


def made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """Return the target, made beside its place and moved there when it is whole."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            logger.info("making the image %s", target)
            with tempfile.TemporaryDirectory(prefix=".making-", dir=target.parent) as work:
                made = Path(work) / target.name
                make(made)
                made.rename(target)
    return target


def _closure(requirements: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    """Find the installed distributions that the requirements name, and all that those require."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, importlib.metadata.Distribution] = {}
    todo = [Requirement(text) for text in requirements]
    seen = set()
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if (name, *sorted(wanted.extras)) in seen:
            continue
        seen.add((name, *sorted(wanted.extras)))
        try:
            found[name] = importlib.metadata.distribution(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            logger.debug("%s is not installed here, so it is not in the image", wanted)
            continue
        for text in found[name].requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *wanted.extras)):
                todo.append(needed)
    return found


def _make(image: Path, distributions: Iterable[importlib.metadata.Distribution], pip: Sequence[str]) -> None:
    files = image.with_name("files")
    _fill(files, distributions, pip)
    # Apptainer adds what it wants to find in an image; HTCondor tries each with `apptainer test`.
    Apptainer.find_or_install().build(image, files)


def _fill(directory: Path, distributions: Iterable[importlib.metadata.Distribution], pip: Sequence[str]) -> None:
    for name in _DIRECTORIES:
        (directory / name).mkdir(parents=True)
    for name, target in _LINKS.items():
        (directory / name).symlink_to(target)
    for name, text in _ETC.items():
        (directory / "etc" / name).write_text(text)
    base = _copy_python(directory)
    # /usr/local is a virtual environment: every Python, Debian's too, then looks into its site-packages alone.
    site = directory / "usr/local/lib" / PYTHON / "site-packages"
    site.mkdir(parents=True)
    (directory / "usr/local/bin").mkdir()
    for name in ("python", "python3", PYTHON):
        (directory / "usr/local/bin" / name).symlink_to(f"/opt/python/bin/{PYTHON}")
    (directory / "usr/local/pyvenv.cfg").write_text(
        "home = /opt/python/bin\ninclude-system-site-packages = false\n"
    )
    for distribution in distributions:
        _copy_distribution(distribution, site)
    if pip:
        _pip_install(site, pip)
    programs = [base]
    for name in _PROGRAMS:
        if program := shutil.which(name):  # a machine may lack `hostname`, and nothing depends on it
            shutil.copy2(program, directory / "usr/bin" / name)
            programs.append(Path(program))
    _copy_libraries([*programs, *(directory / "opt").rglob("*.so"), *site.rglob("*.so*")], directory)


def _copy_python(directory: Path) -> Path:
    """Copy the interpreter and its standard library to /opt/python; return the interpreter on this machine."""
    # Not sys.executable: that of a virtual environment may be a link to a launcher.
    program = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    home = directory / "opt/python"
    (home / "bin").mkdir(parents=True)
    shutil.copy2(program, home / "bin" / PYTHON)
    library = Path(os.__file__).resolve().parent
    top = str(library)

    def skip(place: str, names: list[str]) -> set[str]:
        at_top = {name for name in names if place == top and (name in _NOT_NEEDED or name.startswith("config-"))}
        return at_top | {name for name in names if name.startswith("_tkinter.")}

    shutil.copytree(library, home / "lib" / PYTHON, ignore=skip, ignore_dangling_symlinks=True)
    return program


def _copy_distribution(distribution: importlib.metadata.Distribution, site: Path) -> None:
    if distribution.files is None:
        raise LocalSystemError(f"{distribution.name} has no list of its files. Install it with pip or conda.")
    for file in distribution.files:
        if ".." in file.parts or file.is_absolute() or "tests" in file.parts:
            continue  # a script outside site-packages, or tests
        source = Path(str(file.locate()))
        if source.is_file():
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _pip_install(site: Path, requirements: Sequence[str]) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target"]
    with tempfile.TemporaryDirectory(prefix="htcdaskgateway-pip-") as work:
        command = [sys.executable, "-m", "pip", "install", *options, work, *requirements]
        said(run(command, timeout=PIP_TIMEOUT), f"pip install {' '.join(requirements)}")
        for found in importlib.metadata.distributions(path=[work]):
            for old in importlib.metadata.distributions(path=[str(site)], name=found.name):
                places = [site / file for file in old.files or ()]
                for place in places:
                    place.unlink(missing_ok=True)
                # An empty one would still be taken for an installed distribution, of no version.
                for directory in {place.parent for place in places if place.parent.suffix == ".dist-info"}:
                    shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(work, site, dirs_exist_ok=True)


def _copy_libraries(programs: Iterable[Path], directory: Path) -> None:
    """Copy all shared libraries that the programs and libraries are linked with, and their loader."""
    seen: dict[str, Path] = {}
    for program in programs:
        if program.is_file():
            # No success for a script or a static program, which need nothing.
            listed = run(["ldd", program], timeout=TOOL_TIMEOUT).stdout
            for path in map(Path, _LIBRARY.findall(listed)):
                if directory not in path.parents:  # a wheel's own library, in its place already
                    seen.setdefault(path.name, path)
    libc = next((path for name, path in seen.items() if name.startswith("libc.so")), None)
    if libc is None:
        raise LocalSystemError("ldd names no C library, so this is no machine that an image can be made of")
    seen.setdefault(_LOADED_LATER, libc.with_name(_LOADED_LATER))
    for name, path in seen.items():
        if path.is_file():
            shutil.copy2(path, directory / "usr/lib" / name)
