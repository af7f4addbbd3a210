"""What jobs have asked for and used, from their ads: each, and all together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..condor.jobs import JobId, JobStatus, schedd_of
from ..worker.units import KIB, MIB

ATTRIBUTES = (
    "ClusterId",
    "GlobalJobId",
    "ProcId",
    "JobStatus",
    "QDate",
    "ServerTime",
    "ShadowBday",
    "RequestCpus",
    "RequestMemory",
    "RequestDisk",
    "CpusProvisioned",
    "MemoryProvisioned",
    "DiskProvisioned",
    "CpusUsage",
    "RemoteUserCpu",
    "RemoteSysCpu",
    "MemoryUsage",
    "ResidentSetSize",
    "ResidentSetSize_RAW",
    "DiskUsage",
    "DiskUsage_RAW",
    "RemoteWallClockTime",
    "LastRemoteWallClockTime",
    "CommittedTime",
)
"""What is asked of each job."""

_RUNS = (JobStatus.RUNNING, JobStatus.TRANSFERRING_OUTPUT, JobStatus.SUSPENDED, JobStatus.REMOVED)


@dataclass(frozen=True)
class JobUsage:
    """What one job has asked for and used.

    Attributes
    ----------
    id : JobId
        The job.
    cpus : float
        The cores it has, or asks for.
    memory, disk : int
        The same in bytes; 0 where the ad does not tell.
    memory_used, disk_used : int or None
        The most that HTCondor has measured, in bytes; None if it has measured nothing.
    cores_used : float or None
        How many cores it kept busy on average in its last run.
    seconds : float
        How long it has run, all its runs together.
    lost : float
        How much of that is of runs that ended early: evictions, holds, failures.
    """

    id: JobId
    cpus: float
    memory: int
    disk: int
    memory_used: int | None
    disk_used: int | None
    cores_used: float | None
    seconds: float
    lost: float

    @classmethod
    def from_ad(cls, ad: Mapping[str, Any]) -> JobUsage:
        """Return what an ad of condor_q or condor_history tells."""
        status = ad.get("JobStatus")
        before = _number(ad, "RemoteWallClockTime") or 0.0
        current = last = 0.0
        # The ad of a run that goes on has both, also where the job is being removed; history's has neither.
        now, begun = _number(ad, "ServerTime"), _number(ad, "ShadowBday")
        runs = bool(now and begun) and status in _RUNS
        if runs:
            current = last = max(0.0, (now or 0.0) - (begun or 0.0))
        elif status in (JobStatus.COMPLETED, JobStatus.REMOVED):
            # Older HTCondors do not tell how long the last run was.
            last = _number(ad, "LastRemoteWallClockTime") or _number(ad, "CommittedTime") or before
        lost = before if runs else max(0.0, before - last)
        busy = (_number(ad, "RemoteUserCpu") or 0.0) + (_number(ad, "RemoteSysCpu") or 0.0)
        # No process takes no time at all: a machine that says so does not measure it.
        rate = _number(ad, "CpusUsage") if busy else None
        # The rate is an average since the run began; the seconds of a running job lag behind.
        if not runs and busy and last:
            rate = busy / last
        resident = _number(ad, "ResidentSetSize_RAW", "ResidentSetSize")
        mebibytes = _number(ad, "MemoryUsage")
        used = mebibytes * MIB if mebibytes is not None else (None if resident is None else resident * KIB)
        disk = _number(ad, "DiskUsage_RAW", "DiskUsage")
        return cls(
            id=JobId(int(ad["ClusterId"]), int(ad["ProcId"]), schedd_of(ad)),
            cpus=_number(ad, "RequestCpus", "CpusProvisioned") or 0.0,
            memory=int((_number(ad, "RequestMemory", "MemoryProvisioned") or 0) * MIB),
            disk=int((_number(ad, "RequestDisk", "DiskProvisioned") or 0) * KIB),
            memory_used=None if used is None else int(used),
            disk_used=None if disk is None or before + current == 0 else int(disk * KIB),
            cores_used=rate if before + current else None,
            seconds=before + current,
            lost=lost,
        )

    @property
    def core_hours(self) -> float:
        """The core-hours it has cost."""
        return self.cpus * self.seconds / 3600

    @property
    def lost_hours(self) -> float:
        """The core-hours of runs that ended early."""
        return self.cpus * self.lost / 3600

    @property
    def idle_hours(self) -> float:
        """The core-hours in which a core of it had nothing to do, as far as HTCondor has measured."""
        if self.cores_used is None:
            return 0.0
        return max(0.0, self.cpus - self.cores_used) * (self.seconds - self.lost) / 3600


def _number(ad: Mapping[str, Any], *names: str) -> float | None:
    """Return the first of these attributes that is a number; condor_q prints an expression as text."""
    for name in names:
        value = ad.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None


class Totals:
    """What the jobs of one cluster have asked for and used together; `Usage` describes it."""

    def __init__(self, jobs: Iterable[JobUsage]) -> None:
        self.jobs = tuple(sorted(jobs, key=lambda job: job.id))
        self.core_hours = sum(job.core_hours for job in self.jobs)
        self.lost_hours = sum(job.lost_hours for job in self.jobs)
        self.idle_hours = sum(job.idle_hours for job in self.jobs)

    @property
    def measured(self) -> bool:
        """Whether HTCondor has measured the CPU time of any job: some pools do not, and then `idle_hours` is 0."""
        return any(job.cores_used is not None for job in self.jobs)

    @property
    def memory_used(self) -> int | None:
        """The most memory that one of the jobs has used, in bytes."""
        return max((job.memory_used for job in self.jobs if job.memory_used is not None), default=None)

    @property
    def disk_used(self) -> int | None:
        """The most disk that one of the jobs has used, in bytes."""
        return max((job.disk_used for job in self.jobs if job.disk_used is not None), default=None)
