"""The end of a cluster, whoever brings it about: dask's client, the program, another process, the gateway."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import dask.config
import pytest
from dask_gateway import Gateway
from dask_gateway.auth import BasicAuth
from distributed import Client
from support import first_is_quick, wait_until

from htcdaskgateway import HTCGateway, HTCGatewayCluster
from htcdaskgateway.errors import ClusterEndedError
from htcdaskgateway.scheduler.link import CLOSING
from htcdaskgateway.worker import staging

pytestmark = pytest.mark.core

NOWHERE = "HasNoSuchThing"


def gone(gateway, pool, name):
    """Wait until nothing is left of a cluster but its output."""
    wait_until(lambda: not pool.jobs(name), what=lambda: f"no job is left: {pool.statuses(name)}")
    wait_until(
        lambda: name not in {report.name for report in gateway.list_clusters()}, what="the scheduler has ended"
    )
    assert not (staging.staging_root() / name / "credentials").exists()
    return True


# dask's client


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.long
def test_shutdown_of_the_client_shuts_the_cluster_down(new_cluster, gateway, pool, connected):
    cluster = new_cluster(requirements=NOWHERE)
    cluster.scale(1)
    shut = gateway.connect(cluster.name) if connected else cluster
    client = Client(shut) if connected else shut.get_client()
    ending = threading.Thread(target=client.shutdown, daemon=True)
    ending.start()
    ending.join(60)
    assert not ending.is_alive()
    assert (client.status, shut.status) == ("closed", "closed")
    shut.close()  # is nothing any more
    assert gone(gateway, pool, cluster.name)


@pytest.mark.long
def test_shutdown_of_an_asynchronous_client_shuts_the_cluster_down_and_its_close_does_not(system, gateway, pool):
    async def body() -> str:
        async with system.gateway(asynchronous=True) as asynchronous:
            cluster = await asynchronous.new_cluster(shutdown_on_close=False, requirements=NOWHERE)
            await cluster.scale(1)
            other = await asynchronous.connect(cluster.name)
            client = await Client(other, asynchronous=True)
            await asyncio.gather(client.close(), other.close())
            assert cluster.name in {report.name for report in await asynchronous.list_clusters()}
            other = await asynchronous.connect(cluster.name)
            client = await Client(other, asynchronous=True)
            await asyncio.wait_for(client.shutdown(), 60)
            await cluster.close()
            return str(cluster.name)

    assert gone(gateway, pool, asyncio.run(body()))


# The program

AT_EXIT = """
import atexit, sys, threading
import dask.config
from htcdaskgateway import HTCGateway

def no_thread():
    # As Python 3.12.1 has it; there asyncio needs one for each process where the kernel has no pidfd.
    def start(*_, **__):
        raise RuntimeError("can't create new thread at interpreter shutdown")
    threading._start_new_thread = threading._start_joinable_thread = start

address = dask.config.get("gateway.address").replace("127.0.0.1", "localhost")
proxy = f"gateway://localhost:{dask.config.get('gateway.proxy-address')}"
cluster = HTCGateway(address, proxy_address=proxy).new_cluster(requirements="HasNoSuchThing")
cluster.scale(1)
# As after a time in which the server has closed the connection: a new one has to look the name up.
cluster.gateway.sync(cluster.gateway._session.close)
cluster.gateway._session = None
print(cluster.name, flush=True)
"""
ENDINGS = {
    "by itself": ("", 0),
    "by sys.exit": ("sys.exit(3)", 3),
    "by an exception": ("raise LookupError('on purpose')", 1),
    "while it adapts": ("cluster.adapt(minimum=1, maximum=2, interval='50ms')", 0),
    "with a client": ("client = cluster.get_client()", 0),
    "where no thread starts any more": ("atexit.register(no_thread)", 0),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.long
def test_a_program_that_ends_takes_its_cluster_with_it_where_the_gateway_has_a_host_name(gateway, pool, ending):
    last, code = ENDINGS[ending]
    done = subprocess.run(
        [sys.executable, "-c", f"{AT_EXIT}{last}\n"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert gone(gateway, pool, done.stdout.strip())
    if "no thread" not in ending:  # asyncio itself, which ends its loop with one, complains there
        said = done.stderr.replace("LookupError: on purpose", "")
        assert "Exception ignored" not in said
        assert "Error" not in said


AFTER_A_TIME = "threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGINT)).start()"
SHUTDOWN = f"""
import os, signal, sys, threading
from htcdaskgateway import HTCGateway

