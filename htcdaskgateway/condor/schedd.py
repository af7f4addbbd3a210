"""One schedd by HTCondor's command line: submit, query, edit, remove."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import config
from ..errors import CondorError
from ..plain import counted
from .ads import Ads, T, ask, no_list
from .command import ERRORS, Completed
from .inspection import Inspection

logger = logging.getLogger(__name__)

_NO_MATCH = re.compile(
    r"Couldn't find/(?:remove|hold|release)|Job \d+\.\d+ not found|There are no jobs in the queue"
)
_TERSE = re.compile(r"^(\d+)\.(\d+) - (\d+)\.(\d+)$", re.M)
# A note comes from the scheduler and becomes an argument of the tools.
_SCHEDD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]*")
_QUERY_ATTEMPTS = 3
_UNREAD = "the queue could not be read"
_TOTAL = re.compile(r"^Total for query: (\d+) jobs;", re.M)
_ANSWERED = re.compile(r"^-- Schedd: (\S+) :", re.M)


class Condor(Inspection):
    """The HTCondor command line, for one schedd: the configuration's own if none is named.

    Each call has the time limit `timeout`, in seconds, and raises a `CondorError` where it fails.
    """

    async def at(self, schedd: str) -> Condor:
        """Return the command line for the schedd of that name; for none, and for the one that answers, this one."""
        if not schedd or schedd == self.schedd:
            return self
        # A tool that does not say who answers is a site's, which knows where to ask.
        return self if await self.reaches(schedd) is not False else self.named(schedd)

    async def reaches(self, *schedds: str) -> bool | None:
        """Tell whether one of these schedds is among those that answer here; None where the tools do not say."""
        if config.get("condor.schedd-constraint") and not self.schedd:
            return False  # each cluster has chosen its own
        if not self.answering:
            await self.totals("false")
        if not self.answering:
            return None
        return any(same_schedd(one, other) for one in self.answering for other in schedds)

    def of_job(self, schedd: str) -> Condor:
        """Return the command line for what is asked of one job: where several answer, that of its own schedd."""
        return self.named(schedd) if schedd and len(self.answering) > 1 else self

    def named(self, schedd: str) -> Condor:
        """Return the command line for another schedd than the one that is configured here."""
        other = Condor(self.bin_dir, schedd=schedd, pool=self.pool, timeout=self.timeout)
        other.answered, other.answering = schedd, (schedd,)
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

        Return the cluster id, and how many jobs were submitted. After a `CondorTimeoutError` they perhaps were.
        """
        if count < 1:
            raise ValueError(f"count={count}: at least one job must be submitted")
        arguments = [*self._address(), "-terse", *(["-spool"] if spool else []), *extra, description.name]
        done = await self.checked(
            "condor_submit",
            *arguments,
            "-queue",
            str(count),
            failing=f"Could not submit {counted(count, 'worker job')}",
            cwd=description.parent,
            timeout=timeout,
        )
        for line in done.stderr.splitlines():
            if line.startswith("WARNING"):
                logger.warning("condor_submit: %s", line)
        ranges = _TERSE.findall(done.stdout)
        if not ranges:
            raise CondorError(
                "condor_submit did not answer with job ids. The jobs may or may not be in the queue.",
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

        It is made while condor_q still writes, a few at a time, so that the event loop goes on. Empty only when
        HTCondor says that there is no such job.
        """
        for _ in range(_QUERY_ATTEMPTS):
            ads, done = await self._ask("-constraint", constraint, attributes=attributes, make=make)
            if ads.complete:
                return ads.made
            # No match prints nothing, and so does a broken tool: ask again in a form that always answers.
            counted = await self.totals(constraint)
            if counted is None:
                break
            if counted == 0:
                return []
            # There are jobs now: either they have come between the two, or the tool does not print them.
        raise no_list(done)

    async def query_factories(self, constraint: str, attributes: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return the ads of the factories that make the jobs of the user's submits with late materialization.

        HTCondor says nothing when there is none, and has no form of the question that always answers.
        """
        ads, _ = await self._ask("-factory", "-constraint", constraint, attributes=attributes, make=dict)
        return list(ads.made)

    async def _ask(
        self, *asked: str, attributes: Sequence[str], make: Callable[[Mapping[str, Any]], T]
    ) -> tuple[Ads[T], Completed]:
        return await ask(
            self, "condor_q", *self._address(), *asked, attributes=attributes, make=make, failing=_UNREAD
        )

    async def totals(self, constraint: str) -> int | None:
        """Return how many of the user's jobs fulfil `constraint`: the cheapest question that always has an answer.

        None if the answer is not one of HTCondor's own tool; else `answering` names the schedds that gave it.
        """
        done = await self.checked(
            "condor_q", *self._address(), "-constraint", constraint, "-totals", failing=_UNREAD
        )
        if answering := _ANSWERED.findall(done.stdout):
            self.answered, self.answering = answering[0], tuple(answering)
        counted = _TOTAL.findall(done.stdout)
        return sum(map(int, counted)) if counted else None

    async def edit(self, cluster: int, attribute: str, value: str) -> None:
        """Set an attribute of the user's HTCondor cluster `cluster` to a ClassAd expression."""
        failing = f"{attribute} of the HTCondor cluster {cluster} could not be set"
        await self.checked("condor_qedit", *self._address(), str(cluster), attribute, value, failing=failing)

    async def remove(self, constraint: str, *, force: bool = False) -> bool:
        """Remove the user's jobs that fulfil `constraint`; return False if there was no such job.

        Where several schedds answer, each is told by its name: a site's wrapper may take no removal without one.
        With `force`, forget jobs that are being removed already but whose machine no longer answers.
        """
        if self.schedd or len(await self.all_answering()) < 2:
            return await self._remove(constraint, force)
        # All are asked, also when one of them does not answer.
        asked = (self.named(schedd)._remove(constraint, force) for schedd in self.answering)
        found = await asyncio.gather(*asked, return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return any(found)

    async def all_answering(self) -> tuple[str, ...]:
        """Return the names of the schedds that answer here; none where it cannot be told."""
        if not self.answering:
            try:
                await self.totals("false")
            except CondorError as error:  # what is asked next tells it better
                logger.info("which schedds answer is not known: %s", error)
        return self.answering

    async def _remove(self, constraint: str, force: bool) -> bool:
        how = ["-forcex"] if force else []
        done = await self.run("condor_rm", *self._address(), *how, "-constraint", constraint)
        if done.returncode == 0:
            return "There are no jobs" not in done.stderr + done.stdout
        text = done.stderr + done.stdout
        if _NO_MATCH.search(text) and not any(pattern.search(text) for _, pattern in ERRORS):
            return False
        raise await self.failure(done, "the worker jobs could not be removed")


def check_schedd(note: object) -> str:
    """Return the name of a schedd that another client has noted; empty if it is none."""
    return note if isinstance(note, str) and _SCHEDD_NAME.fullmatch(note) else ""


def same_schedd(one: str, other: str) -> bool:
    """Tell whether both are names of one schedd; a job's ad and condor_q differ in an ``@`` at the end."""
    return one.rstrip("@").lower() == other.rstrip("@").lower()
