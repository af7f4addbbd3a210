"""An Apptainer of this machine, or one unpacked from Debian's packages beside the system."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from .debian import TOOL_TIMEOUT, said, unpack_packages
from .processes import one_uid_namespace, run

SUITE = "sid"  # the only one of Debian's that has it
PACKAGES = ("apptainer", "squashfuse", "squashfs-tools")
BUILD_TIMEOUT = 600.0
WAY_OUT = "install Apptainer, so that `apptainer` is on PATH"
# Beside its own programs, not below /etc and /var, an unpacked one looks for its configuration and mount points.
_LINKS = {
    "usr/etc": "../etc",
    "usr/lib/etc": "../../etc",
    "usr/lib/var": "../../var",
    "usr/var": "../var",
}
_HELPERS = ("squashfuse", "squashfuse_ll", "mksquashfs", "unsquashfs")
_MOUNT_POINT = "var/lib/apptainer/mnt/session"


@dataclass(frozen=True)
class Apptainer:
    """An Apptainer: its program."""

    program: Path

    @classmethod
    def find_or_install(cls) -> Apptainer:
        """Return this machine's Apptainer, or unpack Debian's into the user's cache: 20 s and 110 MB."""
        if program := shutil.which("apptainer"):
            return cls(Path(program).absolute())
        prefix = unpack_packages(f"apptainer-{SUITE}", SUITE, PACKAGES, _finish, way_out=WAY_OUT)
        return cls(prefix / "usr/bin/apptainer")

    def build(self, image: Path, directory: Path) -> None:
        """Make an image of the files of a directory: a file if its name ends in ``.sif``, else a directory."""
        # zstd is five times as quick as the default, gzip, and its files are no larger.
        file = image.suffix == ".sif"
        options = ["--mksquashfs-args", "-comp zstd -Xcompression-level 3"] if file else ["--sandbox"]
        command = one_uid_namespace([self.program, "--silent", "build", *options, image, directory])
        said(run(command, timeout=BUILD_TIMEOUT), f"building {image.name}")


def _finish(prefix: Path) -> str:
    """Complete the unpacked files and return the version."""
    for name, target in _LINKS.items():
        (prefix / name).symlink_to(target)
    # The one place where it looks for its helpers whatever its PATH is.
    (helpers,) = (prefix / "usr/lib").glob("*-linux-gnu/apptainer/bin")
    for name in _HELPERS:
        (helpers / name).symlink_to(prefix / "usr/bin" / name)
    (prefix / _MOUNT_POINT).mkdir(parents=True, exist_ok=True)
    return said(run([prefix / "usr/bin/apptainer", "--version"], timeout=TOOL_TIMEOUT), "apptainer")
