"""What ``watch`` shows of a cluster: its jobs from the schedd, its tasks from the scheduler."""

from __future__ import annotations

import time
from collections import Counter

from ..condor.jobs import JobId, JobStatus, WorkerJob
from ..display.table import duration
from ..display.watch import Row, View
from ..errors import CondorError
from ..plain import counted, printable
from .fleet import Fleet


async def view_of(fleet: Fleet) -> View:
    """Return what is shown of the cluster now.

    Costs the shared look at the queue and one question to the scheduler.
    """
    note = ""
    try:
        jobs = (await fleet.look()).live
    except CondorError as error:
        jobs, note = fleet.seen.live, f"The queue cannot be read; this is how it was: {error.message}"
    tasks = await fleet.scheduler.tasks()
    computing: dict[JobId, list[int]] = {}
    for name, count in tasks.processing.items():
        if job := JobId.of_worker(name):
            computing.setdefault(job, []).append(count)
    now = time.time()
    rows = [_row(job, computing.get(job.id), now) for job in jobs]
    counts = Counter(row.status for row in rows)
    return View(
        title=f"Cluster {fleet.staging.cluster}",
        counts=dict(counts),
        joined=len(tasks.processing),
        done=tasks.done,
        to_do=tasks.to_do,
        erred=tasks.erred,
        rows=rows,
        note=note,
    )


def _row(job: WorkerJob, computing: list[int] | None, now: float) -> Row:
    status = job.status.name.lower().replace("_", " ")
    worker = ""
    if job.status is JobStatus.RUNNING and computing is None:
        status, worker = "starting", "not joined yet"
    elif computing is not None:
        worker = counted(sum(computing), "task") if sum(computing) else "no task"
        if len(computing) > 1:
            worker = f"{len(computing)} workers, {worker}"
    return Row(
        job=str(job.id),
        status=status,
        since=duration(now - job.since) if job.since else "",
        starts=str(job.starts),
        machine=printable(job.host or ""),
        worker=worker,
        why=printable(job.hold_reason or ""),
    )
