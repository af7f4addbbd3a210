"""Compare the versions of Python and of what travels by pickle among client, scheduler and workers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed.utils import asciitable
from distributed.versions import VersionMismatchWarning, get_versions

__all__ = ["NotifyingComm", "VersionMismatchWarning", "Versions", "compare"]

PYTHON = "python"
_NONE = "-"
_OPTIONAL = frozenset(["numpy", "pandas", "lz4"])
# How many workers a table names beside a version that not all of them have.
_NAMED = 3


@dataclass(frozen=True)
class Versions:
    """The versions of a cluster's three sides; prints as a table.

    Of each package, and of ``python``, each side names the version; None where it is not installed.
    """

    client: Mapping[str, str | None]
    scheduler: Mapping[str, str | None]
    workers: Mapping[str, Mapping[str, str | None]]
    image: str | None = None

    @property
    def mismatches(self) -> list[str]:
        """The packages whose versions differ between the sides that need them."""
        return [package for package in self.client if self._differ(package)]

    @property
    def ok(self) -> bool:
        """Whether there is no mismatch."""
        return not self.mismatches

    def _differ(self, package: str) -> bool:
        found = {side.get(package) for side in (self.client, *self.workers.values())}
        if package in _OPTIONAL:
            # The scheduler does not need it, and a side that lacks it may never be asked for it.
            return len(found - {None}) > 1
        found.add(self.scheduler.get(package))
        return len({_minor(version) for version in found} if package == PYTHON else found) > 1

    def _unpicklable(self) -> list[str]:
        """Name the sides whose Python reads no bytecode of the client's."""
        own = _minor(self.client.get(PYTHON))
        sides = ["the scheduler"] if _minor(self.scheduler.get(PYTHON)) != own else []
        others = [name for name, side in self.workers.items() if _minor(side.get(PYTHON)) != own]
        if others:
            sides.append("all workers" if len(others) == len(self.workers) else _names(others))
        return sides

    def __str__(self) -> str:
        wrong = self.mismatches
        rows = []
        for package in sorted(self.client, key=lambda name: (name not in wrong, name != PYTHON)):
            sides = [
                _short(self.client.get(package)),
                _short(self.scheduler.get(package)),
                self._of_workers(package),
            ]
            if sides != [_NONE] * 3:
                rows.append(["!" if package in wrong else "", package, *sides])
        table: str = asciitable(["", "package", "client", "scheduler", f"workers ({len(self.workers)})"], rows)
        lines = [table]
        if self.image:
            lines.append(f"The workers' image: {self.image}")
        if not wrong:
            lines.append("All agree." if self.workers else "Client and scheduler agree; no worker has joined.")
        else:
            lines.append(f"These differ: {', '.join(wrong)}. Install the same version on all sides.")
        sides = self._unpicklable()
        if sides:
            lines.append(
                f"The client's Python {_short(self.client.get(PYTHON))} has another minor version than "
                f"{' and '.join(sides)}: functions and objects sent between them will not unpickle."
            )
        return "\n".join(lines)

    __repr__ = __str__

    def _of_workers(self, package: str) -> str:
        having: dict[str, list[str]] = {}
        for name, side in self.workers.items():
            having.setdefault(_short(side.get(package)), []).append(name)
        if len(having) <= 1:
            return next(iter(having), _NONE)
        return "; ".join(f"{version}: {_names(names)}" for version, names in sorted(having.items()))


def _short(version: str | None) -> str:
    """Return a version as people write it: distributed says 3.11.7.final.0."""
    return _NONE if version is None else str(version).removesuffix(".final.0")


def _minor(version: str | None) -> str | None:
    return None if version is None else ".".join(str(version).split(".")[:2])


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(sorted(names)[:_NAMED]) + more


def compare(answer: Mapping[str, Any], image: str | None = None) -> Versions:
    """Return the comparison of this process with what the scheduler's plugin answered."""
    return Versions(
        client=get_versions()["packages"],
        scheduler=answer["scheduler"]["packages"],
        workers={
            name: (versions or {}).get("packages", {}) for name, versions in sorted(answer["workers"].items())
        },
        image=image,
    )


class NotifyingComm:
    """The comm of a cluster's worker status, which tells when a worker has joined before the message is passed on.

    `joined` is called for as long as its object is alive, and must not raise.
    """

    def __init__(self, comm: Any, joined: Callable[[], None]) -> None:
        self._comm = comm
        self._joined = weakref.WeakMethod(joined)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    async def read(self) -> Any:
        """Read the next messages."""
        messages = await self._comm.read()
        if any(operation == "add" for operation, _ in messages):
            joined = self._joined()
            if joined is not None:
                joined()
        return messages
