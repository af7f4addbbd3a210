"""The worker jobs as the schedd describes them: plain data made of the ads of ``condor_q``."""

from __future__ import annotations

import enum
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

from ..display.table import Table, duration, table_html, table_text
from ..errors import CondorError
from ..plain import printable

CLUSTER_ATTRIBUTE = "HTCDaskGatewayCluster"
"""The attribute of a job's ad that names the Dask cluster the job works for."""

ATTRIBUTES = (
    "ClusterId",
    "ProcId",
    "JobStatus",
    "NumShadowStarts",
    "EnteredCurrentStatus",
    "GlobalJobId",
    "RemoteHost",
    "HoldReason",
    "HoldReasonCode",
    "HoldReasonSubCode",
)
"""What is asked of each job."""

NAME_PREFIX = "htcondor-"
"""How the name of a Dask worker that is an HTCondor job begins."""

# The job's id, the number of its start, the number of the worker in that start, the schedd.
_WORKER_NAME = re.compile(rf"{NAME_PREFIX}(\d+)\.(\d+)-\d+(?:-\d+)?(?:@(\S+))?")


SPOOLING = 16
"""``HoldReasonCode`` of a job whose input is on its way to the schedd, which is no failure."""


class JobStatus(enum.IntEnum):
    """``JobStatus`` of a job's ad (HTCondor's manual, *Job ClassAd Attributes*).

    UNMATERIALIZED is none of HTCondor's: a job that has been submitted with ``max_idle``, and that the schedd will
    make when others have started.
    """

    UNMATERIALIZED = -1
    IDLE = 1
    RUNNING = 2
    REMOVED = 3
    COMPLETED = 4
    HELD = 5
    TRANSFERRING_OUTPUT = 6
    SUSPENDED = 7

    @classmethod
    def _missing_(cls, value: object) -> JobStatus | None:
        """Read HTCondor's newer states: from 25 on a job waits, too, for files that others have sent there (9)."""
        return cls.IDLE if isinstance(value, int) and value > cls.SUSPENDED else None


LIVE = frozenset(JobStatus) - {JobStatus.REMOVED, JobStatus.COMPLETED}
"""The states in which a job is, or can become, a worker again; one that transfers its output may run again."""

_COLUMNS = ("Job", "Status", "For", "Starts", "Machine", "Why")
_ROWS = 60
"""How many jobs a table shows; of more, those that need a look come first."""

# The jobs that the schedd has still to make come after all others.
_FIRST = (JobStatus.HELD, JobStatus.SUSPENDED, JobStatus.RUNNING, JobStatus.IDLE)


class JobId(NamedTuple):
    """The id of a job, ``ClusterId.ProcId``, and the schedd that has given it, as far as that is known."""

    cluster: int
    proc: int
    schedd: str = ""

    def __str__(self) -> str:
        return f"{self.cluster}.{self.proc}"

    @property
    def alone(self) -> JobId:
        """The id as the jobs' event log has it, which does not name the schedd."""
        return JobId(self.cluster, self.proc)

    @classmethod
    def of_worker(cls, name: object) -> JobId | None:
        """Return the id of the job that the Dask worker `name` runs in, or None if it is not one of ours."""
        match = _WORKER_NAME.fullmatch(str(name))
        return cls(int(match[1]), int(match[2]), match[3] or "") if match else None


def schedd_of(ad: Mapping[str, Any]) -> str:
    """Return the name of the schedd that holds the job of `ad`, as the names of its workers have it."""
    return sys.intern((ad.get("GlobalJobId") or "").partition("#")[0].rstrip("@"))


