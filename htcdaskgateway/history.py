"""HTCondor's history: the ads of jobs that have left the queue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .condor import Condor
from .errors import CondorError

MOST = 20_000
"""How many jobs are asked for at most."""


async def query_history(condor: Condor, constraint: str, attributes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the ads of the user's jobs that have left the queue and fulfil `constraint`, the newest first.

    Raises
    ------
    CondorError
        The history could not be read.
    """
    asked = [*condor._address(), "-constraint", constraint, "-limit", str(MOST)]
    done = await condor.run("condor_history", *asked, "-json", "-attributes", ",".join(attributes))
    if done.returncode != 0:
        raise await condor.failure(done, "HTCondor's history could not be read")
    # No match prints nothing with some versions, and an empty array with others.
    text = done.stdout[done.stdout.find("[") :] if "[" in done.stdout else "[]"
    try:
        ads = json.loads(text)
    except ValueError as error:
        raise CondorError(
            "condor_history answered something that is not a list of jobs",
            command=done.command,
            returncode=done.returncode,
            stderr=(done.stderr + done.stdout)[-2000:],
            hint="is condor_history a wrapper script of your site? Run the command by hand and look",
        ) from error
    return [ad for ad in ads if isinstance(ad, dict)]
