"""Why jobs do not run, in words: hold reasons, and HTCondor's own analysis of jobs that wait."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ..condor.analysis import Analysis, parse_analysis
from ..condor.jobs import SPOOLING, JobId, JobStatus, WorkerJob, WorkerJobs
from ..display.table import duration
from ..errors import CondorError, HTCDaskGatewayError
from ..plain import printable
from ..worker.job import EXIT_NO_PYTHON, EXIT_UNREACHABLE
from ..worker.spec import WorkerSpec
from . import remedies
from .advice import AGAIN, HOLDS, NEVER, RELEASE, RESOURCE_CODES, describe
from .findings import Explanation, Finding
from .in_vain import started_in_vain
from .reaching import unreachable

if TYPE_CHECKING:
    from .fleet import Fleet

_WAITING = (JobStatus.IDLE, JobStatus.UNMATERIALIZED)
_ANALYSES = 3
"""How many submits are analyzed at most: each costs HTCondor a look at all slots of the pool."""

_OUTPUT_LINES = 15

_KEYWORDS = {
    34: "memory=…",
    45: "container_runtime='apptainer'",
    46: "job_extra_directives={…}",
    47: "job_extra_directives={…}",
    102: "memory=…",
    104: "disk=…",
}
"""The keyword to change, by code."""

_MEASURED = {"memory=…": "Memory", "disk=…": "Disk"}

_OWN_FAILURE = "the Dask worker failed"
# By the exit code of the worker's script, which is the subcode of the hold.
_FAILED = {
    0: (
        "its Dask worker failed three times",
        "Read the whole output with cluster.logs(). Is the worker's Python there (python=…, container_image=…), "
        f"with the scheduler's versions of dask and distributed? {AGAIN}",
    ),
    EXIT_NO_PYTHON: (
        "its worker's Python is not on that machine",
        "Pass the python=… of the execute nodes, or a container_image=… that has Python and Dask, or put the "
        f"environment on a file system that the nodes share. {AGAIN}",
    ),
    EXIT_UNREACHABLE: (
        "its machine cannot reach the gateway's scheduler proxy",
        "That TCP port has to be open from the execute nodes to the gateway; show the reason above to your site's "
        f"administrators. If the nodes see the proxy under another address, pass it as scheduler_proxy=…. {AGAIN}",
    ),
}

_OWN_KEYWORDS = {EXIT_UNREACHABLE: "scheduler_proxy=…"}

_RESOURCES = {"cpus": "Cpus", "memory": "Memory", "disk": "Disk", "gpus": "GPUs"}


async def explain(fleet: Fleet, *, network: bool = False) -> Explanation:
    """Return why jobs of `fleet` do not run and, with `network`, who does not reach whom of those that do.

    Costs a look at the queue, one question to the scheduler and, where jobs wait, one
    ``condor_q -better-analyze`` for each submit that they come from, for three at most.
    """
    jobs = await fleet.look(max_age=0)
    findings = [await _with_output(fleet, await _with_use(fleet, finding)) for finding in _held(jobs)]
    findings += await _waiting(fleet, jobs)
    findings += await _absent(fleet, jobs)
    if network:
        findings += await unreachable(fleet, jobs)
    return Explanation(jobs, [_filled(finding, jobs, fleet.staging.spec) for finding in findings])


def _filled(finding: Finding, jobs: WorkerJobs, spec: WorkerSpec) -> Finding:
    """Return the finding with calls in its advice that can be copied."""
    advice = finding.advice.replace("{release}", remedies.release(finding.jobs))
    advice = advice.replace("{anew}", remedies.anew(jobs, finding.jobs, spec))
    advice = advice.replace("{other}", remedies.other(finding.keyword, jobs, finding.jobs, spec))
    return replace(finding, advice=advice.replace("{id}", str(finding.jobs[0].id)))


def held(jobs: WorkerJobs, spec: WorkerSpec) -> list[Finding]:
    """Return why jobs are held and what to do, from what is known of them already: nobody is asked."""
    return [_filled(finding, jobs, spec) for finding in _held(jobs)]


def _held(jobs: WorkerJobs) -> list[Finding]:
    groups: dict[tuple[int, int], list[WorkerJob]] = defaultdict(list)
    for job in jobs.with_status(JobStatus.HELD):
        groups[job.hold_code or 0, job.hold_subcode or 0].append(job)
    findings = []
    for (code, subcode), group in sorted(groups.items()):
        reason = printable(group[0].hold_reason or "")
        if code == SPOOLING:
            findings.append(Finding(tuple(group), "waits for its input to arrive at the schedd", "Wait."))
            continue
        own = code == 3 and reason.startswith(_OWN_FAILURE)
        kind = subcode if code in RESOURCE_CODES and subcode in (102, 104) else code
        if own:
            what, advice = _FAILED.get(subcode, _FAILED[0])
        else:
            what, advice = HOLDS.get(kind, (f"was held by HTCondor (code {code}, subcode {subcode})", RELEASE))
        said = f"is held: {what if own else f'it {what}'}"
        keyword = _OWN_KEYWORDS.get(subcode, "python=…") if own else _KEYWORDS.get(kind, "")
        findings.append(Finding(tuple(group), said, advice, stuck=True, detail=reason, keyword=keyword))
    return findings


async def _with_use(fleet: Fleet, finding: Finding) -> Finding:
    """Return the finding with what the job had used, where it used more than it asked for."""
    if finding.keyword not in _MEASURED:
        return finding
    found = await remedies.used(fleet.condor, finding.jobs[0], _MEASURED[finding.keyword], fleet.staging.spec)
    return replace(finding, numbers=found[0], keyword=found[1]) if found else finding


async def _with_output(fleet: Fleet, finding: Finding) -> Finding:
    """Add the end of its output to what is said of a worker that ended again and again by itself."""
    from . import logs

    last = finding.jobs[-1]
    if last.hold_code != 3 or not finding.detail.startswith(_OWN_FAILURE):
        return finding
    detail = finding.detail
    try:
        await logs.fetch_spooled(fleet)
        written = await asyncio.to_thread(logs.read, fleet.staging, str(last.id))
    except HTCDaskGatewayError as error:
        detail += f"\ncannot read its output: {printable(str(error))}"
    else:
        if written:
            lines = list(written.values())[-1].rstrip().splitlines()[-_OUTPUT_LINES:]
            detail += f"\nthe end of the output of {list(written)[-1]}:\n" + "\n".join(map(_line, lines))
    return replace(finding, detail=detail)


def _line(text: str) -> str:
    """Return a line of somebody's output with its indentation, and without what could steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text.expandtabs()).rstrip()


