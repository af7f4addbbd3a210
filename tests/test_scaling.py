"""scale(n) means n, results move before their worker goes, and the schedd is the only record."""

from __future__ import annotations

import shlex
import subprocess
import sys

import dask.array as da
import dask.config
import pytest
from dask_gateway.client import GatewayWarning
from distributed import Event, wait
from support import wait_until, workers_of

from htcdaskgateway import JobStatus
from htcdaskgateway.condor.jobs import JobId
from htcdaskgateway.worker import staging


def one_on_each_worker(client):
    """Return a result of each worker, held by it alone; what is computed again would have another value."""
    held = [
        client.submit(lambda: __import__("uuid").uuid4().hex, workers=[each], pure=False)
        for each in workers_of(client)
    ]
    wait(held, 60)
    for future in held:
        assert len(client.who_has(future)[future.key]) == 1
    return held


@pytest.mark.core
def test_the_main_job_runs(tool_calls, cluster, pool):
    """Up, again, down to one with a result held on those that go, and away."""
    cluster.scale(2)
    assert len(tool_calls.calls_of("condor_submit")) == 1
    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=60)
        assert {JobId.of_worker(info["name"]) for info in workers_of(client).values()} == {
            job.id for job in cluster.jobs()
        }
        x = da.random.random((2000, 2000), chunks=(500, 500))
        assert 0.4 < x.mean().compute() < 0.6
        assert [info["nthreads"] for info in workers_of(client).values()] == [1, 1]
        assert {info["memory_limit"] for info in workers_of(client).values()} == {2**30}

        cluster.scale(4)
        assert len(tool_calls.calls_of("condor_submit")) == 2
        assert tool_calls.calls_of("condor_submit")[-1][-2:] == ["-queue", "2"]
        cluster.scale(4)
        assert len(tool_calls.calls_of("condor_submit")) == 2
        assert tool_calls.calls_of("condor_rm") == []
        assert len(pool.jobs(cluster.name)) == 4
        client.wait_for_workers(4, timeout=60)

        held = one_on_each_worker(client)
        values = client.gather(held)
        cluster.scale(1)
        assert len(workers_of(client)) == 1
        assert len(pool.jobs(cluster.name)) == 1
        assert client.gather(held) == values
        with dask.config.set({"htcdaskgateway.condor.poll-interval": "1ms"}):
            (job,) = cluster.jobs().live
        assert job.status is JobStatus.RUNNING
        assert {info["name"] for info in workers_of(client).values()} == {job.worker_name}
        assert len(tool_calls.calls_of("condor_submit")) == 2
    cluster.shutdown()
    assert pool.jobs(cluster.name) == []
    assert not (staging.staging_root() / cluster.name / "credentials").exists()


@pytest.mark.core
def test_scaling_down_spares_who_computes_and_who_holds_most(cluster):
    cluster.scale(3)
    with cluster.get_client() as client:
        client.wait_for_workers(3, timeout=60)
        computes, holds, spare = workers_of(client)
        go_on = Event("go on", client)
        computing = client.submit(lambda: Event("go on").wait(300), workers=[computes])
        held = client.submit(bytes, 2**20, workers=[holds])
        little = client.submit(bytes, 2**10, workers=[spare])
        wait([held, little], 60)
        wait_until(lambda: client.processing()[computes], what="the task has begun")
        cluster.scale(2)
        assert set(workers_of(client)) == {computes, holds}
        cluster.scale(1)
        assert set(workers_of(client)) == {computes}
        go_on.set()
        assert computing.result(60)
        assert (len(held.result(60)), len(little.result(60))) == (2**20, 2**10)


@pytest.mark.core
@pytest.mark.long
def test_the_last_workers_result_goes_only_with_scale_0(cluster, pool):
    cluster.scale(1)
    with cluster.get_client() as client:
        client.submit(sum, [1, 2]).result(60)
        held = client.submit(sum, [3, 4])
        held.result(60)
        cluster.scale(0)
        wait_until(lambda: not pool.jobs(cluster.name), what="the job leaves")
        held.release()
        cluster.scale(1)  # and the cluster is as good as new
        assert client.submit(sum, [5, 6]).result(60) == 11


@pytest.mark.long
def test_results_move_also_where_the_queue_tells_of_another_start(tool_calls, cluster, pool):
    """A job may start again after the look at the queue; the scheduler says which workers there are."""
    condor_q = shlex.quote(str(tool_calls.real / "condor_q"))
    tool_calls.script("condor_q", f"""{condor_q} "$@" | sed 's/"NumShadowStarts": 1/"NumShadowStarts": 7/'""")
    cluster.scale(2)
    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=60)
        held = one_on_each_worker(client)
        values = client.gather(held)
        with dask.config.set({"htcdaskgateway.condor.poll-interval": "1ms"}):
            assert {job.starts for job in cluster.jobs()} == {7}
        dask.config.set({"htcdaskgateway.retire-grace": "60s"})  # it ends by itself, on a slow machine too
        cluster.scale(1)
        assert client.gather(held) == values
    assert pool.statuses(cluster.name) == [2]
    assert tool_calls.calls_of("condor_rm") == []  # which would have left the data to the worker's last seconds


