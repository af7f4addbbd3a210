"""What the pool's machines have, from ``condor_status``."""

from __future__ import annotations

from .condor import Condor


async def largest(condor: Condor, resource: str) -> float | None:
    """Return the most of a resource that a machine gives to one job when it is empty, in HTCondor's unit.

    Parameters
    ----------
    condor : Condor
        The pool.
    resource : str
        ``Cpus``, ``Memory`` (MiB), ``Disk`` (KiB) or ``GPUs``.

    Returns
    -------
    float or None
        None where the pool does not tell.

    Raises
    ------
    CondorError
        The pool could not be asked.
    """
    pool = ["-pool", condor.pool] if condor.pool else []
    asked = ["-constraint", 'SlotType =!= "Dynamic"', "-af", f"TotalSlot{resource}"]
    done = await condor.run("condor_status", *pool, *asked)
    if done.returncode != 0:
        raise await condor.failure(done, "the pool's machines could not be asked for")
    found = []
    for word in done.stdout.split():
        try:
            found.append(float(word))
        except ValueError:  # undefined: a machine without any
            continue
    return max(found, default=None)
