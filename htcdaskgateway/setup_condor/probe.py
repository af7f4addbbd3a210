"""Find out whether the schedd sees the staging directory: a job on hold, whose log it is to write there."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ..condor.quoting import quote_classad, quote_log
from ..condor.schedd import Condor
from ..worker import staging

SEEN_TIMEOUT = 20.0
"""How long what the schedd has written may take to be seen here, in seconds: network file systems are late."""

_ATTRIBUTE = "HTCDaskGatewayProbe"


async def schedd_sees(condor: Condor) -> bool:
    """Tell whether the schedd writes where this machine's staging directory is."""
    mark = secrets.token_hex(8)
    directory = staging.staging_root() / f".probe-{mark}"
    with _made(directory):
        log = directory / "schedd.log"
        description = directory / "probe.sub"
        description.write_text(
            "executable = /bin/true\ntransfer_executable = false\nshould_transfer_files = no\nhold = true\n"
            f"log = {quote_log(log)}\nMy.{_ATTRIBUTE} = {quote_classad(mark)}\n"
        )
        try:
            await condor.submit(description, 1)
            deadline = time.monotonic() + SEEN_TIMEOUT
            while not await asyncio.to_thread(_has_words, log):
                if time.monotonic() > deadline:
                    return False
                await asyncio.sleep(0.2)
        finally:
            await condor.remove(f"{_ATTRIBUTE} == {quote_classad(mark)}")
    return True


@contextlib.contextmanager
def _made(directory: Path) -> Iterator[None]:
    directory.mkdir(mode=0o700)
    try:
        yield
    finally:
        shutil.rmtree(directory)


def _has_words(log: Path) -> bool:
    try:
        return log.stat().st_size > 0
    except FileNotFoundError:
        return False
