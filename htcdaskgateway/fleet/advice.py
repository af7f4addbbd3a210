"""Hold reasons and HTCondor's analyses in words, and what to do about them."""

from __future__ import annotations

import re

from ..condor.analysis import Analysis
from ..condor.jobs import WorkerJob
from ..plain import printable
from .findings import Finding

AGAIN = "Then {other}."
NEVER = "can never run in this pool"
RELEASE = "Then {release} lets it go on."

# HTCondor's manual, *HoldReasonCode*: code or (code, subcode) -> what it means, what to do. What stands in braces
# is filled in: {release} and {anew} are calls, {other} those that connect with another keyword first.
HOLDS: dict[int | tuple[int, int], tuple[str, str]] = {
    1: ("was held by hand, by you or an administrator", "{release} lets it go on."),
    3: ("was held by a policy of the job itself", "The reason above tells which; see job_extra_directives."),
    6: (
        "could not be started: its program cannot be executed on that machine",
        "With container_runtime='apptainer' or 'none', is everything there that job_script_prologue and the worker "
        f"script use? {RELEASE}",
    ),
    7: (
        "could not write its output",
        f"Does the log directory exist, and has it room? See log_directory and HTCDASK_STAGEDIR. {RELEASE}",
    ),
    8: ("could not read its input", f"Is the staging directory still there? {RELEASE}"),
    12: (
        "could not send its output back",
        f"Does the log directory exist, and has it room? See log_directory and HTCDASK_STAGEDIR. {RELEASE}",
    ),
    13: (
        "misses an input file",
        "The file that the reason names is gone, or HTCondor cannot read it: the staging directory "
        "must stay as it is while the cluster lives, on a file system that the submit node sees "
        f"(pass spool=True where it sees none). Connecting again writes the files again. {AGAIN}",
    ),
    14: (
        "misses its directory",
        "The staging directory is gone, or the submit node does not see it: set HTCDASK_STAGEDIR to a directory "
        f"on a shared file system, or pass spool=True. Connecting again writes the files again. {AGAIN}",
    ),
    15: ("was submitted on hold", "{release} lets it go on."),
    21: ("was held by the machine it ran on", "The reason above is that machine's policy; ask its administrators."),
    22: ("could not write its event log", f"Does the log directory exist, and has it room? {RELEASE}"),
    26: ("was held by a policy of the pool", "The reason above tells which; its administrators know more."),
    34: ("used more of a resource than it asked for", f"Ask for more of it. {AGAIN}"),
    45: (
        "found no working container runtime on its machine",
        "Keep it off that machine with requirements=…, or pass container_runtime='apptainer' or 'none'. " + AGAIN,
    ),
    46: ("ran longer than its allowed_job_duration", f"Raise or drop it in job_extra_directives. {AGAIN}"),
    47: ("ran longer than its allowed_execute_duration", f"Raise or drop it in job_extra_directives. {AGAIN}"),
    102: (
        "used more memory than it asked for",
        "Ask for more, or give each worker less to hold: smaller chunks, fewer threads (cpus=…). " + AGAIN,
    ),
    104: ("used more disk than it asked for", f"Ask for more. {AGAIN}"),
}
RESOURCE_CODES = frozenset({21, 26, 34})
"""The codes whose subcodes 102 and 104 mean memory and disk, whoever has noticed: starter, machine or pool."""

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
        "or container_runtime='none' for a Python that they have. " + AGAIN,
        "container_runtime='apptainer'",
    ),
    "cpus": ("Ask for fewer. `condor_status -af:h Machine TotalSlotCpus` lists what there is. " + AGAIN, "cpus=…"),
    "memory": (
        "Ask for less. `condor_status -af:h Machine TotalSlotMemory` lists what there is, in MiB. " + AGAIN,
        "memory=…",
    ),
    "disk": (
        "Ask for less. `condor_status -af:h Machine TotalSlotDisk` lists what there is, in KiB. " + AGAIN,
        "disk=…",
    ),
    "gpus": ("Ask for fewer. " + AGAIN, "gpus=…"),
    "transfer": ("The pool's administrators can tell why its machines do not transfer files.", ""),
    "": ("Look at requirements=… and job_extra_directives={…}. " + AGAIN, "requirements=…"),
}


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
    return Finding(group, f"{NEVER}: {what}", advice, stuck=True, detail="\n".join(lines), keyword=keyword)


def _machines(said: Analysis) -> str:
    return "1 machine" if said.machines == 1 else f"{said.machines} machines"


def _with_values(condition: str, said: Analysis) -> str:
    """Return a condition with what the job asks for beside its attributes."""
    named = [f"{name} = {value}" for name, value in said.values.items() if re.search(rf"\b{name}\b", condition)]
    return printable(condition + (f" ({', '.join(named)})" if named else ""))
