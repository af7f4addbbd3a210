"""The terminal command, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, Pool, wait_until

COMMANDS = ("list", "jobs", "logs", "scale", "stop")


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("htcdaskgateway")
    return subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def ok(*arguments: object, **environment: str) -> str:
    done = run(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wrong(*arguments: object, **environment: str) -> str:
    done = run(*arguments, **environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")
    return done.stderr


@pytest.fixture(autouse=True)
def _client_settings(system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in system.environ.items():
        monkeypatch.setenv(name, value)


def test_a_cluster_from_another_process_is_seen_scaled_and_stopped(cluster: Any, pool: Pool) -> None:
    name = cluster.name
    assert f"{name}  running since" in ok("list")
    assert ok("jobs", name) == "no worker jobs\n"
    assert "1 " in ok("scale", name, 1)
    cluster.get_client().wait_for_workers(1, timeout=PATIENCE)
    wait_until(lambda: "1 running, 0 idle, 0 held" in ok("list"))
    table = ok("jobs", name)
    assert table.splitlines()[0].split()[:2] == ["Job", "Status"]
    assert "running" in table
    job = table.splitlines()[1].split()[0]
    assert "Worker jobs: 1 running" in ok("jobs", name, "--explain")
    assert f"==> htcondor-{job}-1@" in ok("logs", name, job)
    assert ok("scale", name, 0) == "0 running, 0 idle, 0 held\n"
    assert ok("stop", name) == f"{name} is stopped\n"
    assert name not in ok("list")
    assert not pool.jobs(name)
    assert f"==> htcondor-{job}-1@" in ok("logs", name), "the output outlives the cluster"


def test_jobs_that_the_server_has_forgotten_are_listed_and_stopped(tmp_path: Path, pool: Pool) -> None:
    (tmp_path / "gone.sub").write_text(
        'executable = /bin/sleep\narguments = 300\nMy.HTCDaskGatewayCluster = "gone1"\n'
    )
    pool.run("condor_submit", "gone.sub", "-queue", "2", cwd=tmp_path)
    assert "gone1  gone" in ok("list")
    ok("stop", "gone1")
    assert not pool.jobs("gone1")


def test_jobs_that_the_schedd_has_still_to_make_are_counted(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster(requirements='Machine == "nowhere"', max_idle=2)
    cluster.scale(100)
    wait_until(lambda: len(pool.jobs(cluster.name)) == 2)
    counts = "0 running, 2 idle, 0 held, 98 unmaterialized"
    assert counts in ok("list")
    told = ok("jobs", cluster.name)
    assert "… and 40 more" in told
    assert counts in told


@pytest.mark.parametrize("command", ["jobs", "logs", "stop"])
def test_a_name_that_is_none(command: str) -> None:
    assert "you have no cluster 'nosuch'; `htcdaskgateway list`" in wrong(command, "nosuch")


def test_scaling_a_cluster_that_is_none() -> None:
    assert "you have no cluster 'nosuch'" in wrong("scale", "nosuch", 1)


@pytest.mark.parametrize("name", ["../../etc", "a b", '" || true || "'])
def test_a_name_that_can_be_none(name: str) -> None:
    assert "is not the name of a Dask Gateway cluster" in wrong("jobs", name)
    assert "is not the name of a Dask Gateway cluster" in wrong("logs", name)
    assert "is not the name of a Dask Gateway cluster" in wrong("stop", name)


def test_a_server_that_is_down() -> None:
    assert "Cannot connect to host 127.0.0.1:1" in wrong("--address", "http://127.0.0.1:1", "list")


def test_a_wrong_password() -> None:
    assert "401" in wrong("list", DASK_GATEWAY_PASSWORD="wrong", DASK_GATEWAY__AUTH__KWARGS="{}")


def test_no_tools_of_htcondor(tmp_path: Path) -> None:
    told = wrong("list", CONDOR_BIN_DIR=str(tmp_path))
    assert "condor_submit" in told
    assert "next:" in told


def test_help_teaches() -> None:
    told = ok("--help")
    assert all(command in told for command in COMMANDS)
    assert "Begin with `htcdaskgateway list`" in told
    for command in COMMANDS:
        assert len(ok(command, "--help").splitlines()) > 6
