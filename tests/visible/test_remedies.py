"""The calls that explain() proposes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import dask
import pytest

from htcdaskgateway import WorkerSpec
from htcdaskgateway.condor.analysis import Analysis
from htcdaskgateway.condor.jobs import JobId, JobStatus, WorkerJob
from htcdaskgateway.errors import CondorError
from htcdaskgateway.fleet import remedies
from htcdaskgateway.fleet.advice import describe

JOB = WorkerJob(JobId(17, 0), JobStatus.IDLE)
SPEC = WorkerSpec.from_keywords(cpus=4, memory="8GB", packages=None, container_runtime="none")


class Silent:
    """A HTCondor that gives no answer, or answers this."""

    def __init__(self, words: str | None = None, ads: list[dict[str, Any]] | None = None) -> None:
        self.words, self.ads = words, ads

    def _pool(self) -> list[str]:
        return []

    def of_job(self, schedd: str) -> Silent:
        return self

    async def checked(self, *command: str, failing: str) -> Any:
        if self.words is None:
            raise CondorError(failing)
        return SimpleNamespace(stdout=self.words)

    async def query(self, constraint: str, attributes: Any) -> Any:
        if self.ads is None:
            raise CondorError("the schedd does not answer")
        return self.ads


@pytest.mark.parametrize("words", [None, "", "undefined\nundefined\n", "8\n16\n"])
def test_nothing_is_proposed_where_the_pool_does_not_tell_or_has_such_a_machine(words: str | None) -> None:
    condor: Any = Silent(words)
    assert asyncio.run(remedies.beyond(condor, "Cpus", {}, SPEC)) is None


def test_the_largest_machine_is_proposed_for_a_request_that_is_beyond_all() -> None:
    condor: Any = Silent("undefined\n2\n1\n")
    numbers, keyword = asyncio.run(remedies.beyond(condor, "Cpus", {"RequestCpus": "junk"}, SPEC)) or ("", "")
    assert "asks for 4 cores; the largest machine has 2" in numbers
    assert keyword == "cpus=2"


@pytest.mark.parametrize(
    "ads", [None, [], [{"ClusterId": 17, "ProcId": 0}]], ids=["silent", "gone", "nothing used"]
)
def test_no_memory_is_proposed_where_the_schedd_does_not_tell_what_was_used(
    ads: list[dict[str, Any]] | None,
) -> None:
    condor: Any = Silent(ads=ads)
    assert asyncio.run(remedies.used(condor, JOB, "Memory", SPEC)) is None


def analysis(rejected: int, refusing: int, *conditions: tuple[int, str]) -> Analysis:
    return Analysis(conditions, machines=3, rejected=rejected, refusing=refusing, values={"RequestCpus": "4"})


def test_a_pool_that_refuses_by_its_policy_is_told_from_one_that_is_busy() -> None:
    refused = describe((JOB,), analysis(1, 2, (2, "TARGET.Cpus >= RequestCpus")))
    assert "2 of 3 machines fit, but their policy (START) refuses it" in refused.what
    assert not refused.stuck
    busy = describe((JOB,), analysis(1, 0, (0, "TARGET.Cpus >= RequestCpus")))
    assert "2 of 3 machines can run it, but none has enough free now" in busy.what
    assert "TARGET.Cpus >= RequestCpus (RequestCpus = 4)" in busy.detail


def test_requirements_that_are_met_apart_and_nowhere_together_are_listed() -> None:
    never = describe((JOB,), analysis(3, 0, (1, "TARGET.Cpus >= RequestCpus"), (2, "TARGET.HasFiles")))
    assert "no machine meets all its requirements, though each requirement is met somewhere" in never.what
    assert never.stuck
    assert never.detail.splitlines() == [
        "1 slot can meet: TARGET.Cpus >= RequestCpus (RequestCpus = 4)",
        "2 slots can meet: TARGET.HasFiles",
    ]


def test_held_jobs_are_released_where_they_are() -> None:
    here, there = (
        WorkerJob(JobId(17, proc, schedd), JobStatus.HELD, schedd=schedd)
        for proc, schedd in ((0, "a.test"), (1, "b.test"))
    )
    assert remedies.release([here]) == "`condor_release 17.0`"
    assert remedies.release([here, there]) == (
        "`condor_release -name a.test 17.0` and `condor_release -name b.test 17.1`"
    )
    with dask.config.set({"htcdaskgateway.condor.schedd": "a.test"}):
        assert remedies.release([here]) == "`condor_release -name a.test 17.0`"
