"""Look closer than at the queue: why a job waits, what it has written, which slots there are."""

from __future__ import annotations

from .command import Command


class Inspection(Command):
    """What is asked of HTCondor for one job, or of the pool, seldom."""

    async def analyze(self, job: str) -> str:
        """Return HTCondor's own analysis of why the idle job `job` does not run, as it words it.

        Costs a look at every slot of the pool: for one job, not for a list of them.
        """
        asked = [*self._address(), "-better-analyze", job]
        return (await self.checked("condor_q", *asked, failing=f"HTCondor could not analyze the job {job}")).stdout

    async def tail(self, job: str, *, max_bytes: int, timeout: float) -> str:
        """Return the end of what the running job `job` has written, its output before its errors.

        `max_bytes` is for each of the two, and so is `timeout`: a job without file transfer never answers.
        """
        texts = []
        # Asked for both at once it returns the errors alone.
        for stream in ([], ["-no-stdout", "-stderr"]):
            asked = [*self._address(), "-maxbytes", str(max_bytes), *stream, job]
            failing = f"the output of the running job {job} could not be read"
            texts.append((await self.checked("condor_tail", *asked, failing=failing, timeout=timeout)).stdout)
        return "".join(texts)

    async def transfer_data(self, constraint: str) -> None:
        """Fetch the output of the user's spooled jobs that fulfil `constraint` to where they were submitted.

        No such job is a success, as it is for HTCondor.
        """
        asked = [*self._address(), "-constraint", constraint]
        failing = "the output of the spooled jobs could not be fetched"
        await self.checked("condor_transfer_data", *asked, failing=failing)

    async def has_slot(self, constraint: str, *, timeout: float | None = None) -> bool:
        """Tell whether the pool shows a slot that fulfils `constraint`; `timeout` may shorten the limit."""
        limit = self.timeout if timeout is None else min(timeout, self.timeout)
        asked = [*self._pool(), "-constraint", constraint, "-limit", "1", "-af", "Name"]
        failing = "the pool's slots could not be asked for"
        done = await self.checked("condor_status", *asked, failing=failing, timeout=limit)
        return bool(done.stdout.strip())
