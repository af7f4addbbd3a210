"""What the terminal command's errors say, and which cluster a name means."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import click
import dask.config
from dask_gateway import GatewayClusterError, GatewayServerError

from .errors import HTCDaskGatewayError
from .plain import plain
from .worker import staging

EXPECTED = (
    HTCDaskGatewayError,
    GatewayClusterError,
    GatewayServerError,
    aiohttp.ClientError,
    asyncio.TimeoutError,
    OSError,
    ValueError,
)
_CONFIGURE = "give --address URL, or set gateway.address in dask's configuration (DASK_GATEWAY__ADDRESS)"


class Group(click.Group):
    """A group of commands whose expected errors are one message and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except EXPECTED as error:
            raise click.ClickException(words(error, ctx.obj)) from error


def words(error: BaseException, address: str | None) -> str:
    """Return what an error says to a person."""
    where = address or dask.config.get("gateway.address", None)
    if isinstance(error, aiohttp.ClientConnectionError):
        return f"no gateway server answers at {where}; is it up, and is that its address? Else {_CONFIGURE}"
    if not where and isinstance(error, ValueError) and not isinstance(error, HTCDaskGatewayError):
        return f"no gateway server is configured; {_CONFIGURE}"
    if isinstance(error, aiohttp.InvalidURL):
        return f"{where!r} is not the address of a gateway server; {_CONFIGURE}"
    return plain(str(error)) or f"The gateway does not answer ({where})."


def meant(name: str, names: Iterable[str]) -> str:
    """Return the one of `names` that is `name` or begins with it."""
    known = set(names)
    if name in known:
        return name
    found = sorted(other for other in known if other.startswith(name))
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
        raise click.ClickException(
            f"{name!r} begins the names of {len(found)} clusters ({shown}); write more of it"
        )
    raise click.ClickException(f"You have no cluster {name!r}. `htcdaskgateway list` shows your clusters.")


def staged() -> list[str]:
    """Return the names of the clusters, running or not, that have a staging directory of this user."""
    root: Path = staging.staging_root()
    return [path.parent.name for path in root.glob("*/worker.sub")] if root.is_dir() else []


def number(text: str) -> int:
    """Return the number of workers that a user has typed."""
    if not (text.isascii() and text.isdigit()):
        raise click.ClickException(f"{text!r} is not a number of workers; write 0 or more, such as 4")
    return int(text)
