"""Why jobs do not run, in words: hold reasons, and HTCondor's own analysis of jobs that wait."""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import remedies
from .display import duration, printable
from .errors import CondorError, HTCDaskGatewayError
from .jobs import SPOOLING, JobId, JobStatus, WorkerJob, WorkerJobs
from .spec import WorkerSpec
from .staging import EXIT_NO_PYTHON

if TYPE_CHECKING:
    from .fleet import Fleet

_WAITING = (JobStatus.IDLE, JobStatus.UNMATERIALIZED)
_ANALYSES = 3
"""How many submits are analyzed at most: each costs HTCondor a look at all slots of the pool."""

_OUTPUT_LINES = 15
_AGAIN = "Then {other}."
_RELEASE = "Then {release} lets it go on."

# HTCondor's manual, *HoldReasonCode*: code or (code, subcode) -> what it means, what to do. What stands in braces
# is filled in: {release} and {anew} are calls, {other} those that connect with another keyword first.
_HOLDS: dict[int | tuple[int, int], tuple[str, str]] = {
    1: ("was held by hand, by you or an administrator", "{release} lets it go on."),
    3: ("was held by a policy of the job itself", "The reason above tells which; see job_extra_directives."),
    6: (
        "could not be started: its program cannot be executed on that machine",
        "With container_runtime='apptainer' or 'none', is everything there that job_script_prologue and the worker "
        f"script use? {_RELEASE}",
    ),
    7: (
        "could not write its output",
        f"Does the log directory exist, and has it room? See log_directory and HTCDASK_STAGEDIR. {_RELEASE}",
    ),
    8: ("could not read its input", f"Is the staging directory still there? {_RELEASE}"),
    12: (
        "could not send its output back",
        f"Does the log directory exist, and has it room? See log_directory and HTCDASK_STAGEDIR. {_RELEASE}",
    ),
    13: (
        "misses an input file",
        "The file that the reason names is gone, or HTCondor cannot read it: the staging directory "
        "must stay as it is while the cluster lives, on a file system that the submit node sees "
        f"(pass spool=True where it sees none). Connecting again writes the files again. {_AGAIN}",
    ),
    14: (
        "misses its directory",
        "The staging directory is gone, or the submit node does not see it: set HTCDASK_STAGEDIR to a directory "
        f"on a shared file system, or pass spool=True. Connecting again writes the files again. {_AGAIN}",
    ),
    15: ("was submitted on hold", "{release} lets it go on."),
    21: ("was held by the machine it ran on", "The reason above is that machine's policy; ask its administrators."),
    22: ("could not write its event log", f"Does the log directory exist, and has it room? {_RELEASE}"),
    26: ("was held by a policy of the pool", "The reason above tells which; its administrators know more."),
    34: ("used more of a resource than it asked for", f"Ask for more of it. {_AGAIN}"),
    45: (
        "found no working container runtime on its machine",
        "Keep it off that machine with requirements=…, or pass container_runtime='apptainer' or 'none'. " + _AGAIN,
    ),
    46: ("ran longer than its allowed_job_duration", f"Raise or drop it in job_extra_directives. {_AGAIN}"),
    47: ("ran longer than its allowed_execute_duration", f"Raise or drop it in job_extra_directives. {_AGAIN}"),
    102: (
        "used more memory than it asked for",
        "Ask for more, or give each worker less to hold: smaller chunks, fewer threads (cpus=…). " + _AGAIN,
    ),
    104: ("used more disk than it asked for", f"Ask for more. {_AGAIN}"),
}
_KEYWORDS = {
    34: "memory=…",
    45: "container_runtime='apptainer'",
    46: "job_extra_directives={…}",
    47: "job_extra_directives={…}",
    102: "memory=…",
    104: "disk=…",
}
"""The keyword that another value helps of, by code."""

_MEASURED = {"memory=…": "Memory", "disk=…": "Disk"}
_RESOURCE_CODES = frozenset({21, 26, 34})
"""The codes whose subcodes 102 and 104 mean memory and disk, whoever has noticed: starter, machine or pool."""

