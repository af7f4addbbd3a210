"""What the pool's machines have, from ``condor_status``."""

from __future__ import annotations

from .schedd import Condor


async def largest(condor: Condor, resource: str) -> float | None:
    """Return the most ``Cpus``, ``Memory`` (MiB), ``Disk`` (KiB) or ``GPUs`` that an empty machine gives one job.

    None where the pool does not tell.
    """
    asked = ["-constraint", 'SlotType =!= "Dynamic"', "-af", f"TotalSlot{resource}"]
    done = await condor.checked(
        "condor_status", *condor._pool(), *asked, failing="the pool's machines could not be asked for"
    )
    found = []
    for word in done.stdout.split():
        try:
            found.append(float(word))
        except ValueError:  # undefined: a machine without any
            continue
    return max(found, default=None)
