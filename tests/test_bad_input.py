"""Bad input: one clear error that names the thing and the way out, before anything is asked of server or schedd."""

from __future__ import annotations

import os
from pathlib import Path

import dask.config
import pytest

from htcdaskgateway import WorkerSpec, errors
from htcdaskgateway.fleet.counting import jobs_of


@pytest.fixture
def nothing_happens(gateway, pool):
    """Check after the test that the server was asked for no cluster and HTCondor for no job."""

    def seen():
        clusters = gateway.list_clusters(status=["pending", "running", "stopping", "stopped", "failed"])
        return {report.name for report in clusters}, {(ad["ClusterId"], ad["ProcId"]) for ad in pool.ads()}

    clusters, jobs = seen()
    yield
    after = seen()
    assert after[0] == clusters
    assert after[1] <= jobs  # what a test before has removed may leave meanwhile


def refused(gateway, kind, *words, **keywords):
    """Check that new_cluster raises one error of that kind with these words in it."""
    with pytest.raises(kind) as caught:
        gateway.new_cluster(**keywords)
    text = str(caught.value)
    assert isinstance(caught.value, errors.HTCDaskGatewayError)
    for word in words:
        assert word in text, text
    return caught.value


@pytest.mark.usefixtures("nothing_happens")
class TestBeforeAnythingIsAsked:
    def test_an_unknown_tool_directory(self, gateway, monkeypatch):
        monkeypatch.setenv("CONDOR_BIN_DIR", "/no/such/bin")
        refused(gateway, errors.CondorNotFoundError, "CONDOR_BIN_DIR", "/no/such/bin", "which condor_q")

    def test_where_htcondor_is_missing_it_is_said_how_to_get_it(self, gateway, monkeypatch, tmp_path):
        monkeypatch.delenv("CONDOR_BIN_DIR")
        monkeypatch.setenv("PATH", str(tmp_path))
        refused(gateway, errors.CondorNotFoundError, "PATH", "CONDOR_BIN_DIR", "install HTCondor")

    def test_an_amount_that_is_none(self, gateway):
        refused(gateway, errors.ConfigError, "memory='32 GiBs'", "32GB", memory="32 GiBs")

    def test_an_image_with_a_newline(self, gateway):
        image = "/images/x.sif\nqueue 1000"
        keywords = {"container_image": image, "container_runtime": "htcondor"}
        refused(gateway, errors.ConfigError, "container_image", "line break", **keywords)

    @pytest.mark.parametrize("name", ["a,b.sif", "a$$(x).sif", "a$(DOLLAR).sif", "x\\"])
    def test_an_image_that_htcondor_would_read_otherwise(self, gateway, tmp_path, name):
        image = tmp_path / name
        image.write_text("an image")
        keywords = {"container_image": str(image), "container_runtime": "htcondor"}
        refused(gateway, errors.ConfigError, repr(str(image)), **keywords)

    def test_an_image_that_is_not_there(self, gateway, tmp_path):
        keywords = {"container_image": str(tmp_path / "x.sif"), "container_runtime": "htcondor"}
        refused(gateway, errors.HTCDaskGatewayError, str(tmp_path / "x.sif"), "does not exist", **keywords)

    def test_a_runtime_that_is_none(self, gateway):
        refused(gateway, errors.ConfigError, "container_runtime='docker'", "apptainer", container_runtime="docker")

    def test_a_staging_directory_that_cannot_be_made(self, gateway, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("HTCDASK_STAGEDIR", str(tmp_path / "file" / "stage"))
        refused(gateway, errors.StagingError, str(tmp_path / "file" / "stage"), "HTCDASK_STAGEDIR")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_staging_directory_that_cannot_be_written(self, gateway, monkeypatch, tmp_path):
        (tmp_path / "stage").mkdir(mode=0o500)
        monkeypatch.setenv("HTCDASK_STAGEDIR", str(tmp_path / "stage"))
        refused(gateway, errors.StagingError, str(tmp_path / "stage"), "HTCDASK_STAGEDIR")

    @pytest.mark.parametrize("name", ["worker.sub.j2", "worker.sh.j2"])
    @pytest.mark.parametrize(
        ("text", "told"), [("fine\n{% if %}\n", ", line 2"), ("{{ no_such_value }}", "no_such_value")]
    )
    def test_a_template_with_an_error(self, gateway, tmp_path, name, text, told):
        (tmp_path / name).write_text(text)
        with dask.config.set({"htcdaskgateway.template-directory": str(tmp_path)}):
            refused(gateway, errors.TemplateError, name, told)

    def test_a_template_directory_that_is_none(self, gateway):
        with dask.config.set({"htcdaskgateway.template-directory": "/no/such/templates"}):
            refused(gateway, errors.TemplateError, "htcdaskgateway.template-directory", "/no/such/templates")

    def test_a_cluster_that_does_not_exist(self, gateway, tool_calls):
        with pytest.raises(ValueError, match="no-such-cluster"):
            gateway.connect("no-such-cluster")
        with pytest.raises(ValueError, match="no-such-cluster"):
            gateway.scale_cluster("no-such-cluster", 2)
        assert tool_calls.calls_of("condor_submit") == []

    def test_what_is_submitted_for_later_is_refused_at_once_too(self, gateway):
        with pytest.raises(errors.ConfigError, match="memory='32 GiBs'"):
            gateway.submit(memory="32 GiBs")

    def test_a_time_in_the_configuration_that_is_none(self, gateway):
        with dask.config.set({"htcdaskgateway.condor.timeout": "a while"}):
            refused(gateway, errors.ConfigError, "htcdaskgateway.condor.timeout='a while'", "60s")


def test_a_number_of_workers_that_is_none(new_cluster, tool_calls, pool):
    cluster = new_cluster()
    for wrong in (-1, "3", 1.5, None, True, float("nan")):
        with pytest.raises(errors.ConfigError, match=r"scale\(.*whole number of") as caught:
            cluster.scale(wrong)
        assert repr(wrong) in str(caught.value)
        with pytest.raises(errors.ConfigError):
            cluster.gateway.scale_cluster(cluster.name, wrong)
    assert tool_calls.calls_of("condor_submit") == []
    assert pool.jobs(cluster.name) == []


def test_an_option_that_the_server_does_not_know(gateway, nothing_happens):
    """What is not a worker's goes to the server, which answers."""
    with pytest.raises(ValueError, match="colour"):
        gateway.new_cluster(colour="red")


@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("cores", "cpus="),
        ("mem", "memory="),
        ("n_workers", r"scale\(n\)"),
        ("queue", "requirements="),
        ("walltime", "allowed_execute_duration"),
        ("local_directory", "scratch directory"),
        ("contaner_image", "container_image="),
    ],
)
def test_a_word_of_dask_jobqueue_is_told_with_ours(gateway, nothing_happens, word, right):
    with pytest.raises(errors.KeywordError, match=f"in place of {word}= use .*{right}"):
        gateway.new_cluster(**{word: "1"})


