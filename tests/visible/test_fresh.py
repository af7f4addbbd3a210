"""What a person asks for is from now, and its parts agree."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import dask
import pytest
from dask_gateway.client import GatewayWarning
from support import PATIENCE, Pool, Tools

from htcdaskgateway.fleet import waiting

NOWHERE = 'Machine == "nowhere"'


@pytest.fixture(autouse=True)
def _a_look_is_shared_for_long() -> Iterator[None]:
    with dask.config.set({"htcdaskgateway.condor.poll-interval": "10m"}):
        yield


def seen(cluster: Any) -> str:
    """Return the counts of the look that all share."""
    return str(cluster.gateway.sync(cluster.fleet.look).summary())


@pytest.mark.long
def test_after_wait_for_workers_all_counts_agree(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    @contextlib.contextmanager
    def progress(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
        yield lambda done, note: lines.append(f"{title} {done}/{total} {note}")

    monkeypatch.setattr(waiting, "progress", progress)
    cluster.scale(2)
    cluster.wait_for_workers(2, timeout=PATIENCE)
    assert lines[-1] == "workers joined 2/2 jobs: 2 running, 0 idle, 0 held"
    assert cluster.jobs().summary() == "2 running, 0 idle, 0 held"
    assert str(cluster.explain()) == "All is well: all 2 jobs run and their workers have joined."
    assert set(cluster.logs()) == {job.worker_name for job in cluster.jobs()}


def test_what_is_asked_for_is_not_told_from_a_look_of_before(cluster: Any) -> None:
    cluster.scale(1)
    cluster.gateway.sync(cluster.fleet.look)
    cluster.get_client().wait_for_workers(1, timeout=PATIENCE)  # dask's own, which does not look at the queue
    assert cluster.jobs().summary() == "1 running, 0 idle, 0 held"


@pytest.mark.long
def test_explain_and_logs_know_of_a_worker_that_has_just_joined(cluster: Any) -> None:
    cluster.scale(1)
    cluster.gateway.sync(cluster.fleet.look)
    cluster.get_client().wait_for_workers(1, timeout=PATIENCE)
    assert str(cluster.explain()) == "All is well: the job runs and its worker has joined."
    cluster.scale(1)
    assert len(cluster.logs()) == 1


def test_logs_without_an_entry_say_why(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(requirements=NOWHERE)
    assert "there are no worker jobs" in str(cluster.logs())
    cluster.scale(1)
    (job,) = cluster.jobs()
    assert "0 running, 1 idle, 0 held" in str(cluster.logs())
    assert "explain()" in cluster.logs()._repr_html_()
    assert f"by {job.id}." in str(cluster.logs(str(job.id)))


def test_a_look_that_was_under_way_is_not_taken_for_an_answer_of_now(
    tool_calls: Tools, cluster: Any, pool: Pool
) -> None:
    """A slow schedd answers what was asked before the change; who asks afterwards asks again."""
    cluster.scale(1)
    cluster.wait_for_workers(1, timeout=PATIENCE)
    cluster.gateway.sync(cluster.fleet.settled)  # else the count after a submit may be who asks here
    done, answer = tool_calls.directory / "held", tool_calls.directory / "answer"
    tool_calls.script(
        "condor_q",
        f'[ -e {done} ] && exec {pool.bin}/condor_q "$@"\n'
        f'{pool.bin}/condor_q "$@" >{answer}; while [ ! -e {done} ]; do sleep 0.1; done; cat {answer}',
    )

    async def both() -> tuple[Any, Any]:
        before = asyncio.ensure_future(cluster.fleet.look(max_age=0))
        while (
            not (tool_calls.directory / "answer").exists() or not (tool_calls.directory / "answer").stat().st_size
        ):
            await asyncio.sleep(0.05)
        await asyncio.to_thread(pool.run, "condor_hold", "-constraint", cluster.fleet.constraint)
        after = [asyncio.ensure_future(cluster.fleet.look(max_age=0)) for _ in range(5)]
        await asyncio.sleep(0.1)
        done.touch()
        return await before, await asyncio.gather(*after)

    with pytest.warns(GatewayWarning, match="HTCondor holds"):
        before, after = cluster.gateway.sync(both)
    assert before.summary() == "1 running, 0 idle, 0 held"
    assert {jobs.summary() for jobs in after} == {"0 running, 0 idle, 1 held"}
