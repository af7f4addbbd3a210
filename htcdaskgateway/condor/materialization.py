"""Late materialization (``max_idle``): jobs that the schedd makes later, when those before them have started.

``condor_q`` does not list such a job before it is made, but it has been asked for. So it is counted here, from
the ad of the submit's *factory*: without that, ``scale(n)`` twice would submit twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ..errors import CondorError
from .jobs import CLUSTER_ATTRIBUTE, JobId, JobStatus, WorkerJob
from .schedd import Condor

_ATTRIBUTES = (
    "ClusterId",
    "TotalSubmitProcs",
    "JobMaterializeNextProcId",
    "JobFactoryPaused",
    "QDate",
    CLUSTER_ATTRIBUTE,
)
# JobFactoryPaused of a factory that has made everything, or that condor_rm has ended.
_OVER = frozenset({2, 3})


async def factories(condor: Condor, constraint: str) -> list[Mapping[str, Any]]:
    """Return the ads of the factories of the user's submits that fulfil `constraint` and go on making jobs."""
    # JobMaterializeMaxIdle is an expression, which only the schedd evaluates.
    ads = await condor.query_factories(f"({constraint}) && JobMaterializeMaxIdle > 0", _ATTRIBUTES)
    return [ad for ad in ads if ad.get("JobFactoryPaused") not in _OVER]


def unmaterialized(ads: Iterable[Mapping[str, Any]], made: Collection[WorkerJob]) -> Iterator[WorkerJob]:
    """Return the jobs that these `factories` have still to make.

    `made` are the jobs that there were afterwards: one that has been made meanwhile is not counted twice.
    """
    for ad in ads:
        try:
            cluster, total = int(ad["ClusterId"]), int(ad["TotalSubmitProcs"])
            newest = max((job.id for job in made if job.id.cluster == cluster), default=JobId(cluster, -1))
            following = max(int(ad["JobMaterializeNextProcId"]), newest.proc + 1)
            submitted = float(ad["QDate"])
        except (KeyError, TypeError, ValueError) as error:
            raise CondorError(f"condor_q described a job factory in a way that cannot be read: {ad}") from error
        for proc in range(following, total):
            job = newest._replace(proc=proc)
            yield WorkerJob(job, JobStatus.UNMATERIALIZED, since=submitted, schedd=job.schedd)


async def stop(condor: Condor, cluster: int) -> None:
    """Let the factory of the HTCondor cluster `cluster` make no more jobs; those that there are stay."""
    try:
        # A factory that is only removed goes on when the schedd has been restarted (seen on 23.9 and 25.14).
        await condor.edit(cluster, "JobMaterializeMaxIdle", "0")
    except CondorError:
        # All its jobs may have been made, or another client has removed it: condor_qedit says the same of both.
        if await factories(condor, f"ClusterId == {cluster}"):
            raise
    # The factory itself, which would stay in the schedd when its jobs have left.
    await condor.remove(f"ClusterId == {cluster} && ProcId =?= undefined")