async def _waiting(fleet: Fleet, jobs: WorkerJobs) -> list[Finding]:
    """Explain the idle jobs; those of one submit are alike, also those that the schedd has still to make."""
    idle = jobs.with_status(JobStatus.IDLE)
    submits = Counter(job.id._replace(proc=0) for job in idle)
    findings = []
    for first, _ in submits.most_common(_ANALYSES):
        group = tuple(job for job in jobs if job.id._replace(proc=0) == first and job.status in _WAITING)
        try:
            if failed := await started_in_vain(fleet, group):
                findings.append(failed)
                group = tuple(job for job in group if job not in failed.jobs)
            if not group:
                continue
            said = parse_analysis(await fleet.condor.of_job(group[0].schedd).analyze(str(group[0].id)))
        except CondorError as error:
            findings.append(
                Finding(group, "waits in the queue, and HTCondor's analysis failed", detail=printable(str(error)))
            )
            continue
        if said is None:
            findings.append(Finding(group, "waits in the queue. HTCondor does not say why"))
        else:
            findings.append(await _with_numbers(fleet, describe(group, said), said))
    left = sum(count for _, count in submits.most_common()[_ANALYSES:])
    if left:
        rest = tuple(job for job in idle if not any(job in finding.jobs for finding in findings))
        findings.append(
            Finding(rest, "waits, too. HTCondor was not asked about it", "Ask again when the others run.")
        )
    return findings


async def _with_numbers(fleet: Fleet, finding: Finding, said: Analysis) -> Finding:
    """Return the finding with what is asked for and what the largest machine has, where that is the reason."""
    resource = next((_RESOURCES[kind] for kind in _RESOURCES if finding.keyword == f"{kind}=…"), None)
    if resource is None:
        return finding
    found = await remedies.beyond(fleet.condor, resource, said.values, fleet.staging.spec)
    if found is None:
        return finding
    numbers, keyword = found
    return replace(finding, numbers=numbers, keyword=keyword, what=NEVER)


async def _absent(fleet: Fleet, jobs: WorkerJobs) -> list[Finding]:
    """Explain jobs that run and whose worker the scheduler does not know."""
    running = jobs.with_status(JobStatus.RUNNING)
    if not running:
        return []
    names, _ = await fleet.scheduler.workers()
    joined = {JobId.of_worker(name) for name in names}
    absent = tuple(job for job in running if job.id not in joined)
    if not absent:
        return []
    return [
        Finding(
            absent,
            f"has run for {duration(time.time() - absent[0].since)}, but its worker has not joined the scheduler "
            "yet",
            "A container and Python take time to start. If nothing changes, read cluster.logs('{id}'). "
            "Execute nodes must reach the gateway's proxy (scheduler_proxy=…).",
        )
    ]
