"""What both sides of the relay need; stands before the text of either, in one file."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from distributed.comm.addressing import parse_host_port
from distributed.comm.core import CommClosedError
from distributed.comm.registry import Backend
from distributed.comm.tcp import MAX_BUFFER_SIZE
from tornado.iostream import SSLIOStream
from tornado.netutil import ssl_wrap_socket

SCHEME = "relay"
TIMEOUT = 10.0
"""How long one step of making a connection may take, in seconds."""
AT_ONCE = 2**18
"""For so many bytes a worker waits, where as many are still to come."""
HELD = 2**15
"""More bytes than TLS takes from the socket before it gives a record out, which has 16 KiB and a bit."""


def parse(place: str) -> tuple[str, int]:
    """Return host and port of ``host:port/id``."""
    host, port = parse_host_port(place.partition("/")[0])
    return host, port


class RelayBackend(Backend):  # type: ignore[misc]
    """Addresses ``relay://host:port/id``: they name a worker, and nobody listens there."""

    def __init__(self, connector: Any) -> None:
        self.connector = connector

    def get_connector(self) -> Any:
        """Return what connects."""
        return self.connector

    def get_listener(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: workers listen at addresses of TLS."""
        raise NotImplementedError("nobody listens at a relay's address")

    def get_address_host(self, loc: str) -> str:
        """Return the host."""
        return parse(loc)[0]

    def get_address_host_port(self, loc: str) -> tuple[str, int]:
        """Return host and port."""
        return parse(loc)

    def resolve_address(self, loc: str) -> str:
        """Return the address: it names one start of one worker."""
        return loc

    def get_local_address_for(self, loc: str) -> str:
        """Return the address."""
        return loc


def release(comm: Any) -> Any:
    """Take the stream away from a comm, which then counts as closed; no read may be pending."""
    stream, comm.stream, comm._closed = comm.stream, None, True
    comm._finalizer.detach()
    if stream is None or stream.closed():
        raise CommClosedError("closed while it was taken over")
    return stream


class Patient(SSLIOStream):  # type: ignore[misc]
    """Wakes, and lets wake, for many records of an object at once: to wake takes as long as to decrypt one."""

    least = 1

    def read_from_fd(self, buf: Any) -> int | None:
        """Take what is there, as far as `buf` goes; None when nothing is."""
        if len(buf) <= self.read_chunk_size:  # as large where Tornado does not know how much is to come
            self.await_at_least(1)
            taken: int | None = super().read_from_fd(buf)
            return taken
        done, taken = None, 0
        while taken < len(buf):
            done = super().read_from_fd(buf[taken:])
            if not done:
                break
            taken += done
        if done is None:
            self.await_at_least(max(1, min(AT_ONCE, len(buf) - taken - HELD)))
        return taken or done

    def write_to_fd(self, data: Any) -> int:
        """Send what there is room for; of an object in segments as large as the way takes, not of a record each."""
        if len(data) <= self.read_chunk_size:
            return int(super().write_to_fd(data))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        try:
            return int(super().write_to_fd(data))
        finally:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)  # what is left goes now

    def await_at_least(self, size: int) -> None:
        """Let the socket count as readable from so many bytes on; the end of the connection counts, too."""
        if size != self.least:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            self.least = size


async def secure(sock: Any, server_side: bool, context: Any, name: str | None, seconds: float) -> Any:
    """Return a stream of TLS on a socket, which is closed where that fails."""
    # Not by `start_tls` of a stream, which nobody could close when its time is over.
    wrapped = ssl_wrap_socket(
        sock, context, server_hostname=name, server_side=server_side, do_handshake_on_connect=False
    )
    stream = Patient(wrapped, max_buffer_size=MAX_BUFFER_SIZE)
    try:
        await asyncio.wait_for(stream.wait_for_handshake(), seconds)
    except BaseException:
        stream.close()
        raise
    return stream


async def read(comm: Any, seconds: float) -> Any:
    """Return the next message; whoever calls goes on before anything else of this connection is handled.

    `asyncio.wait_for` would not see to that: the stream takes the other side's end of TLS for its own meanwhile.
    """
    late = asyncio.get_running_loop().call_later(seconds, comm.abort)
    try:
        return await comm.read()
    finally:
        late.cancel()


def bare(stream: Any) -> Any:
    """Take the socket away from its tornado stream, which may hold no bytes of either direction."""
    if stream.closed() or stream.writing() or stream._read_buffer_size:
        stream.close()
        raise CommClosedError("closed, or bytes were left, when it was taken over")
    stream.set_close_callback(None)
    stream.io_loop.remove_handler(stream.socket)
    sock, stream.socket = stream.socket, None
    return sock


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def unwrapped(sock: Any) -> Any:
    """Take the TLS layer off; not in threads, of which both sides could run out waiting for each other."""
    loop = asyncio.get_running_loop()
    try:
        while True:
            try:
                return sock.unwrap()
            except ssl.SSLWantReadError:
                readable = loop.create_future()
                loop.add_reader(sock.fileno(), _settle, readable)
                try:
                    await asyncio.wait_for(readable, TIMEOUT)
                finally:
                    loop.remove_reader(sock.fileno())
    except (OSError, asyncio.TimeoutError) as error:
        sock.close()
        raise CommClosedError(f"TLS was not taken off: {error!r}") from error
    except BaseException:
        sock.close()
        raise