_NEVER = "can never run in this pool"
_OWN_FAILURE = "the Dask worker failed"
# By the exit code of the worker's script, which is the subcode of the hold.
_FAILED = {
    0: (
        "its Dask worker failed again and again",
        "cluster.logs() has the whole output. Is the worker's Python (python=…, container_image=…) there, with "
        f"the scheduler's versions of dask and distributed? {_AGAIN}",
    ),
    EXIT_NO_PYTHON: (
        "its worker's Python is not on that machine",
        "Pass python=… as the execute nodes have it, or container_image=… with a Python and Dask of its own, or "
        f"put the environment on a file system that they share. {_AGAIN}",
    ),
}

# What a condition on this attribute of a machine asks for, and what the user can do about it.
_CONDITIONS = (
    ("HasContainer", "can run containers by itself (Apptainer is missing)", "container"),
    ("HasSIF", "can run containers by itself (Apptainer is missing)", "container"),
    ("HasSingularity", "can run containers by itself (Apptainer is missing)", "container"),
    ("HasDocker", "can run Docker containers", "container"),
    ("Cpus", "has that many cores", "cpus"),
    ("Memory", "has that much memory", "memory"),
    ("Disk", "has that much disk", "disk"),
    ("GPUs", "has that many GPUs", "gpus"),
    ("HasFileTransfer", "can transfer the worker's files", "transfer"),
)
_ADVICE = {
    "container": (
        "Pass container_runtime='apptainer' where the machines have Apptainer without HTCondor's knowing, "
        "or container_runtime='none' for a Python that they have. " + _AGAIN,
        "container_runtime='apptainer'",
    ),
    "cpus": ("Ask for fewer. `condor_status -af:h Machine TotalSlotCpus` lists what there is. " + _AGAIN, "cpus=…"),
    "memory": (
        "Ask for less. `condor_status -af:h Machine TotalSlotMemory` lists what there is, in MiB. " + _AGAIN,
        "memory=…",
    ),
    "disk": (
        "Ask for less. `condor_status -af:h Machine TotalSlotDisk` lists what there is, in KiB. " + _AGAIN,
        "disk=…",
    ),
    "gpus": ("Ask for fewer. " + _AGAIN, "gpus=…"),
    "transfer": ("The pool's administrators can tell why its machines do not transfer files.", ""),
    "": ("Look at requirements=… and job_extra_directives={…}. " + _AGAIN, "requirements=…"),
}
_RESOURCES = {"cpus": "Cpus", "memory": "Memory", "disk": "Disk", "gpus": "GPUs"}


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
        The keyword of a worker that another value helps of.
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
    """What the jobs of a cluster do, and why some of them do not run; prints as text.

    Parameters
    ----------
    jobs : WorkerJobs
        The jobs.
    findings : iterable of Finding
        Why some of them do not run.

    Attributes
    ----------
    stuck : int
        How many of the jobs no waiting will help.
    hopeless : bool
        Whether that is all of them: not one runs or can run.
    """

    def __init__(self, jobs: WorkerJobs, findings: list[Finding]) -> None:
        self.jobs = jobs
        self.findings = tuple(findings)
        self.stuck = sum(len(finding.jobs) for finding in findings if finding.stuck)
        self.hopeless = 0 < len(jobs.live) <= self.stuck

    def __str__(self) -> str:
        if not self.jobs.live:
            return "There are no worker jobs; scale(n) submits some."
        if not self.findings and len(self.jobs.having(JobStatus.RUNNING)) == len(self.jobs.live):
            count = len(self.jobs.live)
            return (
                f"All is well: {'the job runs and its' if count == 1 else f'all {count} jobs run and their'} "
                + ("worker has joined." if count == 1 else "workers have joined.")
            )
        return "\n\n".join([f"Worker jobs: {self.jobs.summary()}.", *map(str, self.findings)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre style='white-space: pre-wrap'>{html.escape(str(self))}</pre>"


@dataclass(frozen=True)
class Analysis:
    """What ``condor_q -better-analyze`` says about one job, boiled down.

    Attributes
    ----------
    conditions : tuple of (int, str)
        Each condition of the job's requirements, with the number of slots that meet it as they are now.
    machines, rejected, refusing : int
        How many machines (or undivided slots) there are, how many of them the job rejects even when they are
        empty, and how many reject the job.
    values : dict of str to str
        What the job asks for, by attribute.
    """

    conditions: tuple[tuple[int, str], ...]
    machines: int
    rejected: int
    refusing: int
    values: dict[str, str]

    @property
    def hopeless(self) -> bool:
        """Whether there are machines, and not one of them can ever run the job."""
        return 0 < self.machines == self.rejected


_ROW = re.compile(r"^\[\d+\]\s+(\d+)\s+(.*\S)", re.M)
_ROW_DRAINED = re.compile(r"^\[\d+\]\s+(\d+)\s+\d+\s+(.*\S)", re.M)
_OF = re.compile(r"^.*Run analysis summary.*Of (\d+) (?:machines|slots)", re.M)
_COUNT = re.compile(r"^\s+(\d+) (?:slots )?(are rejected by your|reject your)", re.M)
_VALUE = re.compile(r"^    (\w+) = (.*)$", re.M)


def parse_analysis(text: str) -> Analysis | None:
    """Return what ``condor_q -better-analyze`` said, or None if it is not understood."""
    _, found, table = text.partition("reduces to these conditions")
    if not found:
        return None
    # HTCondor 25 has one more column where machines are divided among jobs.
    row = _ROW_DRAINED if re.search(r"^Step +Matched +Drained", table, re.M) else _ROW
    of = _OF.search(table)
    counts = {kind: int(count) for count, kind in _COUNT.findall(table)}
    _, _, defines = text.partition("defines the following attributes")
    return Analysis(
        conditions=tuple((int(count), condition) for count, condition in row.findall(table)),
        machines=int(of[1]) if of else 0,
        rejected=counts.get("are rejected by your", 0),
        refusing=counts.get("reject your", 0),
        values=dict(_VALUE.findall(defines.partition("\n\n\n")[0].partition("Requirements")[0])),
    )


async def explain(fleet: Fleet) -> Explanation:
    """Return why jobs of `fleet` do not run.

    Costs the shared look at the queue, one question to the scheduler and, where jobs wait, one
    ``condor_q -better-analyze`` for each submit that they come from, for three at most.

    Raises
    ------
    CondorError
        The queue could not be read.
    """
    jobs = await fleet.look()
    findings = [await _with_output(fleet, await _with_use(fleet, finding)) for finding in _held(jobs)]
    findings += await _waiting(fleet, jobs)
    findings += await _absent(fleet, jobs)
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
    for job in jobs.having(JobStatus.HELD):
        groups[job.hold_code or 0, job.hold_subcode or 0].append(job)
    findings = []
    for (code, subcode), group in sorted(groups.items()):
        reason = printable(group[0].hold_reason or "")
        if code == SPOOLING:
            findings.append(Finding(tuple(group), "waits for its input to arrive at the schedd", "Wait."))
            continue
        own = code == 3 and reason.startswith(_OWN_FAILURE)
        kind = subcode if code in _RESOURCE_CODES and subcode in (102, 104) else code
        if own:
            what, advice = _FAILED.get(subcode, _FAILED[0])
        else:
            what, advice = _HOLDS.get(kind, (f"was held by HTCondor (code {code}, subcode {subcode})", _RELEASE))
        said = f"is held: {what if own else f'it {what}'}"
        keyword = "python=…" if own else _KEYWORDS.get(kind, "")
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
        detail += f"\nits output cannot be read: {printable(str(error))}"
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
    idle = jobs.having(JobStatus.IDLE)
    submits = Counter(job.id.cluster for job in idle)
    findings = []
    for cluster, _ in submits.most_common(_ANALYSES):
        group = tuple(job for job in jobs if job.id.cluster == cluster and job.status in _WAITING)
        try:
            said = parse_analysis(await fleet.condor.analyze(str(group[0].id)))
        except CondorError as error:
            findings.append(
                Finding(group, "waits in the queue, and HTCondor's analysis failed", detail=printable(str(error)))
            )
            continue
        if said is None:
            findings.append(Finding(group, "waits in the queue, and HTCondor had no analysis of it"))
        else:
            findings.append(await _with_numbers(fleet, describe(group, said), said))
    left = sum(count for _, count in submits.most_common()[_ANALYSES:])
    if left:
        rest = tuple(job for job in idle if not any(job in finding.jobs for finding in findings))
        findings.append(Finding(rest, "waits too, and was not looked at", "Ask again when the others run."))
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
    return replace(finding, numbers=numbers, keyword=keyword, what=_NEVER)


def describe(group: tuple[WorkerJob, ...], said: Analysis) -> Finding:
    """Return in words what HTCondor's analysis of the first of these idle jobs means."""
    if not said.machines:
        return Finding(
            group,
            "waits: the pool has no machine at this moment",
            "If it stays so, `condor_status` shows whether this pool has machines at all.",
        )
    missed = [condition for count, condition in said.conditions if count == 0]
    if said.hopeless:
        return _never(group, said, missed)
    if said.refusing and said.rejected + said.refusing == said.machines:
        return Finding(
            group,
            f"waits: {said.refusing} of {_machines(said)} would do, but refuse it by their own policy (START)",
            "They may take it later, or only certain users' jobs: the pool's administrators know, and whether an "
            "accounting_group or another directive (job_extra_directives) is wanted.",
        )
    could = said.machines - said.rejected - said.refusing
    what = f"waits for its turn: {could} of {_machines(said)} could run it"
    if missed:
        what += ", but none has enough left at this moment"
    return Finding(
        group,
        what,
        "Wait; a smaller request starts sooner. `condor_userprio` shows who is before you.",
        detail="\n".join(f"free now on no slot: {_with_values(condition, said)}" for condition in missed),
    )


def _never(group: tuple[WorkerJob, ...], said: Analysis, missed: list[str]) -> Finding:
    met = [count for count, _ in said.conditions if count]
    (advice, keyword), what = _ADVICE[""], ""
    for attribute, words, kind in _CONDITIONS:
        if any(re.search(rf"\b{attribute}\b", condition) for condition in missed):
            (advice, keyword), what = _ADVICE[kind], f"none of {_machines(said)} {words}"
            break
    if not what:
        what = f"none of {_machines(said)} meets its requirements"
        if not missed:
            what += ", though each of them alone is met somewhere"
    lines = [f"met by no slot: {_with_values(condition, said)}" for condition in missed]
    if not missed:
        lines = [f"met by {count}: {_with_values(condition, said)}" for count, condition in said.conditions]
    elif met:
        lines.append(f"each of the other {len(met)} conditions is met by {min(met)} slot(s) or more")
    return Finding(group, f"{_NEVER}: {what}", advice, stuck=True, detail="\n".join(lines), keyword=keyword)


def _machines(said: Analysis) -> str:
    return "1 machine" if said.machines == 1 else f"{said.machines} machines"


def _with_values(condition: str, said: Analysis) -> str:
    """Return a condition with what the job asks for beside its attributes."""
    named = [f"{name} = {value}" for name, value in said.values.items() if re.search(rf"\b{name}\b", condition)]
    return printable(condition + (f" ({', '.join(named)})" if named else ""))


async def _absent(fleet: Fleet, jobs: WorkerJobs) -> list[Finding]:
    """Explain jobs that run and whose worker the scheduler does not know."""
    running = jobs.having(JobStatus.RUNNING)
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
            f"has run for {duration(time.time() - absent[0].since)}, but its worker has not joined the scheduler",
            "A container and Python take their time to start. If it stays so, cluster.logs('{id}') tells why; "
            "machines must reach the gateway's proxy (scheduler_proxy=…).",
        )
    ]
