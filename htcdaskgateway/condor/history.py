"""HTCondor's history: the ads of jobs that have left the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import CondorTimeoutError
from .ads import ask
from .schedd import Condor

MOST = 20_000
"""How many jobs are asked for at most."""


async def query_history(condor: Condor, constraint: str, attributes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the ads of the user's jobs that have left the queue and fulfil `constraint`, the newest first."""
    asked = [*condor._address(), "-constraint", constraint, "-limit", str(MOST)]
    try:
        # No match is nothing or an empty array, as the version has it.
        ads, _ = await ask(
            condor,
            "condor_history",
            *asked,
            attributes=attributes,
            make=dict,
            failing="HTCondor's history could not be read",
        )
    except CondorTimeoutError as error:
        error.hint = "the history of a busy schedd is long: raise `htcdaskgateway.condor.timeout` and try again"
        raise
    return ads.made
