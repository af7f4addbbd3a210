"""What is said of workers that have joined and cannot be reached."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..condor.jobs import JobId, JobStatus, WorkerJobs
from ..plain import printable
from ..scheduler.reach import Reach, reach
from .findings import Finding
from .fleet import Fleet

_SHOWN = 5


async def unreachable(fleet: Fleet, jobs: WorkerJobs) -> list[Finding]:
    """Return what is said of running jobs whose workers the scheduler, or another worker, does not reach."""
    if not jobs.with_status(JobStatus.RUNNING):
        return []
    found = await reach(fleet.scheduler)
    ports = fleet.staging.spec.worker_port
    findings = []
    for addresses, who, way in (
        (
            set(found.scheduler),
            "the scheduler does not reach it",
            "from the gateway's schedulers to the execute nodes",
        ),
        (
            {address for missed in found.workers.values() for address in missed} - set(found.scheduler),
            "other workers do not reach it",
            "between the execute nodes",
        ),
    ):
        ids = {JobId.of_worker(found.names[address]) for address in addresses if address in found.names}
        group = tuple(job for job in jobs if job.id in ids)
        if group:
            findings.append(
                Finding(
                    group,
                    f"runs and its worker has joined, but {who}",
                    f"Tasks will hang. TCP {ports} (worker_port) has to be open {way}; show this to your site's "
                    "administrators, or make a cluster with relay='auto' and no nanny, which needs no such port. "
                    "Where nodes have several networks, choose one with interface=….",
                    detail="\n".join(lines(found, addresses)),
                )
            )
    return findings


def lines(found: Reach, targets: set[str]) -> list[str]:
    """Return a line for each connection to one of `targets` that failed, five at most."""
    told = [
        f"scheduler -> {_place(found, address)}: {why}"
        for address, why in found.scheduler.items()
        if address in targets
    ]
    told += [
        f"{_place(found, source)} -> {_place(found, target)}: {why}"
        for source, missed in found.workers.items()
        for target, why in missed.items()
        if target in targets
    ]
    more = [f"and {len(told) - _SHOWN} more"] if len(told) > _SHOWN else []
    return [*map(printable, told[:_SHOWN]), *more]


def _place(found: Reach, address: str) -> str:
    return f"{urlsplit(address).netloc} ({found.names.get(address, 'a worker')})"
