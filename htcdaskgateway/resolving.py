"""Look up the gateway's host name also when the program ends."""

from __future__ import annotations

import socket
from typing import Any

from aiohttp.abc import AbstractResolver
from aiohttp.resolver import DefaultResolver


class LastingResolver(AbstractResolver):
    """aiohttp's own resolver, which answers from memory once the interpreter takes no more work for threads.

    A program that ends closes its clusters when Python has shut its thread pools down already.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, int], Any] = {}
        self._resolver: AbstractResolver | None = None

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> Any:
        """Return the addresses of `host`."""
        key = host, port, family
        if self._resolver is None:
            self._resolver = DefaultResolver()
        try:
            self._found[key] = await self._resolver.resolve(host, port, family)
        except RuntimeError:  # "cannot schedule new futures after shutdown"
            if key not in self._found:
                raise
        return self._found[key]

    async def close(self) -> None:
        """Let go of what the resolver holds; it can be used again."""
        resolver, self._resolver = self._resolver, None
        if resolver is not None:
            await resolver.close()
