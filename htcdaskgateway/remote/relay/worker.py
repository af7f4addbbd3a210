"""The relay in a worker: a preload of ``dask worker`` that reaches others, and is reached, by dialling out.

Sent behind the texts of ``wire.py`` and, as the value of a name, ``pulse.py``, whose names it uses.
"""

import asyncio
import logging
import os
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from distributed.comm.core import CommClosedError, Connector, connect
from distributed.comm.registry import backends
from distributed.comm.tcp import TLS
from distributed.core import Status
from distributed.diagnostics.plugin import WorkerPlugin

if TYPE_CHECKING:
    from .wire import SCHEME, TIMEOUT, RelayBackend, bare, parse, read, release, secure, unwrapped

    PULSE_SOURCE = ""

logger = logging.getLogger("distributed.worker.relay")

# How long after its end a pulse begins again, in seconds.
PULSE_PAUSE = 5.0


class Resuming(ssl.SSLSocket):
    """A connection that offers the TLS session of an earlier one; if that is not taken, both shake hands anew."""

    offered = False

    def do_handshake(self, block: bool = False) -> None:
        """Offer it once: tornado calls this until the handshake is done."""
        if not self.offered:
            self.offered = True
            earlier = getattr(self.context, "earlier", None)
            if earlier is not None:
                self.session = earlier
        super().do_handshake(block)


class Links:
    """A worker's connections with its scheduler for the relay: certificates are shown at the first of them."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        # A context of its own: a session belongs to one, and to the scheduler alone.
        self.context = worker.security.get_connection_args("worker")["ssl_context"]
        self.context.sslsocket_class = Resuming

    async def connect(self) -> Any:
        """Return a new connection."""
        args = {**self.worker.connection_args, "ssl_context": self.context}
        return await connect(self.worker.scheduler.address, **args)

    async def plain(self, link: Any) -> Any:
        """Return the socket of a connection that has brought an answer, without its TLS; keep the session."""
        sock = bare(release(link))
        # To look at a session copies it, which costs as much as is won. One that was taken stays good.
        if not sock.session_reused:
            self.context.earlier = sock.session
        return await unwrapped(sock)


async def end_to_end(
    links: Links, link: Any, peer: str, deserialize: bool, server_side: bool, context: Any, name: Any
) -> Any:
    """Take the TLS with the scheduler off `link`, and put TLS with the other worker on."""
    local = link._local_addr
    plain = await links.plain(link)
    try:
        return TLS(await secure(plain, server_side, context, name, TIMEOUT), local, peer, deserialize)
    except (OSError, asyncio.TimeoutError) as error:
        raise CommClosedError(f"no TLS with {peer} through the relay: {error!r}") from error


class RelayConnector(Connector):  # type: ignore[misc]
    """From this worker to another, by way of the scheduler."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.links = Links(worker)

    async def connect(self, address: str, deserialize: bool = True, **_: Any) -> Any:
        """Ask the scheduler to have the other dial, and speak with it."""
        args, address = self.worker.connection_args, f"{SCHEME}://{address}"
        link = await self.links.connect()
        try:
            sender = self.worker.contact_address or self.worker.address
            await link.write(
                {"op": "htcdaskgateway_relay_connect", "to": address, "sender": sender, "reply": False}
            )
            answer = await read(link, 2 * TIMEOUT)
            if answer["status"] != "OK":
                raise CommClosedError(answer["message"])
            name = args.get("server_hostname")
            return await end_to_end(self.links, link, address, deserialize, False, args["ssl_context"], name)
        except BaseException:
            link.abort()
            raise


async def pulse(worker: Any, links: Links) -> None:
    """Let a child show the scheduler's side that the link is there: an outage ends no connection by itself."""
    while worker.status not in (Status.closing, Status.closed, Status.failed):
        try:
            link = await links.connect()
            await link.write({"op": "htcdaskgateway_relay_pulse", "worker": worker.address, "reply": False})
            try:
                await read(link, TIMEOUT)
            except BaseException:
                link.abort()
                raise
            with await links.plain(link) as plain:
                fd = plain.fileno()
                command = [sys.executable, "-I", "-S", "-c", PULSE_SOURCE, str(fd), str(os.getpid())]
                child = await asyncio.create_subprocess_exec(*command, pass_fds=[fd], stdin=subprocess.PIPE)
            await child.wait()
        except OSError as error:
            logger.info("the scheduler's side does not feel this worker's pulse: %r", error)
        await asyncio.sleep(PULSE_PAUSE)


def dial_out(worker: Any, connector: RelayConnector) -> None:
    """Give `worker` an address of the relay, and let it dial when it is told to."""
    backends[SCHEME] = RelayBackend(connector)
    host, port = parse(worker.address.partition("://")[2])
    # New at each start, so that nobody speaks with a worker that has another's port.
    worker.contact_address = worker._address = (
        f"{SCHEME}://{f'[{host}]' if ':' in host else host}:{port}/{worker.id}"
    )
    context = worker.security.get_listen_args("worker")["ssl_context"]
    links = connector.links
    tasks: set[asyncio.Task[None]] = set()  # the loop keeps weak references only

    async def dialled(token: str, sender: str | None, raw: bool) -> None:
        peer = sender or worker.scheduler.address
        try:
            link = await links.connect()
            await link.write({"op": "htcdaskgateway_relay_accept", "token": token, "reply": False})
            if raw:
                try:
                    await read(link, TIMEOUT)
                except BaseException:
                    link.abort()
                    raise
                comm = await end_to_end(links, link, peer, worker.deserialize, True, context, None)
            else:
                comm = TLS(release(link), link._local_addr, peer, worker.deserialize)
            if worker.listener is None or worker.status in (Status.closed, Status.failed):
                comm.abort()
                return
            await worker.listener.on_connection(comm)
            worker.handle_comm(comm)
        except (OSError, asyncio.TimeoutError) as error:  # who asked for it is told by the connection's end
            logger.info("dialled for %s in vain: %r", peer, error)

    def dial(token: str, sender: str | None = None, raw: bool = True) -> None:
        task = asyncio.ensure_future(dialled(token, sender, raw))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    worker.stream_handlers["htcdaskgateway_relay_dial"] = dial
    beating = asyncio.ensure_future(pulse(worker, links))
    tasks.add(beating)
    beating.add_done_callback(tasks.discard)


def dask_setup(worker: Any) -> None:
    """Begin: all goes through the relay."""
    dial_out(worker, RelayConnector(worker))


class Reach(WorkerPlugin):  # type: ignore[misc]
    """For workers without the preload, such as the gateway server's: they keep their address, and reach ours."""

    name = "htcdaskrelay-reach"
    connector = RelayConnector

    def setup(self, worker: Any) -> None:
        """Let the worker know the scheme."""
        if SCHEME not in backends:
            backends[SCHEME] = RelayBackend(self.connector(worker))
