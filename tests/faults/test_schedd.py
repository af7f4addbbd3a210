"""The schedd fails, or what lies between it and the client: nothing is lost, nothing is submitted twice."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from unittest.mock import patch

import pytest
from support import wait_until
from trouble import Ticker, Work, wait_for_workers

from htcdaskgateway.errors import CondorError, CondorTimeoutError, CondorUnreachableError

SHORT = 3.0  # seconds; the time limit of a tool where one is made to hang


def limited(cluster, seconds=SHORT):
    """Let a tool take so long within a block; elsewhere a busy machine may need more."""
    return patch.object(cluster.fleet.condor, "timeout", seconds)


CLIENT = """
import sys, time
from htcdaskgateway import HTCGateway

name, n = sys.argv[1], int(sys.argv[2])
with HTCGateway() as gateway:
    cluster = gateway.connect(name)
    print("ready", flush=True)
    sys.stdin.readline()
    cluster.scale(n)
    print("scaled", flush=True)
    sys.stdin.readline()
    cluster.close()
print("closed", flush=True)
"""


class OtherClient:
    """A client in a process of its own, which scales when told."""

    def __init__(self, name: str, n: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, name, str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ, DASK_HTCDASKGATEWAY__CONDOR__POLL_INTERVAL="100ms"),
        )

    def expect(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def jobs_stay(pool, name, n, seconds=4.0):
    """See that the queue comes to `n` jobs of a cluster and stays there."""
    wait_until(lambda: len(pool.jobs(name)) == n, what=lambda: f"{n} jobs: {pool.statuses(name)}")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert len(pool.jobs(name)) == n
        time.sleep(0.2)


@pytest.mark.long
def test_killed_schedd_is_not_noticed_by_workers_and_nothing_is_submitted_twice(cluster, pool, trouble, tmp_path):
    cluster.scale(2)
    with cluster.get_client() as client:
        before = wait_for_workers(client, 2)
        work = Work(client, 20, 0.3, tmp_path / "notes")
        trouble.kill_daemon("condor_schedd")
        # Asked at once, while there may be no schedd; whatever comes of it, asking again ends right.
        for _ in range(30):
            try:
                cluster.scale(4)
                break
            except CondorError:
                time.sleep(0.5)
        work.check()
        assert all(work.computed(i) == 1 for i in range(20))
        assert before <= wait_for_workers(client, 4)
    jobs_stay(pool, cluster.name, 4)
    assert not pool.history(cluster.name)  # nor has there been a fifth that was removed since


@pytest.mark.long
def test_hung_schedd_ends_every_call_in_time_and_the_loop_never_stops(system, pool, trouble):
    async def body() -> None:
        ticker = Ticker()
        async with system.gateway(asynchronous=True) as gateway:
            cluster = await gateway.new_cluster()
            await cluster.scale(1)
            ticking = asyncio.ensure_future(ticker.run())
            with trouble.hung("condor_schedd"), limited(cluster):
                for call in (
                    lambda: cluster.scale(3),
                    cluster.jobs,
                    lambda: cluster.scale(0),
                    lambda: cluster.scale(3),
                ):
                    began = time.monotonic()
                    with pytest.raises(CondorTimeoutError, match="took longer than 3 s"):
                        await call()
                    assert time.monotonic() - began < SHORT + 3
            ticking.cancel()
            assert ticker.longest < SHORT - 0.5
            await cluster.scale(3)
            await asyncio.to_thread(jobs_stay, pool, cluster.name, 3)
            await cluster.shutdown()
            assert not pool.jobs(cluster.name)

    asyncio.run(body())


@pytest.mark.long
def test_hung_schedd_is_unreachable_and_no_question_of_tokens(cluster, trouble):
    """HTCondor's own tools give up after 20 s, in words that sound like a refusal."""
    cluster.scale(1)
    with trouble.hung("condor_schedd"):
        for call in (lambda: cluster.scale(2), lambda: cluster.scale(0)):
            with pytest.raises(CondorUnreachableError, match="is the schedd running"):
                call()


@pytest.mark.long
def test_schedd_that_hangs_during_a_first_submit_leaves_no_surplus(new_cluster, pool, trouble):
    cluster = new_cluster()
    with trouble.hung("condor_schedd"), limited(cluster), pytest.raises(CondorTimeoutError):
        cluster.scale(3)
    cluster.scale(3)
    jobs_stay(pool, cluster.name, 3)


@pytest.mark.parametrize("after", ["hangs", "fails"])
@pytest.mark.long
def test_answer_of_a_submit_that_is_lost_is_counted_at_the_next_scale(tool_calls, new_cluster, pool, after):
    real = pool.bin / "condor_submit"
    cluster = new_cluster()
    then = "sleep 60" if after == "hangs" else "echo 'CEDAR:6001:Failed to connect' >&2; exit 1"
    tool_calls.script("condor_submit", f'"{real}" "$@" > /dev/null; {then}')
    kind = CondorTimeoutError if after == "hangs" else CondorUnreachableError
    with limited(cluster, 10 if after == "hangs" else 60), pytest.raises(kind):
        cluster.scale(2)
    tool_calls.restore("condor_submit")
    cluster.scale(2)
    assert len(tool_calls.calls_of("condor_submit")) == 1
    cluster.scale(3)
    jobs_stay(pool, cluster.name, 3)


