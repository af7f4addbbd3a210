"""What to ask for next time, from what the jobs have used: one sentence each."""

from __future__ import annotations

import math

import dask.config

from ..display.table import duration
from ..plain import counted
from ..worker.units import MIB, rounded_bytes
from .job_usage import Totals

_GIB = 2**30
# Less is not worth a change of the request.
_WORTH = 0.7
_SHORTEST = 300.0
"""How long jobs must have run for a proposal, in seconds: HTCondor measures them now and then only."""


def propose(usage: Totals) -> list[str]:
    """Return what to ask for next time, in words; one sentence says so where the request is right."""
    measured = [job for job in usage.jobs if job.seconds >= _SHORTEST]
    if not measured:
        return [f"The jobs have not run long enough for a proposal ({duration(_SHORTEST)})."]
    found = [*_memory(usage), *_cores(usage), *_disk(usage)]
    if usage.lost_hours > 0.2 * usage.core_hours:
        share = usage.lost_hours / usage.core_hours
        found.append(
            f"{share:.0%} of the core-hours are of runs that ended early. cluster.timeline() shows why; "
            "smaller or shorter jobs are evicted less often."
        )
    if not usage.measured:
        found.append("HTCondor has measured no CPU time here, so idle core-hours are not known.")
    return found or ["The request fits what was used."]


def _memory(usage: Totals) -> list[str]:
    asked, used = max(job.memory for job in usage.jobs), usage.memory_used
    if not asked or not used:
        return []
    said = f"A worker asked for {rounded_bytes(asked)} of memory and used {rounded_bytes(used)} at most"
    spill = dask.config.get("distributed.worker.memory.spill") or 0.7
    wanted = _round_up(used / spill)
    if wanted <= _WORTH * asked:
        return [
            f'{said}: ask for memory="{_keyword(wanted)}" and start sooner. '
            f"Dask writes to disk above {spill:.0%} of it."
        ]
    if used > 0.8 * asked:
        return [
            f'{said}: that is tight. Ask for memory="{_keyword(_round_up(1.5 * asked))}", or use smaller chunks.'
        ]
    return []


def _cores(usage: Totals) -> list[str]:
    worked = [job for job in usage.jobs if job.cores_used is not None]
    seconds = sum(job.seconds for job in worked)
    asked = max((job.cpus for job in worked), default=0.0)
    if not seconds or not asked:
        return []
    busy = sum((job.cores_used or 0.0) * job.seconds for job in worked) / seconds
    if busy > asked / 2:
        return []
    fewer = max(1, math.ceil(busy * 1.25))
    smaller = f", or cpus={fewer} if they were never without work" if fewer < asked else ""
    return [
        f"A worker kept {busy:.1f} of {counted(asked, 'core')} busy on average: fewer workers or adapt() would "
        f"do{smaller}."
    ]


def _disk(usage: Totals) -> list[str]:
    asked, used = max(job.disk for job in usage.jobs), usage.disk_used
    if not asked or not used or asked <= 2 * _GIB or _round_up(1.5 * used) > _WORTH * asked:
        return []
    return [
        f"A worker asked for {rounded_bytes(asked)} of disk and used {rounded_bytes(used)} at most: "
        f'ask for disk="{_keyword(_round_up(1.5 * used))}".'
    ]


def _round_up(size: float) -> int:
    """Return an amount that a person would write: whole GiB, or below one 512 MiB and more in steps of 128."""
    if size > _GIB:
        return math.ceil(size / _GIB) * _GIB
    return max(512, math.ceil(size / MIB / 128) * 128) * MIB


def _keyword(size: int) -> str:
    return f"{size // _GIB}GB" if size % _GIB == 0 else f"{size // MIB}MB"
