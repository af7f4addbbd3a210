"""How a worker ends, and what becomes of its job: retired, restarted, shut down, lost, failed, evicted."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import pytest
from dask_gateway import Gateway
from support import PATIENCE, reconnected, wait_until
from trouble import end_a_worker

from htcdaskgateway import JobStatus
from htcdaskgateway.condor.jobs import JobId
from htcdaskgateway.worker import staging

REMOVED, COMPLETED = 3, 4


@pytest.fixture
def one(cluster):
    """A cluster of one worker, and a client of it."""
    cluster.scale(1)
    with cluster.get_client() as client:
        client.wait_for_workers(1, timeout=60)
        yield cluster, client


def names(client):
    return sorted(client.run_on_scheduler(lambda dask_scheduler: [w.name for w in dask_scheduler.workers.values()]))


def history(pool, cluster):
    """Wait for the one job to have left the queue and return its last ad."""
    wait_until(lambda: not pool.jobs(cluster.name), what="the job leaves the queue")
    (ad,) = wait_until(lambda: pool.history(cluster.name), what="the job is in the history")
    return ad


def output(cluster, kind="*"):
    logs = staging.staging_root() / cluster.name / "logs"
    return [path.read_text() for path in sorted(logs.glob(f"worker-*.{kind}"))]


def starts(text):
    """Return the names of the workers that one start of a job has had."""
    return re.findall(r"(\S+) starts on ", text)


@pytest.mark.core
@pytest.mark.long
def test_a_retired_worker_leaves_with_0(one, pool):
    cluster, client = one
    client.retire_workers([next(iter(client.nthreads()))])
    ad = history(pool, cluster)
    assert (ad["JobStatus"], ad["ExitCode"], ad["NumJobCompletions"]) == (COMPLETED, 0, 1)


@pytest.mark.core
@pytest.mark.long
def test_restarted_workers_come_back_in_the_same_number(cluster, pool):
    cluster.scale(2)
    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=60)
        before, jobs = names(client), cluster.jobs()
        client.restart(timeout=90)
        wait_until(lambda: len(set(names(client)) - set(before)) == 2, what=lambda: (before, names(client)))
        after = names(client)
        assert not set(before) & set(after)  # a name is unique for each start
        assert {JobId.of_worker(name) for name in after} == {job.id for job in jobs}  # and leads back to its job
        assert [ad["NumShadowStarts"] for ad in pool.jobs(cluster.name)] == [1, 1]  # in the same slots
        assert client.submit(sum, [1, 2]).result(60) == 3
        assert cluster.scale(2) is None
        assert len(pool.jobs(cluster.name)) == 2


@pytest.mark.core
@pytest.mark.long
def test_when_the_server_stops_the_cluster_its_workers_leave_with_0(one, pool, system):
    """A stock client that knows nothing of HTCondor has asked for it."""
    cluster, _ = one
    with Gateway(system.address, proxy_address=system.proxy_address) as stock:
        stock.stop_cluster(cluster.name)
    ad = history(pool, cluster)
    assert (ad["JobStatus"], ad["ExitCode"]) == (COMPLETED, 0)


@pytest.mark.core
def test_shutting_down_removes_the_jobs(one, pool):
    cluster, _ = one
    cluster.shutdown()
    assert history(pool, cluster)["JobStatus"] == REMOVED


@pytest.mark.long
def test_a_worker_that_has_lost_its_scheduler_comes_back_and_leaves_if_there_is_none(new_cluster, pool):
    cluster = new_cluster(death_timeout="4s")
    cluster.scale(1)
    with cluster.get_client() as client:
        client.wait_for_workers(1, timeout=60)
        scheduler = client.run_on_scheduler(os.getpid)
        os.kill(scheduler, signal.SIGKILL)
        ad = history(pool, cluster)
    assert (ad["JobStatus"], ad["ExitCode"], ad["NumShadowStarts"]) == (COMPLETED, 0, 1)
    (text,) = output(cluster, "out")
    assert len(starts(text)) == 2  # cut off it was started again, and then gave up


@pytest.mark.long
def test_a_worker_that_has_lost_its_connection_comes_back(one, pool, system):
    cluster, client = one
    (before,) = names(client)
    system.server.stop_proxy()
    wait_until(lambda: len(starts(str(cluster.logs()))) == 2, what="it starts again")
    system.server.start_proxy()
    with cluster.get_client(set_as_default=False) as again:
        (after,) = wait_until(lambda: names(again), what="the worker is back")
        assert after != before
        assert JobId.of_worker(after) == JobId.of_worker(before)
    reconnected(client)


@pytest.mark.filterwarnings("ignore:HTCondor holds worker jobs")
@pytest.mark.parametrize(
    ("end", "told", "subcode"),
    [("exit 3", "the last time with exit code 3", 3), ("kill -9 $$", "the last time with signal 9", 128)],
)
@pytest.mark.long
def test_a_worker_that_fails_three_times_is_held_with_the_reason(new_cluster, pool, end, told, subcode):
    cluster = new_cluster(job_script_prologue=['echo "before the end"', end])
    cluster.scale(1)
    (ad,) = wait_until(
        lambda: [ad for ad in pool.jobs(cluster.name) if ad["JobStatus"] == JobStatus.HELD],
        120,
        lambda: [(ad["JobStatus"], ad["NumJobCompletions"]) for ad in pool.jobs(cluster.name)],
    )
    assert (ad["NumJobCompletions"], ad["NumShadowStarts"]) == (3, 3)
    assert f"the Dask worker failed 3 times, {told}" in ad["HoldReason"]
    assert (ad["HoldReasonCode"], ad["HoldReasonSubCode"]) == (3, subcode)
    # Each start has written into a file of its own.
    logs = staging.staging_root() / cluster.name / "logs"
    assert len(list(logs.glob("worker-*.out"))) == 3
    assert all("before the end" in path.read_text() for path in logs.glob("worker-*.out"))
    (job,) = wait_until(lambda: [job for job in cluster.jobs() if job.hold_reason], what="the client sees it")
    assert told in job.hold_reason


def test_a_worker_that_dies_comes_back(one, pool, tmp_path):
    cluster, client = one
    before = names(client)
    end_a_worker(client, tmp_path / "ended")
    assert names(client) != before
    (ad,) = pool.jobs(cluster.name)
    assert (ad["NumJobCompletions"], ad["NumShadowStarts"]) == (1, 2)


@pytest.mark.core
@pytest.mark.long
def test_an_evicted_worker_hands_its_results_over_first(cluster, pool, tmp_path):
    cluster.scale(2)
    marks = tmp_path / "runs"

    def run(n, marks=str(marks)):
        with open(marks, "a") as file:
            file.write(f"{n}\n")
        return n * 10

    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=60)
        goes, stays = client.run(lambda dask_worker: dask_worker.name).items()
        held = []
        for n in range(5):  # one after another, so that none is stolen by the other worker
            held.append(client.submit(run, n, workers=[goes[0]], allow_other_workers=True))
            held[-1].result()
        assert all(client.who_has(future)[future.key] == (goes[0],) for future in held)
        pool.run("condor_vacate_job", JobId.of_worker(goes[1]))
        wait_until(lambda: goes[1] not in names(client), what="the evicted worker has gone")
        assert client.gather(held) == [0, 10, 20, 30, 40]
        assert sorted(Path(marks).read_text().split()) == ["0", "1", "2", "3", "4"]  # each ran once
        # HTCondor finds it another place.
        wait_until(lambda: len(names(client)) == 2, what="a worker is back in its place")
        (back,) = set(names(client)) - {stays[1]}
        assert JobId.of_worker(back) == JobId.of_worker(goes[1])
        assert back != goes[1]


@pytest.mark.long
def test_a_worker_that_closes_stays_so_when_a_retirement_is_called_off_late(one, tmp_path):
    _, client = one
    seen = str(tmp_path / "status")

    async def close(dask_worker):
        async def ends():
            closing = asyncio.ensure_future(dask_worker.close(reason="sigterm", executor_wait=False))
            while dask_worker.status.name != "closing":
                await asyncio.sleep(0)
            dask_worker.stream_handlers["worker-status-change"](status="running", stimulus_id="called off")
            Path(seen).write_text(dask_worker.status.name)
            await closing

        dask_worker.loop.asyncio_loop.create_task(ends())

    client.run(close, wait=False)
    found = wait_until(lambda: Path(seen).exists() and Path(seen).read_text(), what="the worker closes")
    assert found == "closing"


def test_a_retired_worker_that_hears_first_that_nobody_knows_it_leaves_all_the_same(one, pool):
    """The answer to a heartbeat may overtake what the scheduler has sent before; it was started again then."""
    cluster, client = one

    async def retired(dask_worker):
        async def ends():
            unknown = asyncio.ensure_future(dask_worker.close(reason="worker-heartbeat-missing"))
            await asyncio.sleep(0)
            dask_worker.stream_handlers["worker-status-change"](status="closing_gracefully", stimulus_id="retired")
            await dask_worker.stream_handlers["close"](reason="scheduler-remove-worker")
            await unknown

        dask_worker.loop.asyncio_loop.create_task(ends())

    client.run(retired, wait=False)
    ad = history(pool, cluster)
    assert (ad["JobStatus"], ad["ExitCode"], ad["NumShadowStarts"]) == (COMPLETED, 0, 1)
    assert len(starts("".join(output(cluster, "out")))) == 1


TOLD_WHILE_JOINING = """
import asyncio, os, signal
from pathlib import Path

