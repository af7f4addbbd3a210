"""A failed test's report has what pool, server and workers have written since the test began."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from htcdaskgateway.local import GatewayServer, LocalSystem, LocalSystemError, PersonalPool

DAEMONS = ("MasterLog", "SchedLog", "ShadowLog", "NegotiatorLog", "StartLog", "StarterLog.slot*")
LINES = 25
"""How many of its last lines a log has in the report."""


def directories(values: Iterable[Any]) -> Iterator[Path]:
    """Return the directories of the pools and servers that were started, among the values of a test's fixtures."""
    for value in values:
        if isinstance(value, LocalSystem):
            yield from directories([value.pool, value.server])
        elif isinstance(value, PersonalPool) and value.running():
            yield value.directory
        elif isinstance(value, GatewayServer):  # it may have ended, and says why
            with contextlib.suppress(LocalSystemError):
                yield value.directory


def logs(directory: Path) -> list[Path]:
    """Return the logs of daemons, schedulers and workers below a pool's or a server's directory."""
    patterns = (
        "*.log",
        "log/master.out",
        *(f"log/{name}" for name in DAEMONS),
        "clusters/*/logs/*",
        "stage-*/*/logs/*",
        "*/logs/*",
        "execute/dir_*/_condor_std*",  # of a job that still runs
    )
    return sorted({path for pattern in patterns for path in found(directory, pattern)})


def found(directory: Path, pattern: str) -> list[Path]:
    """Return the files that match; one that goes meanwhile, with its job, is an error before Python 3.12."""
    while True:
        try:
            return [path for path in directory.glob(pattern) if path.is_file()]
        except FileNotFoundError:
            continue


def size(log: Path) -> int:
    """Return a log's length, 0 if it has just gone."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


class DaemonLogs:
    """What is new in the logs since the last test with the same pool or server."""

    def __init__(self) -> None:
        self._sizes: dict[Path, int] = {}

    def end(self, values: Iterable[Any]) -> None:
        """Note how long the logs are that there are already, for the next test."""
        self._sizes.update((log, size(log)) for directory in directories(values) for log in logs(directory))

    def news(self, values: Iterable[Any]) -> str:
        """Return the end of what each log has got since `end`."""
        parts = []
        for directory in dict.fromkeys(directories(values)):
            for log in logs(directory):
                try:
                    text = log.read_bytes()
                except FileNotFoundError:  # its cluster has just ended
                    continue
                # A log that is shorter now was begun anew.
                before = self._sizes.get(log, 0)
                lines = text[before if before <= len(text) else 0 :].decode(errors="replace").splitlines()
                if lines:
                    more = [f"… {len(lines) - LINES} lines more"] if len(lines) > LINES else []
                    parts += [f"==> {log} <==", *more, *lines[-LINES:]]
        return "\n".join(parts)
