"""Every site's profile as it is: it becomes a worker, its files are rendered, and condor_submit reads them."""

from __future__ import annotations

import subprocess

import dask.config
import pytest

from htcdaskgateway import WorkerSpec
from htcdaskgateway.sites import profile
from htcdaskgateway.worker import containers, sending, staging

GIB = 2**20
UNPACKED = "/cvmfs/unpacked.cern.ch"
DOCKER = f"{UNPACKED}/registry.hub.docker.com/coffeateam"
EXPECTED = {
    "ncsa": {
        "RequestCpus": "4",
        "RequestMemory": "32768",
        "ContainerImage": '"PublicHealth.sif"',
    },
    "fermilab-eaf": {
        "RequestCpus": "2",
        "RequestMemory": "4096",
        "isDaskJob": "true",
        "x509userproxy": '"{proxy}"',
    },
    "fermilab-lpc": {
        "RequestCpus": "1",
        "RequestDisk": f"{200 * 1024}",
        "SingularityImage": f'"{DOCKER}/coffea-dask-almalinux8:latest"',
        "x509userproxy": '"{proxy}"',
    },
    "coffea-casa": {
        "ContainerImage": '"docker://hub.opensciencegrid.org/coffea-casa/cc-analysis-ubuntu:development"',
        "ContainerServiceNames": '"dask"',
        "dask_ContainerPort": "8786",
        "AccountingGroup": '"cms.other.coffea.hub"',
        "CoffeaCasaWorkerType": '"dask"',
    },
    "cern-lxplus": {
        "RequestDisk": f"{20 * GIB}",
        "JobFlavour": '"workday"',
        "SingularityImage": f'"{UNPACKED}/gitlab-registry.cern.ch/batch-team/dask-lxplus/lxdask-al9:latest"',
    },
}


@pytest.fixture
def at(system):
    """Put the profile of a site in force, and nothing else: not the local system's own settings either."""

    def go(name):
        dask.config.refresh(paths=[], env={})
        dask.config.set({profile.KEY: name})
        profile.apply()

    yield go
    go("ncsa")


@pytest.mark.parametrize("name", profile.names())
def test_a_sites_profile_becomes_a_job_that_condor_submit_takes(name, at, pool, stage, proxy, monkeypatch):
    monkeypatch.setenv("HOSTNAME", "hub")
    at(name)
    image = {"container_image": "/u/bengal1/condor/PublicHealth.sif"} if name == "ncsa" else {}
    spec = WorkerSpec.from_keywords(**image)
    assert WorkerSpec.from_dict(spec.to_dict()) == spec
    sending.check_files(spec)
    made = staging.Staging("c1", spec)
    made.write("gateway://proxy.example.org:8786/c1", "CERTIFICATE", "KEY")
    subprocess.run(["sh", "-n", made.directory / "worker.sh"], check=True, timeout=30)
    out = pool.run("condor_submit", "-dry-run", "-", "worker.sub", "-queue", 1, cwd=made.directory)
    ad = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    for attribute, value in EXPECTED[name].items():
        assert ad[attribute] == value.format(proxy=proxy), attribute


def test_no_image_of_a_site_is_sent_with_the_jobs_from_cvmfs(at):
    for name in profile.names():
        at(name)
        image = {"container_image": "/u/bengal1/condor/PublicHealth.sif"} if name == "ncsa" else {}
        spec = WorkerSpec.from_keywords(**image)
        assert containers.is_sent(spec) == (not str(spec.container_image).startswith("/cvmfs"))
