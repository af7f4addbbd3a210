"""Choose the schedd of a new cluster, where the site has several."""

from __future__ import annotations

from .. import config
from ..errors import ConfigError
from .schedd import Condor, check_schedd


async def choose_schedd(condor: Condor) -> str:
    """Return the schedd of the configured constraint that has the highest rank; empty where none is to be chosen.

    Raises
    ------
    ConfigError
        No schedd fulfils the constraint.
    """
    constraint, rank = config.get("condor.schedd-constraint"), config.get("condor.schedd-rank")
    if condor.schedd or not constraint:
        return ""
    ranked = []
    # In parentheses, for one that begins with a minus would be an option.
    asked = [*condor._pool(), "-schedd", "-constraint", str(constraint), "-af:t", "Name", f"({rank or 0})"]
    done = await condor.checked("condor_status", *asked, failing="the schedds of the pool could not be asked for")
    for line in done.stdout.splitlines():
        name, _, value = line.partition("\t")
        try:
            found = float(value)
        except ValueError:  # undefined: an ad that has not all of its attributes yet
            found = -float("inf")
        if check_schedd(name):
            ranked.append((found, name))
    if not ranked:
        raise ConfigError(
            f"no schedd fulfils htcdaskgateway.condor.schedd-constraint={constraint!r}; `condor_status -schedd` "
            "lists those there are"
        )
    return max(ranked)[1]