def test_a_submit_that_htcondor_refuses_is_told_in_full(new_cluster, pool):
    cluster = new_cluster(requirements="(((")
    with pytest.raises(errors.CondorError) as caught:
        cluster.scale(1)
    text = str(caught.value)
    assert "condor_submit" in text
    assert "exit code 1" in text
    assert "ERROR" in caught.value.stderr
    assert pool.jobs(cluster.name) == []
    assert cluster.jobs() == []


def test_a_configuration_that_does_not_exist_is_told(new_cluster, monkeypatch):
    cluster = new_cluster()
    with monkeypatch.context() as patch:
        patch.setenv("CONDOR_CONFIG", "/no/such/condor_config")
        with pytest.raises(errors.CondorConfigError, match="setup_condor"):
            cluster.scale(1)


def test_a_staging_directory_of_somebody_else_stops_the_cluster_again(gateway, stage, tmp_path, monkeypatch):
    """It shows only when the cluster's name is known; the cluster must not stay behind."""
    before = {report.name for report in gateway.list_clusters()}
    submit = type(gateway)._submit

    async def squat(self, **keywords):
        name = await submit(self, **keywords)
        Path(stage).mkdir(exist_ok=True)
        (Path(stage) / name).symlink_to(tmp_path)
        return name

    monkeypatch.setattr(type(gateway), "_submit", squat)
    with pytest.raises(errors.StagingError, match="does not belong to you"):
        gateway.new_cluster()
    assert {report.name for report in gateway.list_clusters()} == before


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"mem": "4GB"}, "write scale(memory='4GB')"),
        ({"cpus": 8}, "write scale(cores=8)"),
        ({"ncores": 8}, "write scale(cores=8)"),
        ({"workers": 3}, "write scale(n=3)"),
        ({"n_jobs": 3}, "write scale(jobs=3)"),
        ({"memry": "4GB"}, "write scale(memory='4GB')"),
        ({"minimum": 1}, "adapt(minimum=…, maximum=…) has"),
        ({"colour": "red"}, "it has n, jobs, cores, memory and worker_type"),
    ],
)
def test_a_word_for_a_number_of_workers_that_is_another_one(wrong, right):
    spec = WorkerSpec.from_keywords(container_runtime="none")
    with pytest.raises(errors.ConfigError) as caught:
        jobs_of(spec, **wrong)
    assert str(caught.value).startswith(f"scale() has no {next(iter(wrong))!r}; ")
    assert right in str(caught.value)


@pytest.mark.parametrize("amounts", [{"n": -1}, {"n": 1.5}, {"n": True}, {"jobs": -1}, {"cores": "4"}])
def test_a_number_of_workers_that_is_no_number_asks_for_nothing(amounts):
    spec = WorkerSpec.from_keywords(container_runtime="none")
    with pytest.raises(errors.ConfigError, match="give a whole number of"):
        jobs_of(spec, **amounts)


def test_no_memory_is_no_worker_and_a_part_of_a_job_is_a_job():
    spec = WorkerSpec.from_keywords(container_runtime="none", cpus=4, memory="2GiB")
    asked = [{"memory": 0}, {"memory": "0"}, {"memory": "3GiB"}, {"cores": 5}, {"cores": 0}, {"jobs": 2}]
    assert [jobs_of(spec, **amounts) for amounts in asked] == [0, 0, 2, 2, 0, 2]
