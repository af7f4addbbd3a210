"""A hint where a task fails for lack of code that has changed here since the workers got it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..display.warn import warn
from ..errors import ConfigError
from ..packages import packing
from ..worker.staging import Staging

logger = logging.getLogger(__name__)

_TELLING = (ImportError, AttributeError)


class StaleCodeWarning(UserWarning):
    """A task failed on a worker whose code is older than the notebook's."""


def watch(client: Any, stage: Staging) -> None:
    """Look at each task of `client` that fails, and hint at what would help."""
    handle = client._stream_handlers["task-erred"]
    looking: asyncio.Task[None] | None = None
    last: BaseException | None = None

    def erred(key: Any = None, **told: Any) -> None:
        nonlocal looking, last
        handle(key=key, **told)
        last = _telling(getattr(client.futures.get(key), "exception", None)) or last
        # A thousand tasks may fail at once, for one reason.
        if last is not None and (looking is None or looking.done()):
            looking = asyncio.ensure_future(look())

    async def look() -> None:
        nonlocal last
        while last is not None:
            error, last = last, None
            await _hint(error, stage)

    client._stream_handlers["task-erred"] = erred


def _telling(error: BaseException | None) -> BaseException | None:
    """Return what of the error and its causes tells of code that is not there."""
    while error is not None and not isinstance(error, _TELLING):
        error = error.__cause__
    return error


async def _hint(error: BaseException, stage: Staging) -> None:
    packages, packed = stage.spec.packages, stage.packed
    if packages is None or packed is None:
        return
    try:
        key, local = await asyncio.to_thread(packing.keys, packages, image=stage.spec.packages_image)
    except (ConfigError, OSError) as cannot:
        logger.info("cannot tell whether the code has changed since the workers got it: %s", cannot)
        return
    begin = f"a task failed with {type(error).__name__}: {error}"
    if local != packed.local:
        warn(f"{begin}, and the local code has changed since: cluster.sync_packages()", StaleCodeWarning)
    elif key != packed.key:
        warn(
            f"{begin}, and the installed packages have changed since: cluster.sync_packages(), then scale(0) and "
            "scale(n), for workers that have them",
            StaleCodeWarning,
        )
