"""What a cluster's event log and its workers' joining say: counts over time, marks, and where the time went."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

from ..condor.eventlog import Event, EventType, Transfer
from ..condor.jobs import JobId
from ..display.table import duration
from ..plain import printable
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
            if what.joined and states.get(what.job) == "":
                continue  # its job has ended within the same second
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
        start = _start(join.worker)
        if not join.joined:
            left[start] += 1
        elif left[start]:
            left[start] -= 1
            marks.append(Mark(join.time, "restarted", join.job, "in its slot"))
    return marks


def starts_of(events: list[Event], joins: list[Join]) -> list[Start]:
    """Return the time of each worker that was the first of a start of its job to join, in the order of joining."""
    firsts: dict[JobId, dict[str, Join]] = defaultdict(dict)
    for join in joins:
        if join.joined:
            firsts[join.job].setdefault(_start(join.worker), join)
    jobs = _by_job(events)
    starts = [start for job, came in firsts.items() for start in _of_job(jobs.get(job, []), list(came.values()))]
    return sorted(starts, key=lambda start: start.joined)


def _of_job(own: list[Event], came: list[Join]) -> list[Start]:
    starts = []
    before = len(own)
    # From the last one back: where a log knows whole seconds, the next start may seem older than this joining.
    for join in reversed(came):
        began = [at for at in range(before) if own[at].type is EventType.EXECUTE]
        fitting = [at for at in began if own[at].time <= join.time]
        if not fitting and began and own[began[0]].time <= join.time + _AT_ONCE:
            fitting = began[:1]  # the clocks are those of two machines
        if fitting:
            starts.append(_until_joined(own[:before], fitting[-1], join))
            before = fitting[-1]
    return starts


def _until_joined(own: list[Event], at: int, join: Join) -> Start:
    """Return the time of the start whose event is `own[at]`."""
    executed = own[at].time
    waits = [place for place in range(at) if _BECOMES.get(own[place].type) == "idle"]
    since = waits[-1] if waits else at
    waited = own[since].time
    moved = {event.transfer: event.time for event in own[since:] if event.transfer}
    # Each not before the one before it: the clocks are those of three machines.
    sent = min(max(moved.get(Transfer.STARTED_IN, executed), waited), executed)
    arrived = max(moved.get(Transfer.FINISHED_IN, executed), sent, executed)
    joined = max(join.time, arrived)
    begun = joined if join.begun is None else min(max(join.begun, arrived), joined)
    return Start(join.worker, join.time, sent - waited, arrived - sent, begun - arrived, joined - begun)


def _start(worker: str) -> str:
    """Return what the names of the workers of one start of a job have in common."""
    return "-".join(worker.partition("@")[0].split("-")[:3])
