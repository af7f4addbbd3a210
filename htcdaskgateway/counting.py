"""What a user may say of how many workers there shall be, as a number of jobs."""

from __future__ import annotations

import operator
from typing import Any

from .errors import ConfigError
from .spec import WorkerSpec
from .units import MIB, parse_amount

_AMOUNTS = ("jobs", "cores", "memory")


def check_count(n: Any, call: str = "scale", what: str = "workers") -> int:
    """Return `n`, of whatever integer type, if it is a number of workers.

    Raises
    ------
    ConfigError
        It is not.
    """
    try:
        count = -1 if isinstance(n, bool) else operator.index(n)
    except TypeError:
        count = -1
    if count < 0:
        raise ConfigError(f"{call}({n!r}): the number of {what} is a whole number of at least 0")
    return count


def jobs_of(spec: WorkerSpec, n: Any = None, **amounts: Any) -> int:
    """Return how many jobs are asked for, rounded up to whole jobs.

    Parameters
    ----------
    spec : WorkerSpec
        What one job has.
    n : int, optional
        The number of workers.
    **amounts
        In its place ``jobs``, ``cores`` (CPUs in all) or ``memory`` (bytes in all, read as a worker's).

    Raises
    ------
    ConfigError
        Not just one number is given, or it is none.
    """
    unknown = sorted(amounts.keys() - set(_AMOUNTS))
    if unknown:
        raise ConfigError(f"scale() has no {unknown[0]!r}; it has n, {', '.join(_AMOUNTS)} and worker_type")
    given = {name: value for name, value in {"n": n, **amounts}.items() if value is not None}
    if not given:
        raise ConfigError(
            "scale(None): the number of workers is a whole number of at least 0; or give one of "
            + ", ".join(_AMOUNTS)
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
