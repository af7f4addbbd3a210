"""Find an HTCondor with daemons on this machine, or unpack one of Debian's."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from .debian import TOOL_TIMEOUT, said, unpack_packages
from .errors import LocalSystemError
from .processes import check_platform, run

DEFAULT_SUITE = "trixie"
PACKAGE = "condor"
DAEMONS = ("condor_master", "condor_collector", "condor_negotiator", "condor_schedd", "condor_startd")
TOOLS = ("condor_submit", "condor_q", "condor_rm", "condor_status")
WAY_OUT = (
    "install HTCondor with its daemons (Debian, Ubuntu: `apt-get install condor`; others: HTCondor's own packages; "
    "conda-forge's htcondor has none), or set CONDOR_BIN_DIR to the bin directory of one"
)


@dataclass(frozen=True)
class Installation:
    """The directories of one HTCondor."""

    prefix: Path
    bin: Path
    sbin: Path
    lib: Path
    libexec: Path

    @classmethod
    def at(cls, prefix: Path) -> Installation | None:
        """Return the installation below a prefix such as ``/usr``, or None if a program is missing."""
        for sbin in (prefix / "sbin", prefix / "bin"):
            if all((sbin / name).is_file() for name in DAEMONS):
                break
        else:
            return None
        if not all((prefix / "bin" / name).is_file() for name in TOOLS):
            return None
        for libexec in (prefix / "libexec/condor", prefix / "lib/condor/libexec", prefix / "libexec"):
            if (libexec / "condor_shared_port").is_file():
                lib = prefix / "lib/condor"
                return cls(prefix, prefix / "bin", sbin, lib if lib.is_dir() else prefix / "lib", libexec)
        return None


def find() -> Installation | None:
    """Look for an HTCondor with daemons on this machine.

    Looked at, in this order: ``CONDOR_BIN_DIR``, ``PATH``, this Python's environment, conda's, ``/usr``.
    """
    prefixes = []
    if bin_dir := os.environ.get("CONDOR_BIN_DIR"):
        prefixes.append(Path(bin_dir).absolute().parent)
    for name in ("condor_master", "condor_q"):
        if program := shutil.which(name):
            prefixes.append(Path(program).absolute().parent.parent)
    prefixes.append(Path(sys.prefix))
    if conda := os.environ.get("CONDA_PREFIX"):
        prefixes.append(Path(conda))
    prefixes.append(Path("/usr"))
    return next((found for prefix in prefixes if (found := Installation.at(prefix))), None)


def find_or_install(suite: str | None = None) -> Installation:
    """Return this machine's HTCondor, or unpack one from Debian's packages into the user's cache.

    From `suite`, or the one that ``HTCONDOR_SUITE`` names, it is unpacked even if the machine has one.
    """
    check_platform()
    suite = suite or os.environ.get("HTCONDOR_SUITE")
    if not suite and (found := find()):
        return found
    return install(suite or DEFAULT_SUITE)


def install(suite: str = DEFAULT_SUITE) -> Installation:
    """Unpack the HTCondor of a Debian suite into the user's cache, once; takes about 15 s and 85 MB."""
    prefix = unpack_packages(f"htcondor-{suite}", suite, [PACKAGE], _finish, way_out=WAY_OUT)
    return _whole(prefix)


def _whole(prefix: Path) -> Installation:
    found = Installation.at(prefix / "usr")
    if found is None:
        raise LocalSystemError(f"there is no whole HTCondor in {prefix}; remove that directory and try again")
    return found


def _finish(prefix: Path) -> str:
    """Try the unpacked HTCondor and return its version."""
    return said(run([_whole(prefix).bin / "condor_version"], timeout=TOOL_TIMEOUT), "condor_version")
