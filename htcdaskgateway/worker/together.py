"""Which options of a worker exclude or bound one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from . import checks, relay, sites


def check(values: Mapping[str, Any]) -> None:
    """Check the values of a spec, each of which is right by itself."""
    sites.check_mapped(values)
    relay.check(values)
    if values["spool"] and values["max_idle"] is not None:
        raise ConfigError(
            f"max_idle={values['max_idle']!r} and spool=True exclude each other: HTCondor spools "
            "files only for jobs that exist."
        )
    if values["processes"] > values["cpus"]:
        raise ConfigError(
            f"processes={values['processes']!r} needs at least as many cpus, but cpus={values['cpus']!r}. The "
            "workers of a job share its cpus."
        )
    listeners = values["processes"] * (2 if values["nanny"] else 1)
    if 0 < checks.port_count(values["worker_port"]) < listeners:
        raise ConfigError(
            f"worker_port={values['worker_port']!r} has too few ports: {listeners} processes of one job "
            "listen (workers and nannies)."
        )