@pytest.mark.long
def test_workers_whose_data_takes_too_long_to_move_go_on_working(cluster, pool):
    cluster.scale(2)
    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=60)
        held = one_on_each_worker(client)
        values = client.gather(held)
        with (
            dask.config.set({"htcdaskgateway.retire-timeout": "1ms"}),
            pytest.warns(GatewayWarning, match="Kept 1 worker, with results that no other worker could take"),
        ):
            cluster.scale(1)
        assert pool.statuses(cluster.name) == [2, 2]
        for address in workers_of(client):
            assert client.submit(sum, [1, 2], workers=[address], pure=False).result(60) == 3
        assert client.gather(held) == values


@pytest.mark.long
def test_a_worker_has_its_name_before_its_start_is_counted(new_cluster, pool):
    # A job whose turn is still to come counts as running.
    cluster = new_cluster(job_extra_directives={"next_job_start_delay": 4})
    cluster.scale(2)
    wait_until(
        lambda: [ad.get("NumShadowStarts") for ad in pool.jobs(cluster.name) if ad["JobStatus"] == 2] == [1, None],
        what="the second job waits for its turn",
    )
    with dask.config.set({"htcdaskgateway.condor.poll-interval": "1ms"}):
        names = {job.worker_name for job in cluster.jobs()}
    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=60)
        assert {info["name"] for info in workers_of(client).values()} == names


@pytest.mark.core
@pytest.mark.long
def test_a_task_is_not_blamed_for_workers_that_scale_removes(cluster, pool, tmp_path):
    """Dask gives a task up after the fourth worker that died under it."""
    begun, flag = tmp_path / "begun", tmp_path / "flag"

    def wait(begun=str(begun), flag=str(flag)):
        import os
        import time

        with open(begun, "a") as file:
            file.write("x")
        while not os.path.exists(flag):
            time.sleep(0.05)
        return 7

    cluster.scale(1)
    with cluster.get_client() as client:
        held = client.submit(sum, [1, 2])  # a result that has nowhere to go
        held.result(60)
        task = client.submit(wait)
        for time in range(1, 6):
            wait_until(lambda time=time: begun.exists() and len(begun.read_text()) == time, what=f"start {time}")
            cluster.scale(0)
            cluster.scale(1)
        flag.touch()
        assert task.result(60) == 7


@pytest.mark.core
@pytest.mark.filterwarnings("ignore:HTCondor holds worker jobs")
@pytest.mark.long
def test_jobs_that_wait_go_before_workers(new_cluster, pool):
    cluster = new_cluster(requirements="TARGET.Cpus >= 1")
    cluster.scale(1)
    cluster.wait_for_workers(1, 60)
    (running,) = cluster.jobs()
    # More jobs of the same cluster that cannot run, submitted by hand as the rendered file says how.
    directory = staging.staging_root() / cluster.name
    pool.run("condor_submit", "worker.sub", "-append", "requirements = HasNoSuchThing", "-queue", 3, cwd=directory)
    assert pool.statuses(cluster.name) == [1, 1, 1, 2]
    cluster.scale(4)  # they count
    assert len(pool.jobs(cluster.name)) == 4
    pool.run("condor_hold", f"{pool.jobs(cluster.name)[-1]['ClusterId']}.0")
    cluster.scale(2)
    assert pool.statuses(cluster.name) == [1, 2]  # the held one first
    cluster.scale(1)
    assert [job.id for job in cluster.jobs().live] == [running.id]


def test_two_clusters_do_not_touch_each_other(new_cluster, pool):
    one, other = (new_cluster(requirements="HasNoSuchThing") for _ in range(2))
    one.scale(2)
    other.scale(3)
    one.scale(0)
    assert (len(pool.jobs(one.name)), len(pool.jobs(other.name))) == (0, 3)
    one.shutdown()
    assert len(pool.jobs(other.name)) == 3


SECOND = """
import sys
from htcdaskgateway import HTCGateway

with HTCGateway() as gateway:
    name = gateway.list_clusters()[0].name if len(sys.argv) == 1 else sys.argv[1]
    cluster = gateway.connect(name)
    print(*[job.id for job in cluster.jobs()])
    cluster.scale(2)
    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=60)
        print(client.submit(sum, [1, 2]).result(60))
    print(*[job.id for job in cluster.jobs()])
    cluster.shutdown()
"""


@pytest.mark.core
@pytest.mark.long
def test_a_second_process_sees_scales_and_shuts_down_the_same_jobs(gateway, pool):
    cluster = gateway.new_cluster(shutdown_on_close=False, memory="600MB")
    try:
        cluster.scale(1)
        cluster.wait_for_workers(1, 60)
        (job,) = cluster.jobs()
        done = subprocess.run(
            [sys.executable, "-c", SECOND, cluster.name], capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, done.stderr
        before, result, after = done.stdout.splitlines()
        assert before == str(job.id)
        assert result == "3"
        assert str(job.id) in after.split()
        assert len(after.split()) == 2
        assert pool.jobs(cluster.name) == []
        # The second worker is what the first process has asked for.
        assert {ad["RequestMemory"] for ad in pool.history(cluster.name)} == {600}
        assert not (staging.staging_root() / cluster.name / "credentials").exists()
    finally:
        cluster.close()
        gateway.stop_cluster(cluster.name)


def test_a_count_of_any_integer_type(new_cluster, pool):
    numpy = pytest.importorskip("numpy")
    cluster = new_cluster(requirements="HasNoSuchThing")
    cluster.scale(numpy.int64(2))
    assert len(pool.jobs(cluster.name)) == 2
