"""What can be said without a cluster: of the configuration, HTCondor, staging, the gateway and the login node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import dask.config

from .. import config
from ..client.gateway import HTCGateway
from ..errors import ConfigError, GatewayAccessError, HTCDaskGatewayError
from ..plain import counted
from ..setup_condor import check
from ..setup_condor.verdict import NETWORK_TIMEOUT, Verdict, last_line
from ..worker.spec import WorkerSpec
from . import sources

_SSH = 22


async def everything() -> AsyncIterator[Verdict]:
    """Yield the verdicts on all that a cluster needs, those of `setup_condor --check` among them."""
    try:
        config.load()
    except ConfigError as error:
        yield sources.site(last_line(str(error)))
    else:
        yield sources.site()
    for verdict in sources.settings():
        yield verdict
    answers: bool | None = None
    async for verdict in check.everything():
        if verdict.name == "gateway":
            answers = verdict.good
        yield verdict
    yield await account(answers)
    login = config.get("setup.login-host")
    if login:
        yield await _login(str(login), int(config.get("setup.port") or _SSH))
    yield worker()


async def account(answers: bool | None) -> Verdict:
    """Return the verdict on who one is at the gateway server; `answers`: whether it answers at all."""
    if answers is None:
        hint = "set gateway.address in dask's configuration (DASK_GATEWAY__ADDRESS), or choose a site that has one"
        return Verdict("gateway", False, "no gateway server is configured", hint)
    if not answers:
        return Verdict("account", None, "cannot be checked: the gateway server does not answer")
    try:
        async with HTCGateway(asynchronous=True) as gateway:
            running = await asyncio.wait_for(gateway._clusters(), NETWORK_TIMEOUT)
            kind = type(gateway.auth).__name__
    except GatewayAccessError as error:
        return Verdict("account", False, str(error))
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError, HTCDaskGatewayError) as error:
        return Verdict("account", False, f"cannot ask the gateway: {last_line(str(error)) or 'no answer in time'}")
    return Verdict(
        "account", True, f"the gateway lets you in ({kind}); you have {counted(len(running), 'cluster')}"
    )


async def _login(host: str, port: int) -> Verdict:
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), NETWORK_TIMEOUT)
        try:
            greeting = await asyncio.wait_for(reader.readline(), NETWORK_TIMEOUT)
        finally:
            writer.transport.abort()
    except (OSError, asyncio.TimeoutError) as error:
        why = getattr(error, "strerror", None) or str(error) or "no answer"
        return Verdict(
            "login",
            False,
            f"{host}:{port} cannot be reached: {why}",
            "`setup_condor` needs it for a new token. Are you in your site's network or VPN?",
        )
    if not greeting.startswith(b"SSH-"):
        return Verdict("login", False, f"{host}:{port} is not an ssh server", "set htcdaskgateway.setup.login-host")
    return Verdict("login", True, f"{host}:{port} answers")


def worker() -> Verdict:
    """Return the verdict on what a worker is by the configuration."""
    try:
        spec = WorkerSpec.from_keywords()
    except HTCDaskGatewayError as error:
        return Verdict("worker", False, last_line(str(error)), "correct that key in Dask's configuration")
    what = spec.python if spec.container_runtime == "none" else spec.container_image or "no image"
    return Verdict("worker", True, f"{spec.cpus} CPUs, {spec.memory_mib} MiB, {spec.container_runtime}: {what}")


def asked_at(address: str | None) -> None:
    """Let all that follows ask another gateway server than the one that is configured."""
    if address:
        dask.config.set({"gateway.address": address})
