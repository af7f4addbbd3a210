"""What one worker needs: configuration, keywords, and what is refused."""

from __future__ import annotations

import json
import sys

import dask.config
import pytest

from htcdaskgateway import WorkerSpec
from htcdaskgateway.errors import ConfigError
from htcdaskgateway.worker.spec import KEYWORDS

pytestmark = pytest.mark.usefixtures("bare")


def test_the_defaults_are_those_of_version_1():
    spec = WorkerSpec.from_keywords()
    assert (spec.cpus, spec.memory, spec.worker_port) == (4, 32 * 2**30, "10000:10070")
    assert (spec.container_runtime, spec.container_image) == ("htcondor", None)
    assert (spec.disk, spec.gpus, spec.spool) == (None, None, False)
    assert (spec.max_idle_time, spec.max_held_time, spec.death_timeout) == (86400, 3600, None)
    assert spec.start_interval == 0


def test_a_keyword_wins_over_the_configuration():
    with dask.config.set({"htcdaskgateway.worker.cpus": 2, "htcdaskgateway.worker.memory": "2GB"}):
        spec = WorkerSpec.from_keywords(cpus=3)
    assert (spec.cpus, spec.memory_mib) == (3, 2048)


def test_the_workers_python_is_the_clients_own_but_in_a_container():
    assert WorkerSpec.from_keywords().python == sys.executable
    assert WorkerSpec.from_keywords(container_runtime="none").python == sys.executable
    for runtime in ("htcondor", "apptainer"):
        assert WorkerSpec.from_keywords(container_runtime=runtime, container_image="/x.sif").python == "python"
    assert WorkerSpec.from_keywords(python="python").python == "python"
    # Another notebook that connects has another one; the cluster's stays.
    noted = {**WorkerSpec.from_keywords().to_dict(), "python": "/of/the/first/python"}
    assert WorkerSpec.from_dict(noted).python == "/of/the/first/python"


def test_every_field_has_a_configured_default():
    configured = dask.config.get("htcdaskgateway.worker")
    assert {name.replace("-", "_") for name in configured} == KEYWORDS


def test_what_a_worker_needs_survives_the_way_to_the_scheduler_and_back():
    spec = WorkerSpec.from_keywords(
        container_image="/i m/a'b.sif",
        container_runtime="apptainer",
        container_binds=["/scratch", "/a:/b:ro"],
        container_options=["--nv"],
        cpus=2,
        memory="1.5GB",
        disk="3G",
        gpus=1,
        worker_extra_args=["--resources", "a=1"],
        worker_port=0,
        scheduler_proxy="[::1]:8786",
        start_interval="50ms",
        environment={"A": "1", "EMPTY": "", "NOT": None},
        job_script_prologue=["module load x"],
        job_extra_directives={"accounting_group": "physics", "+Site": '"A"'},
        submit_command_extra=["-disable", "-batch-name", "mine"],
        requirements="HasX",
        rank="Mips",
        spool=True,
        log_directory="/x",
        interface="lo",
    )
    assert WorkerSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_note_of_a_newer_version_is_read_as_far_as_it_is_understood():
    assert WorkerSpec.from_dict({"cpus": 7, "of_the_future": 1}).cpus == 7


def test_a_workers_size_and_image_are_told_in_words():
    spec = WorkerSpec.from_keywords(cpus=2, memory="32GB", disk="1T", gpus=1, container_image="/x.sif")
    assert str(spec) == "2 CPUs, 32 GiB of memory, 1 TiB of disk, 1 GPU, in /x.sif"


def test_whole_numbers_of_a_yaml_file_are_taken_as_such():
    spec = WorkerSpec.from_keywords(cpus="4", gpus=2.0)
    assert (spec.cpus, spec.gpus) == (4, 2)


