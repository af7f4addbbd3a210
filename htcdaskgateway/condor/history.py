"""HTCondor's history: the ads of jobs that have left the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import CondorTimeoutError
from .ads import ARRAY, Ads, no_list
from .schedd import Condor

MOST = 20_000
"""How many jobs are asked for at most."""


async def query_history(condor: Condor, constraint: str, attributes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the ads of the user's jobs that have left the queue and fulfil `constraint`, the newest first.

    Raises
    ------
    CondorError
        The history could not be read.
    """
    ads: Ads[dict[str, Any]] = Ads(dict)
    asked = [*condor._address(), "-constraint", constraint, "-limit", str(MOST)]
    asked += ["-json", "-attributes", ",".join(attributes)]
    try:
        done = await condor.run("condor_history", *asked, take=ads.take)
    except CondorTimeoutError as error:
        error.hint = "the history of a busy schedd is long: raise `htcdaskgateway.condor.timeout` and try again"
        raise
    if done.returncode != 0:
        raise await condor.failure(done, "HTCondor's history could not be read")
    # No match is nothing or an empty array, as the version has it.
    if not ads.complete and ARRAY.search(done.stdout):
        raise no_list(done)
    return ads.made
