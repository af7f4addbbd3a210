"""The gateway server's refusals as errors that say what to do, and a proxy that cannot be reached, in seconds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from dask_gateway.auth import BasicAuth, JupyterHubAuth

from ..errors import GatewayAccessError, ProxyUnreachableError

CONNECT_TIMEOUT = 5.0
"""How long the proxy may take to accept a connection, in seconds."""

_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class _Refused(GatewayAccessError, aiohttp.ClientResponseError):
    """The same, for programs that await dask-gateway's own error."""

    def __init__(self, error: aiohttp.ClientResponseError, words: str) -> None:
        aiohttp.ClientResponseError.__init__(
            self, error.request_info, error.history, status=error.status, message=error.message
        )
        self.words = words

    def __str__(self) -> str:
        return self.words

    def __reduce__(self) -> tuple[Any, ...]:
        return GatewayAccessError, (self.words,)


@contextlib.contextmanager
def told(gateway: Any) -> Iterator[None]:
    """Raise what the server refuses as an error that says what to do."""
    try:
        yield
    except aiohttp.ClientResponseError as error:
        if error.status not in _REFUSED:
            raise
        said = f"the gateway server {gateway.address} answers {error.status} {error.message}: "
        raise _Refused(error, said + _why(gateway.auth, error.status)) from error


def _why(auth: Any, status: int) -> str:
    if status == HTTPStatus.FORBIDDEN:
        return "you may not do that. Is the cluster another user's?"
    if type(auth) is BasicAuth and not auth.password:
        return (
            "it wants a password, and none is set. Write DASK_GATEWAY_PASSWORD=… into a file .env beside the "
            "notebook, or pass auth="
        )
    if type(auth) is BasicAuth:
        return f"it does not take the password of {auth.username!r}. Is DASK_GATEWAY_PASSWORD right?"
    if type(auth) is JupyterHubAuth:
        return (
            "it does not take the hub's token (JUPYTERHUB_API_TOKEN). Restart your server in the hub. If that does "
            "not help, ask the hub's administrators to give users and servers the scope "
            "access:services!service=dask-gateway"
        )
    return "it does not take your credentials; see gateway.auth in dask's configuration"


async def check_proxy(gateway: Any) -> None:
    """Raise an error where the scheduler proxy cannot be reached from here: each cluster needs it."""
    parts = urlsplit(gateway.proxy_address)
    where = f"{parts.hostname}:{parts.port}"
    try:
        opening = asyncio.open_connection(parts.hostname, parts.port)
        _, writer = await asyncio.wait_for(opening, CONNECT_TIMEOUT)
    except (OSError, asyncio.TimeoutError) as error:
        # Where the whole gateway is away, that is what is said.
        await gateway._request("GET", f"{gateway.address}/api/health")
        why = getattr(error, "strerror", None) or str(error) or f"no answer in {CONNECT_TIMEOUT:g} s"
        raise ProxyUnreachableError(
            f"the gateway's scheduler proxy {where} cannot be reached from here ({why}), though the gateway server "
            "answers. Is proxy_address (gateway.proxy-address) right? Is that TCP port open from this machine?"
        ) from error
    writer.transport.abort()
