"""Hold reasons and HTCondor's analyses in words, and what to do about them."""

from __future__ import annotations

import re

from ..condor.analysis import Analysis
from ..condor.jobs import WorkerJob
from ..plain import counted, printable
from .findings import Finding

AGAIN = "Then {other}."
NEVER = "cannot run in this pool"
RELEASE = "Then run {release} to let it go on."

# HTCondor's manual, *HoldReasonCode*: code or (code, subcode) -> what it means, what to do. What stands in braces
# is filled in: {release} and {anew} are calls, {other} those that connect with another keyword first.
HOLDS: dict[int | tuple[int, int], tuple[str, str]] = {
    1: ("was held by hand, by you or an administrator", "Run {release} to let it go on."),
    3: ("was held by a policy of the job itself", "See the reason above, and job_extra_directives."),
    6: (
        "could not be started: its program cannot be executed on that machine",
        "With container_runtime='apptainer' or 'none', is everything there that job_script_prologue and the worker "
        f"script use? {RELEASE}",
    ),
    7: (
        "could not write its output",
        f"Does the log directory exist? Has it room? See log_directory and HTCDASK_STAGEDIR. {RELEASE}",
    ),
    8: ("could not read its input", f"Is the staging directory still there? {RELEASE}"),
    12: (
        "could not send its output back",
        f"Does the log directory exist? Has it room? See log_directory and HTCDASK_STAGEDIR. {RELEASE}",
    ),
    13: (
        "has no input file",
        "HTCondor cannot read the file that the reason names. Keep the staging directory while the cluster lives, "
        "on a file system that the submit node sees. If there is none, pass spool=True. Connecting again writes "
        f"the files again. {AGAIN}",
    ),
    14: (
        "has no working directory",
        "The staging directory is gone, or the submit node does not see it: set HTCDASK_STAGEDIR to a directory "
        f"on a shared file system, or pass spool=True. Connecting again writes the files again. {AGAIN}",
    ),
    15: ("was submitted on hold", "Run {release} to let it go on."),
    21: ("was held by the machine it ran on", "See the reason above; ask the machine's administrators."),
    22: ("could not write its event log", f"Does the log directory exist? Has it room? {RELEASE}"),
    26: ("was held by a policy of the pool", "See the reason above; ask the pool's administrators."),
    34: ("used more of a resource than it asked for", f"Ask for more of it. {AGAIN}"),
    45: (
        "found no working container runtime on its machine",
        "Keep it off that machine with requirements=…, or pass container_runtime='apptainer' or 'none'. " + AGAIN,
    ),
    46: ("ran longer than its allowed_job_duration", f"Raise or drop it in job_extra_directives. {AGAIN}"),
    47: ("ran longer than its allowed_execute_duration", f"Raise or drop it in job_extra_directives. {AGAIN}"),
    102: (
        "used more memory than it asked for",
        "Ask for more, or use smaller chunks or fewer threads (cpus=…). " + AGAIN,
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
    ("AvailableGPUs", "has that many GPUs of that kind", "gpus"),
    ("HasFileTransfer", "can transfer the worker's files", "transfer"),
)
_ADVICE = {
    "container": (
        "If the machines have Apptainer but HTCondor does not know, pass container_runtime='apptainer'. If they "
        "have a Python with Dask, pass container_runtime='none'. " + AGAIN,
        "container_runtime='apptainer'",
    ),
    "cpus": (
        "Ask for fewer. `condor_status -af:h Machine TotalSlotCpus` lists what the machines have. " + AGAIN,
        "cpus=…",
    ),
    "memory": (
        "Ask for less. `condor_status -af:h Machine TotalSlotMemory` lists what the machines have, in MiB. "
        + AGAIN,
        "memory=…",
    ),
    "disk": (
        "Ask for less. `condor_status -af:h Machine TotalSlotDisk` lists what the machines have, in KiB. " + AGAIN,
        "disk=…",
    ),
    "gpus": ("Ask for fewer. " + AGAIN, "gpus=…"),
    "transfer": ("Ask the pool's administrators why its machines do not transfer files.", ""),
    "": ("Look at requirements=… and job_extra_directives={…}. " + AGAIN, "requirements=…"),
}


def describe(group: tuple[WorkerJob, ...], said: Analysis) -> Finding:
    """Return in words what HTCondor's analysis of the first of these idle jobs means."""
    if not said.machines:
        return Finding(
            group,
            "waits: the pool has no machine now",
            "If that does not change, `condor_status` shows whether this pool has machines at all.",
        )
    missed = [condition for count, condition in said.conditions if count == 0]
    if said.hopeless:
        return _never(group, said, missed)
    if said.refusing and said.rejected + said.refusing == said.machines:
        return Finding(
            group,
            f"waits: {said.refusing} of {_machines(said)} fit, but their policy (START) refuses it",
            "They may take it later, or take only certain users' jobs. Ask the pool's administrators, also whether "
            "they want an accounting_group or another line (job_extra_directives).",
        )
    could = said.machines - said.rejected - said.refusing
    what = f"waits for its turn: {could} of {_machines(said)} can run it"
    if missed:
        what += ", but none has enough free now"
    return Finding(
        group,
        what,
        "Wait; a smaller request starts sooner. `condor_userprio` shows who is before you.",
        detail="\n".join(f"no slot has free now: {_with_values(condition, said)}" for condition in missed),
    )


def _never(group: tuple[WorkerJob, ...], said: Analysis, missed: list[str]) -> Finding:
    met = [count for count, _ in said.conditions if count]
    (advice, keyword), what = _ADVICE[""], ""
    for attribute, words, kind in _CONDITIONS:
        if any(re.search(rf"\b{attribute}\b", condition) for condition in missed):
            (advice, keyword), what = _ADVICE[kind], f"no machine {words}"
            break
    if not what:
        what = "no machine meets all its requirements"
        if not missed:
            what += ", though each requirement is met somewhere"
    lines = [f"no slot meets: {_with_values(condition, said)}" for condition in missed]
    if not missed:
        lines = [
            f"{counted(count, 'slot')} can meet: {_with_values(condition, said)}"
            for count, condition in said.conditions
        ]
    elif met:
        lines.append(
            f"at least {counted(min(met), 'slot')} can meet each of the other {counted(len(met), 'condition')}"
        )
    return Finding(group, f"{NEVER}: {what}", advice, stuck=True, detail="\n".join(lines), keyword=keyword)


def _machines(said: Analysis) -> str:
    return "1 machine" if said.machines == 1 else f"{said.machines} machines"


def _with_values(condition: str, said: Analysis) -> str:
    """Return a condition with what the job asks for beside its attributes."""
    named = [f"{name} = {value}" for name, value in said.values.items() if re.search(rf"\b{name}\b", condition)]
    return printable(condition + (f" ({', '.join(named)})" if named else ""))
