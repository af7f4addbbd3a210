"""What the pool's machines have, from ``condor_status``."""

from __future__ import annotations

from .schedd import Condor


async def systems(condor: Condor) -> list[tuple[str, str]]:
    """Return the architecture and the system of each machine: ``("X86_64", "AlmaLinux9")``."""
    asked = ["-constraint", 'SlotType =!= "Dynamic"', "-af", "Arch", "OpSysAndVer"]
    done = await condor.checked(
        "condor_status", *condor._pool(), *asked, failing="the pool's machines could not be asked for"
    )
    words = [line.split() for line in done.stdout.splitlines()]
    return [(found[0], found[1]) for found in words if len(found) == 2]


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