@pytest.mark.long
def test_submit_that_reaches_the_schedd_only_after_its_time_limit_leaves_no_surplus(
    tool_calls, new_cluster, pool, tmp_path
):
    """The client gives the submit up, counts, submits again, and only then the first one arrives."""
    real = pool.bin / "condor_submit"
    cluster = new_cluster()
    # Counted on within twice the time limit: what comes later than that is nobody's.
    late = f'setsid sh -c \'sleep 9; "$0" "$@"; touch {tmp_path}/arrived\' "{real}" "$@" > /dev/null 2>&1 &'
    tool_calls.script("condor_submit", f"{late}\nsleep 60")
    with limited(cluster, 8), pytest.raises(CondorTimeoutError):
        cluster.scale(2)
    tool_calls.restore("condor_submit")
    cluster.scale(2)
    wait_until((tmp_path / "arrived").exists)
    jobs_stay(pool, cluster.name, 2)


@pytest.mark.long
def test_two_clients_that_scale_to_four_at_once_end_with_four_jobs(cluster, pool):
    clients = [OtherClient(cluster.name, 4) for _ in range(2)]
    try:
        for word in ("ready", "scaled", "closed"):
            for client in clients:
                client.expect(word)
            if word != "closed":
                for client in clients:
                    client.go()
        # close() waits for the count that is owed, so it is right from here on.
        assert len(pool.jobs(cluster.name)) == 4
        jobs_stay(pool, cluster.name, 4, seconds=2)
        with cluster.get_client() as dask_client:
            wait_for_workers(dask_client, 4)
    finally:
        for client in clients:
            client.end()


@pytest.mark.long
def test_two_clients_that_scale_to_different_numbers_agree_on_one_of_them(cluster, pool):
    clients = [OtherClient(cluster.name, n) for n in (2, 5)]
    try:
        for word in ("ready", "scaled", "closed"):
            for client in clients:
                client.expect(word)
            if word != "closed":
                for client in clients:
                    client.go()
        count = len(pool.jobs(cluster.name))
        assert count in (2, 5)
        jobs_stay(pool, cluster.name, count, seconds=2)
    finally:
        for client in clients:
            client.end()


@pytest.mark.long
def test_shutdown_while_the_schedd_is_down_says_what_remains_and_stop_cluster_removes_it(
    new_cluster, gateway, pool, trouble
):
    cluster = new_cluster(requirements='Machine == "nowhere"')
    name, credentials = cluster.name, cluster.fleet.staging.directory / "credentials"
    cluster.scale(2)
    with trouble.schedd_down():
        with pytest.raises(CondorUnreachableError) as caught:
            cluster.shutdown()
        said = str(caught.value)
        assert "jobs of the cluster may remain" in said
        assert f"stop_cluster('{name}')" in said
        assert f"condor_rm -constraint 'HTCDaskGatewayCluster =?= \"{name}\"'" in said
        assert name not in {report.name for report in gateway.list_clusters()}
    assert len(pool.jobs(name)) == 2
    assert credentials.is_dir()  # the jobs that remain would be held without them
    gateway.stop_cluster(name)
    wait_until(lambda: not pool.jobs(name), what="the jobs leave the queue")
    assert not credentials.exists()


BANNER = "echo '*** welcome to the pool: [maintenance] on {Monday} ***'"
WARNING = "echo 'WARNING: your quota [90%] is nearly used; AUTHENTICATE again soon' >&2"


@pytest.mark.long
def test_killed_schedd_makes_no_jobs_that_have_been_taken_back(trouble, new_cluster, pool):
    cluster = new_cluster(requirements='Machine == "nowhere"', max_idle=3)
    cluster.scale(20)
    wait_until(lambda: len(pool.jobs(cluster.name)) == 3)
    cluster.scale(2)
    trouble.kill_daemon("condor_schedd")
    trouble.wait_for_schedd()
    # With less in the queue than may wait, a factory that goes on would make the next at once.
    (kept, removed) = pool.jobs(cluster.name)
    pool.run("condor_rm", f"{removed['ClusterId']}.{removed['ProcId']}")
    jobs_stay(pool, cluster.name, 1, seconds=5)
    assert len(cluster.gateway.sync(cluster.fleet.look, 0).live) == 1
    cluster.scale(4)
    wait_until(lambda: len(pool.jobs(cluster.name)) == 4)
    assert kept["ProcId"] in {job.id.proc for job in cluster.gateway.sync(cluster.fleet.look, 0)}


@pytest.mark.long
def test_noise_around_the_tools_answers_changes_no_count(tool_calls, new_cluster, pool):
    noise = f"{BANNER}; {WARNING}"
    for tool in ("condor_submit", "condor_q", "condor_rm"):
        tool_calls.script(tool, f'{noise}\n"{pool.bin / tool}" "$@"\ncode=$?\n{noise}\nexit $code')
    cluster = new_cluster()
    assert cluster.jobs() == []
    cluster.scale(3)
    assert len(cluster.jobs()) == 3
    cluster.scale(1)
    jobs_stay(pool, cluster.name, 1, seconds=1)
    cluster.scale(0)
    assert not cluster.jobs().live
    cluster.shutdown()  # nothing is left to remove: no error, however loud the tools are


WRONG = [
    "",
    "echo '[ {'",
    "echo '[]'; exit 1",
    "echo '{\"JobStatus\": 2}'",
    "echo '[{\"JobStatus\": 2}]'",
    "sleep 60",
]


@pytest.mark.long
def test_wrong_answer_of_condor_q_is_an_error_and_never_a_count(tool_calls, new_cluster, pool):
    cluster = new_cluster()
    cluster.scale(1)
    with limited(cluster):
        for answer in WRONG:
            tool_calls.script("condor_q", answer)
            for call in (cluster.jobs, lambda: cluster.scale(3), lambda: cluster.scale(0)):
                with pytest.raises(CondorError, match="condor_q"):
                    call()
    tool_calls.restore("condor_q")
    assert len(tool_calls.calls_of("condor_submit")) == 1
    assert len(pool.jobs(cluster.name)) == 1
