"""How often HTCondor is asked for what: counts, which do not depend on the clock as a benchmark does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import dask.config
import pytest
from support import wait_until

from htcdaskgateway import WorkerSpec
from htcdaskgateway.errors import CondorError, ConfigError
from htcdaskgateway.fleet import fleet, queue, reconcile
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
def test_the_first_scale_is_one_submit_and_asks_beside_it_who_answers(waiting, tool_calls, pool, n):
    waiting.fleet.condor.answering = ()
    waiting.scale(n)
    assert sorted(names(tool_calls)) == ["condor_q", "condor_submit"]
    assert "-totals" in tool_calls.calls_of("condor_q")[0]
    assert len(pool.jobs(waiting.name)) == n


def test_a_later_scale_is_one_query_and_one_submit(waiting, tool_calls, pool):
    waiting.scale(2)
    tool_calls.forget()
    waiting.scale(60)
    assert names(tool_calls) == ["condor_q", "condor_submit"]
    assert len(pool.jobs(waiting.name)) == 60


@pytest.fixture
def asked(waiting, monkeypatch):
    """What the cluster's client asks the scheduler."""
    link, found = waiting.fleet.scheduler, []
    ask = link._ask

    async def noted(what, *arguments):
        found.append(what)
        return await ask(what, *arguments)

    monkeypatch.setattr(link, "_ask", noted)
    return found


@pytest.mark.parametrize("before", [0, 2])
def test_a_scale_asks_the_scheduler_once_before_and_once_after_the_submit(waiting, asked, before):
    if before:
        waiting.scale(before)
        asked.clear()
    waiting.scale(before + 1)
    assert len(asked) == (2 if before else 3)  # once more beside the first submit


def test_a_submit_beside_another_clients_at_another_schedd_is_taken_back(waiting, pool, monkeypatch):
    link = waiting.fleet.scheduler

    async def another_was_quicker():
        await link.note(schedd="other@there")

    monkeypatch.setattr(waiting.fleet, "_name_schedd", another_was_quicker)
    here = waiting.fleet.condor
    with pytest.raises(CondorError, match="other@there"):
        waiting.scale(2)
    wait_until(lambda: not pool.jobs(waiting.name))
    # There is no such schedd to remove jobs from when the cluster ends.
    waiting.fleet.condor, waiting.fleet.schedd = here, here.answered
    waiting.fleet._keep_schedd()
    waiting.gateway.sync(waiting.fleet._go_there)
    waiting.gateway.sync(link.note, schedd=here.answered)


def test_who_scales_while_the_first_submits_waits_to_be_told_its_schedd(waiting, asked, tool_calls, monkeypatch):
    monkeypatch.setattr(queue, "_NAMING", 60.0)
    waiting.gateway.sync(waiting.fleet.scheduler.note, wanted=3)  # by another client
    with ThreadPoolExecutor() as threads:
        scaled = threads.submit(waiting.scale, 1)
        wait_until(lambda: len(asked) > 4)
        assert tool_calls.calls == []
        name = waiting.gateway.sync(waiting.fleet.condor.all_answering)[0]
        waiting.gateway.sync(waiting.fleet.scheduler.note, schedd=name)
        scaled.result(60)
    assert waiting.fleet.schedd == name


def test_who_has_failed_at_the_first_submit_does_not_wait_for_it(waiting, asked, pool, monkeypatch):
    monkeypatch.setattr(queue, "_NAMING", 3600.0)
    with monkeypatch.context() as context:
        context.setattr(waiting.fleet.staging, "check", Mock(side_effect=ConfigError("not now")))
        with pytest.raises(ConfigError, match="not now"):
            waiting.scale(2)
    waiting.scale(2)
    assert len(pool.jobs(waiting.name)) == 2


@pytest.mark.parametrize("how", ["its caller gives up", "condor_q hangs"])
def test_where_jobs_of_a_first_submit_are_is_noted_with_the_next_look(waiting, tool_calls, monkeypatch, how):
    fleet, sync = waiting.fleet, waiting.gateway.sync
    submit = fleet.condor.submit
    monkeypatch.setattr(fleet.condor, "submit", lambda *args, **given: submit(*args, **{**given, "timeout": 60.0}))
    tool_calls.script("condor_q", "exec sleep 100")

    async def scale():
        scaling = asyncio.ensure_future(fleet.scale(2))
        while fleet._submitting is None:
            await asyncio.sleep(0)
        if how == "its caller gives up":
            scaling.cancel()
        await asyncio.wait([scaling, fleet._submitting])

    with monkeypatch.context() as context:
        context.setattr(fleet.condor, "timeout", 2.0)
        sync(scale)
    tool_calls.restore("condor_q")
    assert len(waiting.jobs()) == 2
    sync(fleet.condor.all_answering)
    assert sync(fleet.scheduler.noted, "schedd") == fleet.condor.answered == staging.noted_schedd(waiting.name)


def test_a_first_scale_to_none_removes_what_a_person_has_submitted(waiting, pool):
    pool.run("condor_submit", "worker.sub", "-queue", 2, cwd=waiting.fleet.staging.directory)
    waiting.scale(0)
    wait_until(lambda: not pool.jobs(waiting.name))


def test_after_a_scale_to_none_nobody_waits_to_be_told_a_schedd(stage, new_cluster, gateway, pool, monkeypatch):
    monkeypatch.setattr(queue, "_NAMING", 3600.0)
    cluster = new_cluster(requirements="false")
    cluster.scale(0)
    with gateway.connect(cluster.name) as other:
        other.scale(1)
    assert len(pool.jobs(cluster.name)) == 1


def test_who_connects_where_each_cluster_chooses_its_schedd_can_be_the_first(stage, new_cluster, gateway, pool):
    cluster = new_cluster(requirements="false")
    chosen = {"htcdaskgateway.condor.schedd-constraint": "true"}
    with dask.config.set(chosen), gateway.connect(cluster.name) as other:
        other.scale(2)
    assert len(pool.jobs(cluster.name)) == 2


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


@pytest.mark.long
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
