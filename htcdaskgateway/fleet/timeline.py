"""What became of a cluster's jobs over time, from their own event log and from when their workers joined."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ..condor.eventlog import Event, EventType, read_events
from ..display import plot
from ..display.html import pre_html
from ..display.table import duration
from ..errors import HTCDaskGatewayError, SchedulerError, StagingError
from ..plain import counted
from ..worker.staging import Staging
from .joins import Join, keep_joins, last_look, read_joins
from .logs import fetch_spooled
from .past import Start, counts_of, marks_of, starts_of

if TYPE_CHECKING:
    from .fleet import Fleet

logger = logging.getLogger(__name__)

_LOG_LINE = re.compile(r"^\s*log\s*=\s*(.+?)\s*$", re.M | re.I)


class Timeline:
    """What became of a cluster's jobs over time; prints as text, and shows a plot in a notebook.

    Attributes
    ----------
    times : list of float
        When something changed, in seconds since the epoch.
    idle, running, held, asked, joined : list of int
        How many jobs, or for `joined` workers, there were from each of these times on. `asked` is the sum of idle,
        running and held.
    marks : list of Mark
        Evictions, holds and restarts.
    starts : list of Start
        Where the time of each worker went until it joined.
    """

    def __init__(
        self, cluster: str, events: Iterable[Event], joins: Iterable[Join], until: float | None = None
    ) -> None:
        self.cluster = cluster
        self._events = list(events)
        known = {event.job for event in self._events}
        came = sorted(joins)
        self._joins = [join for join in came if join.job in known]
        self._elsewhere = len({join.worker for join in came if join.joined and join.job not in known})
        self.marks = sorted(marks_of(self._events, self._joins))
        self.starts = starts_of(self._events, self._joins)
        self.times, counts = counts_of(self._events, self._joins)
        if until is not None and self.times and until > self.times[-1]:
            self.times.append(until)
            counts.append(counts[-1])
        self.idle, self.running, self.held, self.joined = (
            [count[state] for count in counts] for state in ("idle", "running", "held", "joined")
        )
        self.asked = [sum(count) for count in zip(self.idle, self.running, self.held, strict=True)]

    def spent(self, since: float = 0.0) -> str:
        """Return in one line where the time of the worker went that joined last, or nothing if none is known.

        Parameters
        ----------
        since : float, optional
            Look at workers that have joined since, in seconds since the epoch.
        """
        came = [start for start in self.starts if start.joined >= since]
        if not came:
            return ""
        last = max(came, key=lambda start: start.joined)
        who = "The worker" if len(came) == 1 else f"The last of {len(came)} workers"
        return f"{who} joined after {duration(last.total)}: {last}."

    def __str__(self) -> str:
        if not self.times:
            return "The event log tells of no jobs yet."
        lasted = duration(self.times[-1] - self.times[0])
        lines = [
            f"Cluster {self.cluster}: {counted(len({event.job for event in self._events}), 'job')} in {lasted}. "
            f"At most {max(self.asked)} asked for, {max(self.running)} running, {max(self.joined)} joined."
        ]
        for kind in ("evicted", "held", "restarted"):
            marks = [mark for mark in self.marks if mark.kind == kind]
            if marks:
                why = Counter(mark.why for mark in marks if mark.why).most_common(1)
                times = "once" if len(marks) == 1 else f"{len(marks)} times"
                reason = ""
                if why:
                    text, count = why[0]
                    reason = f" ({text})" if count == len(marks) else f" ({count} of them: {text})"
                lines.append(f"{kind.capitalize()} {times}{reason}.")
        if self._elsewhere:
            lines.append(
                f"Not shown: {counted(self._elsewhere, 'more worker')} joined whose jobs' event log is not here."
            )
        if self.starts:
            typical = Start("", 0.0, *(median(phase) for phase in zip(*(s[2:] for s in self.starts), strict=True)))
            lines.append(f"Until a worker joined (median of {len(self.starts)}): {typical}.")
        elif any(event.type is EventType.EXECUTE for event in self._events):
            lines.append("When workers joined is not known: the scheduler is gone, and nobody has asked it before.")
        return "\n".join(lines)

    __repr__ = __str__

    def _plot(self) -> plot.Plot:
        height = dict(zip(self.times, self.asked, strict=True))
        return plot.Plot(
            title=f"Workers of {self.cluster}",
            times=self.times,
            areas={"running": self.running, "idle": self.idle, "held": self.held},
            lines={"asked": self.asked, "joined": self.joined},
            marks=[
                plot.Mark(
                    mark.time, height.get(mark.time, 0), mark.kind, f"{mark.job} {mark.kind} {mark.why}".strip()
                )
                for mark in self.marks
            ],
            caption=str(self),
        )

    def save(self, path: str | Path) -> Path:
        """Save the plot.

        Parameters
        ----------
        path : path
            A file whose name ends in ``.html``, ``.png`` or ``.svg``.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        ConfigError
            The name ends in something else, or neither Bokeh nor matplotlib can draw it here.
        StagingError
            It cannot be written.
        """
        target = Path(path)
        data = plot.render(self._plot(), target.suffix)
        try:
            target.write_bytes(data)
        except OSError as error:
            raise StagingError(f"{target} cannot be written: {error.strerror or error}") from error
        return target

    def _repr_html_(self) -> str:
        return (plot.notebook_html(self._plot()) if self.times else "") + pre_html(str(self))


def event_log(staging: Staging) -> Path:
    """Return the event log that the cluster's submit description names."""
    try:
        text = staging.description.read_text(encoding="utf-8")
    except OSError as error:
        raise StagingError(f"{staging.description} cannot be read: {error.strerror or error}") from error
    named = _LOG_LINE.findall(text)
    if not named or "$(" in named[-1].replace("$(DOLLAR)", ""):
        raise StagingError(f"{staging.description} has no line `log = FILE` that tells where the event log is")
    return Path(staging.directory, named[-1].replace("$(DOLLAR)", "$"))


def read_timeline(staging: Staging, until: float | None = None) -> Timeline:
    """Return a cluster's timeline until its last event, `until` or the last look; nobody is asked."""
    path = event_log(staging)
    if not path.exists():
        if re.search(r"^leave_in_queue\s*=", staging.description.read_text(encoding="utf-8"), re.M):
            raise StagingError(
                "there is no event log here: the jobs are spooled, so the schedd keeps it, and sends it back with "
                "the output of a job that has ended"
            )
        raise StagingError(f"there is no event log {path}: no job has been submitted from this machine")
    # HTCondor logs that jobs were removed some seconds after a shutdown.
    until = until or last_look(staging.directory)
    return Timeline(staging.cluster, read_events(path), read_joins(staging.directory), until)


async def look_back(fleet: Fleet) -> Timeline:
    """Return the timeline of a cluster that runs; its scheduler is asked who joined, and the schedd nothing."""
    await fetch_spooled(fleet)
    try:
        await keep_joins(fleet.scheduler, fleet.staging.directory)
    except SchedulerError as error:
        logger.info("who has joined is as last seen: %s", error)
    return await asyncio.to_thread(read_timeline, fleet.staging, time.time())


async def time_spent(fleet: Fleet, since: float) -> str:
    """Return in one line where the time went of the workers that joined after `since`, if that is known."""
    if fleet.staging.spec.spool:  # their log is at the schedd
        return ""
    try:
        return (await look_back(fleet)).spent(since)
    except HTCDaskGatewayError as error:
        logger.info("where the time went is not known: %s", error)
        return ""
