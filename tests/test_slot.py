"""A worker that is wanted again is started again in its slot; a job may have several workers, and nannies."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from importlib import resources
from urllib.parse import urlsplit

import psutil
import pytest
from dask.distributed import Client, get_client, get_worker, worker_client
from distributed.diagnostics.plugin import Environ, PipInstall, UploadDirectory
from support import wait_until, workers_of
from trouble import end_a_worker

from htcdaskgateway import WorkerSpec
from htcdaskgateway.condor.jobs import JobId
from htcdaskgateway.errors import ConfigError

COMPLETED, RUNNING = 4, 2


def joined(client, n, but=frozenset()):
    """Wait until the scheduler has `n` workers, none of which is in `but`, and return their names."""

    def there(dask_scheduler):
        return {ws.name for ws in dask_scheduler.workers.values()}

    return wait_until(
        lambda: (found := client.run_on_scheduler(there)) and len(found) == n and not found & set(but) and found,
        what=lambda: f"{n} workers beside {but}: {client.run_on_scheduler(there)}",
    )


def with_workers(cluster, n):
    cluster.scale(n)
    client = cluster.get_client()
    client.wait_for_workers(n, timeout=60)
    return client


def check_clients_of_tasks(client):
    # Defined here, so that they travel by value: this module is not where they run.
    def nested(n):
        with worker_client() as client:
            return sum(client.gather(client.map(lambda x: x * x, range(n), pure=False)))

    def own_client(n):
        worker = get_worker()
        with Client(worker.scheduler.address, security=worker.security, set_as_default=False) as client:
            return client.submit(sum, [n, 1]).result()

    class Asking:
        def ask(self, n):
            return get_client().submit(sum, [n, 1]).result()

    assert client.submit(nested, 4, pure=False).result(60) == 14
    assert client.submit(own_client, 41, pure=False).result(60) == 42
    actor = client.submit(Asking, actor=True).result(60)
    assert actor.ask(1).result(60) == 2


@pytest.mark.core
@pytest.mark.long
def test_tasks_have_clients_of_their_own_and_restarts_and_lost_connections_keep_the_slots(cluster, pool, system):
    with with_workers(cluster, 2) as client:
        check_clients_of_tasks(client)
        before = joined(client, 2)
        for _ in range(2):  # the second within seconds, and not delayed
            began = time.monotonic()
            client.restart(timeout=60)
            assert time.monotonic() - began < 30
            after = joined(client, 2, but=before)
            assert {JobId.of_worker(name) for name in after} == {JobId.of_worker(name) for name in before}
            before = after
        check_clients_of_tasks(client)
    system.server.stop_proxy()
    system.server.start_proxy()
    with cluster.get_client() as client:
        joined(client, 2, but=before)
        check_clients_of_tasks(client)
    assert [ad["NumShadowStarts"] for ad in pool.jobs(cluster.name)] == [1, 1]


@pytest.mark.long
def test_what_a_task_still_computes_does_not_hold_a_restart_up(cluster):
    with with_workers(cluster, 1) as client:
        before = joined(client, 1)
        sleeping = client.submit(time.sleep, 300)
        wait_until(lambda: any(client.processing().values()), what="the task runs")
        client.restart(timeout=30)
        joined(client, 1, but=before)
        del sleeping


@pytest.mark.long
def test_a_lifetime_ends_the_job_or_only_the_worker(new_cluster, pool):
    stays = new_cluster(worker_extra_args=["--lifetime", "2s", "--lifetime-restart"])
    goes = new_cluster(worker_extra_args=["--lifetime", "2s"])
    for cluster in (stays, goes):
        cluster.scale(1)
    with stays.get_client() as client:
        joined(client, 1, but=joined(client, 1))
    assert [ad["NumShadowStarts"] for ad in pool.jobs(stays.name)] == [1]
    wait_until(lambda: not pool.jobs(goes.name), what="the job leaves")
    assert [(ad["JobStatus"], ad["ExitCode"]) for ad in pool.history(goes.name)] == [(COMPLETED, 0)]


@pytest.mark.core
@pytest.mark.parametrize("nanny", [False, True], ids=["without nanny", "nanny"])
@pytest.mark.long
def test_several_workers_in_one_job(new_cluster, pool, nanny):
    cluster = new_cluster(processes=2, cpus=4, memory="1GB", nanny=nanny)
    with with_workers(cluster, 3) as client:
        found = joined(client, 4)  # whole jobs
        ads = pool.jobs(cluster.name)
        assert [ad["RequestCpus"] for ad in ads] == [4, 4]
        assert len({JobId.of_worker(name) for name in found}) == 2
        info = workers_of(client).values()
        assert {(worker["nthreads"], worker["memory_limit"]) for worker in info} == {(2, 2**29)}
        assert len(set(client.run(os.getpid).values())) == 4
        assert all(10000 <= (urlsplit(address).port or 0) <= 10070 for address in client.nthreads())
        client.restart(timeout=60)
        joined(client, 4, but=frozenset() if nanny else found)
        check_clients_of_tasks(client)
        cluster.scale(jobs=1)
        left = joined(client, 2)
        assert len({JobId.of_worker(name) for name in left}) == 1, "a job's workers leave together"
        wait_until(lambda: pool.statuses(cluster.name) == [RUNNING], what="one job is left")
        assert all(ad["ExitCode"] == 0 for ad in pool.history(cluster.name) if ad["JobStatus"] == COMPLETED)
        cluster.scale(cores=8)
        assert len(pool.jobs(cluster.name)) == 2
        cluster.scale(memory="3GB")
        assert len(pool.jobs(cluster.name)) == 3
        cluster.scale(0)
        wait_until(lambda: not pool.jobs(cluster.name), what="none is left")


@pytest.mark.long
def test_adaptive_scaling_counts_workers(new_cluster, pool):
    cluster = new_cluster(processes=2, cpus=2, memory="512MB")
    cluster.adapt(minimum=0, maximum=4, interval="200ms", wait_count=2)
    with cluster.get_client() as client:
        # As long as the later job's workers may take to come the work asks for all four.
        tasks = client.map(lambda n: time.sleep(1) or n, range(40), pure=False)
        joined(client, 4)
        assert len(pool.jobs(cluster.name)) == 2
        assert client.gather(tasks) == list(range(40))
        del tasks
        wait_until(lambda: not pool.jobs(cluster.name), what="the workers leave")


@pytest.mark.filterwarnings("ignore:HTCondor holds worker jobs")
@pytest.mark.parametrize("nanny", [False, True], ids=["without nanny", "nanny"])
@pytest.mark.long
def test_a_worker_that_dies_does_not_cost_the_work_of_the_others(new_cluster, pool, nanny, tmp_path):
    cluster = new_cluster(processes=2, cpus=2, memory="512MB", nanny=nanny)
    with with_workers(cluster, 2) as client:
        found = joined(client, 2)
        held = client.scatter(list(range(10)), broadcast=True)
        end_a_worker(client, tmp_path / "ended")
        if nanny:  # it starts the worker again where it was, and the job does not notice
            joined(client, 2)
            assert [ad["NumShadowStarts"] for ad in pool.jobs(cluster.name)] == [1]
        else:  # HTCondor counts the failure, and starts both again
            joined(client, 2, but=found)
            (ad,) = pool.jobs(cluster.name)
            assert (ad["NumJobCompletions"], ad["NumShadowStarts"]) == (1, 2)
        assert client.submit(sum, [1, 2], pure=False).result(60) == 3
        del held


@pytest.mark.long
def test_an_evicted_nanny_hands_over_what_its_worker_holds(new_cluster, pool):
    cluster = new_cluster(nanny=True, memory="512MB")
    with with_workers(cluster, 2) as client:
        goes, _ = client.run(lambda dask_worker: dask_worker.name).items()
        held = client.submit(lambda: time.time(), workers=[goes[0]], allow_other_workers=True)
        value = held.result(60)
        pool.run("condor_vacate_job", JobId.of_worker(goes[1]))
        joined(client, 2, but={goes[1]})
        assert held.result(60) == value  # not computed again
        cluster.scale(0)
        wait_until(lambda: not pool.jobs(cluster.name), what="none is left")
    assert not [ad for ad in pool.history(cluster.name) if ad["JobStatus"] == COMPLETED and ad["ExitCode"] != 0]


@pytest.mark.long
def test_a_nannys_worker_is_ended_above_its_memory_limit_and_comes_back(new_cluster, pool):
    cluster = new_cluster(nanny=True, memory="400MB")
    with with_workers(cluster, 1) as client:
        (before,) = client.run(os.getpid).values()

        def grow():
            kept = []
            while True:
                kept.append(b"x" * 2**24)
                time.sleep(0.05)

        future = client.submit(grow, retries=0)
        wait_until(
            lambda: (pids := client.run(os.getpid, on_error="ignore")) and before not in pids.values(),
            what="the worker is another process",
        )
        future.cancel()
        assert [ad["NumShadowStarts"] for ad in pool.jobs(cluster.name)] == [1]


@pytest.mark.long
def test_a_nanny_without_a_scheduler_leaves(new_cluster, pool):
    cluster = new_cluster(nanny=True, death_timeout="20s", memory="512MB")
    with with_workers(cluster, 1) as client:
        os.kill(client.run_on_scheduler(os.getpid), signal.SIGKILL)
        wait_until(lambda: not pool.jobs(cluster.name), what="the job leaves")
    assert [(ad["JobStatus"], ad["ExitCode"]) for ad in pool.history(cluster.name)] == [(COMPLETED, 0)]


@pytest.mark.filterwarnings("ignore:HTCondor holds worker jobs")
@pytest.mark.long
def test_a_nanny_whose_worker_fails_again_and_again_gives_the_slot_back_with_its_exit_code(new_cluster, pool):
    cluster = new_cluster(nanny=True, memory="512MB")
    with with_workers(cluster, 1) as client:
        failing = client.submit(lambda: os._exit(5), pure=False)
        wait_until(
            lambda: [ad.get("NumJobCompletions") for ad in pool.jobs(cluster.name)] == [1],
            what=lambda: f"the job has ended once: {pool.jobs(cluster.name)}",
        )
        assert [ad.get("ExitCode") for ad in pool.jobs(cluster.name)] == [5]
        failing.cancel()


@pytest.mark.long
def test_only_this_machine_reaches_a_workers_http(cluster):
    with with_workers(cluster, 1) as client:
        (found,) = client.run(
            lambda: [(c.status, c.laddr) for c in psutil.Process().net_connections("tcp")]
        ).values()
        listening = [address for status, address in found if status == psutil.CONN_LISTEN]
        assert len(listening) >= 1
        assert all(ip in ("127.0.0.1", "::1") or 10000 <= port <= 10070 for ip, port in listening)


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"processes": 0}, "processes=0"),
        ({"processes": 8}, "processes=8 needs at least as many cpus"),
        ({"nanny": "yes"}, "nanny='yes'"),
        ({"nanny": True, "worker_port": "10000"}, "too few ports"),
        ({"worker_extra_args": ["--nworkers", "2"]}, "processes"),
        ({"worker_extra_args": ["--nanny"]}, "nanny=True"),
        ({"worker_extra_args": ["--nprocs", "2"]}, "processes"),
        ({"worker_extra_args": ["--n-workers=2"]}, "processes"),
        ({"worker_extra_args": ["--help"]}, "--help"),
        ({"worker_extra_args": ["--listen-address", "tls://:0"]}, "worker_port"),
        ({"worker_extra_args": ["--resources", "a=1", "--", "x"]}, "'--'"),
        ({"worker_extra_args": ["--nworker", "2"]}, "knows no '--nworker'"),
        ({"worker_extra_args": ["--nthreads 1"]}, "each word is a text of its own"),
        ({"worker_extra_args": ["nthreads=1"]}, "knows no 'nthreads=1'"),
        ({"worker_extra_args": ["--resources"]}, "--resources"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(keywords, told):
    with pytest.raises(ConfigError, match=told):
        WorkerSpec.from_keywords(**keywords)


def test_arguments_of_dask_worker_and_of_its_preload_are_taken():
    words = ["--lifetime", "1h", "--no-lifetime-restart", "--nthreads=1", "--preload", "mine.py", "--its-own", "3"]
    assert WorkerSpec.from_keywords(worker_extra_args=words).worker_extra_args == tuple(words)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({}, "or one of jobs, cores, memory"),
        ({"n": 1, "jobs": 1}, "here n=1, jobs=1"),
        ({"cores": -1}, "cores"),
        ({"memory": "much"}, "not an amount"),
        ({"mem": 1}, "has no 'mem'"),
    ],
)
def test_a_number_that_is_none(cluster, tool_calls, call, told):
    with pytest.raises(ConfigError, match=told):
        cluster.scale(**call)
    assert not tool_calls.calls_of("condor_submit")


def play(tmp_path, main, *options):
    """Run the job's process with `main`, lines of Python, in place of ``dask worker``; return the process."""
    script = tmp_path / "play.py"
    body = textwrap.indent(textwrap.dedent(main), "    ")
    source = resources.files("htcdaskgateway.remote").joinpath("worker_start.py").read_text(encoding="utf-8")
    (tmp_path / "worker_start.py").write_text(source)
    script.write_text(
        "import os, signal, sys, time, worker_start\n"
        f"def main(options):\n    name = options[options.index('--name') + 1]\n{body}\n"
        "worker_start.end(worker_start.Workers(main, sys.argv[1:]).run())\n"
    )
    command = [sys.executable, str(script), "--name", "htcondor-1.0-1@here", *options]
    return psutil.Popen(command, stdout=-1, stderr=-2, text=True)