def test_an_unknown_keyword_is_told_with_those_that_exist():
    with pytest.raises(TypeError, match=r"A worker has no option 'colour'; it has .*cpus"):
        WorkerSpec.from_keywords(colour="red")
    with pytest.raises(ConfigError, match=r"A worker has no option 'cores'; use cpus="):
        WorkerSpec.from_keywords(cores=3)
    with pytest.raises(ConfigError, match=r"A worker has no option 'procesess'; use processes="):
        WorkerSpec.from_keywords(procesess=3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpus": 0},
        {"cpus": 1.5},
        {"cpus": True},
        {"cpus": "two"},
        {"cpus": float("inf")},
        {"memory": "32 GiBs"},
        {"disk": "-1"},
        {"gpus": -1},
        {"container_runtime": "docker"},
        {"container_image": ""},
        {"container_image": 7},
        {"container_image": "/a\nqueue 5"},
        {"container_image": "/a\0"},
        {"container_image": "/a\x85b"},
        {"container_image": "/a\udcff"},
        {"container_binds": "/scratch"},
        {"container_options": [None]},
        {"python": ""},
        {"worker_extra_args": ["--x\n"]},
        {"worker_extra_args": ["--nworkers", "2"]},
        {"worker_extra_args": ["--name=mine"]},
        {"worker_port": "10000-10070"},
        {"worker_port": "70000"},
        {"worker_port": "10070:10000"},
        {"worker_port": False},
        {"interface": ""},
        {"scheduler_proxy": "host"},
        {"scheduler_proxy": "host:0"},
        {"scheduler_proxy": "tls://host:8786"},
        {"death_timeout": 0},
        {"death_timeout": "soon"},
        {"death_timeout": True},
        {"death_timeout": float("inf")},
        {"start_interval": -1},
        {"start_interval": None},
        {"start_interval": False},
        {"environment": ["A=1"]},
        {"environment": {"A B": "1"}},
        {"environment": {"A": "1\n2"}},
        {"job_script_prologue": "module load x"},
        {"job_extra_directives": ["a"]},
        {"job_extra_directives": {"queue": "5"}},
        {"job_extra_directives": {"Executable": "/bin/sh"}},
        {"job_extra_directives": {"a = 1\nqueue": "5"}},
        {"job_extra_directives": {"a": "1\nqueue 5"}},
        {"job_extra_directives": {"a": "1\\"}},
        {"job_extra_directives": {"+HTCDaskGatewayCluster": '"mine"'}},
        {"job_extra_directives": {"My.EncryptInputFiles": '"none"'}},
        {"job_extra_directives": {"materialize_max_idle": 5}},
        {"submit_command_extra": "-x"},
        {"submit_command_extra": ["-name", "elsewhere"]},
        {"submit_command_extra": ["--rem", "elsewhere"]},
        {"submit_command_extra": ["-factory"]},
        {"submit_command_extra": ["initialdir=/tmp"]},
        {"submit_command_extra": ["-batch-name", "mine", "other.sub"]},
        {"requirements": "a\nqueue"},
        {"requirements": "a \\"},
        {"rank": ""},
        {"log_directory": ""},
        {"spool": "yes"},
        {"max_idle_time": -1},
        {"max_held_time": "1 fortnight"},
    ],
    ids=repr,
)
def test_what_cannot_be_used_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        WorkerSpec.from_keywords(**wrong)


def test_an_image_without_a_runtime_is_refused():
    with pytest.raises(ConfigError, match=r"container_runtime='htcondor'"):
        WorkerSpec.from_keywords(container_image="/x.sif", container_runtime="none")


def test_a_configured_image_is_left_out_where_the_runtime_is_none():
    with dask.config.set({"htcdaskgateway.worker.container-image": "/x.sif"}):
        assert WorkerSpec.from_keywords(container_runtime="none").container_image is None


def test_the_runtime_none_may_come_from_the_environment():
    """Dask reads the word ``none`` there as None."""
    dask.config.refresh(paths=[], env={"DASK_HTCDASKGATEWAY__WORKER__CONTAINER_RUNTIME": "none"})
    assert WorkerSpec.from_keywords().container_runtime == "none"


def test_apptainer_needs_an_image():
    with pytest.raises(ConfigError, match="container_image"):
        WorkerSpec.from_keywords(container_runtime="apptainer")
