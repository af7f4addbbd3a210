"""Workers in real Apptainer images, on a real pool: started by HTCondor, and by the worker script."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import dask.config
import msgpack
import pytest
from dask.distributed import worker_client
from support import PATIENCE, wait_until, workers_of

from htcdaskgateway.errors import ContainerError
from htcdaskgateway.local import LocalSystem, LocalSystemError, PersonalPool, image
from htcdaskgateway.local.apptainer import Apptainer
from htcdaskgateway.local.processes import one_uid_namespace, run
from htcdaskgateway.scheduler.versions import VersionMismatchWarning

pytestmark = pytest.mark.long

MSGPACK = ".".join(map(str, msgpack.version))
RUNTIMES = ["htcondor", "apptainer"]
# What HTCondor, Dask's configuration, the container's runtime and its shell set.
NOT_ASKED_FOR = re.compile(
    r"""(APPTAINER|SINGULARITY|_?CONDOR|_CHIRP|__DASK|DASK_PARENT)(_.*)?
    | .*_(NUM_THREADS|MAX_THREADS|CPU_COUNT|VISIBLE_DEVICES)
    | CUBACORES|GOMAXPROCS|OMP_THREAD_LIMIT|TF_LOOP_PARALLEL_ITERATIONS|GPU_DEVICE_ORDINAL|BATCH_SYSTEM
    | MALLOC_TRIM_THRESHOLD_|HOME|PATH|LD_LIBRARY_PATH|LANG|PWD|TERM|PS1|PROMPT_COMMAND|TMP|TEMP|TMPDIR
    | DASK_GATEWAY_(CLUSTER|WORKER)_NAME""",
    re.VERBOSE,
)


class Images(NamedTuple):
    directory: Path
    sif: Path


def runs(path: Path) -> str:
    """Return why Apptainer cannot run that image here; nothing if it can."""
    try:
        program = Apptainer.find_or_install().program
    except LocalSystemError as error:
        return str(error)
    done = run(one_uid_namespace([program, "--silent", "exec", "--no-home", path, "true"]), timeout=60)
    if done.returncode == 0:
        return ""
    kind = ".sif files" if path.suffix == ".sif" else "directories"
    return f"Apptainer cannot run {kind} here: {done.stderr.strip()}"


@pytest.fixture(scope="module")
def images() -> Images:
    try:
        made = Images(image.sandbox(), image.sif())
    except LocalSystemError as error:
        pytest.skip(f"no image can be made here: {error}")
    if why := runs(made.directory):
        pytest.skip(why)
    return made


@pytest.fixture(scope="module")
def system(images: Images) -> Any:
    with (
        LocalSystem(pool=PersonalPool(apptainer=True)) as running,
        dask.config.set({"htcdaskgateway.condor.poll-interval": "100ms", "htcdaskgateway.worker.python": "python"}),
    ):
        yield running


def answer_of_the_worker(client: Any) -> dict[str, Any]:
    # Inside, so that it travels by value: the image has no tests.
    def inside(dask_worker: Any) -> dict[str, Any]:
        import os
        import sys
        import tempfile

        return {
            "environment": dict(os.environ),
            "prefix": sys.prefix,
            "directory": str(Path.cwd()),
            "local": dask_worker.local_directory,
            "temporary": tempfile.gettempdir(),
            "home": str(Path.home()),
            "credentials": {name: Path(name).stat().st_mode & 0o777 for name in ("dask.crt", "dask.pem")},
        }

    client.wait_for_workers(1, timeout=PATIENCE)
    (answer,) = client.run(inside).values()
    return dict(answer)


@pytest.mark.parametrize("form", ["directory", "sif"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_workers_in_an_image_compute_as_those_without_and_restart(
    runtime: str, form: str, images: Images, new_cluster: Any, pool: Any
) -> None:
    path = getattr(images, form)
    if why := runs(path):
        pytest.skip(why)
    asked = "a'b\"c $(echo x) `y` \\ $HOME ü"
    cluster = new_cluster(
        container_image=str(path), container_runtime=runtime, environment={"ASKED": asked}, cpus=2
    )
    with cluster.get_client() as client:
        cluster.scale(1)
        found = answer_of_the_worker(client)
        assert client.submit(sum, range(10)).result(timeout=PATIENCE) == 45
        client.restart(timeout=PATIENCE)

        def ask() -> int:  # with a client of the task's own
            with worker_client() as own:
                return int(own.submit(sum, range(10), pure=False).result())

        assert client.submit(ask).result(timeout=PATIENCE) == 45
        assert [job["NumShadowStarts"] for job in pool.jobs(cluster.name)] == [1]
    environment = found["environment"]
    assert Path(environment["APPTAINER_CONTAINER"]).name == path.name
    assert found["prefix"] == "/usr/local"
    assert environment["ASKED"] == asked
    assert environment["NUMEXPR_NUM_THREADS"] == "2"  # HTCondor's
    assert environment["OMP_NUM_THREADS"] == "1"  # Dask's
    assert [name for name in environment if not NOT_ASKED_FOR.fullmatch(name)] == ["ASKED"]
    # The job's own directory, and the credentials in it alone.
    scratch = found["directory"]
    assert "/execute/" in scratch
    assert found["local"].startswith(scratch)
    assert found["temporary"] == found["home"] == scratch
    assert found["credentials"] == {"dask.crt": 0o600, "dask.pem": 0o600}
    assert cluster.check_versions().ok
    sent = form == "sif" and runtime == "htcondor"
    (job,) = pool.jobs(cluster.name)
    assert (path.name in job["TransferInput"]) == sent
    assert Path(scratch).is_dir()
    cluster.shutdown()
    wait_until(lambda: not Path(scratch).exists(), what="the job's directory goes, and the credentials with it")


def test_a_sif_from_its_path(images: Images, new_cluster: Any, pool: Any) -> None:
    if why := runs(images.sif):
        pytest.skip(why)
    cluster = new_cluster(container_image=str(images.sif), container_runtime="htcondor", transfer_container=False)
    with cluster.get_client() as client:
        cluster.scale(1)
        assert answer_of_the_worker(client)["environment"]["APPTAINER_CONTAINER"] == str(images.sif)
    assert images.sif.name not in pool.jobs(cluster.name)[0]["TransferInput"]


def test_binds_options_and_what_stays_outside(images: Images, new_cluster: Any, tmp_path: Path) -> None:
    shared = tmp_path / "a b"
    shared.mkdir()
    (shared / "data").write_text("of the site")
    cluster = new_cluster(
        container_image=str(images.directory),
        container_runtime="apptainer",
        container_binds=[f"{shared}:/scratch", f"{shared}:/projects:ro"],
        container_options=["--hostname", "of-the-option"],
        job_extra_directives={"environment": '"LEAK=1 OMP_NUM_THREADS=7"'},
    )

    def look() -> dict[str, Any]:
        import os
        import platform

        Path("/scratch/from-inside").write_text("hello")
        try:
            Path("/projects/no").touch()
            written = True
        except OSError:
            written = False
        data = Path("/projects/data").read_text()
        return {"data": data, "written": written, "host": platform.node(), "leak": os.environ.get("LEAK")}

    with cluster.get_client() as client:
        cluster.scale(1)
        client.wait_for_workers(1, timeout=PATIENCE)
        (found,) = client.run(look).values()
    assert found == {"data": "of the site", "written": False, "host": "of-the-option", "leak": None}
    assert (shared / "from-inside").read_text() == "hello"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_eviction_hands_the_data_over(runtime: str, images: Images, new_cluster: Any, pool: Any) -> None:
    cluster = new_cluster(container_image=str(images.directory), container_runtime=runtime)

    def token(i: int) -> str:
        import uuid

        return f"{i} {uuid.uuid4()}"  # another one if it were computed again

    with cluster.get_client() as client:
        cluster.scale(2)
        client.wait_for_workers(2, timeout=PATIENCE)
        workers = workers_of(client)
        leaving, staying = sorted(workers)
        futures, before = [], []
        for number in range(5):  # one after another, so that none is stolen by the other worker
            futures.append(client.submit(token, number, workers=[leaving], allow_other_workers=True))
            before.append(futures[-1].result())
        assert len(client.has_what()[leaving]) == 5
        job = workers[leaving]["name"].removeprefix("htcondor-").rpartition("-")[0]
        pool.run("condor_vacate_job", job)
        wait_until(lambda: leaving not in workers_of(client), what="the evicted worker leaves")
        assert len(client.has_what()[staying]) == 5
        assert client.gather(futures) == before
        client.wait_for_workers(2, timeout=PATIENCE)  # and its job runs again


def no_job_waits(pool: Any, cluster: Any) -> list[dict[str, Any]]:
    """Wait until every job is held, and return their ads."""
    jobs: list[dict[str, Any]] = []

    def held() -> bool:
        jobs[:] = pool.jobs(cluster.name)
        return bool(jobs) and all(job["JobStatus"] == 5 for job in jobs)

    wait_until(held, timeout=2 * PATIENCE, what=lambda: f"the jobs are held: {jobs}")
    return jobs


def test_a_missing_image_is_refused_before_a_scheduler_or_job_is_there(
    gateway: Any, pool: Any, tmp_path: Path
) -> None:
    before, began = gateway.list_clusters(), time.monotonic()
    for runtime in RUNTIMES:
        with pytest.raises(ContainerError, match=r"missing\.sif' does not exist; .*container-unseen-prefixes"):
            gateway.new_cluster(container_image=str(tmp_path / "missing.sif"), container_runtime=runtime)
    assert time.monotonic() - began < 10
    assert gateway.list_clusters() == before
    assert not [job for job in pool.ads() if str(tmp_path) in json.dumps(job)]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_image_that_only_the_nodes_could_see(runtime: str, new_cluster: Any, pool: Any, tmp_path: Path) -> None:
    path = tmp_path / "nodes" / "missing.sif"
    with dask.config.set({"htcdaskgateway.container-unseen-prefixes": [str(tmp_path)]}):
        cluster = new_cluster(container_image=str(path), container_runtime=runtime, transfer_container=False)
    cluster.scale(2)
    for job in no_job_waits(pool, cluster):
        assert str(path) in job["HoldReason"]
        assert job["NumShadowStarts"] < 30
        if runtime == "htcondor":
            assert "could not start the container" in job["HoldReason"]
            assert "could not open image" in job["HoldReason"]
        else:
            assert "failed 3 times, the last time with exit code 255" in job["HoldReason"]
    if runtime == "apptainer":
        assert any("no such file" in text for text in cluster.logs().values())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_jobs_of_an_image_without_dask_are_held_and_say_why(
    runtime: str, images: Images, new_cluster: Any, pool: Any
) -> None:
    path = image.sandbox([])
    cluster = new_cluster(container_image=str(path), container_runtime=runtime)
    cluster.scale(1)
    (job,) = no_job_waits(pool, cluster)
    assert "its Python cannot import dask and distributed" in job["HoldReason"]
    assert str(path) in job["HoldReason"]
    assert job["HoldReasonSubCode"] == 78
    said = "\n".join(cluster.logs().values())
    assert f"in the image {path} cannot run a Dask worker: ModuleNotFoundError" in said


def test_apptainer_is_not_on_the_node(images: Images, new_cluster: Any, pool: Any) -> None:
    cluster = new_cluster(
        container_image=str(images.directory), container_runtime="apptainer", container_command="no-apptainer"
    )
    cluster.scale(1)
    (job,) = no_job_waits(pool, cluster)
    assert "exit code 127 (a program that it needs is not there)" in job["HoldReason"]
    assert any("no-apptainer" in text for text in cluster.logs().values())


def test_other_versions_are_told(images: Images, new_cluster: Any) -> None:
    try:
        path = image.sandbox(pip=[f"msgpack<{MSGPACK}"])
    except LocalSystemError as error:
        pytest.skip(f"no other msgpack can be had here: {error}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cluster = new_cluster(container_image=str(path), container_runtime="apptainer")

        def told() -> list[str]:
            return [str(item.message) for item in caught if item.category is VersionMismatchWarning]

        assert "no worker has joined" in str(cluster.check_versions())
        with cluster.get_client() as client:
            cluster.scale(2)
            client.wait_for_workers(2, timeout=PATIENCE)
            (text,) = wait_until(told, what="the warning")
            found = cluster.check_versions()
        assert told() == [text]  # once
    assert found.mismatches == ["msgpack"]
    assert not found.ok
    (row,) = [line for line in str(found).splitlines() if "msgpack" in line and "|" in line]
    assert row.count(MSGPACK) == 2
    assert str(path) in text
    assert "! | msgpack" in text


def test_an_image_is_refused_at_once_where_no_slot_can_run_it(
    images: Images, gateway: Any, system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = gateway.list_clusters()
    with PersonalPool(cpus=1) as plain:
        for name, value in plain.environ.items():
            monkeypatch.setenv(name, value)
        for path, attribute in ((images.sif, "HasSIF"), (images.directory, "HasSandboxImage")):
            began = time.monotonic()
            with pytest.raises(ContainerError, match=f"No slot of the pool .* HasContainer and {attribute}"):
                gateway.new_cluster(container_image=str(path), container_runtime="htcondor")
            assert time.monotonic() - began < 20
        assert (
            run([plain.installation.bin / "condor_q", "-af", "ClusterId"], timeout=20, env=os.environ).stdout == ""
        )
    assert gateway.list_clusters() == before
