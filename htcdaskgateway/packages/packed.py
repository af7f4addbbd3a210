"""What is sent of an environment, in a few words; the work is in ``packing.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

HALVES = ("base", "more")
"""The archives of the installed packages: two, so that a node unpacks both at once."""

EXTRAS = ".htcdaskgateway"
"""The directory of an environment in which its system libraries and CA certificates lie in a container."""


@dataclass(frozen=True)
class Packed:
    """What is sent of an environment: its keys, its archives' paths by their names, and what a node must have."""

    key: str
    base: str
    local: str
    archives: Mapping[str, str]
    checksums: Mapping[str, str]
    glibc: int
    machine: str
    version: str
    size: int
    certificates: str
    conda: bool = False
    program: str = ""
    binds: Sequence[str] = ()
    """Where in a container the parts of a squashfs lie; none: what is sent is unpacked on the node."""

    @property
    def with_each_job(self) -> list[str]:
        """The names of the archives that always travel."""
        return [name for name in self.archives if name.startswith(("delta", "local"))]

    @property
    def if_missing(self) -> list[str]:
        """The names of the archives that a node may have already."""
        return [name for name in self.archives if not name.startswith(("delta", "local"))]

    def to_json(self) -> str:
        """Return a text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Packed:
        """Return what `to_json` wrote."""
        return cls(**json.loads(text))