@pytest.mark.parametrize(
    ("main", "code", "starts"),
    [
        ("sys.exit(0)", 0, 1),
        ("sys.exit(0 if name == 'htcondor-1.0-1-3@here' else 75)", 0, 3),
        ("sys.exit(0 if name == 'htcondor-1.0-1-2@here' else 74)", 0, 2),
        ("sys.exit(3)", 3, 1),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV, 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, 1),
    ],
)
def test_how_a_worker_ends_decides_what_comes_next(tmp_path, main, code, starts):
    job = play(tmp_path, f"print('runs', name, flush=True)\n{main}")
    text, _ = job.communicate(timeout=60)
    assert job.returncode == code
    assert text.count("runs") == starts
    assert text.count("starts on") == starts - 1  # the script tells of the first


def test_workers_of_a_job_that_are_not_wanted_any_more_leave_one_by_one(tmp_path):
    job = play(tmp_path, "time.sleep(0.2 if name.startswith('htcondor-1.0-1-2') else 0)", "--nworkers", "2")
    text, _ = job.communicate(timeout=60)
    assert job.returncode == 0
    assert "htcondor-1.0-1-2@here starts on" in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_of_htcondors_reaches_all_workers_and_the_job_runs_again(tmp_path, number):
    main = """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        print("ready", flush=True)
        time.sleep(600)
    """
    job = play(tmp_path, main, "--nworkers", "3")
    said = ""
    while said.count("ready") < 3:
        line = job.stdout.readline()
        assert line, f"the job has ended with {job.wait(60)}: {said}"
        said += line
    workers = job.children()
    assert len(workers) == 3
    job.send_signal(number)
    assert job.wait(60) == 75
    assert not any(worker.is_running() for worker in workers)


