"""Directly where that is possible, and else through the relay: for workers with ``relay="auto"``.

Sent behind the texts of ``wire.py`` and ``worker.py``, whose names it uses. Its ``dask_setup`` takes the other's
place. A worker is reached directly if TCP gets there and who answers has its id: behind two NATs one address may
belong to two.
"""

import asyncio
import contextlib
import logging
import socket
import time
from typing import TYPE_CHECKING, Any

from distributed.comm.core import CommClosedError
from distributed.comm.tcp import TLS, TLSConnector

if TYPE_CHECKING:
    from .wire import SCHEME, parse, secure
    from .worker import Reach, RelayConnector, dial_out

logger = logging.getLogger("distributed.worker.relay")

# How long the kernel at the other side may take to answer, in seconds, and a worker whose Python may be busy.
REACH_TIMEOUT = 1.0
ANSWER_TIMEOUT = 30.0
# How long a connection waits before it goes through the relay, in seconds: for the other side's kernel, and for the
# verdict when that has answered. The relay, too, needs a worker that is not busy.
HEAD_START = 0.25
PATIENCE = 2.0
# How often a connection that goes through the relay all the same is looked at, in seconds, and how many times.
TIDY_PAUSE = 1.0
TIDY_ROUNDS = 600
# After so many failures without a success nothing waits.
FAILURES = 3
# When what failed is tried again, in seconds.
AGAIN = 600.0


class AutoConnector(RelayConnector):
    """From this worker to another: directly, or by way of the scheduler."""

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        self.verdicts: dict[str, asyncio.Task[bool]] = {}
        self.answered: set[str] = set()
        self.tidying: set[asyncio.Task[None]] = set()  # the loop keeps weak references only
        self.blocked: dict[str, float] = {}
        self.failures = self.successes = 0

    async def connect(self, address: str, deserialize: bool = True, **_: Any) -> Any:
        """Return a comm with the worker of that address."""
        if await self.direct(address):
            place = address.partition("/")[0]
            try:
                comm = await TLSConnector().connect(place, deserialize=deserialize, **self.worker.connection_args)
            except OSError as error:
                logger.info("%s is not reached directly any more: %r", address, error)
                self.verdicts.pop(address, None)
            else:
                comm._peer_addr = f"{SCHEME}://{address}"
                return comm
        comm = await super().connect(address, deserialize)
        tidying = asyncio.ensure_future(self.tidy(address, comm))
        self.tidying.add(tidying)
        tidying.add_done_callback(self.tidying.discard)
        return comm

    async def direct(self, address: str) -> bool:
        """Tell whether the worker is known to be reached directly; find it out, for the next time at least."""
        if address not in self.verdicts:
            if self.blocked.get(parse(address)[0], 0.0) > time.monotonic():
                return False
            self.verdicts[address] = asyncio.ensure_future(self.probe(address))
        task = self.verdicts[address]
        if not task.done():
            hopeless = self.failures >= FAILURES and not self.successes
            await asyncio.wait([task], timeout=0 if hopeless else HEAD_START)
            if address in self.answered:
                await asyncio.wait([task], timeout=PATIENCE)
        return task.done() and task.result()

    async def probe(self, address: str) -> bool:
        """Find out whether the worker is reached directly."""
        host, port = parse(address)
        ident = address.partition("/")[2]
        try:
            sock = await self.reach(host, port)
        except (OSError, asyncio.TimeoutError) as error:
            if not isinstance(error, ConnectionRefusedError):  # no way to the host, for whatever is there
                self.blocked[host] = time.monotonic() + AGAIN
            return self.verdict(address, False, repr(error))
        self.answered.add(address)
        try:
            found = await asyncio.wait_for(self.identity(sock, host, port), ANSWER_TIMEOUT)
        except (OSError, asyncio.TimeoutError) as error:
            return self.verdict(address, False, repr(error))
        return self.verdict(address, found == ident, f"{found} is there")

    async def reach(self, host: str, port: int) -> socket.socket:
        """Connect to the port; the kernel answers, also for a worker that is busy."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        try:
            connecting = asyncio.get_running_loop().sock_connect(sock, (host, port))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(connecting, REACH_TIMEOUT)
            sock.getpeername()  # fails if there is no connection; that this loop comes late says nothing
        except BaseException:
            sock.close()
            raise
        return sock

    async def identity(self, sock: socket.socket, host: str, port: int) -> Any:
        """Return the id of the worker that answers."""
        args = self.worker.connection_args
        # Whole, on this connection: one that closes before TLS is a warning in the other's log.
        stream = await secure(sock, False, args["ssl_context"], args.get("server_hostname"), ANSWER_TIMEOUT)
        comm = TLS(stream, f"tls://{host}:0", f"tls://{host}:{port}")
        try:
            await comm.write(comm.handshake_info())
            await comm.read()
            await comm.write({"op": "identity", "close": True})
            return (await comm.read()).get("id")
        finally:
            comm.abort()

    def verdict(self, address: str, reached: bool, why: str) -> bool:
        """Count a verdict; one that is no is forgotten after a while."""
        self.answered.discard(address)
        if reached:
            self.successes += 1
            with contextlib.suppress(CommClosedError):  # a worker that has lost the scheduler starts anew
                told = {"op": "htcdaskgateway_relay_direct", "to": f"{SCHEME}://{address}"}
                self.worker.batched_stream.send(told)
        else:
            self.failures += 1
            logger.info("%s is not reached directly: %s", address, why)
            asyncio.get_running_loop().call_later(AGAIN, self.verdicts.pop, address, None)
        return reached

    async def tidy(self, address: str, comm: Any) -> None:
        """Close what goes through the relay when the verdict is that it need not, and it is idle."""
        verdict = self.verdicts.get(address)
        if verdict is None:
            return
        await asyncio.wait([verdict])
        if not verdict.result():
            return
        for _ in range(TIDY_ROUNDS):
            if comm.closed():
                return
            if comm in self.worker.rpc.available.get(f"{SCHEME}://{address}", ()):
                comm.abort()
            await asyncio.sleep(TIDY_PAUSE)


def dask_setup(worker: Any) -> None:
    """Give `worker` an address of the relay, and let it reach others directly where it can."""
    dial_out(worker, AutoConnector(worker))


Reach.connector = AutoConnector
