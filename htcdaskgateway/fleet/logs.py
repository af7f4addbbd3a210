"""What the workers wrote: from the log directory, and of running jobs from their machines."""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections.abc import Iterable
from pathlib import Path

from dask_gateway.client import GatewayWarning

from ..condor.jobs import NAME_PREFIX, JobStatus, WorkerJob, WorkerJobs
from ..display.html import pre_html
from ..display.warn import warn
from ..errors import CondorError, CondorTimeoutError, StagingError
from ..plain import plain
from ..worker.staging import Staging
from .fleet import Fleet

MAX_BYTES = 2**20
"""How much of the end of one file is read."""

TAIL_BYTES = 2**16
TAIL_TIMEOUT = 15.0
"""What is asked of running jobs: how many bytes of each, and how long all of it may take in seconds."""

_UNHEARD = (
    "(The worker runs, and its machine does not answer in time: is its TCP port 9618 open to this machine? What it "
    "wrote comes when it has ended.)\n"
)

_TAILED = 20
"""How many running jobs are asked unless they are named: each costs a connection to its machine."""

_AT_ONCE = 4
_FILE = re.compile(r"worker-(\d+)\.(\d+)(?:\.\d)?\.out")
_BEGIN = re.compile(rf"({NAME_PREFIX}\d+\.\d+-\d\S*) starts on ")
_START = re.compile(rf"({NAME_PREFIX}\d+\.\d+-\d+)\S*")


class WorkerLogs(dict[str, str]):
    """What each worker wrote, its output before its errors, by the worker's name.

    The name is that of the first worker of a start of a job: ``htcondor-``, the job's id, the number of the start
    and the schedd. Workers that this start had beside it or later (``-2``, ``-3``) write into the same file. A job
    that HTCondor has started again has an entry for each start whose output is still there.

    Attributes
    ----------
    why_empty : str
        What is said where there is no entry.
    """

    why_empty = "No worker has written anything yet."

    def __str__(self) -> str:
        if not self:
            return self.why_empty
        return "\n".join(f"==> {name} <==\n{plain(text).rstrip()}\n" for name, text in self.items())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if not self:
            return f"<p>{html.escape(self.why_empty)}</p>"
        return "\n".join(
            f"<details><summary>{html.escape(name)}</summary>{pre_html(text)}</details>"
            for name, text in self.items()
        )


def read(staging: Staging, workers: Iterable[str] | str | None = None) -> WorkerLogs:
    """Return what lies in the log directory: of all that ended or started again, or of these workers or jobs."""
    # Of spooled jobs it comes back to where they were submitted from.
    directory = staging.directory if staging.spec.spool else staging.logs
    wanted = _wanted(workers)
    found = []
    try:
        for path in directory.glob("worker-*.out"):
            match = _FILE.fullmatch(path.name)
            if not match:
                continue
            output = _end(path)
            begin = _BEGIN.search(_end(path, head=True))
            # A script that did not get as far as its first line cannot tell its name.
            name = begin[1] if begin else path.stem
            if wanted is None or wanted & {_start(name), f"{match[1]}.{match[2]}"}:
                key = (int(match[1]), int(match[2]), path.stat().st_mtime)
                found.append((key, name, output + _end(path.with_suffix(".err"))))
    except OSError as error:
        raise StagingError(f"the log directory {directory} cannot be read: {error.strerror or error}") from error
    return WorkerLogs({name: text for _, name, text in sorted(found)})


async def collect(fleet: Fleet, workers: Iterable[str] | str | None = None) -> WorkerLogs:
    """Return what the workers of `fleet` wrote, those of finished and of running jobs."""
    wanted = _wanted(workers)
    jobs = await fleet.look(max_age=0)
    await fetch_spooled(fleet)
    logs = await asyncio.to_thread(read, fleet.staging, wanted)
    running = [
        job
        for job in jobs.with_status(JobStatus.RUNNING)
        if job.worker_name not in logs and (wanted is None or wanted & {str(job.id), _start(str(job.worker_name))})
    ]
    if wanted is None and len(running) > _TAILED:
        warn(
            f"the output of {_TAILED} of {len(running)} running workers is shown; name the others to see theirs, "
            f'as in logs("{running[_TAILED].id}")',
            GatewayWarning,
        )
        running = running[:_TAILED]
    gate = asyncio.Semaphore(_AT_ONCE)
    end = time.monotonic() + TAIL_TIMEOUT

    async def tail(job: WorkerJob) -> str:
        async with gate:
            left = end - time.monotonic()
            if left <= 0:
                return _UNHEARD
            try:
                return await fleet.condor.of_job(job.schedd).tail(str(job.id), max_bytes=TAIL_BYTES, timeout=left)
            except CondorTimeoutError:
                return _UNHEARD
            except CondorError as error:
                # One machine that does not answer must not keep the others' words back.
                return f"({error.message}: {error.stderr or error.hint})"

    for job, text in zip(running, await asyncio.gather(*map(tail, running)), strict=True):
        logs[str(job.worker_name)] = text or "(The worker runs, but has written nothing yet.)\n"
    logs.why_empty = _why_empty(jobs, wanted)
    return logs


def _why_empty(jobs: WorkerJobs, wanted: set[str] | None) -> str:
    if wanted is not None:
        return f"Nothing has been written by {', '.join(sorted(wanted))}. The jobs: {jobs.live.summary()}."
    if not jobs.live:
        return "No worker has written anything yet: there are no worker jobs. scale(n) submits some."
    return (
        f"No worker has written anything yet. The jobs: {jobs.live.summary()}. explain() says why they do not run."
    )


async def fetch_spooled(fleet: Fleet) -> None:
    """Fetch the output of spooled jobs that have ended; for all others nothing is to do."""
    if fleet.staging.spec.spool:
        # One job whose output is not there yet, or was fetched already, would make the whole call fail.
        ended = "(JobStatus == 4 || (JobStatus == 5 && NumJobCompletions > 0)) && StageOutFinish =?= undefined"
        for schedd in await fleet.condor.all_answering() or ("",):
            await fleet.condor.of_job(schedd).transfer_data(f"{fleet.constraint} && {ended}")


def _wanted(workers: Iterable[str] | str | None) -> set[str] | None:
    if workers is None:
        return None
    return set(map(_start, [workers] if isinstance(workers, str) else map(str, workers)))


def _start(name: str) -> str:
    """Return a worker's name as far as it names the start of its job, which is what has an output of its own."""
    match = _START.fullmatch(name)
    return match[1] if match else name


def _end(path: Path, *, head: bool = False) -> str:
    """Return the end of a file, or with `head` its first line, in which the script names the worker."""
    try:
        with path.open("rb") as file:
            if head:
                return file.read(4096).decode(errors="replace")
            size = file.seek(0, 2)
            file.seek(max(0, size - MAX_BYTES))
            return file.read(MAX_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""
