"""The stream between two workers: it waits for much at once, and never for more than comes."""

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dask_gateway_server.tls import new_keypair
from support import PATIENCE
from tornado.iostream import SSLIOStream, StreamClosedError

from htcdaskgateway.remote.relay.wire import AT_ONCE, HELD, Patient, secure

CHUNK = 2**16


@asynccontextmanager
async def pair(directory: Path) -> AsyncIterator[tuple[Patient, Patient]]:
    """Give two streams that are connected, with TLS between them."""
    certificate, key = directory / "dask.crt", directory / "dask.pem"
    for path, content in zip((certificate, key), new_keypair("temp"), strict=True):
        path.write_bytes(content)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(certificate))
    server.load_cert_chain(certificate, key)
    client.check_hostname = False
    one, far = connected()
    near, other = connected()
    pumps = [asyncio.ensure_future(pump(far, near)), asyncio.ensure_future(pump(near, far))]
    ends: list[Any] = await asyncio.gather(
        secure(one, False, client, None, PATIENCE), secure(other, True, server, None, PATIENCE)
    )
    try:
        yield ends[0], ends[1]
    finally:
        for end in (*ends, far, near):
            end.close()
        for task in pumps:
            task.cancel()


def connected() -> list[socket.socket]:
    """Return two connected sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ends = [socket.create_connection(listening.getsockname(), PATIENCE), listening.accept()[0]]
    for sock in ends:
        sock.setblocking(False)
    return ends


async def pump(src: socket.socket, dst: socket.socket) -> None:
    """Pass bytes on, slowly and cut in the middle of TLS records, as a busy proxy may."""
    loop = asyncio.get_running_loop()
    while content := await loop.sock_recv(src, 16000):
        await loop.sock_sendall(dst, content)
        await asyncio.sleep(0.002)  # meanwhile the other end takes it, and waits
    dst.shutdown(socket.SHUT_WR)


def least(stream: Patient) -> int:
    return stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


async def waits_for(stream: Patient, size: int) -> None:
    while least(stream) != size:
        await asyncio.sleep(0.001)


AROUND = [AT_ONCE + HELD - 1, AT_ONCE + HELD, AT_ONCE + HELD + 1]
SIZES = [1, CHUNK, CHUNK + 1, CHUNK + HELD, *AROUND, *range(AT_ONCE + CHUNK, 2 * AT_ONCE, 40_000), 10**6]


def test_a_result_of_any_size_comes_whole_however_slowly_it_is_sent(tmp_path: Path) -> None:
    chance = random.Random(5)

    async def run() -> None:
        async with pair(tmp_path) as (one, other):
            for size in SIZES:
                content, into = chance.randbytes(size), bytearray(size)
                await asyncio.gather(one.write(content), other.read_into(into))
                assert bytes(into) == content
                # As a message does: little, of which the stream does not know how much.
                await asyncio.gather(one.write(b"so be it"), other.read_until(b"it"))

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_a_large_result_wakes_a_worker_for_much_at_once_and_a_message_for_any_byte(tmp_path: Path) -> None:
    async def run() -> None:
        async with pair(tmp_path) as (one, other):
            taken = asyncio.ensure_future(other.read_into(bytearray(AT_ONCE + CHUNK)))
            await waits_for(other, AT_ONCE)
            await one.write(bytes(AT_ONCE + CHUNK))
            await taken
            message = asyncio.ensure_future(other.read_bytes(1))
            await waits_for(other, 1)
            await one.write(b"x")
            assert await message == b"x"

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_a_large_result_is_sent_in_large_segments_and_a_message_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corked(stream: Patient) -> int:
        return stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK)

    write, seen = SSLIOStream.write_to_fd, []

    def noting(stream: Patient, data: Any) -> int:
        seen.append((len(data) > CHUNK, corked(stream)))
        return int(write(stream, data))

    monkeypatch.setattr(SSLIOStream, "write_to_fd", noting)

    async def run() -> None:
        async with pair(tmp_path) as (one, other):
            for size in (10, 10**7, 10):  # the second has no room at once
                seen.clear()
                sent = asyncio.ensure_future(one.write(bytes(size)))
                await asyncio.sleep(0)
                assert not corked(one)
                await other.read_into(bytearray(size))
                await sent
                assert set(seen) == {(size > CHUNK, int(size > CHUNK))}

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_a_worker_that_ends_in_the_middle_of_a_result_is_noticed_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with pair(tmp_path) as (one, other):
            taken = asyncio.ensure_future(other.read_into(bytearray(10**6)))
            await waits_for(other, AT_ONCE)
            await one.write(b"some of it")
            one.close()
            with pytest.raises(StreamClosedError):
                await taken

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
