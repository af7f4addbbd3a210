"""A line of ``setup_condor --check``; the verdicts on gateway and staging directory."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

import dask.config

from .. import config
from ..condor.schedd import Condor
from ..errors import (
    CondorAuthenticationError,
    CondorConfigError,
    CondorError,
    CondorUnreachableError,
    HTCDaskGatewayError,
)
from ..plain import plain
from ..worker import staging
from . import probe

NETWORK_TIMEOUT = 10.0
RENEW = "run `setup_condor` for a new one"


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


def failed(name: str, error: CondorError) -> Verdict:
    """Return a verdict in one line on what HTCondor's command line said."""
    if isinstance(error, CondorAuthenticationError):
        return Verdict(name, False, f"{error.message}: it accepts no token of yours", RENEW)
    if isinstance(error, CondorUnreachableError):
        return Verdict(
            name, False, f"{error.message}: it does not answer or is not there", "is it up, and the network?"
        )
    if isinstance(error, CondorConfigError):
        return Verdict(name, False, f"{error.message} ({_first(error.stderr)})", error.hint)
    said = last_line(error.stderr)
    return Verdict(name, False, error.message + (f": {said}" if said else ""), error.hint)


def _first(text: str) -> str:
    """Return the first sentence, which these tools break over lines."""
    words = " ".join(text.split())
    return words.split(". ")[0][:200]


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


async def staging_directory(condor: Condor | None) -> Verdict:
    """Return the verdict on the staging directory, as this machine sees it and, if it answers, the schedd."""
    root = staging.staging_root()
    try:
        staging.check_root()
    except HTCDaskGatewayError as error:
        return Verdict("staging", False, last_line(str(error)))
    if condor is None:
        return Verdict("staging", True, f"{root} can be written here; whether the schedd sees it is not known")
    if config.get("worker.spool"):
        return Verdict("staging", True, f"{root} can be written; jobs are sent to the schedd with their files")
    try:
        seen = await probe.schedd_sees(condor)
    except (HTCDaskGatewayError, OSError) as error:
        why = last_line(error.stderr) or error.message if isinstance(error, CondorError) else last_line(str(error))
        return Verdict("staging", None, f"{root} can be written here; the schedd could not be tried: {why}")
    if not seen:
        return Verdict(
            "staging",
            False,
            f"{root} can be written here, but the schedd does not see it",
            "set HTCDASK_STAGEDIR to a directory that both see, or htcdaskgateway.worker.spool to true",
        )
    return Verdict("staging", True, f"{root} can be written, here and by the schedd")


def gateway() -> list[Verdict]:
    """Return the verdicts on the gateway server and its proxy; none where no address is set."""
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
