"""Say what works between this user and the pool, and what does not: a line a verdict."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import dask.config

from .. import config, staging
from ..condor import Condor
from ..errors import (
    CondorAuthenticationError,
    CondorConfigError,
    CondorError,
    CondorUnreachableError,
    HTCDaskGatewayError,
)
from ..plain import plain
from . import probe, tokens
from .tokens import Token, TokenFile

NETWORK_TIMEOUT = 10.0
RENEW = "run `setup_condor` for a new one"

_PING = re.compile(r"succeeded as (\S+)")
_TOTALS = re.compile(r"^Total for (?:query|\S+): .*$", re.M)


@dataclass(frozen=True)
class Verdict:
    """What was looked at, whether it holds (None: not known), what was seen, and what to do about it."""

    name: str
    good: bool | None
    text: str
    hint: str = ""

    def line(self) -> str:
        """Return the verdict as one line."""
        mark = {True: "ok  ", False: "FAIL", None: "?   "}[self.good]
        return plain(f"{mark}  {self.name:<13}  {self.text}" + (f"; {self.hint}" if self.hint else "")).replace(
            "\n", " "
        )


async def everything() -> AsyncIterator[Verdict]:
    """Yield the verdicts on all that a user's cluster needs."""
    answering: Condor | None = None
    try:
        condor = Condor()
    except CondorError as error:
        yield _failed("tools", error)
        for name in ("configuration", "tokens", "collector", "schedd"):
            yield Verdict(name, None, "cannot be looked at without the tools")
    else:
        async for verdict in pool(condor):
            yield verdict
            if verdict.name == "schedd" and verdict.good:
                answering = condor
    yield await _staging_directory(answering)
    for verdict in await asyncio.to_thread(_gateway):
        yield verdict


async def pool(condor: Condor) -> AsyncIterator[Verdict]:
    """Yield the verdicts on HTCondor: tools, configuration, tokens, collector, schedd."""
    try:
        version = await condor.run("condor_version")
    except CondorError as error:
        yield _failed("tools", error)
        return
    if version.returncode != 0:
        yield Verdict("tools", False, f"{condor.bin_dir}: {_last(version.stderr or version.stdout)}")
    else:
        found = re.search(r"CondorVersion: (\S+)", version.stdout)
        yield Verdict("tools", True, f"HTCondor {found[1] if found else '(no version)'} in {condor.bin_dir}")
    try:
        values = await _configuration(condor)
    except CondorError as error:
        yield _failed("configuration", error)
        for name in ("tokens", "collector", "schedd"):
            yield Verdict(name, None, "cannot be looked at without a configuration")
        return
    read = ", ".join(map(str, values.sources)) or "no file"
    if not values.collector:
        yield Verdict("configuration", False, f"names no collector (read: {read})", "run `setup_condor`")
    else:
        schedd = condor.schedd or values.schedd or "this machine's own"
        yield Verdict(
            "configuration", True, f"{read}: schedd {schedd}, collector {condor.pool or values.collector}"
        )
    for verdict in token_verdicts(values.token_directory):
        yield verdict
    yield await _collector(condor)
    yield await schedd_verdict(condor)


@dataclass(frozen=True)
class Configuration:
    """What HTCondor's tools read, and what it says."""

    sources: tuple[Path, ...]
    collector: str
    schedd: str
    token_directory: Path


async def sources(condor: Condor) -> tuple[Path, ...]:
    """Return the configuration files that HTCondor's tools read.

    Raises
    ------
    CondorConfigError
        They find none.
    """
    done = await condor.run("condor_config_val", "-config")
    if done.returncode != 0:
        raise CondorConfigError(
            "HTCondor's tools find no configuration that they can read",
            command=done.command,
            returncode=done.returncode,
            stderr=done.stderr,
        )
    return tuple(Path(line.strip()) for line in done.stdout.splitlines() if line.strip().startswith("/"))


async def _configuration(condor: Condor) -> Configuration:
    read = await sources(condor)

    async def value(name: str) -> str:
        done = await condor.run("condor_config_val", name)
        return done.stdout.strip() if done.returncode == 0 else ""

    directory = await value("SEC_TOKEN_DIRECTORY")
    return Configuration(
        read,
        await value("COLLECTOR_HOST"),
        await value("SCHEDD_HOST"),
        Path(directory or "~/.condor/tokens.d").expanduser(),
    )


def token_verdicts(directory: Path) -> list[Verdict]:
    """Return a verdict on each file of a token directory, or on its lack of them."""
    try:
        files = tokens.directory(directory)
    except FileNotFoundError:
        return [Verdict("tokens", False, f"{directory} does not exist", "run `setup_condor`")]
    except OSError as error:
        return [Verdict("tokens", False, f"{directory} cannot be read: {error.strerror}", "run `setup_condor`")]
    if not files:
        return [Verdict("tokens", False, f"{directory} holds none", "run `setup_condor`")]
    return [_token_verdict(file, files[number + 1 :]) for number, file in enumerate(files)]


def _token_verdict(file: TokenFile, behind: list[TokenFile]) -> Verdict:
    name = "token"
    said = "; ".join(token.summary() for token in file.tokens)
    if file.open_to_others:
        return Verdict(
            name,
            False,
            f"{file.path} can be read by others, so HTCondor refuses it" + (f" ({said})" if said else ""),
            f"run `chmod 600 {file.path}`; if others have an account here, ask for a new token as well",
        )
    if file.problem:
        return Verdict(name, False, f"{file.path} {file.problem}", "move it elsewhere")
    dead = [token for token in file.tokens if token.expired()]
    shadowed = _shadowed(dead, behind)
    if shadowed is not None:
        return Verdict(
            name,
            False,
            f"{file.path}: {said}, and HTCondor takes it before the good {shadowed.name}",
            f"remove it: `rm {file.path}`",
        )
    if dead:
        return Verdict(name, False, f"{file.path}: {said}", f"remove it, or {RENEW}")
    return Verdict(name, True, f"{file.path}: {said}")


