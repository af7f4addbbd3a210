"""A preload of ``dask worker``: behave behind the gateway's proxy, and end so that it is known what comes next.

Sent with the job. A stock worker exits with 0 whether it was retired or cut off; here its exit code says which:

* 0: not wanted any more (retired, its lifetime over, the scheduler closed, or none within the death timeout);
* 74: wanted, but cut off from the scheduler;
* 75: wanted, but restarted or evicted;
* 83: it has never joined, for it cannot reach the gateway's proxy;
* anything else: the worker failed by itself.

HTCondor's SIGTERM (an eviction, condor_rm) hands the worker's data to others before it ends. Under a nanny the
nanny's process ends with its worker's code.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from distributed.core import Status
from distributed.nanny import Nanny
from distributed.security import Security

logger = logging.getLogger("distributed.worker.htcondor")

LOST = 74
AGAIN = 75
UNREACHABLE = 83
ENDED = (Status.closing, Status.closed, Status.failed)
SNI = f"daskgateway-{os.environ.get('DASK_GATEWAY_CLUSTER_NAME', '')}"
"""The name by which the gateway's proxy finds this cluster's scheduler."""

RELAY = ""
"""The text of what lets others reach this worker without its port; where it is used, this file ends with it."""

# How long a worker that is wanted again may take to end, in seconds: what it still computes nobody waits for.
CLOSE_TIMEOUT = 5.0
# How long the scheduler's word that a worker is to close may come after the answer to its heartbeat, in seconds.
WORD = 1.0
# How often the worker of a nanny may fail before the nanny gives up, as the job's own bound.
MAX_FAILURES = 3
RETRY = 0.5
# How long the proxy may take to accept a connection, in seconds.
CONNECT_TIMEOUT = 5.0

exit_code: int | None = None
first = False  # whether nobody has joined before in this one's place


class ProxySecurity(Security):  # type: ignore[misc]
    """The worker's credentials for whoever connects with them, such as a client in a task.

    The worker itself is told the name by ``--scheduler-sni``; a client in it has only the worker's credentials.
    """

    __slots__ = ()

    def get_connection_args(self, role: str) -> dict[str, Any]:
        """Return what a connection needs: the worker's certificate in whatever role, and the proxy's name."""
        return {**super().get_connection_args("worker"), "server_hostname": SNI}


def code_of(worker: Any, reason: str) -> int | None:
    """Return the exit code for a worker that is closed for that reason; None: leave it."""
    if reason.startswith("failure-to-start"):
        return 0 if "TimeoutError" in reason else None
    if reason.startswith("scheduler-close"):  # the whole cluster, or this worker by the scheduler's choice
        return 0
    if reason == "scheduler-remove-worker" and worker.status is Status.closing_gracefully:
        return 0
    if reason == "worker-lifetime-reached" and not worker.lifetime_restart:
        return 0
    return LOST if reason.startswith(("worker-handle-scheduler", "worker-heartbeat")) else AGAIN


async def without_scheduler(address: str) -> int:
    """Return the exit code of who found no scheduler: it is gone, or its proxy out of reach.

    Who has joined before, and is started again by worker_start.py, knows that it was to be reached.
    """
    if not first:
        return 0
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), CONNECT_TIMEOUT)
    except (OSError, asyncio.TimeoutError) as error:
        why = str(error) or "no answer"
        logger.error("%s cannot reach the gateway's scheduler proxy %s:%s: %s", platform.node(), host, port, why)
        return UNREACHABLE
    writer.transport.abort()
    return 0


def leave() -> None:
    """End the process with the exit code that was decided; a negative one is a signal's number."""
    if exit_code is None:
        return
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    if exit_code < 0:
        os.kill(os.getpid(), -exit_code)
    os._exit(exit_code if exit_code >= 0 else 128 - exit_code)


def on_sigterm(hand_over: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `hand_over` when HTCondor's signal comes."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()  # the loop keeps weak references only

    def told() -> None:
        task = loop.create_task(hand_over())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGTERM, told)