marks = Path({marks!r})


def dask_setup(worker):
    try:
        (marks / "told").touch(exist_ok=False)
    except FileExistsError:  # the second start
        return
    os.kill(os.getpid(), signal.SIGTERM)


async def dask_teardown(worker):
    for _ in range(100):  # a slow end: time enough for the scheduler's answer
        if worker.status.name == "running":
            (marks / "joined").touch()
            return
        await asyncio.sleep(0.05)
"""


@pytest.mark.long
def test_a_worker_told_to_leave_while_it_joins_does_not_join(new_cluster, tmp_path):
    preload = tmp_path / "told_while_joining.py"
    preload.write_text(TOLD_WHILE_JOINING.format(marks=str(tmp_path)))
    cluster = new_cluster(worker_extra_args=["--preload", str(preload)])
    cluster.scale(1)
    with cluster.get_client() as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        assert not (tmp_path / "joined").exists()
        assert client.submit(sum, [1, 2]).result(60) == 3
        wait_until(lambda: starts(str(cluster.logs()))[1:] == names(client), what="the second start has joined")


@pytest.mark.long
def test_the_last_three_starts_keep_their_output(one, pool, tmp_path):
    cluster, client = one
    seen = names(client)
    for start in range(3):
        if start < 2:
            end_a_worker(client, tmp_path / f"ended {start}")
        else:  # a third failure would hold the job; what is evicted brings no output
            pool.run("condor_vacate_job", JobId.of_worker(seen[-1]))
        (name,) = wait_until(lambda: set(names(client)) - set(seen), what="the worker is back")
        seen.append(name)
    client.retire_workers(list(client.nthreads()))
    wait_until(lambda: not pool.jobs(cluster.name), what="the job leaves the queue")
    text = "".join(output(cluster))
    assert [f"{name} starts on" in text for name in seen] == [False, True, False, True]


@pytest.mark.long
def test_jobs_that_nobody_waits_for_leave_the_queue(new_cluster, pool):
    """The bound of those that cannot notice that their cluster is gone."""
    cluster = new_cluster(requirements="HasNoSuchThing", max_idle_time="15s", max_held_time="15s")
    cluster.scale(2)
    pool.run("condor_hold", pool.jobs(cluster.name)[0]["ClusterId"])
    pool.run("condor_release", f"{pool.jobs(cluster.name)[0]['ClusterId']}.0")
    wait_until(lambda: not pool.jobs(cluster.name), what="both are gone")


@pytest.mark.long
def test_a_worker_stays_behind_a_stock_server(one):
    """Its service in the scheduler retires, seconds after they join, workers that it has not asked for."""
    _, client = one
    (name,) = names(client)
    began = time.monotonic()
    # The service looks every heartbeat; in an unpatched scheduler the worker was gone after three seconds.
    wait_until(lambda: time.monotonic() - began > 6, what="six seconds pass")
    assert names(client) == [name]
    assert client.submit(sum, [1, 2]).result(60) == 3


@pytest.mark.long
def test_a_spooled_job_joins_and_leaves(new_cluster, pool):
    cluster = new_cluster(spool=True)
    cluster.scale(1)
    with cluster.get_client() as client:
        client.wait_for_workers(1, timeout=90)
        assert client.submit(sum, [1, 2]).result(60) == 3
        (ad,) = pool.jobs(cluster.name)
        assert str(staging.staging_root()) not in ad["Iwd"]
    cluster.shutdown()
    wait_until(
        lambda: not pool.ads("-constraint", f'HTCDaskGatewayCluster == "{cluster.name}"'), what="none is left"
    )


@pytest.mark.parametrize("nanny", [False, True])
@pytest.mark.long
def test_nothing_but_the_workers_ports_can_be_reached_from_another_machine(new_cluster, nanny):
    """The page for administrators names these ports, and no others, for a firewall."""
    ports = range(23100, 23140)
    cluster = new_cluster(
        nanny=nanny, interface=None, worker_port=f"{ports[0]}:{ports[-1]}", cpus=2, processes=2, memory="2GB"
    )
    cluster.scale(2)

    def listening() -> list[tuple[str, int]]:
        import psutil

        worker, found = psutil.Process(), []
        for process in {worker, *worker.parents(), *worker.children(recursive=True)}:
            try:
                if process == worker or "worker_start.py" in " ".join(process.cmdline()):
                    found += process.net_connections("inet")
            except psutil.NoSuchProcess:  # a child that has just ended
                continue
        return [tuple(connection.laddr) for connection in found if connection.status == psutil.CONN_LISTEN]

    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        for addresses in client.run(listening).values():
            assert {port for host, port in addresses if host not in ("127.0.0.1", "::1")} <= set(ports)
            assert len([port for _, port in addresses if port in ports]) >= (2 if nanny else 1)
