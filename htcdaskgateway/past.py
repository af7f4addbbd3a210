"""What a cluster's event log and its workers' joining say: counts over time, marks, and where the time went."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

from .display import duration, printable
from .eventlog import Event, EventType, Transfer
from .jobs import JobId
from .joins import Join

_AT_ONCE = 2.0
"""What follows within so many seconds belongs together: a log knows whole seconds, and its clock is another's."""

_BECOMES = {
    EventType.SUBMIT: "idle",
    EventType.EXECUTE: "running",
    EventType.UNSUSPENDED: "running",
    EventType.SUSPENDED: "idle",
    EventType.EVICTED: "idle",
    EventType.SHADOW_EXCEPTION: "idle",
    EventType.RECONNECT_FAILED: "idle",
    EventType.RELEASED: "idle",
    EventType.HELD: "held",
    EventType.TERMINATED: "",
    EventType.ABORTED: "",
}
_CUT_SHORT = (EventType.EVICTED, EventType.SHADOW_EXCEPTION, EventType.RECONNECT_FAILED)


class Mark(NamedTuple):
    """Something that happened to one job: it was ``evicted``, ``held`` or ``restarted``."""

    time: float
    kind: str
    job: JobId
    why: str = ""


class Start(NamedTuple):
    """Where the time of one worker went until it joined, in seconds.

    Attributes
    ----------
    worker : str
        The worker's name.
    joined : float
        When it joined, in seconds since the epoch.
    queue : float
        Its job waited in the queue.
    transfer : float
        The job's files were sent to the machine.
    begin : float
        The container and Python started.
    join : float
        The worker connected to the scheduler.
    """

    worker: str
    joined: float
    queue: float
    transfer: float
    begin: float
    join: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.queue + self.transfer + self.begin + self.join

    def __str__(self) -> str:
        return (
            f"queue {duration(self.queue)}, transfer {duration(self.transfer)}, "
            f"container and Python {duration(self.begin)}, join {duration(self.join)}"
        )


def counts_of(events: list[Event], joins: list[Join]) -> tuple[list[float], list[Counter[str]]]:
    """Return when something changed, and the counts from then on."""
    states: dict[JobId, str] = {}
    here: dict[JobId, set[str]] = defaultdict(set)
    now: Counter[str] = Counter()
    times: list[float] = []
    counts: list[Counter[str]] = []
    both: list[Event | Join] = sorted([*events, *joins], key=lambda what: what.time)
    for what in both:
        if isinstance(what, Join):
            own = here[what.job]
            now["joined"] -= len(own)
            (own.add if what.joined else own.discard)(what.worker)
            now["joined"] += len(own)
        elif what.type in _BECOMES:
            now[states.get(what.job, "")] -= 1
            states[what.job] = _BECOMES[what.type]
            now[states[what.job]] += 1
            if states[what.job] != "running":  # whoever was to note that its worker left may be gone, too
                now["joined"] -= len(here.pop(what.job, ()))
        else:
            continue
        if not times or times[-1] != what.time:
            times.append(what.time)
            counts.append(now.copy())
        else:
            counts[-1] = now.copy()
    return times, counts


def _by_job(events: list[Event]) -> dict[JobId, list[Event]]:
    jobs: dict[JobId, list[Event]] = defaultdict(list)
    for event in events:
        jobs[event.job].append(event)
    return jobs


def marks_of(events: list[Event], joins: list[Join]) -> list[Mark]:
    """Return the evictions, holds and restarts; a job that is removed is not evicted."""
    marks = []
    for job, own in _by_job(events).items():
        executed = False
        for place, event in enumerate(own):
            why = printable(event.reason)
            if event.type is EventType.HELD:
                marks.append(Mark(event.time, "held", job, why))
            elif event.type is EventType.EXECUTE:
                if executed:
                    marks.append(Mark(event.time, "restarted", job))
                executed = True
            elif event.type in _CUT_SHORT:
                # HTCondor calls the end of a job that is held or removed an eviction, too.
                after = own[place + 1] if place + 1 < len(own) else None
                ended = after and after.type in (EventType.HELD, EventType.ABORTED)
                if not (ended and after and after.time - event.time <= _AT_ONCE):
                    marks.append(Mark(event.time, "evicted", job, why))
    return [*marks, *_restarts_in_slot(joins)]


def _restarts_in_slot(joins: list[Join]) -> list[Mark]:
    """Return the restarts that HTCondor does not see: a worker left, and the same start of its job has another."""
    left: Counter[str] = Counter()
    marks = []
    for join in joins:
        start = "-".join(join.worker.partition("@")[0].split("-")[:3])
        if not join.joined:
            left[start] += 1
        elif left[start]:
            left[start] -= 1
            marks.append(Mark(join.time, "restarted", join.job, "in its slot"))
    return marks


def starts_of(events: list[Event], joins: list[Join]) -> list[Start]:
    """Return where the time went of each worker that was the first of a start of its job to join."""
    jobs = _by_job(events)
    seen: set[tuple[JobId, float]] = set()
    starts = []
    for join in joins:
        own = jobs.get(join.job, [])
        began = [event.time for event in own if event.type is EventType.EXECUTE]
        # The clocks are those of two machines: a worker may seem to join before its job has begun.
        executed = max((time for time in began if time <= join.time), default=None)
        if executed is None and began and began[0] <= join.time + _AT_ONCE:
            executed = began[0]
        if not join.joined or executed is None or (join.job, executed) in seen:
            continue
        seen.add((join.job, executed))
        before = [event for event in own if event.time <= max(join.time, executed)]
        waits = [e.time for e in before if _BECOMES.get(e.type) == "idle" and e.time <= executed]
        waited = max(waits, default=executed)
        moved = {e.transfer: e.time for e in before if e.transfer and e.time >= waited}
        # Each not before the one before it: the log has whole seconds, and the clocks are those of three machines.
        sent = min(max(moved.get(Transfer.STARTED_IN, executed), waited), executed)
        arrived = max(moved.get(Transfer.FINISHED_IN, executed), sent, executed)
        joined = max(join.time, arrived)
        begun = joined if join.begun is None else min(max(join.begun, arrived), joined)
        starts.append(Start(join.worker, join.time, sent - waited, arrived - sent, begun - arrived, joined - begun))
    return starts
