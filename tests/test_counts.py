"""How often HTCondor is asked for what: counts, which do not depend on the clock as a benchmark does."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import dask.config
import pytest
from support import wait_until

from htcdaskgateway import WorkerSpec
from htcdaskgateway.fleet import fleet, reconcile
from htcdaskgateway.worker import staging


@pytest.fixture
def waiting(tool_calls, stage, new_cluster, monkeypatch):
    """A cluster whose jobs wait for ever; nothing counts them again meanwhile."""
    monkeypatch.setattr(reconcile, "_FIRST_PAUSE", 3600.0)
    cluster = new_cluster(requirements="false")
    assert tool_calls.calls == []  # making a cluster asks HTCondor nothing
    return cluster


def names(tools):
    return [name for name, *_ in tools.calls]


def test_import_calls_no_tool(fake_tools):
    subprocess.run([sys.executable, "-c", "import htcdaskgateway"], check=True, timeout=60)
    assert fake_tools.calls == []


@pytest.mark.parametrize("n", [1, 150])
def test_the_first_scale_is_one_count_and_one_submit(waiting, tool_calls, pool, n):
    waiting.scale(n)
    assert names(tool_calls) == ["condor_q", "condor_submit"]
    assert "-totals" in tool_calls.calls_of("condor_q")[0]
    assert len(pool.jobs(waiting.name)) == n


def test_a_later_scale_is_one_query_and_one_submit(waiting, tool_calls, pool):
    waiting.scale(2)
    tool_calls.forget()
    waiting.scale(60)
    assert names(tool_calls) == ["condor_q", "condor_submit"]
    assert len(pool.jobs(waiting.name)) == 60


@pytest.mark.parametrize("before", [0, 2])
def test_a_scale_asks_the_scheduler_once_before_and_once_after_the_submit(waiting, monkeypatch, before):
    if before:
        waiting.scale(before)
    link, asked = waiting.fleet.scheduler, []
    ask = link._ask

    async def counted(what, *arguments):
        asked.append(what)
        return await ask(what, *arguments)

    monkeypatch.setattr(link, "_ask", counted)
    waiting.scale(before + 1)
    assert len(asked) == 2


def test_the_first_to_note_its_schedd_is_the_one_that_all_go_to(waiting):
    link, sync = waiting.fleet.scheduler, waiting.gateway.sync
    assert sync(link.note, "one@here").schedd == "one@here"
    # In the same moment another client at another access point had counted no job either.
    assert sync(link.note, "other@there", wanted=3).schedd == "one@here"
    assert sync(link.noted, "wanted") == 3
    sync(link.note, schedd="")  # there is no such schedd to remove jobs from


def test_scale_to_what_is_there_is_one_query(waiting, tool_calls):
    waiting.scale(2)
    tool_calls.forget()
    waiting.scale(2)
    assert names(tool_calls) == ["condor_q"]


def test_the_first_scale_of_the_maker_counts_what_another_client_has_submitted(new_cluster, gateway, pool):
    cluster = new_cluster(requirements="false")
    with gateway.connect(cluster.name) as other:
        other.scale(3)
    cluster.scale(3)
    assert len(pool.jobs(cluster.name)) == 3


def test_what_old_clusters_left_is_one_question_to_htcondor(tool_calls, gateway, new_cluster, stage):
    nowhere = WorkerSpec.from_keywords(requirements="HasNoSuchThing")
    for number in range(40):
        old = staging.Staging(f"old-{number}", nowhere)
        old.write(f"{gateway.proxy_address}/{old.cluster}", "CERTIFICATE", "KEY")
    new_cluster()
    assert names(tool_calls) == ["condor_q"]
    assert not list(stage.glob("old-*/credentials"))


@pytest.mark.parametrize("left", [0, 3])
def test_scaling_down_jobs_that_wait_is_one_query_and_one_remove(waiting, tool_calls, pool, left):
    waiting.scale(40)
    tool_calls.forget()
    waiting.scale(left)
    assert names(tool_calls) == ["condor_q", "condor_rm"]
    wait_until(lambda: len(pool.jobs(waiting.name)) == left)


def test_everyone_who_looks_at_once_shares_one_query(waiting, tool_calls):
    waiting.scale(2)
    tool_calls.forget()

    async def look():
        return await asyncio.gather(*(waiting.fleet.look() for _ in range(50)))

    looks = waiting.gateway.sync(look)
    assert names(tool_calls) == ["condor_q"]
    assert all(jobs is looks[0] for jobs in looks)


def test_who_looks_again_before_the_interval_is_over_asks_nothing(waiting, tool_calls, monkeypatch):
    waiting.scale(2)
    monkeypatch.setattr(fleet.config, "seconds", lambda key: 3600.0)  # the poll interval
    waiting.jobs()
    tool_calls.forget()
    for _ in range(2):
        waiting.gateway.sync(waiting.fleet.look)
        repr(waiting)
    assert tool_calls.calls == []


def test_repr_shows_what_was_last_seen_and_asks_nothing(waiting, tool_calls):
    waiting.scale(2)
    with dask.config.set({"htcdaskgateway.condor.poll-interval": "1ms"}):
        waiting.jobs()
        tool_calls.forget()
        assert "jobs: 0 running, 2 idle, 0 held" in repr(waiting)
    assert tool_calls.calls == []


def test_connecting_asks_nothing_and_looking_then_is_one_query(waiting, tool_calls, gateway):
    waiting.scale(2)
    tool_calls.forget()
    with gateway.connect(waiting.name) as second:
        assert tool_calls.calls == []
        assert len(second.jobs()) == 2
        assert names(tool_calls) == ["condor_q"]


def test_shutdown_is_one_remove(waiting, tool_calls, pool):
    waiting.scale(40)
    tool_calls.forget()
    waiting.shutdown()
    assert names(tool_calls) == ["condor_rm"]
    wait_until(lambda: not pool.jobs(waiting.name))


def test_a_query_names_the_cluster_and_the_attributes_it_wants(waiting, tool_calls):
    waiting.jobs()
    (arguments,) = tool_calls.calls_of("condor_q")[:1]
    assert any(waiting.name in argument for argument in arguments)
    assert "-attributes" in arguments
