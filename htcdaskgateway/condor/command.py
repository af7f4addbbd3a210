"""Run a tool of HTCondor with a time limit; type its error.

The library starts processes here and nowhere else. What the tools print, and with which exit code, was
measured on HTCondor 23.9 and 25.14; ``docs/htcondor.md`` has the list.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
import os
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import config
from ..errors import (
    CondorAuthenticationError,
    CondorConfigError,
    CondorError,
    CondorNotFoundError,
    CondorTimeoutError,
    CondorUnreachableError,
)
from .tools import find_bin_dir, tool_environment

logger = logging.getLogger(__name__)

# How long a killed tool may take to be gone, in seconds.
_KILL_TIMEOUT = 5.0

# How much of a tool's output is worked on at a time, in bytes: some 100 ads, which take a millisecond.
_PIECE = 2**14
ERRORS: tuple[tuple[type[CondorError], re.Pattern[str]], ...] = (
    # A schedd that hangs: the tool gives up by itself after 20 s. (One that refuses says so.)
    (CondorUnreachableError, re.compile(r"SECMAN:2007:\s*Read failure", re.I)),
    (CondorAuthenticationError, re.compile(r"AUTHENTICATE:\d|SECMAN:2(007|010|012)|PERMISSION DENIED", re.I)),
    (CondorConfigError, re.compile(r"contain a condor_config source|specified in CONDOR_CONFIG environment")),
    (
        CondorUnreachableError,
        re.compile(
            r"Can't find address|Failed to connect|Failed to fetch ads|Connection refused|SECMAN|CEDAR"
            r"|communication error|Couldn't contact|Can't connect|(?:Unable to|Couldn't) locate|Connect failure"
            r"|condor_schedd is not\s+running",
            re.I,
        ),
    ),
)


@dataclass(frozen=True)
class Completed:
    """A tool of HTCondor that ended: its command line, exit code and words."""

    command: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


async def _communicate(process: asyncio.subprocess.Process, take: Callable[[str], None] | None) -> tuple[str, str]:
    """Return what a tool has written when it has ended: its output and its errors."""
    stderr = asyncio.ensure_future(_read(process.stderr))
    try:
        stdout = await _read(process.stdout, take)
        await process.wait()
        return stdout, await stderr
    finally:
        stderr.cancel()


async def _read(stream: asyncio.StreamReader | None, take: Callable[[str], None] | None = None) -> str:
    """Read what a tool writes to its end, and let the event loop go on between the pieces."""
    assert stream is not None  # noqa: S101 - for the type checker: it is a pipe
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = []
    while data := await stream.read(_PIECE):
        pieces.append(decoder.decode(data))
        if take is not None:
            take(pieces[-1])
            await asyncio.sleep(0)
    return "".join(pieces) + decoder.decode(b"", final=True)


class Command:
    """The tools of one HTCondor, run with a time limit; their errors, typed.

    They lie in `bin_dir`, or where `find_bin_dir` finds them. The schedd, the `pool` (its central manager) and the
    `timeout`, in seconds, are the configuration's where none is given. `answered` names who has answered last, and
    `answering` all who do: where a site's wrapper of the tools asks several schedds, there are more than one.
    """

    def __init__(
        self,
        bin_dir: str | os.PathLike[str] | None = None,
        *,
        schedd: str | None = None,
        pool: str | None = None,
        timeout: float | None = None,
    ) -> None:
        self.bin_dir = Path(bin_dir) if bin_dir is not None else find_bin_dir()
        self.schedd = schedd if schedd is not None else config.get("condor.schedd")
        self.pool = pool if pool is not None else config.get("condor.pool")
        self.timeout = timeout if timeout is not None else config.seconds("condor.timeout")
        self.answered = ""
        self.answering: tuple[str, ...] = ()
        self._advice = ""

    def __repr__(self) -> str:
        return f"Condor<{self.bin_dir}, schedd={self.schedd or 'the configured one'}>"

    def _address(self) -> list[str]:
        """Return the arguments that name the schedd, the same for submit, q and rm."""
        return [*(["-name", self.schedd] if self.schedd else []), *self._pool()]

    def _pool(self) -> list[str]:
        """Return the arguments that name the pool."""
        return ["-pool", self.pool] if self.pool else []

    async def run(
        self,
        tool: str,
        *arguments: str,
        cwd: Path | None = None,
        timeout: float | None = None,
        take: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run `tool` to its end, whatever its exit code; `take` gets each piece of its output as it comes."""
        command = (str(self.bin_dir / tool), *arguments)
        limit = self.timeout if timeout is None else timeout
        logger.debug("running %s", command)
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *command,
                cwd=cwd,
                env=tool_environment(self.bin_dir),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        )
        try:
            # Shielded: asyncio ends a process that is given up here alone, and waits for who else holds its output.
            process = await asyncio.shield(starting)
        except OSError as error:
            raise CondorNotFoundError(f"{tool} cannot be started: {error}", command=command) from error
        except RuntimeError as error:
            # Python 3.12 ends, and the kernel has no pidfd: asyncio has no thread to wait for the tool. It may have
            # started it; to ask and to remove twice does no harm.
            if "shutdown" not in str(error) or tool == "condor_submit":
                raise
            return _run_at_exit(command, tool_environment(self.bin_dir), limit, take)
        except asyncio.CancelledError:
            await _end(await starting)
            raise
        try:
            stdout, stderr = await asyncio.wait_for(_communicate(process, take), limit)
        except BaseException as error:  # timed out or cancelled
            await _end(process)
            if isinstance(error, asyncio.TimeoutError):
                raise CondorTimeoutError(f"{tool} took longer than {limit:g} s", command=command) from None
            raise
        assert process.returncode is not None  # noqa: S101 - for the type checker: communicate() waited
        return Completed(command, process.returncode, stdout, stderr)

    async def checked(self, tool: str, *arguments: str, failing: str, **run: Any) -> Completed:
        """Run `tool` to its end as `run` does; where it fails, raise the error that begins with `failing`."""
        done = await self.run(tool, *arguments, **run)
        if done.returncode != 0:
            raise await self.failure(done, failing)
        return done

    async def failure(self, done: Completed, message: str) -> CondorError:
        """Return the error that tells why `done` failed."""
        text = f"{done.stderr}\n{done.stdout}"
        kind = next((kind for kind, pattern in ERRORS if pattern.search(text)), CondorError)
        # condor_rm has no other word for it than "(null)".
        if kind in (CondorError, CondorUnreachableError) and await self._is_stranger():
            kind = CondorAuthenticationError
        error = kind(message, command=done.command, returncode=done.returncode, stderr=done.stderr or done.stdout)
        error.hint = self._advice + error.hint
        return error

    async def _is_stranger(self) -> bool:
        """Tell whether the collector refuses to talk to us, which reads like a missing schedd elsewhere."""
        try:
            done = await self.run("condor_status", *self._pool(), "-schedd", "-limit", "1", "-af", "Name")
        except CondorError:
            return False
        return "AUTHENTICATE:" in done.stderr


def _run_at_exit(
    command: tuple[str, ...], environment: dict[str, str], limit: float, take: Callable[[str], None] | None
) -> Completed:
    """Run a tool to its end without a thread; the event loop has nothing else to do by then."""
    try:
        done = subprocess.run(  # noqa: S603 - a tool of HTCondor's, as in `Command.run`
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CondorTimeoutError(f"{Path(command[0]).name} took longer than {limit:g} s", command=command) from None
    if take is not None:
        take(done.stdout)
    return Completed(command, done.returncode, done.stdout, done.stderr)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a tool with its whole session: it may be a site's wrapper, and leave behind who holds its output."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(process.communicate(), _KILL_TIMEOUT)
