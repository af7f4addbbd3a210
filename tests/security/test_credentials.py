"""The cluster's key and the gateway's secrets: where they are, and where they never are."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import psutil
import pytest
from support import Pool, wait_until
from trouble import Trouble

from htcdaskgateway import WorkerSpec
from htcdaskgateway.condor.tools import tool_environment
from htcdaskgateway.local import PersonalPool
from htcdaskgateway.worker.staging import Staging, check_root

SECRETS = {
    "DASK_GATEWAY_PASSWORD": "secret-of-the-gateway",
    "DASK_GATEWAY__AUTH__KWARGS": "{'password': 'secret-of-the-gateway'}",
    "DASK_GATEWAY__AUTH__PASSWORD": "secret-of-the-gateway",
    "JUPYTERHUB_API_TOKEN": "secret-of-the-hub",
    "JPY_API_TOKEN": "secret-of-the-hub",
}


def files_with(directory: Path, secret: bytes) -> list[Path]:
    """Return the files below a directory that hold `secret`."""
    found = []
    for path in (Path(top, name) for top, _, names in os.walk(directory) for name in names):
        try:
            if stat.S_ISREG(path.lstat().st_mode) and secret in path.read_bytes():
                found.append(path)
        except FileNotFoundError:  # a job has just ended
            continue
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.long
def test_key_is_nowhere_but_in_two_private_places_and_is_gone_in_the_end(open_umask, new_cluster, system, pool):
    assert system.pool is not None
    cluster = new_cluster()
    cluster.scale(1)
    with cluster.get_client() as client:
        client.wait_for_workers(1, timeout=60)
        stage = cluster.fleet.staging.directory
        key = stage / "credentials" / "dask.pem"
        assert [mode(path) for path in (key, key.parent, stage)] == [0o600, 0o700, 0o700]
        # A line from the middle of the key, as it would stand in whatever holds it.
        secret = key.read_bytes().splitlines()[3]
        assert len(secret) > 40

        (ad,) = pool.jobs(cluster.name)
        assert secret.decode() not in str(ad)
        assert "dask.pem" in ad["EncryptInputFiles"]
        assert files_with(stage, secret) == [key]
        sent = files_with(system.pool.directory, secret)
        assert [path.name for path in sent] == ["dask.pem"]
        assert system.pool.directory / "execute" in sent[0].parents
        assert mode(sent[0]) & 0o077 == 0
        (pid,) = Trouble(system).workers(cluster.name).values()
        worker = psutil.Process(pid)
        assert secret.decode() not in str([worker.cmdline(), worker.environ()])
        everything = client.run_on_scheduler(lambda dask_scheduler: str(dask_scheduler.task_metadata))
        assert secret.decode() not in everything
    cluster.scale(0)
    wait_until(lambda: not sent[0].exists(), what="the execute side forgets the key")
    cluster.shutdown()
    assert not files_with(system.pool.directory, secret)
    assert not files_with(stage, secret)
    assert not key.parent.exists()
    assert (stage / "logs").is_dir()


def test_key_travels_in_an_encrypted_session_whatever_the_pools_default(tmp_path, monkeypatch):
    debug = "D_FULLDEBUG D_SECURITY"
    configuration = {"SEC_DEFAULT_ENCRYPTION": "NEVER", "SHADOW_DEBUG": debug, "STARTER_DEBUG": debug}
    with PersonalPool(config=configuration) as running:
        monkeypatch.setenv("HTCDASK_STAGEDIR", str(tmp_path / "stage"))
        for name, value in running.environ.items():
            monkeypatch.setenv(name, value)
        check_root()
        # HTCondor brings back by itself whatever is new or has changed.
        changed = ["touch dask.pem dask.crt", "cp dask.pem copy.pem"]
        spec = WorkerSpec.from_keywords(
            cpus=1, memory="1GB", container_runtime="none", python="/bin/true", job_script_prologue=changed
        )
        staging = Staging("c1", spec)
        staging.write("gateway://127.0.0.1:8786/c1", "CERTIFICATE", "the key of c1")
        pool = Pool(running.installation.bin)
        pool.run("condor_submit", "worker.sub", "-queue", "1", cwd=staging.directory)
        wait_until(lambda: not pool.jobs("c1"), what="the job ends")
        log = (running.directory / "log" / "ShadowLog").read_text()
        assert "encryption enabled for session filetrans" in log
        # 2 encrypts the file that follows; 1 sends it as the pool's default has it.
        commands = re.findall(r"outgoing file_command is (\d) for (\w[\w/.]+)", log)
        assert commands == [
            ("1", "worker_start.py"),
            ("1", "worker_preload.py"),
            ("2", "credentials/dask.crt"),
            ("2", "credentials/dask.pem"),
        ]
        assert files_with(staging.directory, b"the key of c1") == [staging.directory / "credentials" / "dask.pem"]


def test_gateways_password_and_tokens_never_reach_a_job(new_cluster, system, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    # The worst that a site may do: everything that condor_submit has goes into the job.
    cluster = new_cluster(job_extra_directives={"getenv": "true"})
    cluster.scale(1)
    with cluster.get_client() as client:
        client.wait_for_workers(1, timeout=60)
        (pid,) = Trouble(system).workers(cluster.name).values()
        environment = psutil.Process(pid).environ()
        for name, value in SECRETS.items():
            assert value not in str(environment)
            assert name not in environment
        assert system.password not in str(environment)


def test_no_secret_is_in_the_environment_of_a_tool(monkeypatch, tmp_path):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert not SECRETS.keys() & tool_environment(tmp_path).keys()
