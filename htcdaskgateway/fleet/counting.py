"""What a user may say of how many workers there shall be, as a number of jobs."""

from __future__ import annotations

import operator
from typing import Any

from ..errors import ConfigError
from ..worker.spec import WorkerSpec
from ..worker.units import MIB, parse_amount

_AMOUNTS = ("jobs", "cores", "memory")
# What people write who come from elsewhere.
_MEANT = {
    "n": ("workers", "n_workers", "nworkers", "num_workers", "count", "size", "target"),
    "jobs": ("job", "n_jobs", "njobs", "num_jobs", "nodes"),
    "cores": ("core", "cpu", "cpus", "ncores", "n_cores", "ncpus", "threads", "nthreads"),
    "memory": ("mem", "ram", "gb", "memory_limit"),
}


def check_count(n: Any, call: str = "scale", what: str = "workers") -> int:
    """Return `n`, of whatever integer type, if it is a number of workers."""
    try:
        return whole(n)
    except (TypeError, ValueError):
        raise ConfigError(f"{call}({n!r}): give a whole number of {what}, 0 or more") from None


def whole(value: Any, least: int = 0) -> int:
    """Return an integer of whatever type if it is at least `least`; True is somebody's mistake."""
    number = operator.index(value)
    if isinstance(value, bool) or number < least:
        raise ValueError(value)
    return number


def jobs_of(spec: WorkerSpec, n: Any = None, **amounts: Any) -> int:
    """Return how many jobs `n` workers are, or ``jobs``, ``cores`` or ``memory`` in its place, rounded up."""
    unknown = sorted(amounts.keys() - set(_AMOUNTS))
    if unknown:
        raise ConfigError(_no_such(unknown[0], amounts[unknown[0]]))
    given = {name: value for name, value in {"n": n, **amounts}.items() if value is not None}
    if not given:
        raise ConfigError(
            "scale(None): give a whole number of workers, 0 or more, or one of " + ", ".join(_AMOUNTS)
        )
    if len(given) > 1:
        found = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ConfigError(f"scale() takes one of n, {', '.join(_AMOUNTS)}; here {found}")
    ((name, value),) = given.items()
    if name == "n":
        return spec.jobs(check_count(value))
    if name == "memory":
        return 0 if value in (0, "0") else -(-parse_amount(value, "scale(memory=…)", step=MIB) // spec.memory)
    count = check_count(value, what=name)
    return count if name == "jobs" else -(-count // spec.cpus)


def _no_such(name: str, value: Any) -> str:
    """Return what is said of a keyword that scale() does not have: which is meant, or which there are."""
    import difflib  # needed here alone

    found = next((right for right, wrong in _MEANT.items() if name.lower() in wrong), None)
    if found is None and (near := difflib.get_close_matches(name.lower(), ["n", *_AMOUNTS, "worker_type"], n=1)):
        found = near[0]
    if found is None and name in ("minimum", "maximum"):
        return f"scale() has no {name!r}; adapt(minimum=…, maximum=…) has"
    if found is None:
        return f"scale() has no {name!r}; it has n, {', '.join(_AMOUNTS)} and worker_type"
    return f"scale() has no {name!r}; write scale({found}={value!r})"
