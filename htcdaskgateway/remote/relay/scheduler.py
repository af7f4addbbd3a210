"""The relay at the scheduler: a plugin that has workers dial, and hands their connections in pairs to a child.

Sent behind the text of ``wire.py``, whose names it uses. The child copies what the workers have encrypted for each
other; neither it nor the scheduler has the keys of that session.
"""

import asyncio
import logging
import secrets
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from distributed.comm.core import CommClosedError, Connector
from distributed.comm.registry import backends
from distributed.comm.tcp import TLS
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.protocol.pickle import dumps

if TYPE_CHECKING:
    from .wire import SCHEME, TIMEOUT, RelayBackend, bare, release, unwrapped


logger = logging.getLogger("distributed.scheduler.relay")

MOST_PAIRS = 2500
"""How many pairs of workers may meet here before users are warned: all of 50 workers with all others."""

WARNING = (
    "More than {pairs} pairs of workers have exchanged results through the relay. Each pair costs the scheduler "
    "some milliseconds. Shuffle by tasks instead of P2P: set dataframe.shuffle.method and array.rechunk.method to "
    "'tasks' in Dask's configuration. Or use fewer and larger workers."
)


class FromSource:
    """Pickles as the text of the plugin for workers."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        name = "htcdaskgateway/remote/relay (wire and worker)"
        return eval, (
            "exec(compile(source, name, 'exec'), scope) or scope['Reach']()",
            {"source": self.source, "name": name, "scope": {"__name__": "htcdaskgateway_relay_worker"}},
        )


class SchedulerConnector(Connector):  # type: ignore[misc]
    """From the scheduler to a worker: the worker dials, and serves that connection."""

    def __init__(self, relay: Any) -> None:
        self.relay = relay

    async def connect(self, address: str, deserialize: bool = True, **_: Any) -> Any:
        """Return a comm with the worker."""
        address = f"{SCHEME}://{address}"
        stream, local = await self.relay.dial(address, None, raw=False)
        return TLS(stream, local, address, deserialize)


class Relay(SchedulerPlugin):  # type: ignore[misc]
    """Connect workers that only dial out with each other, and the scheduler with them."""

    def __init__(self, child: str, worker: str) -> None:
        self.child_source, self.worker_source = child, worker

    async def start(self, scheduler: Any) -> None:
        """Begin."""
        self.scheduler = scheduler
        self.most_pairs = MOST_PAIRS
        self.pairs: set[tuple[str | None, str]] = set()
        self.direct_pairs: set[tuple[str, str]] = set()
        self.waiting: dict[str, asyncio.Future[tuple[Any, asyncio.Event]]] = {}
        self.child: subprocess.Popen[bytes] | None = None
        backends[SCHEME] = RelayBackend(SchedulerConnector(self))
        scheduler.handlers["htcdaskgateway_relay_connect"] = self.connect
        scheduler.handlers["htcdaskgateway_relay_accept"] = self.accept
        scheduler.handlers["htcdaskgateway_relay_child"] = self.child_id
        scheduler.handlers["htcdaskgateway_relay_pulse"] = self.pulse
        scheduler.handlers["htcdaskgateway_relay_pairs"] = self.met
        scheduler.stream_handlers["htcdaskgateway_relay_direct"] = self.direct
        self.start_child()
        reach = dumps(FromSource(self.worker_source))
        await scheduler.register_worker_plugin(None, reach, idempotent=True, name="htcdaskrelay-reach")

    async def close(self) -> None:
        """End the child."""
        self.end_child()

    async def child_id(self) -> int | None:
        """Return the process id of the child."""
        return self.child.pid if self.child else None

    def start_child(self) -> None:
        """Start the process that moves the bytes; it ends when this side of its socket is closed."""
        self.control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The scheduler's loop waits for it at most so long, in seconds.
        self.control.settimeout(1)
        with its:
            command = [sys.executable, "-I", "-S", "-c", self.child_source, str(its.fileno())]
            self.child = subprocess.Popen(command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)  # noqa: S603
        asyncio.get_running_loop().add_reader(self.control.fileno(), self.lost, self.control)

    def end_child(self) -> None:
        """End the child, if there is one."""
        asyncio.get_running_loop().remove_reader(self.control.fileno())
        self.control.close()
        if self.child is not None:
            self.child.kill()
            self.child.wait(TIMEOUT)
            self.child = None

    async def dial(self, to: str, sender: str | None, raw: bool) -> tuple[Any, str]:
        """Tell the worker `to` to connect; return the stream and its local address."""
        messages = self.scheduler.stream_comms.get(to)
        if messages is None:
            raise CommClosedError(f"no worker {to}")
        token = secrets.token_hex(16)
        self.waiting[token] = future = asyncio.get_running_loop().create_future()
        try:
            messages.send({"op": "htcdaskgateway_relay_dial", "token": token, "sender": sender, "raw": raw})
            comm, taken = await asyncio.wait_for(future, TIMEOUT)
        except asyncio.TimeoutError as error:
            raise CommClosedError(f"{to} did not dial in time") from error
        finally:
            self.waiting.pop(token, None)
        try:
            if raw:
                await comm.write({"status": "OK"})
            return release(comm), comm._local_addr
        finally:
            taken.set()

    async def accept(self, comm: Any, token: str) -> Any:
        """Take the connection of a worker that was told to dial; a token opens one connection, once."""
        future = self.waiting.pop(token, None)
        if future is None or future.done():
            comm.abort()
            return Status.dont_reply
        taken = asyncio.Event()
        future.set_result((comm, taken))
        try:
            # Till then nobody may read here.
            await asyncio.wait_for(taken.wait(), TIMEOUT)
        except asyncio.TimeoutError:  # who waited has gone
            comm.abort()
        return Status.dont_reply

    async def connect(self, comm: Any, to: str, sender: str | None = None) -> Any:
        """Connect who asks with the worker `to`."""
        self.count(sender, to)
        try:
            other, _ = await self.dial(to, sender, raw=True)
        except OSError as error:
            await comm.write({"status": "error", "message": str(error)})
            return Status.dont_reply
        return await self.pass_on(comm, [other], [to, sender or ""])

    async def pulse(self, comm: Any, worker: str) -> Any:
        """Take a connection by which the child knows whether that worker's link is there."""
        return await self.pass_on(comm, [], [worker])

    async def pass_on(self, comm: Any, streams: list[Any], names: list[str]) -> Any:
        """Give `streams` and the one of `comm` to the child, whose workers have these names."""
        sockets: list[Any] = []
        try:
            await comm.write({"status": "OK"})
            streams.append(release(comm))
            for stream in streams:
                sockets.append(bare(stream))
            plain = await asyncio.gather(*map(unwrapped, sockets), return_exceptions=True)
            sockets += [sock for sock in plain if isinstance(sock, socket.socket)]
            if len(sockets) == 2 * len(names):
                self.hand_over(sockets[len(names) :], names)
        except CommClosedError as error:  # one of them has gone; who is left sees it close
            logger.info("%s and the relay were not connected: %s", " and ".join(names), error)
        finally:
            for left in (*sockets, *(stream for stream in streams if stream.socket is not None)):
                left.close()
        return Status.dont_reply

    def lost(self, control: socket.socket) -> None:
        """Take from the child which worker's link is dead, and the worker as gone: no end of it may ever come."""
        try:
            name = control.recv(4096).decode()
        except OSError:
            name = ""
        if not name:  # the child has died; the next connection starts another
            asyncio.get_running_loop().remove_reader(control.fileno())
            return
        messages = self.scheduler.stream_comms.get(name)
        if messages is not None:
            logger.warning("%s: its link is dead; it is taken for gone", name)
            messages.abort()

    def count(self, sender: str | None, to: str) -> None:
        """Warn all clients, once, when too many pairs of workers have met."""
        if len(self.pairs) > self.most_pairs:
            return
        self.pairs.add((sender, to))
        if len(self.pairs) > self.most_pairs:
            self.scheduler.log_event("warn", {"message": dumps(WARNING.format(pairs=self.most_pairs))})

    def direct(self, worker: str, to: str) -> None:
        """Note that a worker reaches another one directly."""
        self.direct_pairs.add((worker, to))

    async def met(self) -> dict[str, int]:
        """Return how many pairs of workers have met directly, and how many through the relay alone."""

        def there(pairs: set[Any]) -> set[frozenset[str]]:
            # A worker connects to itself, too, such as for an actor: no pair.
            return {frozenset(pair) for pair in pairs if len(set(pair)) == 2 and alive >= set(pair)}

        alive = self.scheduler.workers.keys()
        direct = there(self.direct_pairs)
        return {"direct": len(direct), "relay": len(there(self.pairs) - direct)}

    def hand_over(self, sockets: list[socket.socket], names: list[str]) -> None:
        """Pass sockets to the child, to a new one where it has died."""
        words, fds = "\n".join(names).encode(), [sock.fileno() for sock in sockets]
        try:
            socket.send_fds(self.control, [words], fds)
        except OSError:
            self.end_child()
            self.start_child()
            socket.send_fds(self.control, [words], fds)