def _shadowed(dead: list[Token], behind: list[TokenFile]) -> Path | None:
    for file in behind:
        for token in file.tokens:
            if not token.expired() and not file.open_to_others and token.issuer in {one.issuer for one in dead}:
                return file.path
    return None


async def _collector(condor: Condor) -> Verdict:
    where = ["-pool", condor.pool] if condor.pool else []
    try:
        done = await condor.run("condor_status", *where, "-collector", "-af", "Name")
    except CondorError as error:
        return _failed("collector", error)
    if done.returncode != 0:
        return _failed("collector", await condor.failure(done, "the collector cannot be asked"))
    return Verdict("collector", True, f"{_last(done.stdout) or 'the collector'} answers")


async def schedd_verdict(condor: Condor) -> Verdict:
    """Return the verdict on the schedd: it answers, and knows who asks."""
    asked = [
        *(["-name", condor.schedd] if condor.schedd else []),
        *(["-pool", condor.pool] if condor.pool else []),
    ]
    try:
        queue = await condor.run("condor_q", *asked, "-totals")
        if queue.returncode != 0:
            return _failed("schedd", await condor.failure(queue, "the queue cannot be read"))
        # Reading the queue may need no token at all; changing it does.
        ping = await condor.run("condor_ping", "-type", "SCHEDD", *asked, "WRITE")
        if ping.returncode != 0:
            return _failed("schedd", await condor.failure(ping, "the queue can be read, but no job submitted"))
    except CondorError as error:
        return _failed("schedd", error)
    user = _PING.search(ping.stdout)
    totals = _TOTALS.search(queue.stdout)
    text = f"answers, and knows you as {user[1].rstrip('.')}" if user else "answers"
    return Verdict("schedd", True, text + (f"; {totals[0].strip()}" if totals else ""))


def _failed(name: str, error: CondorError) -> Verdict:
    """Return a verdict in one line on what HTCondor's command line said."""
    if isinstance(error, CondorAuthenticationError):
        return Verdict(name, False, f"{error.message}: it accepts no token of yours", RENEW)
    if isinstance(error, CondorUnreachableError):
        return Verdict(
            name, False, f"{error.message}: it does not answer or is not there", "is it up, and the network?"
        )
    if isinstance(error, CondorConfigError):
        return Verdict(name, False, f"{error.message} ({_first(error.stderr)})", error.hint)
    said = _last(error.stderr)
    return Verdict(name, False, error.message + (f": {said}" if said else ""), error.hint)


def _first(text: str) -> str:
    """Return the first sentence, which these tools break over lines."""
    words = " ".join(text.split())
    return words.split(". ")[0][:200]


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


async def _staging_directory(condor: Condor | None) -> Verdict:
    """Return the verdict on the staging directory, as this machine sees it and, if it answers, the schedd."""
    root = staging.staging_root()
    try:
        staging.check_root()
    except HTCDaskGatewayError as error:
        return Verdict("staging", False, _last(str(error)))
    if condor is None:
        return Verdict("staging", True, f"{root} can be written here; whether the schedd sees it is not known")
    if config.get("worker.spool"):
        return Verdict("staging", True, f"{root} can be written; jobs are sent to the schedd with their files")
    try:
        seen = await probe.schedd_sees(condor)
    except (HTCDaskGatewayError, OSError) as error:
        why = _last(error.stderr) or error.message if isinstance(error, CondorError) else _last(str(error))
        return Verdict("staging", None, f"{root} can be written here; the schedd could not be tried: {why}")
    if not seen:
        return Verdict(
            "staging",
            False,
            f"{root} can be written here, but the schedd does not see it",
            "set HTCDASK_STAGEDIR to a directory that both see, or htcdaskgateway.worker.spool to true",
        )
    return Verdict("staging", True, f"{root} can be written, here and by the schedd")


def _gateway() -> list[Verdict]:
    if dask.config.get("gateway.address", None) is None:
        return []
    from dask_gateway.client import format_template

    address = str(format_template(dask.config.get("gateway.address"))).rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return [Verdict("gateway", False, f"gateway.address={address!r} is no address", "write https://...")]
    verdicts = [_health(address)]
    proxy = format_template(dask.config.get("gateway.proxy-address", None))
    if proxy is None:
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
    elif str(proxy).isdecimal():
        host, port = parts.hostname, int(proxy)
    else:
        named = urlsplit(str(proxy) if "//" in str(proxy) else f"//{proxy}")
        host, port = named.hostname or "", named.port or 8786
    return [*verdicts, _port(host, port)]


def _health(address: str) -> Verdict:
    # The scheme was checked by the caller.
    request = urllib.request.Request(f"{address}/api/health", headers={"Accept": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT) as answer:  # noqa: S310
            answer.read(65536)
    except urllib.error.HTTPError as error:
        return Verdict("gateway", False, f"{address} answers {error.code} {error.reason}", "ask its administrator")
    except (OSError, ssl.SSLError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Verdict("gateway", False, f"{address} does not answer: {reason}", "is the address right?")
    return Verdict("gateway", True, f"{address} answers")


def _port(host: str, port: int) -> Verdict:
    try:
        with socket.create_connection((host, port), timeout=NETWORK_TIMEOUT):
            pass
    except OSError as error:
        return Verdict(
            "proxy",
            False,
            f"the scheduler proxy at {host}:{port} does not answer: {error.strerror or error}",
            "set gateway.proxy-address; is the port open from here?",
        )
    return Verdict("proxy", True, f"the scheduler proxy's port {host}:{port} is open")
