"""What is said of jobs that wait because HTCondor has started them in vain."""

from __future__ import annotations

from collections.abc import Sequence

from ..condor.jobs import JobStatus, WorkerJob, ids_constraint
from ..plain import printable
from .findings import Finding
from .fleet import Fleet

_ATTRIBUTES = ("NumJobStarts", "VacateReason")


async def started_in_vain(fleet: Fleet, group: Sequence[WorkerJob]) -> Finding | None:
    """Return what is said of the idle jobs that were given a machine, and whose worker never ran there."""
    tried = tuple(job for job in group if job.starts and job.status is JobStatus.IDLE)
    if not tried:
        return None
    ads = await fleet.condor.of_job(tried[0].schedd).query(ids_constraint([tried[0].id]), _ATTRIBUTES)
    reason = ads[0].get("VacateReason") if ads else None
    if not reason or ads[0].get("NumJobStarts"):
        return None
    times = "once" if tried[0].starts == 1 else f"{tried[0].starts} times"
    return Finding(
        tried,
        f"waits again: HTCondor has started it {times}, and its worker never ran",
        "It is tried again. If it stays so, show the reason above to the pool's administrators. For a file "
        "transfer, execute nodes have to reach the schedd's TCP port 9618.",
        detail=printable(str(reason)),
    )
