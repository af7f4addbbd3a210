"""Why jobs do not run, in words, as a real pool gives the reasons."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from typing import Any

import dask
import pytest
from support import PATIENCE, Pool, Tools, wait_until

from htcdaskgateway.condor.analysis import Analysis
from htcdaskgateway.condor.jobs import WorkerJob
from htcdaskgateway.errors import WaitError, WaitTimeoutError
from htcdaskgateway.fleet.advice import describe
from htcdaskgateway.fleet.explain import held
from htcdaskgateway.fleet.findings import Explanation
from htcdaskgateway.worker.spec import WorkerSpec


def explained(cluster: Any, *words: str, timeout: float = PATIENCE) -> Explanation:
    """Wait until the explanation holds all these words."""
    return wait_until(
        lambda: (found := cluster.explain()) and all(word in str(found) for word in words) and found,
        timeout=timeout,
        what=lambda: f"{words} in\n{cluster.explain()}",
    )


def given_up(cluster: Any, n: int, *words: str) -> None:
    """Wait for `n` workers, and see that the wait ends early, with these words."""
    with dask.config.set({"htcdaskgateway.condor.poll-interval": "200ms"}), pytest.raises(WaitError) as error:
        cluster.wait_for_workers(n, timeout=PATIENCE)
    assert not isinstance(error.value, WaitTimeoutError)
    assert all(word in str(error.value) for word in ("Cannot get", *words))


@pytest.mark.long
def test_a_worker_that_used_too_much_memory(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(memory="400MB", job_extra_directives={"My.HoldAboveRequest": "true"})
    cluster.scale(1)
    client = cluster.get_client()
    client.wait_for_workers(1, timeout=PATIENCE)

    def eat() -> int:  # here, because a worker cannot import this module
        import time

        hold = bytearray(b"x" * 800 * 2**20)
        time.sleep(150)
        return len(hold)

    future = client.submit(eat)
    told = explained(cluster, "is held", timeout=120)
    assert "used more memory than it asked for" in str(told)
    assert str(told).partition("\n\n")[2].startswith("The worker asked for 400 MiB of memory and used ")
    # HTCondor may have looked while the worker was still taking it.
    assert re.search(r'gateway\.connect\(cluster\.name, memory="[123]GB"\)', str(told)), told
    assert "`cluster.scale(0)` and `cluster.scale(1)`" in str(told)
    assert cluster.jobs()[0].hold_subcode == 102
    assert told.hopeless
    given_up(cluster, 1, "used more memory than it asked for", "gateway.connect(cluster.name, memory=")
    future.release()


@pytest.mark.long
def test_disk_that_is_enforced(new_cluster: Callable[..., Any]) -> None:
    """Who asks for none has enough for what a worker spills at first; who asked for too little is told."""
    policy = {"My.HoldAboveRequest": "true"}
    asked, plain = (new_cluster(job_extra_directives=policy, **keywords) for keywords in ({"disk": "30MB"}, {}))

    def write() -> None:
        import os

        with open("spilled", "wb") as file:
            file.write(os.urandom(200 * 2**20))

    for cluster in (asked, plain):
        cluster.scale(1)
        client = cluster.get_client()
        client.wait_for_workers(1, timeout=PATIENCE)
        client.run(write, on_error="ignore")
    told = explained(asked, "used more disk than it asked for", 'disk="', timeout=120)
    assert told.hopeless
    assert [job.status.name for job in plain.jobs()] == ["RUNNING"]


def test_a_missing_input_file_is_explained(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster(requirements='Machine == "nowhere"')
    cluster.scale(1)
    # scale() looks that they are there; they go while the job waits.
    (cluster.fleet.staging.directory / "worker_preload.py").unlink()
    pool.run("condor_qedit", "-constraint", cluster.fleet.constraint, "Requirements", "true")
    told = explained(cluster, "is held")
    assert "has no input file" in str(told)
    assert "worker_preload.py" in str(told)
    assert "Keep the staging directory while the cluster lives" in str(told)
    assert told.hopeless
    assert told.stuck == 1
    given_up(cluster, 1, "has no input file", "worker_preload.py")


def test_a_missing_staging_directory_is_explained(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster(requirements='Machine == "nowhere"')
    cluster.scale(1)
    directory = cluster.fleet.staging.directory
    shutil.rmtree(directory)
    pool.run("condor_qedit", "-constraint", cluster.fleet.constraint, "Requirements", "true")
    told = explained(cluster, "is held")
    assert "has no working directory" in str(told)
    assert "HTCDASK_STAGEDIR" in str(told) or "the staging directory" in str(told)
    assert told.hopeless


def test_more_cores_than_any_machine_has(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(cpus=99)
    cluster.scale(2)
    told = explained(cluster, "cannot run in this pool")
    first = str(told).partition("\n\n")[2]
    assert first.startswith("Each worker asks for 99 cores; the largest machine has 10. Job ")
    assert "(and 1 more) cannot run in this pool" in first
    assert "no slot meets: TARGET.Cpus >= RequestCpus (RequestCpus = 99)" in str(told)
    # A job of the test before may still have a dynamic slot.
    assert re.search(r"at least \d+ slots? can meet each of the other", str(told))
    assert (
        "`cluster = gateway.connect(cluster.name, cpus=10)`, then `cluster.scale(0)` and `cluster.scale(2)`"
        in first
    )
    assert told.hopeless
    assert told.stuck == 2
    given_up(cluster, 2, "the largest machine has 10", "gateway.connect(cluster.name, cpus=10)")


def test_more_memory_than_any_machine_has(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(memory="900GB")
    cluster.scale(1)
    told = explained(cluster, "cannot run in this pool")
    assert "Each worker asks for 900 GiB of memory; the largest machine has 14.9 GiB" in str(told)
    assert told.hopeless


def test_the_way_out_that_is_proposed_works_and_keeps_the_cluster(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(memory="900GB", cpus=1)
    cluster.scale(1)
    told = str(explained(cluster, "cannot run in this pool"))
    with dask.config.set({"htcdaskgateway.condor.poll-interval": "200ms"}):
        scope = {"cluster": cluster, "gateway": cluster.gateway}
        # A smaller part of the largest machine, which other tests share.
        calls = re.findall(
            "`([^`]*cluster[^`]*)`", told.replace(re.search(r'memory="\d+GB"', told)[0], 'memory="1GB"')
        )
        assert len(calls) == 3
        for call in calls:
            exec(call, scope)
        connected = scope["cluster"]
        try:
            connected.wait_for_workers(1, timeout=PATIENCE)
            assert connected.name == cluster.name
            assert "All is well: the job runs and its worker has joined." in str(connected.explain())
        finally:
            connected.close()


@pytest.mark.long
def test_a_job_that_is_held_is_replaced_without_touching_those_that_run(
    new_cluster: Callable[..., Any], pool: Pool
) -> None:
    cluster = new_cluster(cpus=1, memory="1GB")
    cluster.scale(2)
    cluster.wait_for_workers(2, timeout=PATIENCE)
    running, held = (job.id for job in cluster.jobs())
    pool.run("condor_hold", "-subcode", "102", held)
    pool.run("condor_qedit", str(held), "HoldReasonCode", "34")
    told = str(explained(cluster, "used more memory"))
    calls = re.findall(r"`(cluster\.scale[^`]*)`", told)
    assert calls == ["cluster.scale(1)", "cluster.scale(2)"]
    cluster.scale(1)
    assert [job.id for job in cluster.jobs().live] == [running]


def test_a_container_in_a_pool_without_apptainer(new_cluster: Callable[..., Any]) -> None:
    # The package refuses this before it submits; a site may turn that off, or the machines change meanwhile.
    dask.config.set({"htcdaskgateway.check-slots": False})
    cluster = new_cluster(container_image="/images/worker.sif", container_runtime="htcondor")
    cluster.scale(1)
    told = explained(cluster, "cannot run in this pool")
    assert "Apptainer is missing" in str(told)
    assert "TARGET.HasContainer" in str(told)
    assert "container_runtime='apptainer'" in str(told)
    assert told.hopeless
    given_up(cluster, 1, "Apptainer is missing", "TARGET.HasContainer")


@pytest.mark.long
def test_a_worker_that_fails_again_and_again(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(job_script_prologue=["echo the library libfoo is missing >&2; exit 3"])
    cluster.scale(1)
    told = explained(cluster, "is held")
    assert "its Dask worker failed three times" in str(told)
    assert "the library libfoo is missing" in str(told)
    assert "exit code 3" in str(told)
    assert told.hopeless


@pytest.mark.long
def test_a_python_that_is_not_on_the_execute_node(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(python="/no where/bin/python")
    cluster.scale(1)
    told = explained(cluster, "is held")
    assert "its worker's Python is not on that machine" in str(told)
    assert all(
        remedy in str(told) for remedy in ("python=…", "container_image=…", "file system that the nodes share")
    )
    # Whoever looks with condor_q alone reads it, too.
    reason = cluster.jobs()[0].hold_reason
    assert "its Python, /no where/bin/python, is not there" in reason
    assert all(remedy in reason for remedy in ("python=", "container_image"))
    assert "the worker's Python is not on" in "".join(cluster.logs().values())


def test_a_job_held_by_hand(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster()
    cluster.scale(2)
    job = str(cluster.jobs()[0].id)
    pool.run("condor_hold", job)
    told = explained(cluster, "is held", "held by hand", f"condor_release {job}")
    assert not told.hopeless, "the other job runs"
    assert told.stuck == 1


@pytest.mark.long
def test_a_pool_that_is_full_is_no_reason_to_give_up(new_cluster: Callable[..., Any]) -> None:
    first = new_cluster(cpus=2)
    first.scale(4)
    first.get_client().wait_for_workers(4, timeout=PATIENCE)
    second = new_cluster(cpus=3)
    second.scale(1)
    told = explained(second, "waits for its turn: 1 of 1 machine can run it", "none has enough free now")
    assert "TARGET.Cpus >= RequestCpus" in str(told)
    assert not told.hopeless
    assert told.stuck == 0


def test_no_jobs_is_said(cluster: Any) -> None:
    told = cluster.explain()
    assert "scale(n)" in str(told)
    assert not told.hopeless


def test_a_submit_is_analyzed_once_and_a_few_submits_only(
    tool_calls: Tools, new_cluster: Callable[..., Any]
) -> None:
    cluster = new_cluster(cpus=99)
    for n in range(1, 6):
        cluster.scale(2 * n)
    tool_calls.forget()
    told = cluster.explain()
    assert len([call for call in tool_calls.calls_of("condor_q") if "-better-analyze" in call]) == 3
    assert "HTCondor was not asked about it" in str(told)
    assert told.stuck == 6


def test_an_analysis_that_fails_is_told_and_decides_nothing(
    tool_calls: Tools, new_cluster: Callable[..., Any], pool: Pool
) -> None:
    cluster = new_cluster(cpus=99)
    cluster.scale(1)
    cluster.jobs()
    tool_calls.script(
        "condor_q",
        f'case "$*" in *better*) echo "Error: no analysis today" >&2; exit 1;; esac; exec {pool.bin}/condor_q "$@"',
    )
    told = cluster.explain()
    assert "no analysis today" in str(told)
    assert not told.hopeless


def test_it_stays_text_in_a_notebook(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster()
    cluster.scale(1)
    pool.run("condor_hold", "-reason", "<b>evil</b>", "-constraint", cluster.fleet.constraint)
    told = explained(cluster, "<b>evil</b>")
    assert "<b>evil" not in told._repr_html_()
    assert "&lt;b&gt;evil" in told._repr_html_()


@pytest.mark.parametrize(
    ("code", "subcode", "words"),
    [
        (34, 102, "used more memory than it asked for"),
        (21, 102, "used more memory than it asked for"),
        (34, 104, "used more disk than it asked for"),
        (34, 0, "used more of a resource"),
        (13, 2, "has no input file"),
        (14, 2, "has no working directory"),
        (6, 2, "could not be started"),
        (77, 5, "code 77, subcode 5"),
    ],
)
def test_the_words_for_the_codes(code: int, subcode: int, words: str) -> None:
    from htcdaskgateway.condor.jobs import WorkerJobs

    jobs = WorkerJobs.from_ads(
        [{"ClusterId": 1, "ProcId": 0, "JobStatus": 5, "HoldReasonCode": code, "HoldReasonSubCode": subcode}]
    )
    findings = held(jobs, WorkerSpec.from_keywords())
    assert words in str(findings[0])
    assert Explanation(jobs, findings).hopeless


def test_input_on_its_way_to_the_schedd_is_no_failure() -> None:
    from htcdaskgateway.condor.jobs import WorkerJobs

    jobs = WorkerJobs.from_ads([{"ClusterId": 1, "ProcId": 0, "JobStatus": 5, "HoldReasonCode": 16}])
    findings = held(jobs, WorkerSpec.from_keywords())
    assert "waits for its input" in str(findings[0])
    assert not Explanation(jobs, findings).hopeless


def test_a_kind_of_gpu_that_no_machine_has() -> None:
    condition = "countMatches(MY.RequireGPUs,TARGET.AvailableGPUs) >= RequestGPUs"
    said = Analysis(((0, condition),), machines=2, rejected=2, refusing=0, values={})
    job = WorkerJob.from_ad({"ClusterId": 1, "ProcId": 0, "JobStatus": 1, "EnteredCurrentStatus": 1})
    found = describe((job,), said)
    assert "no machine has that many GPUs of that kind" in found.what
    assert found.keyword == "gpus=…"