class WorkerJob(NamedTuple):
    """One worker job. A tuple, because ten thousand frozen dataclasses take twice as long to make.

    Attributes
    ----------
    id : JobId
        ``ClusterId.ProcId``.
    status : JobStatus
        What the job does.
    starts : int
        How often it has been started.
    host : str or None
        The machine it runs on.
    hold_reason : str or None
        Why it is held.
    hold_code, hold_subcode : int or None
        ``HoldReasonCode`` and ``HoldReasonSubCode`` (HTCondor's manual lists them).
    since : float
        When its status changed last, in seconds since the epoch.
    schedd : str
        The name of the schedd that holds it.
    """

    id: JobId
    status: JobStatus
    starts: int = 0
    host: str | None = None
    hold_reason: str | None = None
    hold_code: int | None = None
    hold_subcode: int | None = None
    since: float = 0.0
    schedd: str = ""

    @classmethod
    def from_ad(cls, ad: Mapping[str, Any]) -> WorkerJob:
        """Return the job that `ad` describes.

        Raises
        ------
        CondorError
            It does not describe a job.
        """
        try:
            return cls._from_ad(ad)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CondorError(
                f"Cannot read what condor_q says of a job: {type(error).__name__}: {error}",
                hint="Is condor_q a wrapper script of your site? Run it with -json and look at the output.",
            ) from error

    @classmethod
    def _from_ad(cls, ad: Mapping[str, Any]) -> WorkerJob:
        status = JobStatus(ad["JobStatus"])
        held = status is JobStatus.HELD
        host = ad.get("RemoteHost")
        schedd = schedd_of(ad)
        return cls(
            id=JobId(ad["ClusterId"], ad["ProcId"], schedd),
            status=status,
            starts=ad.get("NumShadowStarts") or 0,
            host=host.rpartition("@")[2] if host else None,
            hold_reason=ad.get("HoldReason") if held else None,
            hold_code=ad.get("HoldReasonCode") if held else None,
            hold_subcode=ad.get("HoldReasonSubCode") if held else None,
            since=ad.get("EnteredCurrentStatus") or 0.0,
            schedd=schedd,
        )

    @property
    def live(self) -> bool:
        """Whether the job is, or can become, a worker: it waits, runs, is between two starts or held."""
        return self.status in LIVE

    @property
    def worker_name(self) -> str | None:
        """The name of the first Dask worker of the job's present start, or None while it does not run.

        Those that the job starts beside or after it have ``-2``, ``-3`` and so on behind the number of the start.
        """
        if self.status not in (JobStatus.RUNNING, JobStatus.SUSPENDED):
            return None
        # HTCondor calls a job running some time before it counts its start.
        return f"{NAME_PREFIX}{self.id}-{max(self.starts, 1)}{'@' if self.schedd else ''}{self.schedd}"


class WorkerJobs(list[WorkerJob]):
    """The jobs of one Dask cluster, in the order of their ids."""

    @classmethod
    def from_ads(cls, ads: Iterable[Mapping[str, Any]]) -> WorkerJobs:
        """Return the jobs that `ads` describe; raises as `WorkerJob.from_ad` does."""
        return cls.ordered(map(WorkerJob.from_ad, ads))

    @classmethod
    def ordered(cls, jobs: Iterable[WorkerJob]) -> WorkerJobs:
        """Return these jobs in the order of their ids."""
        return cls(sorted(jobs, key=attrgetter("id")))

    @property
    def live(self) -> WorkerJobs:
        """Those that are, or can become, workers."""
        return WorkerJobs(job for job in self if job.live)

    def with_status(self, status: JobStatus) -> WorkerJobs:
        """Return those with that status."""
        return WorkerJobs(job for job in self if job.status is status)

    def counts(self) -> dict[str, int]:
        """Return how many jobs wait, run and are held, and, if there are such, are still to be made."""
        found = Counter(job.status for job in self)
        late = [JobStatus.UNMATERIALIZED] if found[JobStatus.UNMATERIALIZED] else []
        return {
            kind.name.lower(): found[kind] for kind in (JobStatus.IDLE, JobStatus.RUNNING, JobStatus.HELD, *late)
        }

    def summary(self) -> str:
        """Return how many jobs run, wait and are held, and how many the schedd has still to make, in words."""
        counts = self.counts()
        return ", ".join(
            f"{counts[kind]} {kind}" for kind in ("running", "idle", "held", "unmaterialized") if kind in counts
        )

    def table(self) -> Table:
        """Return the jobs as a table; of very many, those that need a look."""
        shown: list[WorkerJob] = self
        if len(self) > _ROWS:
            rank = {status: place for place, status in enumerate(_FIRST)}
            shown = sorted(self, key=lambda job: (rank.get(job.status, len(rank)), job.id))[:_ROWS]
        now = time.time()
        several = len({job.schedd for job in self} - {""}) > 1
        rows = [_row(job, now, several) for job in shown]
        # A machine's name and a reason may be long; the rest is never shortened.
        return Table(_COLUMNS, rows, whole=4, more=len(self) - len(shown), summary=self.summary())

    def __str__(self) -> str:
        return table_text(self.table()) if self else "no worker jobs"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return table_html(self.table()) if self else "<p>no worker jobs</p>"


def _row(job: WorkerJob, now: float, several: bool) -> tuple[str, ...]:
    return (
        f"{job.id}@{job.schedd}" if several else str(job.id),
        job.status.name.lower().replace("_", " "),
        duration(now - job.since) if job.since else "",
        str(job.starts),
        printable(job.host or ""),
        printable(job.hold_reason or ""),
    )


def ids_constraint(ids: Iterable[JobId]) -> str:
    """Return the ClassAd expression that is true for just the jobs with these ids; for none, an empty text.

    Neighbours are named as a range, so that thousands of jobs of one submit make a short expression.
    """
    ranges: list[list[JobId]] = []
    for job in sorted(ids):
        if ranges and ranges[-1][1] == job._replace(proc=job.proc - 1):
            ranges[-1][1] = job
        else:
            ranges.append([job, job])
    return " || ".join(
        f"(ClusterId == {first.cluster} && ProcId >= {first.proc} && ProcId <= {last.proc})"
        for first, last in ranges
    )
