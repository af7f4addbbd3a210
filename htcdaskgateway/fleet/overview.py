"""What a cluster's view shows, from what was last seen: nobody is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..condor.jobs import JobId, JobStatus
from ..display.overview import Overview
from .fleet import Fleet


def overview(fleet: Fleet, workers: Iterable[Mapping[str, Any]], asked: int | None) -> Overview:
    """Return how far the cluster is; `workers` as the scheduler describes them, `asked` the number of jobs."""
    from .explain import held  # not before a view is looked at

    there = list(workers)
    live = fleet.seen.live
    ours = [job for worker in there if (job := JobId.of_worker(worker.get("name")))]
    joined = set(ours)
    spec = fleet.staging.spec
    idle = [job for job in live if job.status is JobStatus.IDLE and job.id not in joined]
    holding = live.with_status(JobStatus.HELD)
    # A job whose worker has joined runs, whatever an older look at the queue says.
    running = {job.id for job in live.with_status(JobStatus.RUNNING)} | (joined - {job.id for job in holding})
    return Overview(
        asked=len(live) if asked is None else asked,
        idle=len(idle),
        running=len(running),
        held=len(holding),
        joined_jobs=len(joined & running),
        joined=len(ours),
        others=len(there) - len(ours),
        processes=spec.processes,
        threads=sum(worker["nthreads"] for worker in there),
        memory=sum(worker["memory_limit"] for worker in there),
        holds=[str(finding) for finding in held(fleet.seen, spec)],
        jobs_html=fleet.seen._repr_html_(),
    )