def test_a_worker_that_fails_takes_the_others_along(tmp_path):
    main = """
        if name == "htcondor-1.0-1-2@here":
            sys.exit(3)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        time.sleep(600)
    """
    job = play(tmp_path, main, "--nworkers", "2")
    job.communicate(timeout=60)
    assert job.returncode == 3


@pytest.mark.core
@pytest.mark.long
def test_a_restart_keeps_what_the_client_has_noted_at_the_scheduler(new_cluster, gateway, pool):
    cluster = new_cluster(memory="256MB", max_idle=5)
    with with_workers(cluster, 1) as client:
        client.restart(timeout=60)
        with gateway.connect(cluster.name) as other:
            assert (other.spec.memory_mib, other.spec.max_idle) == (256, 5)
            other.scale(2)
            assert {ad["RequestMemory"] for ad in pool.jobs(cluster.name)} == {256}
        # A client of 2.0 looks for them in the scheduler's metadata.
        assert client.get_metadata(["htcdaskgateway", "wanted"]) == 2


def test_a_restart_does_not_end_adaptive_scaling(cluster):
    with with_workers(cluster, 1) as client:
        adaptive = cluster.adapt(minimum=1, maximum=2, interval="50ms")
        looks = []
        target = adaptive.target
        adaptive.target = lambda: looks.append(1) or target()
        client.restart(timeout=60)
        looks.clear()
        wait_until(lambda: len(looks) > 3, what="it goes on looking")
        assert adaptive.state != "stopped"


