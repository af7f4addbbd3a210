"""One schedd by HTCondor's command line: submit, query, remove, analyze."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CondorError
from .ads import ARRAY, Ads, T, no_list
from .command import ERRORS, Command

logger = logging.getLogger(__name__)

_NO_MATCH = re.compile(
    r"Couldn't find/(?:remove|hold|release)|Job \d+\.\d+ not found|There are no jobs in the queue"
)
_TERSE = re.compile(r"^(\d+)\.(\d+) - (\d+)\.(\d+)$", re.M)
# A note comes from the scheduler and becomes an argument of the tools.
_SCHEDD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]*")
_QUERY_ATTEMPTS = 3
_TOTAL = re.compile(r"^Total for query: (\d+) jobs;", re.M)
_ANSWERED = re.compile(r"^-- Schedd: (\S+) :", re.M)


class Condor(Command):
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
            ads = Ads(make)
            done = await self.run("condor_q", *asked, "-json", "-attributes", ",".join(attributes), take=ads.take)
            if done.returncode != 0:
                raise await self.failure(done, "the queue could not be read")
            if ads.complete:
                return ads.made
            if ARRAY.search(done.stdout):
                break
            # No match prints nothing, and so does a broken tool: ask again in a form that always answers.
            counted = await self.totals(constraint)
            if counted is None:
                break
            if counted == 0:
                return []
            # There are jobs now: either they have come between the two, or the tool does not print them.
        raise no_list(done)

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
        ads: Ads[Mapping[str, Any]] = Ads(lambda ad: ad)
        arguments = ["-factory", "-constraint", constraint, "-json", "-attributes", ",".join(attributes)]
        done = await self.run("condor_q", *self._address(), *arguments, take=ads.take)
        if done.returncode != 0:
            raise await self.failure(done, "the queue could not be read")
        if not ads.complete and ARRAY.search(done.stdout):
            raise no_list(done)
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
        if _NO_MATCH.search(text) and not any(pattern.search(text) for _, pattern in ERRORS):
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
