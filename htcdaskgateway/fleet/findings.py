"""What `explain` returns."""

from __future__ import annotations

from dataclasses import dataclass

from ..condor.jobs import JobStatus, WorkerJob, WorkerJobs
from ..display.html import pre_html


@dataclass(frozen=True)
class Finding:
    """Why some jobs do not run.

    Attributes
    ----------
    jobs : tuple of WorkerJob
        The jobs.
    what : str
        What keeps them.
    advice : str
        What to do about it.
    stuck : bool
        Whether waiting cannot help.
    detail : str
        HTCondor's own words, or the end of the worker's output.
    numbers : str
        What was asked for and what there is.
    keyword : str
        The keyword to change, if one helps.
    """

    jobs: tuple[WorkerJob, ...]
    what: str
    advice: str = ""
    stuck: bool = False
    detail: str = ""
    numbers: str = ""
    keyword: str = ""

    def __str__(self) -> str:
        first = self.jobs[0].id
        more = f" (and {len(self.jobs) - 1} more)" if len(self.jobs) > 1 else ""
        lines = [(f"{self.numbers}. " if self.numbers else "") + f"Job {first}{more} {self.what}."]
        lines += [f"  | {line}" for line in self.detail.splitlines()]
        if self.advice:
            lines.append(f"  What to do: {self.advice}")
        return "\n".join(lines)


class Explanation:
    """What a cluster's jobs do, and why some do not run. Prints as text.

    Parameters
    ----------
    jobs : WorkerJobs
        The jobs.
    findings : iterable of Finding
        Why some of them do not run.

    Attributes
    ----------
    stuck : int
        How many jobs cannot run, however long they wait.
    hopeless : bool
        Whether that is all of them.
    """

    def __init__(self, jobs: WorkerJobs, findings: list[Finding]) -> None:
        self.jobs = jobs
        self.findings = tuple(findings)
        self.stuck = sum(len(finding.jobs) for finding in findings if finding.stuck)
        self.hopeless = 0 < len(jobs.live) <= self.stuck

    def __str__(self) -> str:
        if not self.jobs.live:
            return "There are no worker jobs. Submit some with scale(n)."
        if not self.findings and len(self.jobs.with_status(JobStatus.RUNNING)) == len(self.jobs.live):
            count = len(self.jobs.live)
            return (
                f"All is well: {'the job runs and its' if count == 1 else f'all {count} jobs run and their'} "
                + ("worker has joined." if count == 1 else "workers have joined.")
            )
        return "\n\n".join([f"Worker jobs: {self.jobs.summary()}.", *map(str, self.findings)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return pre_html(str(self))