@pytest.mark.core
@pytest.mark.long
def test_a_call_that_needs_a_nanny_fails_at_once_where_there_is_none(cluster):
    with with_workers(cluster, 1) as client:
        with pytest.raises(Exception, match="nanny=True"):
            client.register_plugin(Environ({"A": "1"}))
        with pytest.raises(Exception, match="nanny=True"):
            client.register_plugin(PipInstall(["pip"], restart_workers=True))
        with pytest.raises(Exception, match="nanny=True"):
            client.run(os.getpid, nanny=True)
        with pytest.raises(ValueError, match="nanny=True"):
            client.restart_workers(list(client.nthreads()))


@pytest.mark.long
def test_nanny_plugins_reach_workers_that_have_a_nanny(new_cluster, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "brought_along.py").write_text("ANSWER = 42\n")
    cluster = new_cluster(nanny=True, memory="512MB")
    with with_workers(cluster, 1) as client:
        client.register_plugin(Environ({"BROUGHT": "along"}))
        client.register_plugin(UploadDirectory(str(tmp_path / "code"), update_path=True))
        client.restart_workers(list(client.nthreads()), timeout=60)
        joined(client, 1)

        def look():
            import brought_along

            return os.environ["BROUGHT"], brought_along.ANSWER

        assert client.submit(look, pure=False).result(60) == ("along", 42)


@pytest.mark.filterwarnings("ignore:HTCondor holds worker jobs")
@pytest.mark.long
def test_restarts_and_evictions_are_no_failures(cluster, pool, tmp_path):
    with with_workers(cluster, 1) as client:
        seen = joined(client, 1)
        for _ in range(3):
            client.restart(timeout=60)
            seen |= joined(client, 1, but=seen)
        (job,) = {JobId.of_worker(name) for name in seen}
        pool.run("condor_vacate_job", job)
        seen |= joined(client, 1, but=seen)
        end_a_worker(client, tmp_path / "ended")
        joined(client, 1, but=seen)
        (ad,) = pool.jobs(cluster.name)
        assert (ad["NumJobCompletions"], ad["NumShadowStarts"]) == (1, 3)
