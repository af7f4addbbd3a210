"""What sites ask of a job: each option reaches the submit description and the worker's script."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess

import dask.config
import pytest

from htcdaskgateway import WorkerSpec
from htcdaskgateway.condor.choosing import choose_schedd
from htcdaskgateway.condor.schedd import Condor
from htcdaskgateway.errors import ConfigError
from htcdaskgateway.worker import sending, staging

pytestmark = pytest.mark.usefixtures("bare")
PREFIX = "/cvmfs/unpacked.cern.ch/registry.hub.docker.com"


def rendered(**keywords) -> dict[str, str]:
    return staging.Staging("c1", WorkerSpec.from_keywords(**keywords)).rendered(
        "gateway://proxy.example.org:8786/c1"
    )


def test_an_image_is_told_to_a_pool_that_reads_singularity_image():
    text = rendered(container_runtime="singularity-image", container_image="/cvmfs/group/image:tag")["worker.sub"]
    assert 'My.SingularityImage = "/cvmfs/group/image:tag"\n' in text
    assert "universe = vanilla\n" in text
    assert "container_image =" not in text
    spec = WorkerSpec.from_keywords(container_runtime="singularity-image", container_image="/cvmfs/group/image:tag")
    assert spec.python == "python"
    assert "SingularityImage" not in rendered(container_runtime="singularity-image")["worker.sub"]


def test_more_input_files_go_with_the_job(tmp_path, monkeypatch, bare):
    monkeypatch.setenv("USER", "alice")
    spec = WorkerSpec.from_keywords(
        transfer_input_files=["~/module.py", "/scratch/$USER/tables/", "tables.txt", "https://example.org/more.tar"]
    )
    assert spec.transfer_input_files == (
        f"{bare}/module.py",
        "/scratch/alice/tables/",
        f"{tmp_path}/work/tables.txt",
        "https://example.org/more.tar",
    )
    assert WorkerSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    (line,) = (
        line
        for line in staging.Staging("c1", spec).rendered("gateway://h:1/c1")["worker.sub"].splitlines()
        if line.startswith("transfer_input_files")
    )
    assert line.endswith(f", credentials/dask.pem, {', '.join(spec.transfer_input_files)}")
    with pytest.raises(ConfigError, match=r"module\.py' is not there"):
        sending.check_files(spec)
    with pytest.raises(ConfigError, match="has a comma"):
        WorkerSpec.from_keywords(transfer_input_files=["a,b"])


def test_the_jobs_own_directory_is_shown_in_the_container_where_it_is_asked_for():
    image = {"container_runtime": "apptainer", "container_image": "/cvmfs/image"}
    assert '    --bind "$PWD":/srv \\\n' in rendered(bind_job_directory="/srv", **image)["worker.sh"]
    assert "/srv" not in rendered(**image)["worker.sh"]
    with pytest.raises(ConfigError, match="bind_job_directory='srv' is not the absolute path"):
        WorkerSpec.from_keywords(bind_job_directory="srv")


@pytest.mark.parametrize("image", ["group/image:tag", f"{PREFIX}/group/image:tag", f"{PREFIX}/./group/image:tag"])
def test_a_short_name_is_an_image_below_the_prefix(image):
    spec = WorkerSpec.from_keywords(container_image=image, image_prefix=f"{PREFIX}/")
    assert spec.container_image == f"{PREFIX}/group/image:tag"
    assert WorkerSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    "image", ["/home/alice/image.sif", "docker://group/image", "../other", f"{PREFIX}/../x", "~/x"]
)
def test_an_image_that_is_not_below_the_prefix_is_refused(image):
    with pytest.raises(ConfigError, match=r"is not below image_prefix='/cvmfs/.*pass image_prefix=None"):
        WorkerSpec.from_keywords(container_image=image, image_prefix=PREFIX)


def test_disk_is_asked_for_by_the_core():
    spec = WorkerSpec.from_keywords(cpus=3, disk_per_cpu="20GB")
    assert spec.disk_kib == 3 * 20 * 2**20
    assert "request_disk = 62914560KB\n" in rendered(cpus=3, disk_per_cpu="20GB")["worker.sub"]
    assert WorkerSpec.from_dict({**spec.to_dict(), "cpus": 1}).disk_kib == 20 * 2**20
    assert WorkerSpec.from_keywords(cpus=3, disk_per_cpu="20GB", disk="1GB").disk_kib == 2**20


def test_fermilabs_own_keywords_are_understood():
    spec = WorkerSpec.from_keywords(
        apptainer_image="coffeateam/coffea-base:0.7",
        image_registry="registry.hub.docker.com",
        worker_cores=2,
        worker_memory=4,
    )
    assert spec.container_image == f"{PREFIX}/coffeateam/coffea-base:0.7"
    assert (spec.cpus, spec.memory) == (2, 4 * 2**30)
    assert WorkerSpec.from_keywords(worker_memory="3GB").memory == 3 * 2**30
    with pytest.raises(ConfigError, match="worker_cores and cpus are two words for one thing"):
        WorkerSpec.from_keywords(worker_cores=2, cpus=2)


def test_an_x509_proxy_goes_with_the_job(tmp_path, monkeypatch):
    assert f"x509userproxy = /tmp/x509up_u{os.getuid()}\n" in rendered(x509_proxy=True)["worker.sub"]
    monkeypatch.setenv("X509_USER_PROXY", str(tmp_path / "proxy"))
    spec = WorkerSpec.from_keywords(x509_proxy=True)
    assert f"x509userproxy = {tmp_path}/proxy\n" in rendered(x509_proxy=True)["worker.sub"]
    with pytest.raises(ConfigError, match=r"no X\.509 proxy in .*proxy'; make one"):
        sending.check_files(spec)
    (tmp_path / "proxy").write_text("PROXY")
    sending.check_files(spec)
    assert "x509userproxy = /other\n" in rendered(x509_proxy="/other")["worker.sub"]
    assert "x509" not in rendered()["worker.sub"]


@pytest.fixture
def mapped(tmp_path):
    """Run a rendered script whose job has these lines in its ad; return what it would start, or its error."""

    def run(*lines):
        show = tmp_path / "python"
        show.write_text('#!/bin/sh\necho "$@"\n')
        show.chmod(0o755)
        (tmp_path / ".job.ad").write_text(
            "\n".join(["ClusterId = 17", "ProcId = 3", "NumShadowStarts = 1", "TotalSubmitProcs = 1", *lines, ""])
        )
        script = rendered(mapped_port="dask", worker_port=8786, python=str(show))["worker.sh"]
        # The test need not wait for a port that never comes.
        path = tmp_path / "worker.sh"
        path.write_text(script.replace('sleep "$wait"', ":"))
        done = subprocess.run(["sh", path], cwd=tmp_path, env={}, capture_output=True, text=True, timeout=30)
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_worker_tells_the_scheduler_the_port_that_htcondor_mapped(mapped):
    code, said = mapped("dask_HostPort = 31234", 'RemoteHost = "slot1_2@node7.example.org"')
    assert code == 0
    assert "--contact-address tls://node7.example.org:31234 " in said
    assert "--listen-address tls://0.0.0.0:8786 " in said
    assert "--worker-port" not in said
    text = rendered(mapped_port="dask", worker_port=8786)["worker.sub"]
    assert "container_service_names = dask\ndask_container_port = 8786\n" in text


def test_a_worker_whose_port_is_not_told_says_so(mapped):
    code, said = mapped('RemoteHost = "slot1@node7.example.org"')
    assert code == 79
    assert "no dask_HostPort" in said


def test_a_mapped_port_is_one_port():
    with pytest.raises(ConfigError, match="mapped_port='dask' is one port"):
        WorkerSpec.from_keywords(mapped_port="dask")
    with pytest.raises(ConfigError, match="mapped_port='dask' and interface='eth0' exclude each other"):
        WorkerSpec.from_keywords(mapped_port="dask", worker_port=8786, interface="eth0")


def choose(constraint, rank, **named):
    with dask.config.set(
        {"htcdaskgateway.condor.schedd-constraint": constraint, "htcdaskgateway.condor.schedd-rank": rank}
    ):
        return asyncio.run(choose_schedd(Condor(**named)))


def test_the_schedd_with_the_highest_rank_is_chosen(fake_tools):
    fake_tools.answer("condor_status", "one@a\t-7.5\nbroken\nthree@c\tundefined\ntwo@b\t-3\n")
    assert choose("Kind == 1", "-Load") == "two@b"
    assert fake_tools.calls_of("condor_status") == [
        ["-schedd", "-constraint", "Kind == 1", "-af:t", "Name", "(-Load)"]
    ]
    assert choose("Kind == 1", "-Load", schedd="named@here") == ""
    assert choose(None, None) == ""


def test_that_no_schedd_fulfils_the_constraint_is_told(fake_tools):
    with pytest.raises(
        ConfigError, match=r"no schedd fulfils htcdaskgateway\.condor\.schedd-constraint='Kind == 1'"
    ):
        choose("Kind == 1", None)
