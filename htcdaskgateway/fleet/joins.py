"""When workers joined the scheduler and left it: kept by the scheduler, and in the staging directory after it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..condor.jobs import JobId
from ..errors import HTCDaskGatewayError, StagingError
from ..remote.scheduler_plugin import JOINS
from ..scheduler.link import SchedulerLink

logger = logging.getLogger(__name__)

LAST_WORD = 3.0
"""How long a scheduler that is about to be shut down may take to tell, in seconds."""


class Join(NamedTuple):
    """A worker that joined the scheduler or left it.

    Attributes
    ----------
    time : float
        When, by the scheduler's clock.
    worker : str
        The worker's name.
    joined : bool
        False: it left.
    begun : float or None
        When it began to look for the scheduler, by the clock of its machine.
    """

    time: float
    worker: str
    joined: bool
    begun: float | None = None

    @property
    def job(self) -> JobId:
        """The job that the worker runs in, as its event log calls it."""
        found = JobId.of_worker(self.worker)
        assert found is not None  # noqa: S101 - from_data has looked
        return found.alone

    @classmethod
    def from_data(cls, data: Iterable[Any]) -> list[Join]:
        """Return what the scheduler or a file has told; what is none of ours is left out."""
        joins = []
        for time, worker, joined, begun in data:
            if JobId.of_worker(worker) is not None:
                joins.append(cls(float(time), str(worker), bool(joined), None if begun is None else float(begun)))
        return joins


def joins_file(directory: Path) -> Path:
    """Return the file in a staging directory that outlives the scheduler."""
    return directory / "joins.json"


async def keep_joins(link: SchedulerLink, directory: Path) -> list[Join]:
    """Return what the scheduler has told, and write it into the staging directory."""
    data = await link.noted(JOINS, [])
    joins = Join.from_data(data)
    if joins:
        # In no thread: a program that ends closes its clusters when Python starts none any more.
        _write(joins_file(directory), data)
    return joins


async def keep_last_joins(link: SchedulerLink, directory: Path) -> None:
    """Write it before the scheduler is shut down; where that fails, a timeline lacks the workers that joined."""
    try:
        await asyncio.wait_for(keep_joins(link, directory), LAST_WORD)
    except (HTCDaskGatewayError, asyncio.TimeoutError) as error:
        logger.info("when workers joined is not kept: %s", str(error) or "the scheduler does not answer")


def read_joins(directory: Path) -> list[Join]:
    """Return what was written last; nothing, if nothing was."""
    path = joins_file(directory)
    try:
        return Join.from_data(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return []
    except (OSError, TypeError, ValueError) as error:
        raise StagingError(f"{path} cannot be read: {error}") from error


def last_look(directory: Path) -> float | None:
    """Return when it was last written, as it is at the shutdown, in seconds since the epoch."""
    path = joins_file(directory)
    return path.stat().st_mtime if path.exists() else None


def _write(path: Path, data: Any) -> None:
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(json.dumps(data), encoding="utf-8")
        fresh.chmod(0o600)
        fresh.replace(path)
    except OSError as error:
        raise StagingError(f"{path} cannot be written: {error.strerror or error}") from error