cluster = HTCGateway().new_cluster()
cluster.scale(2)
cluster.wait_for_workers(2)
print(cluster.name, flush=True)
{AFTER_A_TIME}
cluster.shutdown()
signal.pause()
"""
NEW_CLUSTER = f"""
import os, signal, sys, threading
from htcdaskgateway import HTCGateway
import htcdaskgateway.condor.templating, jinja2  # Python drops a Ctrl-C that meets the end of an import's lock

gateway = HTCGateway()
gateway.list_clusters()
{AFTER_A_TIME}
gateway.new_cluster()
signal.pause()
"""


def interrupted(program, after):
    """Return what a program has printed that a Ctrl-C met so many seconds after its last step began."""
    done = subprocess.run(
        [sys.executable, "-c", program, str(after)], capture_output=True, text=True, timeout=150, check=False
    )
    assert "KeyboardInterrupt" in done.stderr, done.stderr
    assert "did not end" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("after", first_is_quick([0.03, 0.1]))
def test_an_interrupted_shutdown_leaves_no_job_scheduler_or_key(gateway, pool, after):
    assert gone(gateway, pool, interrupted(SHUTDOWN, after))


@pytest.mark.long
def test_a_shutdown_that_is_interrupted_while_jobs_are_removed_is_carried_on(gateway, pool, tool_calls, tmp_path):
    whom = tmp_path / "whom"
    once = f'test -e "{whom}" && kill -INT "$(cat "{whom}")" && rm "{whom}" && sleep 1'
    tool_calls.script("condor_rm", f'{once}; exec "{pool.bin / "condor_rm"}" "$@"')
    name = interrupted(SHUTDOWN.replace(AFTER_A_TIME, f"print(os.getpid(), file=open({str(whom)!r}, 'w'))"), 0)
    assert gone(gateway, pool, name)
    assert not whom.exists()


@pytest.mark.parametrize("after", first_is_quick([0.1, 0.0, 0.05, 0.06, 0.5]))
def test_an_interrupted_new_cluster_leaves_no_scheduler(gateway, after):
    before = {report.name for report in gateway.list_clusters()}
    interrupted(NEW_CLUSTER, after)
    new = {report.name for report in gateway.list_clusters()} - before
    assert not new


def test_a_cluster_whose_shutdown_was_interrupted_can_be_shut_down_again(new_cluster, gateway, pool):
    cluster = new_cluster(requirements=NOWHERE)
    cluster.scale(1)

    def shutdown():
        threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGINT)).start()
        cluster.shutdown()
        signal.pause()

    with pytest.raises(KeyboardInterrupt):
        shutdown()
    cluster.shutdown()
    assert not pool.jobs(cluster.name)
    assert gone(gateway, pool, cluster.name)


def test_shutdown_of_the_client_shuts_down_a_cluster_of_a_subclass_with_a_close_of_its_own(
    system, gateway, pool, monkeypatch
):
    class Site(HTCGatewayCluster):
        def close(self, *args, **kwargs):
            return super().close(*args, **kwargs)

    monkeypatch.setattr(HTCGateway, "cluster_cls", Site)
    cluster = gateway.new_cluster(shutdown_on_close=False, requirements=NOWHERE)
    cluster.scale(1)
    cluster.get_client().shutdown()
    assert gone(gateway, pool, cluster.name)


# A submit that is under way


@pytest.fixture
def slow_submit(tool_calls, pool, tmp_path):
    """Let a submit take three seconds before it reaches the schedd."""
    tool_calls.script(
        "condor_submit", f'touch "{tmp_path}/began"; sleep 3; exec "{pool.bin / "condor_submit"}" "$@"'
    )
    return lambda: wait_until((tmp_path / "began").exists, what="the submit is under way")


def in_thread(call):
    caught = []

    def run():
        try:
            call()
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, caught


def no_job_comes(pool, name, seconds=5.0):
    deadline = time.monotonic() + seconds
    wait_until(lambda: not pool.jobs(name), what=lambda: f"no job is left: {pool.statuses(name)}")
    while time.monotonic() < deadline:
        assert not pool.jobs(name)
        time.sleep(0.2)


@pytest.mark.parametrize("adapting", [False, True])
@pytest.mark.long
def test_shutdown_waits_for_the_submit_that_is_under_way(slow_submit, new_cluster, pool, adapting):
    cluster = new_cluster(requirements=NOWHERE)
    if adapting:
        cluster.adapt(minimum=2, maximum=2, interval="50ms")
        slow_submit()
        cluster.shutdown()
    else:
        thread, caught = in_thread(lambda: cluster.scale(2))
        slow_submit()
        cluster.shutdown()
        thread.join(60)
        assert [type(error) for error in caught] == [ClusterEndedError]
    no_job_comes(pool, cluster.name)


@pytest.mark.long
def test_shutdown_does_not_wait_until_a_spooled_submit_has_sent_everything(tool_calls, new_cluster, pool, tmp_path):
    cluster = new_cluster(requirements=NOWHERE, spool=True)
    stage = cluster.fleet.staging
    text = stage.description.read_text().replace("transfer_input_files = ", "transfer_input_files = endless, ")
    stage.description.write_text(text)
    with (stage.directory / "endless").open("wb") as file:
        file.truncate(2**36)
    thread, caught = in_thread(lambda: cluster.scale(1))
    wait_until(lambda: pool.jobs(cluster.name), what="the job is in the queue")
    cluster.shutdown()
    thread.join(30)
    assert [type(error) for error in caught] == [ClusterEndedError]
    no_job_comes(pool, cluster.name)


@pytest.mark.parametrize("adapting", [False, True])
@pytest.mark.long
def test_stop_catches_the_submit_that_another_client_has_under_way(
    slow_submit, new_cluster, gateway, pool, adapting
):
    cluster = new_cluster(requirements=NOWHERE)
    with HTCGateway() as other:
        second = other.connect(cluster.name)
        if adapting:
            adaptive = second.adapt(minimum=2, maximum=2, interval="50ms")
            slow_submit()
            gateway.stop_cluster(cluster.name)
            wait_until(lambda: adaptive.state == "stopped", what="it adapts no more")
        else:
            thread, caught = in_thread(lambda: second.scale(2))
            slow_submit()
            gateway.stop_cluster(cluster.name)
            thread.join(60)
            assert [type(error) for error in caught] == [ClusterEndedError]
        no_job_comes(pool, cluster.name)


@pytest.mark.long
def test_a_submit_that_its_caller_has_given_up_is_counted_by_the_next(slow_submit, new_cluster, pool):
    cluster = new_cluster(requirements=NOWHERE)

    async def give_up():
        scaling = asyncio.ensure_future(cluster._scale(2))
        await asyncio.to_thread(slow_submit)
        scaling.cancel()
        await asyncio.wait([scaling])
        assert scaling.cancelled()

    cluster.gateway.sync(give_up)
    cluster.scale(2)
    assert len(pool.jobs(cluster.name)) == 2


def test_a_shutdown_that_has_failed_does_not_close_the_cluster_for_ever(new_cluster, pool):
    cluster = new_cluster(requirements=NOWHERE)
    note = cluster.fleet.scheduler.note
    cluster.gateway.sync(note, **{CLOSING: time.time() - 10})
    with pytest.raises(ClusterEndedError, match="being shut down"):
        cluster.scale(1)
    assert not pool.jobs(cluster.name)
    cluster.gateway.sync(note, **{CLOSING: time.time() - 3600})
    cluster.scale(1)
    assert len(pool.jobs(cluster.name)) == 1


# The gateway


@pytest.mark.filterwarnings("ignore:.*closing")
@pytest.mark.long
def test_a_cluster_that_the_gateway_has_stopped_is_told_at_once(system, new_cluster, caplog):
    cluster = new_cluster(requirements=NOWHERE)
    adaptive = cluster.adapt(minimum=0, maximum=1, interval="100ms")
    with Gateway(system.address, auth=BasicAuth(password=system.password)) as stock:
        stock.stop_cluster(cluster.name)
        wait_until(lambda: not stock.list_clusters(), what="the scheduler has ended")
    wait_until(lambda: adaptive.state == "stopped", what="it adapts no more")
    for call in (lambda: cluster.scale(1), cluster.check_versions, lambda: cluster.wait_for_workers(1)):
        began = time.monotonic()
        with pytest.raises(ClusterEndedError, match=f"{cluster.name} has ended: the gateway has stopped it.*idle"):
            call()
        assert time.monotonic() - began < 10
    cluster.shutdown()  # is no error
    # asyncio's are of what another test has left, which is collected now.
    told = [record for record in caplog.records if record.levelno >= logging.ERROR and record.name != "asyncio"]
    assert not told


@pytest.mark.parametrize("still_there", [True, False])
def test_what_the_gateway_says_of_a_cluster_that_does_not_answer(gateway, new_cluster, still_there):
    cluster = new_cluster()
    name = cluster.name if still_there else "never-heard-of"
    said = gateway.sync(gateway._ending, name)
    assert said is None if still_there else "does not know it" in said
    with dask.config.set({"gateway.address": "http://127.0.0.1:1"}), HTCGateway() as nobody:
        assert nobody.sync(nobody._ending, name) is None
