"""The command line of HTCondor: find its tools, run them with a time limit, type their errors.

The library starts processes here and nowhere else. What the tools print, and with which exit code, was
measured on HTCondor 23.9 and 25.14; ``docs/htcondor.md`` has the list.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from . import config
from .errors import (
    CondorAuthenticationError,
    CondorConfigError,
    CondorError,
    CondorNotFoundError,
    CondorTimeoutError,
    CondorUnreachableError,
    ConfigError,
)

logger = logging.getLogger(__name__)

# Secrets of the gateway that no tool of HTCondor needs, lest a site's `getenv` puts them into a job.
_NOT_FOR_TOOLS = re.compile(r"DASK_GATEWAY_PASSWORD|DASK_GATEWAY__AUTH__.*|JUPYTERHUB_.*TOKEN|JPY_API_TOKEN", re.I)

# How long a killed tool may take to be gone, in seconds.
_KILL_TIMEOUT = 5.0

_MACHINE_CONFIGS = (
    "/etc/condor/condor_config",
    "/usr/local/etc/condor_config",
    "~condor/condor_config",
)

# How much of a tool's output is worked on at a time, in bytes: some 100 ads, which take a millisecond.
_PIECE = 2**14

_ERRORS: tuple[tuple[type[CondorError], re.Pattern[str]], ...] = (
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
_NO_MATCH = re.compile(
    r"Couldn't find/(?:remove|hold|release)|Job \d+\.\d+ not found|There are no jobs in the queue"
)
_ARRAY = re.compile(r"^\[(?=\s*[{\]])", re.M)
_SEPARATOR = re.compile(r"[\s,]*")
_TERSE = re.compile(r"^(\d+)\.(\d+) - (\d+)\.(\d+)$", re.M)
# A note comes from the scheduler and becomes an argument of the tools.
_SCHEDD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]*")
_QUERY_ATTEMPTS = 3
_TOTAL = re.compile(r"^Total for query: (\d+) jobs;", re.M)
_ANSWERED = re.compile(r"^-- Schedd: (\S+) :", re.M)


T = TypeVar("T")


@dataclass(frozen=True)
class Completed:
    """A tool of HTCondor that ended: its command line, exit code and words."""

    command: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


def find_bin_dir() -> Path:
    """Find the directory of HTCondor's command line tools.

    ``CONDOR_BIN_DIR`` or else ``htcdaskgateway.condor.bin-dir`` is taken at its word; without them the
    environment of the running Python is looked at, and then ``PATH``.

    Returns
    -------
    pathlib.Path
        A directory that holds ``condor_submit``, ``condor_q`` and ``condor_rm``.

    Raises
    ------
    CondorNotFoundError
        The tools are not there.
    """
    for source, named in (
        ("CONDOR_BIN_DIR", os.environ.get("CONDOR_BIN_DIR")),
        ("htcdaskgateway.condor.bin-dir", config.get("condor.bin-dir")),
    ):
        if named:
            directory = Path(named).expanduser()
            missing = _missing_tools(directory)
            if missing:
                raise CondorNotFoundError(f"{source} is {str(named)!r}, but {missing} is not there")
            return directory
    environment = Path(sys.prefix) / "bin"
    if not _missing_tools(environment):
        return environment
    found = shutil.which("condor_submit")
    if found and not _missing_tools(Path(found).parent):
        return Path(found).parent
    raise CondorNotFoundError(
        f"HTCondor's tools (condor_submit, condor_q, condor_rm) are neither in {environment} nor on PATH"
    )


def _missing_tools(directory: Path) -> str:
    tools = ("condor_submit", "condor_q", "condor_rm")
    return next((tool for tool in tools if not os.access(directory / tool, os.X_OK)), "")


def tool_environment(bin_dir: Path) -> dict[str, str]:
    """Return the environment in which the tools of `bin_dir` run.

    A notebook's kernel has no ``CONDOR_CONFIG``: conda's htcondor sets it in its activate script only. So where
    the tools lie in a conda environment and nothing else is said, that environment's configuration is used. The
    user's own ``~/.condor/user_config`` HTCondor reads beside a configuration of the machine only (HTCondor's
    manual, *Ordered Evaluation to Set the Configuration*); where there is none, it is named to the tools here.
    """
    environment = {name: value for name, value in os.environ.items() if not _NOT_FOR_TOOLS.fullmatch(name)}
    if "CONDOR_CONFIG" not in environment:
        conda = bin_dir.parent
        in_conda = conda / "etc" / "condor" / "condor_config"
        own = Path.home() / ".condor" / "user_config"
        if (conda / "conda-meta").is_dir() and in_conda.is_file():
            environment["CONDOR_CONFIG"] = str(in_conda)
        elif own.is_file() and not any(map(_exists, _MACHINE_CONFIGS)):
            environment["CONDOR_CONFIG"] = str(own)
    return environment


def _exists(path: str) -> bool:
    # Unlike Path's, this expanduser lets a user be who does not exist.
    return os.path.isfile(os.path.expanduser(path))  # noqa: PTH111, PTH113


def quote_classad(value: object) -> str:
    """Quote `value` as a ClassAd string, for a constraint as for a submit description.

    HTCondor reads both in the *old* syntax: a backslash is itself unless a double quote follows (seen on 23.9 and
    25.14).

    Raises
    ------
    ConfigError
        The value cannot be written so.
    """
    text = str(value)
    if text.endswith("\\"):
        raise ConfigError(f"{text!r} has a backslash at its end, which a ClassAd string cannot hold")
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'


class Condor:
    """The HTCondor command line, for one schedd.

    Parameters
    ----------
    bin_dir : path, optional
        The directory of the tools. Found by `find_bin_dir` if not given.
    schedd : str, optional
        The name of a schedd other than the configuration's own.
    pool : str, optional
        The central manager of a pool other than the configuration's own.
    timeout : float, optional
        The time limit of each call, in seconds.

    Attributes
    ----------
    answered : str
        The name of the schedd that has answered `totals` last; empty if none has.

    Raises
    ------
    CondorNotFoundError
        The tools are not where they were looked for.
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
        self._advice = ""

    def __repr__(self) -> str:
        return f"Condor<{self.bin_dir}, schedd={self.schedd or 'the configured one'}>"

    async def at(self, schedd: str) -> Condor:
        """Return the command line for the schedd of that name; for none, and for the one that answers, this one.

        Raises
        ------
        CondorError
            The schedd that is configured here does not answer.
        """
        if not schedd or schedd == self.schedd:
            return self
        if not self.answered:
            await self.totals("false")
        # A tool that does not say who answers is a site's, which knows where to ask.
        return self.named(schedd) if self.answered and not same_schedd(self.answered, schedd) else self

    def named(self, schedd: str) -> Condor:
        """Return the command line for another schedd than the one that is configured here."""
        other = Condor(self.bin_dir, schedd=schedd, pool=self.pool, timeout=self.timeout)
        other.answered = schedd
        other._advice = (
            f"the jobs of this cluster are in the queue of the schedd {schedd}, which is not the one that is "
            "configured here. Where it cannot be reached from here, use the cluster from where it was made; or: "
        )
        return other

    def _address(self) -> list[str]:
        """Return the arguments that name the schedd, the same for submit, q and rm."""
        name = ["-name", self.schedd] if self.schedd else []
        return name + (["-pool", self.pool] if self.pool else [])

    async def run(
        self,
        tool: str,
        *arguments: str,
        cwd: Path | None = None,
        timeout: float | None = None,
        take: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run `tool` to its end, whatever its exit code.

        Parameters
        ----------
        tool : str
            The program's name, such as ``condor_q``.
        *arguments : str
            Its arguments; no shell is between.
        cwd : pathlib.Path, optional
            The directory to run it in.
        timeout : float, optional
            The time limit in seconds, if other than this object's.
        take : callable, optional
            Called with each piece of the output as it comes.

        Raises
        ------
        CondorNotFoundError
            There is no such program.
        CondorTimeoutError
            It did not end in time; it has been killed.
        """
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
                raise CondorTimeoutError(f"{tool} did not end within {limit:g} s", command=command) from None
            raise
        assert process.returncode is not None  # noqa: S101 - for the type checker: communicate() waited
        return Completed(command, process.returncode, stdout, stderr)

    async def failure(self, done: Completed, message: str) -> CondorError:
        """Return the error that tells why `done` failed."""
        text = f"{done.stderr}\n{done.stdout}"
        kind = next((kind for kind, pattern in _ERRORS if pattern.search(text)), CondorError)
        # condor_rm has no other word for it than "(null)".
        if kind in (CondorError, CondorUnreachableError) and await self._is_stranger():
            kind = CondorAuthenticationError
        error = kind(message, command=done.command, returncode=done.returncode, stderr=done.stderr or done.stdout)
        error.hint = self._advice + error.hint
        return error

    async def _is_stranger(self) -> bool:
        """Tell whether the collector refuses to talk to us, which reads like a missing schedd elsewhere."""
        pool = ["-pool", self.pool] if self.pool else []
        try:
            done = await self.run("condor_status", *pool, "-schedd", "-limit", "1", "-af", "Name")
        except CondorError:
            return False
        return "AUTHENTICATE:" in done.stderr

    async def submit(
        self,
        description: Path,
        count: int,
        *,
        extra: Sequence[str] = (),
        spool: bool = False,
        timeout: float | None = None,
    ) -> tuple[int, int]:
        """Submit `count` jobs of a submit description without a queue statement, in one call.

        Parameters
        ----------
        description : pathlib.Path
            The submit description; its relative paths are relative to its directory.
        count : int
            The number of jobs, at least 1 (HTCondor 25 submits one job for 0).
        extra : sequence of str
            More arguments of ``condor_submit``.
        spool : bool
            Send the input files to the schedd.
        timeout : float, optional
            The time limit in seconds, if other than this object's.

        Returns
        -------
        (int, int)
            The cluster id, and how many jobs were submitted.

        Raises
        ------
        ValueError
            `count` is less than 1.
        CondorError
            The jobs were not submitted, or, after a `CondorTimeoutError`, perhaps not.
        """
        if count < 1:
            raise ValueError(f"count={count}: at least one job must be submitted")
        arguments = [*self._address(), "-terse", *(["-spool"] if spool else []), *extra, description.name]
        done = await self.run(
            "condor_submit", *arguments, "-queue", str(count), cwd=description.parent, timeout=timeout
        )
        if done.returncode != 0:
            raise await self.failure(done, f"{count} worker job(s) could not be submitted")
        for line in done.stderr.splitlines():
            if line.startswith("WARNING"):
                logger.warning("condor_submit: %s", line)
        ranges = _TERSE.findall(done.stdout)
        if not ranges:
            raise CondorError(
                "condor_submit answered something else than job ids, so that the jobs may or may not be queued",
                command=done.command,
                returncode=done.returncode,
                stderr=done.stderr + done.stdout,
                hint="look with `condor_q`; scale(n) counts the jobs before it submits",
            )
        # -terse prints one range for all that one submit queued or, with late materialization, will queue.
        return int(ranges[0][0]), sum(int(last) - int(first) + 1 for _, first, _, last in ranges)

    async def query(self, constraint: str, attributes: Sequence[str]) -> list[dict[str, Any]]:
        """Return the ads of the user's jobs that fulfil `constraint`, as `query_each` does."""
        return await self.query_each(constraint, attributes, dict)

    async def query_each(
        self, constraint: str, attributes: Sequence[str], make: Callable[[Mapping[str, Any]], T]
    ) -> list[T]:
        """Return what `make` makes of the ads of the user's jobs that fulfil `constraint`.

        It is made while condor_q still writes, a few at a time, so that the event loop goes on.

        Parameters
        ----------
        constraint : str
            A ClassAd expression.
        attributes : sequence of str
            The attributes to ask for. One that a job does not have is left out of its ad.
        make : callable
            Called with the ad of each job.

        Returns
        -------
        list
            One a job; empty only when HTCondor says that there is no such job.

        Raises
        ------
        CondorError
            The queue could not be read.
        """
        asked = [*self._address(), "-constraint", constraint]
        for _ in range(_QUERY_ATTEMPTS):
            ads = _Ads(make)
            done = await self.run("condor_q", *asked, "-json", "-attributes", ",".join(attributes), take=ads.take)
            if done.returncode != 0:
                raise await self.failure(done, "the queue could not be read")
            if ads.complete:
                return ads.made
            if _ARRAY.search(done.stdout):
                break
            # No match prints nothing, and so does a broken tool: ask again in a form that always answers.
            counted = await self.totals(constraint)
            if counted is None:
                break
            if counted == 0:
                return []
            # There are jobs now: either they have come between the two, or the tool does not print them.
        raise _no_list(done)

    async def totals(self, constraint: str) -> int | None:
        """Return how many of the user's jobs fulfil `constraint`: the cheapest question that always has an answer.

        Returns
        -------
        int or None
            None if the answer is none, because something else than HTCondor's own tool gives it.

        Raises
        ------
        CondorError
            The queue could not be read.
        """
        done = await self.run("condor_q", *self._address(), "-constraint", constraint, "-totals")
        if done.returncode != 0:
            raise await self.failure(done, "the queue could not be read")
        if answered := _ANSWERED.search(done.stdout):
            self.answered = answered[1]
        counted = _TOTAL.findall(done.stdout)
        return sum(map(int, counted)) if counted else None

    async def query_factories(self, constraint: str, attributes: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return the ads of the factories that make the jobs of the user's submits with late materialization.

        HTCondor says nothing when there is none, and has no form of the question that always answers.

        Parameters
        ----------
        constraint : str
            A ClassAd expression.
        attributes : sequence of str
            The attributes to ask for.

        Raises
        ------
        CondorError
            The queue could not be read.
        """
        ads: _Ads[Mapping[str, Any]] = _Ads(lambda ad: ad)
        arguments = ["-factory", "-constraint", constraint, "-json", "-attributes", ",".join(attributes)]
        done = await self.run("condor_q", *self._address(), *arguments, take=ads.take)
        if done.returncode != 0:
            raise await self.failure(done, "the queue could not be read")
        if not ads.complete and _ARRAY.search(done.stdout):
            raise _no_list(done)
        return ads.made

    async def edit(self, cluster: int, attribute: str, value: str) -> None:
        """Set an attribute of the user's HTCondor cluster `cluster` to a ClassAd expression.

        Raises
        ------
        CondorError
            It could not be set, or there is no such cluster.
        """
        done = await self.run("condor_qedit", *self._address(), str(cluster), attribute, value)
        if done.returncode != 0:
            raise await self.failure(done, f"{attribute} of the HTCondor cluster {cluster} could not be set")

    async def has_slot(self, constraint: str, *, timeout: float | None = None) -> bool:
        """Tell whether the pool shows a slot that fulfils `constraint`.

        Parameters
        ----------
        constraint : str
            A ClassAd expression.
        timeout : float, optional
            The time limit in seconds, if shorter than this object's.

        Raises
        ------
        CondorError
            The pool could not be asked.
        """
        pool = ["-pool", self.pool] if self.pool else []
        limit = self.timeout if timeout is None else min(timeout, self.timeout)
        asked = ["-constraint", constraint, "-limit", "1", "-af", "Name"]
        done = await self.run("condor_status", *pool, *asked, timeout=limit)
        if done.returncode != 0:
            raise await self.failure(done, "the pool's slots could not be asked for")
        return bool(done.stdout.strip())

    async def remove(self, constraint: str, *, force: bool = False) -> bool:
        """Remove the user's jobs that fulfil `constraint`.

        Parameters
        ----------
        constraint : str
            A ClassAd expression.
        force : bool
            Forget jobs that are being removed already but whose machine no longer answers.

        Returns
        -------
        bool
            False if there was no such job.

        Raises
        ------
        CondorError
            The jobs could not be removed.
        """
        how = ["-forcex"] if force else []
        done = await self.run("condor_rm", *self._address(), *how, "-constraint", constraint)
        if done.returncode == 0:
            return "There are no jobs" not in done.stderr + done.stdout
        text = done.stderr + done.stdout
        if _NO_MATCH.search(text) and not any(pattern.search(text) for _, pattern in _ERRORS):
            return False
        raise await self.failure(done, "the worker jobs could not be removed")

    async def analyze(self, job: str) -> str:
        """Return HTCondor's own analysis of why the idle job `job` does not run, as it words it.

        Costs a look at every slot of the pool: for one job, not for a list of them.

        Raises
        ------
        CondorError
            There is no analysis.
        """
        done = await self.run("condor_q", *self._address(), "-better-analyze", job)
        if done.returncode != 0:
            raise await self.failure(done, f"HTCondor could not analyze the job {job}")
        return done.stdout

    async def tail(self, job: str, *, max_bytes: int, timeout: float) -> str:
        """Return the end of what the running job `job` has written, its output before its errors.

        Parameters
        ----------
        job : str
            ``ClusterId.ProcId``.
        max_bytes : int
            How many bytes of each of the two to ask for.
        timeout : float
            The time limit of each of the two calls, in seconds. A job without file transfer never answers.

        Raises
        ------
        CondorError
            The machine did not answer, or the job does not run (any more).
        """
        texts = []
        # Asked for both at once it returns the errors alone.
        for stream in ([], ["-no-stdout", "-stderr"]):
            arguments = [*self._address(), "-maxbytes", str(max_bytes), *stream, job]
            done = await self.run("condor_tail", *arguments, timeout=timeout)
            if done.returncode != 0:
                raise await self.failure(done, f"the output of the running job {job} could not be read")
            texts.append(done.stdout)
        return "".join(texts)

    async def transfer_data(self, constraint: str) -> None:
        """Fetch the output of the user's spooled jobs that fulfil `constraint` to where they were submitted.

        No such job is a success, as it is for HTCondor.

        Raises
        ------
        CondorError
            It could not be fetched.
        """
        done = await self.run("condor_transfer_data", *self._address(), "-constraint", constraint)
        if done.returncode != 0:
            raise await self.failure(done, "the output of the spooled jobs could not be fetched")


def check_schedd(note: object) -> str:
    """Return the name of a schedd that another client has noted; empty if it is none."""
    return note if isinstance(note, str) and _SCHEDD_NAME.fullmatch(note) else ""


def same_schedd(one: str, other: str) -> bool:
    """Tell whether both are names of one schedd; a job's ad and condor_q differ in an ``@`` at the end."""
    return one.rstrip("@").lower() == other.rstrip("@").lower()


def _no_list(done: Completed) -> CondorError:
    return CondorError(
        "condor_q answered something that is not a list of jobs",
        command=done.command,
        returncode=done.returncode,
        stderr=(done.stderr + done.stdout)[-2000:],
        hint="is condor_q a wrapper script of your site? Run the command by hand and look",
    )


class _Ads(Generic[T]):
    """The array of ads that condor_q prints, decoded as it comes; a line before or after it is somebody's banner.

    Thousands of ads decoded at once would hold up everything else on the event loop.

    Attributes
    ----------
    made : list
        What `make` made of each ad so far.
    complete : bool
        Whether the array has come to its end.
    """

    def __init__(self, make: Callable[[Mapping[str, Any]], T]) -> None:
        self.made: list[T] = []
        self.complete = False
        self._make = make
        self._decode = json.JSONDecoder().raw_decode
        self._begun = self._over = False
        self._rest = ""

    def take(self, piece: str) -> None:
        """Decode what `piece` completes."""
        text, at = self._rest + piece, 0
        if not self._begun and (found := _ARRAY.search(text)):
            self._begun, at = True, found.end()
        while self._begun and not self._over:
            separator = _SEPARATOR.match(text, at)
            at = separator.end() if separator else at
            if text.startswith("]", at):
                self.complete = self._over = True
                break
            try:
                ad, at = self._decode(text, at)
            except ValueError:  # the rest of it is still to come
                break
            if not isinstance(ad, Mapping):
                self._over = True
                break
            self.made.append(self._make(ad))
        self._rest = text[at:]


def _run_at_exit(
    command: tuple[str, ...], environment: dict[str, str], limit: float, take: Callable[[str], None] | None
) -> Completed:
    """Run a tool to its end without a thread; the event loop has nothing else to do by then."""
    try:
        done = subprocess.run(  # noqa: S603 - a tool of HTCondor's, as in `Condor.run`
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
        raise CondorTimeoutError(
            f"{Path(command[0]).name} did not end within {limit:g} s", command=command
        ) from None
    if take is not None:
        take(done.stdout)
    return Completed(command, done.returncode, done.stdout, done.stderr)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a tool with its whole session: it may be a site's wrapper, and leave behind who holds its output."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(process.communicate(), _KILL_TIMEOUT)


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
