"""What the jobs of a cluster have asked for and used, as a table, and what to ask for next."""

from __future__ import annotations

import asyncio
import concurrent.futures

from ..condor.history import query_history
from ..condor.schedd import Condor
from ..display.html import pre_html
from ..display.table import duration
from ..worker.units import rounded_bytes
from .job_usage import ATTRIBUTES, JobUsage, Totals
from .proposals import propose
from .queue import cluster_constraint


class Usage(Totals):
    """What the jobs of one cluster have asked for and used; prints as a table.

    Attributes
    ----------
    jobs : tuple of JobUsage
        Each job.
    core_hours, lost_hours, idle_hours : float
        The core-hours in all; of them those of runs that ended early, and those in which a core had nothing to do.
    """

    @property
    def proposals(self) -> list[str]:
        """What to ask for next time, in words."""
        return propose(self)

    def __str__(self) -> str:
        from ..display.grid import table

        if not self.jobs:
            return "No job of this cluster is in the queue or in HTCondor's history."
        columns = ("Job", "Ran", "Cores", "Busy", "Memory", "Used", "Disk", "Used", "Core-h", "Lost", "Idle")
        rows = [_row(job) for job in self.jobs]
        ran = duration(sum(job.seconds for job in self.jobs))
        idle = _hours(self.idle_hours) if self.measured else ""
        hours = (_hours(self.core_hours), _hours(self.lost_hours), idle)
        memory, disk = rounded_bytes(self.memory_used), rounded_bytes(self.disk_used)
        total = ("All", ran, "", "", "", memory, "", disk, *hours)
        text = table(columns, rows, total, numbers=range(2, 11))
        return "\n".join([text, "", *self.proposals])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table, _, proposals = str(self).partition("\n\n")
        return pre_html(table, wrap=False) + (pre_html(proposals) if proposals else "")


def _row(job: JobUsage) -> tuple[str, ...]:
    return (
        str(job.id),
        duration(job.seconds),
        f"{job.cpus:g}",
        "" if job.cores_used is None else f"{job.cores_used:.1f}",
        rounded_bytes(job.memory or None),
        rounded_bytes(job.memory_used),
        rounded_bytes(job.disk or None),
        rounded_bytes(job.disk_used),
        _hours(job.core_hours),
        _hours(job.lost_hours),
        "" if job.cores_used is None else _hours(job.idle_hours),
    )


def _hours(hours: float) -> str:
    return f"{hours:.1f}" if hours >= 10 else f"{hours:.2f}"


async def read_usage(condor: Condor, cluster: str) -> Usage:
    """Return what the jobs of the Dask cluster `cluster` have asked for and used, those that have ended, too."""
    constraint = cluster_constraint(cluster)
    # The history second: a job that ends between the two is seen in both, and the later word counts.
    ads = await condor.query(constraint, ATTRIBUTES)
    past = await query_history(condor, constraint, ATTRIBUTES)
    return Usage({job.id: job for job in map(JobUsage.from_ad, [*ads, *past])}.values())


def read_usage_after(condor: Condor, cluster: str) -> Usage:
    """Return the same where there is no event loop any more, or one that runs in this thread for somebody else."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, read_usage(condor, cluster)).result()
