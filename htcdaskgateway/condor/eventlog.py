"""HTCondor's job event log: read what a job's ``log =`` file tells, as plain data."""

from __future__ import annotations

import enum
import html
import re
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from ..errors import StagingError
from .jobs import JobId

DAY = 86400.0


class EventType(enum.IntEnum):
    """What happened; the numbers are HTCondor's (its manual, *Job Event Log Codes*)."""

    SUBMIT = 0
    EXECUTE = 1
    EVICTED = 4
    TERMINATED = 5
    SHADOW_EXCEPTION = 7
    ABORTED = 9
    SUSPENDED = 10
    UNSUSPENDED = 11
    HELD = 12
    RELEASED = 13
    RECONNECT_FAILED = 24
    TRANSFER = 40


class Transfer(enum.IntEnum):
    """The step of an event of type TRANSFER, with HTCondor's numbers."""

    QUEUED_IN = 1
    STARTED_IN = 2
    FINISHED_IN = 3
    QUEUED_OUT = 4
    STARTED_OUT = 5
    FINISHED_OUT = 6


class Event(NamedTuple):
    """One event of one job.

    Attributes
    ----------
    time : float
        When, in seconds since the epoch. A plain log knows whole seconds only.
    job : JobId
        The job.
    type : EventType
        What happened.
    reason : str
        Why, where HTCondor says so.
    transfer : Transfer or None
        The step of a transfer.
    """

    time: float
    job: JobId
    type: EventType
    reason: str = ""
    transfer: Transfer | None = None


_HEAD = re.compile(
    r"^(\d{3}) \((\d+)\.(-?\d+)\.-?\d+\) ((?:\d{4}-)?\d\d[-/]\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?Z?) (.*)", re.A | re.M
)
_RECORD = re.compile(r"^<c>$(.*?)^</c>$", re.M | re.S)
_ATTRIBUTE = re.compile(r'^    <a n="(\w+)"><(?:s|i|r|e)>(.*?)</', re.M | re.S)
_TYPES = frozenset(map(int, EventType))
_STEPS = {
    "Entered queue to transfer input files": Transfer.QUEUED_IN,
    "Started transferring input files": Transfer.STARTED_IN,
    "Finished transferring input files": Transfer.FINISHED_IN,
    "Entered queue to transfer output files": Transfer.QUEUED_OUT,
    "Started transferring output files": Transfer.STARTED_OUT,
    "Finished transferring output files": Transfer.FINISHED_OUT,
}


def read_events(path: Path) -> list[Event]:
    """Return the events of a job event log, plain or XML (``log_xml = true``), oldest first.

    What is not understood is left out, and so is an event that HTCondor still writes.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        written = path.stat().st_mtime
    except OSError as error:
        raise StagingError(f"the event log {path} cannot be read: {error.strerror or error}") from error
    return parse_events(text, written)


def parse_events(text: str, written: float | None = None) -> list[Event]:
    """Return the events in the text of a log that was `written` then, or now: old logs have no year."""
    latest = time.time() if written is None else written
    parse = _xml if text.lstrip().startswith("<") else _plain
    # The machines of a pool write one log; a sort keeps the order of what has the same time.
    return sorted(parse(text, latest), key=lambda event: event.time)


def _plain(text: str, latest: float) -> Iterator[Event]:
    # Each event ends with a line of three dots; what follows the last of these is not complete.
    *records, _ = re.split(r"^\.\.\.\r?\n", text, flags=re.M)
    for record in records:
        # Somebody's line, or the half of an event that a crash has left, may stand before it.
        heads = list(_HEAD.finditer(record))
        if not heads:
            continue
        number, cluster, proc, when, what = heads[-1].groups()
        stamp = _time(when, latest)
        if int(number) not in _TYPES or int(proc) < 0 or stamp is None:
            continue
        kind = EventType(int(number))
        body = [line.strip() for line in record[heads[-1].end() :].splitlines()[1:]]
        job = JobId(int(cluster), int(proc))
        yield Event(stamp, job, kind, _reason(kind, body), _STEPS.get(what.strip()))


def _reason(kind: EventType, body: list[str]) -> str:
    if kind in (EventType.HELD, EventType.ABORTED, EventType.RELEASED, EventType.SHADOW_EXCEPTION):
        return body[0] if body else ""
    if kind is EventType.EVICTED:
        after = [place for place, line in enumerate(body) if line.endswith("Run Bytes Received By Job")]
        said = body[after[0] + 1] if after and after[0] + 1 < len(body) else ""
        # HTCondor 25 puts a word before it.
        return "" if said.startswith("Partitionable Resources") else said.removeprefix("Reason: ")
    return ""


def _xml(text: str, latest: float) -> Iterator[Event]:
    for record in _RECORD.findall(text):
        values = {name: html.unescape(value) for name, value in _ATTRIBUTE.findall(record)}
        try:
            number = int(values["EventTypeNumber"])
            job = JobId(int(values["Cluster"]), int(values["Proc"]))
            step = Transfer(int(values["Type"])) if number == EventType.TRANSFER else None
            stamp = _time(values["EventTime"], latest)
        except (KeyError, ValueError):
            continue
        if number in _TYPES and job.proc >= 0 and stamp is not None:
            reason = values.get("HoldReason") or values.get("Reason") or values.get("Message") or ""
            yield Event(stamp, job, EventType(number), reason, step)


def _time(text: str, latest: float) -> float | None:
    """Return a log's time in seconds since the epoch; None if it is no time."""
    try:
        if "/" not in text:
            # Python 3.10 reads neither Z nor a fraction of other than three or six digits.
            whole, _, fraction = text.removesuffix("Z").partition(".")
            moment = datetime.fromisoformat(whole)
            if text.endswith("Z"):
                moment = moment.replace(tzinfo=timezone.utc)
            return moment.timestamp() + (float(f"0.{fraction}") if fraction else 0.0)
    except ValueError:
        return None
    return _without_year(text, latest)


def _without_year(text: str, latest: float) -> float | None:
    """Return a time as older HTCondors write it: the last one that is not in the future."""
    year = datetime.fromtimestamp(latest + DAY).year
    for candidate in range(year, year - 9, -1):  # the 29th of February is not in every year
        try:
            moment = datetime.strptime(f"{candidate}/{text}", "%Y/%m/%d %H:%M:%S").timestamp()
        except ValueError:
            continue
        if moment <= latest + DAY:
            return moment
    return None
