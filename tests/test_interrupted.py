"""An end of a cluster, or a beginning, whose caller is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from htcdaskgateway.client import carrying_on
from htcdaskgateway.client.carrying_on import all_or_nothing, carry_on, finish

DEADLINE = 10


@pytest.fixture(autouse=True)
def _others_ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(carrying_on, "UNFINISHED", {})
    yield
    assert not carrying_on.UNFINISHED


def run(what: Any) -> Any:
    return asyncio.run(asyncio.wait_for(what, DEADLINE))


class Ends:
    """Ends that go on until they are let go, and how many have begun."""

    def __init__(self) -> None:
        self.begun, self.done, self.go = 0, 0, asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        await self.go.wait()
        self.done += 1


async def interrupted(call: Any) -> None:
    """Begin a call, and take its caller away."""
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("first", "then", "ends"),
    [(True, None, 1), (True, True, 1), (False, True, 2)],
    ids=["says nothing", "says the same", "a shutdown after an end that leaves the jobs"],
)
def test_an_end_whose_caller_was_interrupted_goes_on_and_the_next_caller_waits_for_it(
    first: bool, then: bool | None, ends: int
) -> None:
    async def check() -> None:
        end = Ends()
        await interrupted(carry_on("c1", first, end))
        waiting = asyncio.ensure_future(carry_on("c1", then, end))
        await asyncio.sleep(0)
        assert end.begun == 1
        end.go.set()
        await waiting
        assert (end.begun, end.done) == (ends, ends)

    run(check())


def test_a_cluster_whose_caller_was_interrupted_twice_is_undone_once_it_is_made() -> None:
    async def check() -> None:
        made, may_undo, undone, undoing = asyncio.Event(), asyncio.Event(), [], set()

        async def make() -> str:
            await made.wait()
            return "c1"

        async def undo(name: str) -> None:
            await may_undo.wait()
            undone.append(name)

        call = asyncio.ensure_future(all_or_nothing(make(), undo, undoing))
        for _ in range(2):
            await asyncio.sleep(0)
            call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len(undoing) == 1
        made.set()
        may_undo.set()
        await asyncio.gather(*undoing)
        assert undone == ["c1"]
        assert not undoing

    run(check())


def test_a_program_that_ends_waits_for_clusters_and_says_which_did_not_end_as_they_should() -> None:
    closed: list[str] = []

    class Cluster:
        def __init__(self, name: str, asynchronous: bool = False) -> None:
            self.name, self.asynchronous = name, asynchronous

        def close(self) -> None:
            closed.append(self.name)
            if self.name == "c1":
                raise OSError("no network")

    ending: Any = (None, True)
    clusters = [Cluster("c1"), Cluster("c2", asynchronous=True), Cluster("c3")]
    carrying_on.UNFINISHED.update(dict.fromkeys(clusters, ending))
    with pytest.warns(UserWarning, match="c1 did not end as it should: no network"):
        finish()
    assert closed == ["c1", "c3"]
    carrying_on.UNFINISHED.clear()
