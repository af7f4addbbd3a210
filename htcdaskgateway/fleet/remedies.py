"""The mildest way out, as calls that a user can copy, and the numbers that go before it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from .. import config
from ..condor.jobs import JobStatus, WorkerJob, WorkerJobs, ids_constraint
from ..condor.machines import largest
from ..condor.schedd import Condor
from ..errors import CondorError
from ..worker.spec import WorkerSpec
from ..worker.units import KIB, MIB, rounded_bytes
from .job_usage import ATTRIBUTES, JobUsage

logger = logging.getLogger(__name__)

_GIB = 2**30
_UNITS = {"Cpus": 1, "GPUs": 1, "Memory": MIB, "Disk": KIB}
_WORDS = {"Cpus": ("core", "cores"), "GPUs": ("GPU", "GPUs"), "Memory": ("memory", ""), "Disk": ("disk", "")}


def release(group: Sequence[WorkerJob]) -> str:
    """Return the commands that release these jobs, which are held: one for each schedd that has some."""
    schedds = sorted({job.schedd for job in group})
    named = len(schedds) > 1 or any(map(config.get, ("condor.schedd", "condor.schedd-constraint")))
    commands = []
    for schedd in schedds:
        own = [job for job in group if job.schedd == schedd]
        ids = [str(own[0].id)] if len(own) == 1 else list(map(str, sorted({job.id.cluster for job in own})))
        commands.append(" ".join(["condor_release", *(["-name", schedd] if named and schedd else []), *ids]))
    return " and ".join(f"`{command}`" for command in commands)


def anew(jobs: WorkerJobs, group: Sequence[WorkerJob], spec: WorkerSpec) -> str:
    """Return the calls that replace these jobs, and leave those alone that run."""
    live = jobs.live
    gone = [JobStatus.HELD]
    if any(job.status is not JobStatus.HELD for job in group):
        # Held jobs go first, then those that wait.
        gone += [JobStatus.IDLE, JobStatus.UNMATERIALIZED]
    rest = sum(job.status not in gone for job in live)
    return f"`cluster.scale({rest * spec.processes})` and `cluster.scale({len(live) * spec.processes})`"


def other(keyword: str, jobs: WorkerJobs, group: Sequence[WorkerJob], spec: WorkerSpec) -> str:
    """Return the calls that change a keyword and replace these jobs; the cluster and its scheduler stay."""
    connect = f"`cluster = gateway.connect(cluster.name{', ' + keyword if keyword else ''})`"
    return f"{connect}, then {anew(jobs, group, spec)}"


async def beyond(condor: Condor, resource: str, values: dict[str, str], spec: WorkerSpec) -> tuple[str, str] | None:
    """Return the numbers of a request that no machine can fulfil, and the keyword that fits the largest.

    None where the pool does not tell.
    """
    try:
        most = await largest(condor, resource)
    except CondorError as error:
        logger.info("how large the pool's machines are is not known: %s", error)
        return None
    asked = _asked(resource, values, spec)
    if most is None or asked is None or asked <= most:
        return None
    unit = _UNITS[resource]
    numbers = f"Each {_who(spec)} asks for {_amount(resource, asked)}; the largest machine has "
    if unit == 1:
        return numbers + f"{most:g}", f"{resource.lower()}={int(most)}"
    size = int(most * unit)
    text = f"{size // _GIB}GB" if size >= _GIB else f"{size // MIB}MB"
    return numbers + rounded_bytes(size), f'{resource.lower()}="{text}"'


async def used(condor: Condor, job: WorkerJob, resource: str, spec: WorkerSpec) -> tuple[str, str] | None:
    """Return the numbers of a job that used more memory or disk than it asked for, and a keyword with more of it.

    None where the schedd does not tell.
    """
    try:
        ads = await condor.of_job(job.schedd).query(ids_constraint([job.id]), ATTRIBUTES)
    except CondorError as error:
        logger.info("what the job %s has used is not known: %s", job.id, error)
        return None
    if not ads:
        return None
    found = JobUsage.from_ad(ads[0])
    asked, most = (found.memory, found.memory_used) if resource == "Memory" else (found.disk, found.disk_used)
    if not asked or not most:
        return None
    more = math.ceil(1.5 * max(asked, most) / _GIB)
    numbers = (
        f"The {_who(spec)} asked for {rounded_bytes(asked)} of {resource.lower()} and used {rounded_bytes(most)}"
    )
    return numbers, f'{resource.lower()}="{more}GB"'


def _who(spec: WorkerSpec) -> str:
    return "worker" if spec.processes == 1 else "job"


def _asked(resource: str, values: dict[str, str], spec: WorkerSpec) -> float | None:
    """Return what is asked for, in HTCondor's unit: by the job, or else by the cluster's keywords."""
    try:
        return float(values[f"Request{resource}"])
    except (KeyError, ValueError):
        own = {"Cpus": spec.cpus, "Memory": spec.memory_mib, "Disk": spec.disk_kib, "GPUs": spec.gpus}
        return own[resource]


def _amount(resource: str, count: float) -> str:
    if _UNITS[resource] != 1:
        return f"{rounded_bytes(count * _UNITS[resource])} of {_WORDS[resource][0]}"
    return f"{count:g} {_WORDS[resource][0 if count == 1 else 1]}"
