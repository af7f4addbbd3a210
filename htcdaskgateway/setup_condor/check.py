"""Say what works between this user and the pool, and what does not: a line a verdict."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from ..condor.schedd import Condor
from ..errors import CondorConfigError, CondorError
from . import tokens
from .tokens import Token, TokenFile
from .verdict import NETWORK_TIMEOUT, RENEW, Verdict, failed, gateway, last_line, staging_directory

_PING = re.compile(r"succeeded as (\S+)")
_ADDRESS = re.compile(r"<?([A-Za-z0-9_.-]+)(?::(\d+))?")
_PORT = 9618
_TOTALS = re.compile(r"^Total for (?:query|\S+): .*$", re.M)


async def everything() -> AsyncIterator[Verdict]:
    """Yield the verdicts on all that a user's cluster needs."""
    answering: Condor | None = None
    try:
        condor = Condor()
    except CondorError as error:
        yield failed("tools", error)
        for name in ("configuration", "tokens", "collector", "schedd"):
            yield Verdict(name, None, "cannot be looked at without the tools")
    else:
        async for verdict in pool(condor):
            yield verdict
            if verdict.name == "schedd" and verdict.good:
                answering = condor
    yield await staging_directory(answering)
    for verdict in await asyncio.to_thread(gateway):
        yield verdict


async def pool(condor: Condor) -> AsyncIterator[Verdict]:
    """Yield the verdicts on HTCondor: tools, configuration, tokens, collector, schedd."""
    try:
        version = await condor.run("condor_version")
    except CondorError as error:
        yield failed("tools", error)
        return
    if version.returncode != 0:
        yield Verdict("tools", False, f"{condor.bin_dir}: {last_line(version.stderr or version.stdout)}")
    else:
        found = re.search(r"CondorVersion: (\S+)", version.stdout)
        yield Verdict("tools", True, f"HTCondor {found[1] if found else '(no version)'} in {condor.bin_dir}")
    try:
        values = await _configuration(condor)
    except CondorError as error:
        yield failed("configuration", error)
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
    silent = await _silent(condor.pool or values.collector)
    if silent:
        # HTCondor's tools would wait for minutes.
        yield Verdict("collector", False, f"{silent} gives no answer", "is that TCP port open from this machine?")
        yield Verdict("schedd", None, "cannot be looked at without the collector")
        return
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
    """Return the configuration files that HTCondor's tools read."""
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


async def _silent(collector: str) -> str:
    """Return host and port of a collector to which a connection gets no answer at all, neither yes nor no."""
    found = _ADDRESS.match(collector)
    if not found:
        return ""
    host, port = found[1], int(found[2] or _PORT)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), NETWORK_TIMEOUT)
    except asyncio.TimeoutError:
        return f"{host}:{port}"
    except OSError:  # HTCondor's tools know more of it
        return ""
    writer.transport.abort()
    return ""


async def _collector(condor: Condor) -> Verdict:
    where = ["-pool", condor.pool] if condor.pool else []
    try:
        done = await condor.run("condor_status", *where, "-collector", "-af", "Name")
    except CondorError as error:
        return failed("collector", error)
    if done.returncode != 0:
        return failed("collector", await condor.failure(done, "the collector cannot be asked"))
    return Verdict("collector", True, f"{last_line(done.stdout) or 'the collector'} answers")


async def schedd_verdict(condor: Condor) -> Verdict:
    """Return the verdict on the schedd: it answers, and knows who asks."""
    asked = [
        *(["-name", condor.schedd] if condor.schedd else []),
        *(["-pool", condor.pool] if condor.pool else []),
    ]
    try:
        queue = await condor.run("condor_q", *asked, "-totals")
        if queue.returncode != 0:
            return failed("schedd", await condor.failure(queue, "the queue cannot be read"))
        # Reading the queue may need no token at all; changing it does.
        ping = await condor.run("condor_ping", "-type", "SCHEDD", *asked, "WRITE")
        if ping.returncode != 0:
            return failed("schedd", await condor.failure(ping, "the queue can be read, but no job submitted"))
    except CondorError as error:
        return failed("schedd", error)
    user = _PING.search(ping.stdout)
    totals = _TOTALS.search(queue.stdout)
    text = f"answers, and knows you as {user[1].rstrip('.')}" if user else "answers"
    return Verdict("schedd", True, text + (f"; {totals[0].strip()}" if totals else ""))
