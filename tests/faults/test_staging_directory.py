"""The staging directory is full, gone or not to be written: a clear error, nothing submitted, no worker harmed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from trouble import names, wait_for_workers

from htcdaskgateway.errors import StagingError

# A private mount namespace, in which a small file system lies where the staging directory is to be.
MOUNTED = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c"]

MAKE = """
from htcdaskgateway import HTCGateway
from htcdaskgateway.errors import StagingError
with HTCGateway() as gateway:
    try:
        gateway.new_cluster()
    except StagingError as error:
        print("StagingError", error)
    print("clusters", len(gateway.list_clusters()))
"""


def submits(tool_calls):
    return len(tool_calls.calls_of("condor_submit"))


@pytest.fixture
def mounted(system, tmp_path, tool_calls):
    """Run a client whose staging directory lies on a small tmpfs, mounted and prepared by a shell line."""

    def run(options, prepare):
        place = tmp_path / "small"
        place.mkdir()
        mount = f"mount -t tmpfs -o {options} tmpfs {place}"
        probe = subprocess.run([*MOUNTED, mount], capture_output=True, text=True)
        if probe.returncode != 0:
            pytest.skip(f"a file system cannot be mounted here: {probe.stderr.strip()}")
        line = f'{mount} && cd {place} && {prepare} && exec "$0" -c "$1"'
        done = subprocess.run(
            [*MOUNTED, line, sys.executable, MAKE],
            capture_output=True,
            text=True,
            timeout=90,
            env=dict(os.environ, HTCDASK_STAGEDIR=str(place)),
        )
        assert not submits(tool_calls)
        return done.stdout, done.stderr

    return run


@pytest.mark.parametrize(
    ("options", "prepare", "reason"),
    [
        ("size=64k", "head -c 1m /dev/zero > fill 2> /dev/null || true", "No space left on device"),
        ("size=64k,nr_inodes=2", "touch one", "No space left on device"),
        ("size=64k", "mount -o remount,ro,size=64k $PWD", "Read-only file system"),
    ],
    ids=["full", "no-inodes", "read-only"],
)
@pytest.mark.long
def test_staging_directory_that_cannot_be_written_is_a_clear_error(mounted, options, prepare, reason):
    stdout, stderr = mounted(options, prepare)
    assert "StagingError" in stdout, stderr
    assert reason in stdout
    assert "Set HTCDASK_STAGEDIR to a directory of yours" in stdout
    assert "clusters 0" in stdout, "a scheduler runs on that nobody owns"


@pytest.mark.long
def test_staging_directory_that_is_removed_is_a_clear_error_and_harms_no_worker(
    tool_calls, new_cluster, pool, system
):
    cluster = new_cluster()
    cluster.scale(1)
    with cluster.get_client() as client:
        before = wait_for_workers(client, 1)
        moved = cluster.fleet.staging.directory
        away = moved.with_name("away")
        moved.rename(away)
        before_calls = submits(tool_calls)
        with pytest.raises(StagingError, match=rf"{moved}/.* is gone. .*connect\('{cluster.name}'\)"):
            cluster.scale(2)
        assert submits(tool_calls) == before_calls
        assert client.submit(sum, [1, 2]).result(timeout=30) == 3
        assert names(client) == before
        assert len(pool.jobs(cluster.name)) == 1
        away.rename(moved)
        cluster.scale(2)
        wait_for_workers(client, 2)
        # For good: the next client writes it again.
        moved.rename(away)
        with system.gateway() as gateway, gateway.connect(cluster.name) as again:
            again.scale(3)
        wait_for_workers(client, 3)


@pytest.mark.long
def test_credentials_that_are_gone_are_noticed_before_a_job_is_submitted(tool_calls, new_cluster, pool):
    cluster = new_cluster()
    (cluster.fleet.staging.directory / "credentials" / "dask.pem").unlink()
    with pytest.raises(StagingError, match=r"dask\.pem is gone"):
        cluster.scale(1)
    assert not submits(tool_calls)
    assert not pool.jobs(cluster.name)


def test_staging_directory_of_somebody_else_is_refused(system, gateway, tmp_path, monkeypatch):
    root = tmp_path / "stage"
    root.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("HTCDASK_STAGEDIR", str(root))
    name = gateway.submit()
    try:
        (root / name).symlink_to(elsewhere)
        with pytest.raises(StagingError, match="does not belong to you"):
            gateway.connect(name)
        assert not list(elsewhere.iterdir())
        (root / name).unlink()
        (root / name).mkdir(mode=0o700)
        (root / name / "credentials").symlink_to(elsewhere)
        with pytest.raises(StagingError, match="does not belong to you"):
            gateway.connect(name)
        assert not list(elsewhere.iterdir())
        if os.geteuid() == 0:
            (root / name / "credentials").unlink()
            os.chown(root / name, 65534, 65534)
            with pytest.raises(StagingError, match="does not belong to you"):
                gateway.connect(name)
    finally:
        gateway.stop_cluster(name)
