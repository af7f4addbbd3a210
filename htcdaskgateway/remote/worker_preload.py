"""A preload of ``dask worker``: end so that HTCondor knows whether this worker is still wanted.

Sent with the job. A stock worker exits with 0 whether it was retired or cut off; here its exit code says which:

* 0: not wanted any more (retired, the scheduler closed, or no scheduler within the death timeout);
* 75: wanted, but cut off, restarted or told to go elsewhere; HTCondor runs the job again;
* anything else: the worker failed by itself.

HTCondor's SIGTERM (an eviction, condor_rm) hands the worker's data to others before it ends.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import sys
from typing import Any

from distributed.core import Status

logger = logging.getLogger("distributed.worker.htcondor")

AGAIN = 75
exit_code: int | None = None


def code_of(status: Status, reason: str) -> int | None:
    """Return the exit code for a worker that is closed with that status, for that reason; None: leave it."""
    if reason.startswith("failure-to-start"):
        return 0 if "TimeoutError" in reason else None
    if reason.startswith("scheduler-close"):  # the whole cluster, or this worker by the scheduler's choice
        return 0
    if reason == "scheduler-remove-worker" and status is Status.closing_gracefully:
        return 0
    return AGAIN


def leave() -> None:
    """End the process with the exit code that was decided."""
    if exit_code is not None:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


async def hand_over(worker: Any) -> None:
    """Move the worker's data to others, then close; the signal came from HTCondor."""
    try:
        if worker.status in (Status.running, Status.paused):
            logger.info("told to leave; handing the data over")
            await worker.close_gracefully(reason="sigterm")
            return
    except OSError:  # the scheduler is gone too
        logger.exception("the data could not be handed over")
    await worker.close(reason="sigterm", executor_wait=False)


def dask_setup(worker: Any) -> None:
    """Wrap what closes `worker`; called once it listens, before it looks for the scheduler."""
    close = worker.close

    async def closing(*args: Any, **kwargs: Any) -> Any:
        global exit_code
        if exit_code is None and worker.status not in (Status.closing, Status.closed, Status.failed):
            exit_code = code_of(worker.status, str(kwargs.get("reason", "worker-close")))
        return await close(*args, **kwargs)

    worker.close = closing
    worker.stream_handlers["close"] = closing
    atexit.register(leave)
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()  # the loop keeps weak references only

    def told() -> None:
        task = loop.create_task(hand_over(worker))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGTERM, told)