def set_up_worker(worker: Any) -> None:
    """Wrap what closes `worker`, and let it tell the scheduler when it was ready to join."""
    begun = time.time()
    worker.startup_information["htcdaskgateway"] = lambda _: {"begun": begun}
    if not worker.nanny:  # words of Dask's client, where it asks for nannies
        worker.startup_information["type"] = lambda _: "Worker (nanny=True gives it a nanny)"
    worker.security.__class__ = ProxySecurity
    close, named = worker.close, worker.contact_address is not None
    change = worker.stream_handlers["worker-status-change"]

    def changing(**told: Any) -> None:
        # The late word that a retirement is called off would let a worker that closes go on; the tasks that it then
        # got would fail for want of a thread.
        if worker.status not in ENDED:
            change(**told)

    async def closing(*args: Any, **kwargs: Any) -> Any:
        global exit_code
        if kwargs.get("reason") == "worker-heartbeat-missing" and worker.status not in ENDED:
            # One that is retired is unknown from then on, and the answer may come before the word. A second close,
            # by that word, does not wait for this one.
            await asyncio.sleep(WORD)
        if exit_code is None and worker.status not in ENDED:
            exit_code = code_of(worker, str(kwargs.get("reason", "worker-close")))
            if exit_code == 0 and str(kwargs.get("reason", "")).startswith("failure-to-start"):
                exit_code = await without_scheduler(worker.scheduler.address)
            if exit_code in (LOST, AGAIN):
                kwargs["executor_wait"] = False
                asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, leave)
        closed = await close(*args, **kwargs)
        if worker.nanny:  # a stock one waits two seconds for a thread, in vain
            asyncio.get_running_loop().call_soon(leave)
        return closed

    async def hand_over() -> None:
        global exit_code
        if worker.status is Status.init:
            # It holds nothing. Were it closed, it would go on to join, and get tasks without a thread for them.
            exit_code = AGAIN
            leave()
        try:
            if worker.status in (Status.running, Status.paused):
                logger.info("told to leave; handing the data over")
                if not named:
                    await worker.close_gracefully(reason="sigterm")
                    return
                # The scheduler has looked up the host of a contact address, and knows the worker by what it found.
                await worker.scheduler.retire_workers(
                    names=[worker.name],
                    close_workers=False,
                    remove=True,
                    stimulus_id=f"htcdaskgateway-sigterm-{time.time()}",
                )
        except OSError:  # the scheduler is gone too
            logger.exception("the data could not be handed over")
        await worker.close(reason="sigterm", executor_wait=False)

    worker.close = closing
    worker.stream_handlers["close"] = closing
    worker.stream_handlers["worker-status-change"] = changing
    if not worker.nanny:  # under one the signal is the nanny's, and its memory limit's to send
        on_sigterm(hand_over)


async def set_up_nanny(nanny: Any) -> None:
    """Let `nanny` through the proxy, and end with its worker's code."""
    nanny.connection_args["server_hostname"] = SNI
    nanny.rpc.connection_args["server_hostname"] = SNI
    close, worker_exited, instantiate = nanny.close, nanny._on_worker_exit, nanny.instantiate
    codes: list[int] = []

    def decide(code: int) -> None:
        global exit_code
        if exit_code is None:
            exit_code = code

    async def exited(code: int) -> Any:
        codes.append(code)
        # The memory limit ends a worker by SIGTERM; how often a task may do that is Dask's to say.
        failures = [code for code in codes if code not in (0, LOST, AGAIN, -signal.SIGTERM)]
        if len(failures) >= MAX_FAILURES and nanny.status is Status.running:
            decide(code)
            nanny.close_gracefully(reason=f"its worker failed {MAX_FAILURES} times")
        return await worker_exited(code)

    async def instantiating() -> Any:
        try:
            return await instantiate()
        except (asyncio.TimeoutError, TimeoutError):
            decide(await without_scheduler(nanny.scheduler_addr))
            raise

    async def closing(*args: Any, **kwargs: Any) -> Any:
        reason = str(kwargs.get("reason", ""))
        if reason.startswith("failure-to-start") and "TimeoutError" in reason:
            decide(await without_scheduler(nanny.scheduler_addr))
        elif reason == "nanny-close-gracefully":
            decide(codes[-1] if codes and codes[-1] in (0, LOST) else AGAIN)
        return await close(*args, **kwargs)

    async def hand_over() -> None:
        decide(AGAIN)
        try:
            if nanny.worker_address:
                logger.info("told to leave; handing the data over")
                await nanny.scheduler.retire_workers(
                    workers=[nanny.worker_address],
                    close_workers=False,
                    remove=True,
                    stimulus_id=f"htcdaskgateway-sigterm-{time.time()}",
                )
        except OSError:  # the scheduler is gone too
            logger.exception("the data could not be handed over")
        await nanny.close(reason="sigterm")

    nanny.close, nanny._on_worker_exit, nanny.instantiate = closing, exited, instantiating
    on_sigterm(hand_over)
    # As a worker does, and unlike a stock nanny: wait for the scheduler until the death timeout.
    while True:
        try:
            nanny.rpc.reuse(nanny.scheduler_addr, await nanny.rpc.connect(nanny.scheduler_addr))
            return
        except OSError:
            await asyncio.sleep(RETRY)


async def dask_setup(server: Any) -> None:
    """Begin; called once `server`, a worker or a nanny, listens, before it looks for the scheduler."""
    global first
    # Tasks and their programs have no use for it.
    first = bool(os.environ.pop("HTCDASKGATEWAY_FIRST", ""))
    atexit.register(leave)
    if isinstance(server, Nanny):
        await set_up_nanny(server)
        return
    set_up_worker(server)
    if RELAY:
        relay: dict[str, Any] = {"__name__": "worker_relay"}
        exec(compile(RELAY, "worker_relay.py", "exec"), relay)  # noqa: S102
        relay["dask_setup"](server)
