"""TLS is taken off a connection and put on again: who goes, or does not answer, costs no descriptor and no time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from distributed.comm import addressing
from distributed.comm.core import CommClosedError, listen
from distributed.comm.registry import backends
from distributed.security import Security
from support import PATIENCE

from htcdaskgateway.remote.relay import wire


@pytest.fixture(scope="module")
def contexts() -> tuple[Any, Any]:
    """Who connects and who listens, by TLS contexts of their own."""
    security = Security.temporary()
    connects, listens = security.get_connection_args("worker"), security.get_listen_args("worker")
    return connects["ssl_context"], listens["ssl_context"]


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for end in (one, other):
        end.setblocking(False)
    return one, other


def with_streams(contexts: tuple[Any, Any], use: Callable[[Any, Any], Awaitable[None]]) -> None:
    """Use both ends of a connection with TLS, and see that nothing of it is left open."""

    async def run() -> None:
        one, other = connected()
        streams = await asyncio.gather(
            wire.secure(one, False, contexts[0], None, PATIENCE),
            wire.secure(other, True, contexts[1], None, PATIENCE),
        )
        try:
            await use(*streams)
        finally:
            for stream in streams:
                if stream.socket is not None:
                    stream.close()

    asyncio.run(run())


def test_both_ends_take_tls_off_at_once_and_go_on_without(contexts: tuple[Any, Any]) -> None:
    async def use(one: Any, other: Any) -> None:
        plain, its = await asyncio.gather(*(wire.unwrapped(wire.bare(stream)) for stream in (one, other)))
        with plain, its:
            its.settimeout(PATIENCE)
            plain.sendall(b"in the clear")
            assert its.recv(100) == b"in the clear"

    with_streams(contexts, use)


@pytest.mark.parametrize("how", ["has gone", "does not answer", "is not waited for"])
def test_an_end_that_waits_for_one_that_does_not_take_tls_off_is_closed(
    how: str, contexts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(one: Any, other: Any) -> None:
        sock = wire.bare(one)
        silent = None if how == "has gone" else wire.bare(other)
        if silent is None:
            other.close()
        elif how == "does not answer":
            monkeypatch.setattr(wire, "TIMEOUT", 0.1)
        taking = asyncio.ensure_future(wire.unwrapped(sock))
        if how == "is not waited for":
            await asyncio.sleep(0)
            taking.cancel()
        with pytest.raises(asyncio.CancelledError if how == "is not waited for" else CommClosedError):
            await taking
        assert sock.fileno() == -1
        if silent is not None:
            silent.close()

    with_streams(contexts, use)


def test_an_end_with_bytes_that_nobody_has_read_is_not_handed_on(contexts: tuple[Any, Any]) -> None:
    async def use(one: Any, other: Any) -> None:
        await other.write(b"more than one")
        assert await one.read_bytes(1) == b"m"
        with pytest.raises(CommClosedError, match="bytes were left"):
            wire.bare(one)
        assert one.closed()
        with pytest.raises(CommClosedError):
            wire.bare(one)

    with_streams(contexts, use)


def test_who_never_answers_with_tls_is_let_go(contexts: tuple[Any, Any]) -> None:
    async def run() -> bytes:
        one, silent = connected()
        with silent:
            with pytest.raises(asyncio.TimeoutError):
                await wire.secure(one, False, contexts[0], None, 0.1)
            silent.settimeout(PATIENCE)
            said = b""
            while part := silent.recv(65536):
                said += part
            return said

    assert asyncio.run(run()), "it said hello, and has ended"


def test_an_address_of_the_relay_names_a_worker_and_nobody_listens_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends, "relay", wire.RelayBackend(None))
    address = "relay://[fd00::1]:1234/Worker-1"
    assert addressing.get_address_host(address) == "fd00::1"
    assert addressing.get_address_host_port(address) == ("fd00::1", 1234)
    assert addressing.resolve_address(address) == address
    assert addressing.get_local_address_for(address) == address

    async def hear() -> None:
        await listen(address, print)

    with pytest.raises(NotImplementedError, match="nobody listens"):
        asyncio.run(hear())
