"""The terminal command: what it prints and how it ends."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import dask.config
import pytest
from click.testing import CliRunner
from support import PATIENCE, Pool, wait_until

from htcdaskgateway import cli

COMMANDS = ("list", "jobs", "logs", "scale", "stop", "watch", "timeline", "usage")


def started(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start the command as a process of its own, which imports Dask first."""
    return subprocess.run(
        [Path(sys.executable).with_name("htcdaskgateway"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, unless it is to have an environment of its own."""
    if environment:
        return started(*arguments, **environment)
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(map(str, arguments)), prog_name="htcdaskgateway")
        code = ended.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


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


@pytest.fixture
def client_settings(system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in system.environ.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("client_settings")
def test_a_cluster_from_another_process_is_seen_scaled_and_stopped(cluster: Any, pool: Pool) -> None:
    name = cluster.name
    assert f"{name}  running since" in started("list").stdout
    assert ok("jobs", name) == "no worker jobs\n"
    assert "1 " in started("scale", name, 1).stdout
    cluster.get_client().wait_for_workers(1, timeout=PATIENCE)
    wait_until(lambda: "1 running, 0 idle, 0 held" in ok("list"))
    table = ok("jobs", name)
    assert table.splitlines()[0].split()[:2] == ["Job", "Status"]
    assert "running" in table
    job = table.splitlines()[1].split()[0]
    dask.config.set({"htcdaskgateway.retire-grace": "60s"})  # the worker ends by itself, on a slow machine too
    assert ok("jobs", name[:8], "--explain") == "All is well: the job runs and its worker has joined.\n"
    assert f"==> htcondor-{job}-1@" in ok("logs", name, job)
    assert ok("scale", name, 0) == "0 running, 0 idle, 0 held\n"
    wait_until(lambda: not pool.jobs(name), what="the job has brought its output back, and left")
    assert started("stop", name).stdout == f"{name} is stopped\n"
    assert name not in ok("list")
    assert not pool.jobs(name)
    assert f"==> htcondor-{job}-1@" in ok("logs", name), "the output outlives the cluster"


@pytest.mark.usefixtures("client_settings")
def test_jobs_that_the_server_has_forgotten_are_listed_and_stopped(tmp_path: Path, pool: Pool) -> None:
    (tmp_path / "gone.sub").write_text(
        'executable = /bin/sleep\narguments = 300\nMy.HTCDaskGatewayCluster = "gone1"\n'
    )
    pool.run("condor_submit", "gone.sub", "-queue", "2", cwd=tmp_path)
    assert "gone1  gone" in ok("list")
    ok("stop", "gone1")
    assert not pool.jobs("gone1")


@pytest.mark.usefixtures("client_settings")
def test_jobs_that_the_schedd_has_still_to_make_are_counted(new_cluster: Callable[..., Any], pool: Pool) -> None:
    cluster = new_cluster(requirements='Machine == "nowhere"', max_idle=2)
    cluster.scale(100)
    wait_until(lambda: len(pool.jobs(cluster.name)) == 2)
    counts = "0 running, 2 idle, 0 held, 98 unmaterialized"
    assert counts in ok("list")
    told = ok("jobs", cluster.name)
    assert "… and 40 more" in told
    assert counts in told


@pytest.mark.usefixtures("client_settings")
def test_the_first_letters_of_a_name_are_enough_if_they_mean_one_cluster(
    cluster: Any, tmp_path: Path, pool: Pool
) -> None:
    for name in ("zz-one", "zz-two", "zz-two-more"):
        (tmp_path / "some.sub").write_text(
            f'executable = /bin/sleep\narguments = 300\nMy.HTCDaskGatewayCluster = "{name}"\n'
        )
        pool.run("condor_submit", "some.sub", "-queue", "1", cwd=tmp_path)
    try:
        assert ok("jobs", cluster.name[:10]) == "no worker jobs\n"
        assert ok("jobs", "zz-o").startswith("Job ")
        told = wrong("stop", "zz-")
        assert "'zz-' begins the names of 3 clusters (zz-one, zz-two, zz-two-more); write more of it" in told
        assert ok("stop", "zz-two") == "zz-two is stopped\n", "a whole name is no beginning"
        assert len(pool.jobs("zz-two-more")) == 1
        assert ok("stop", "zz-two-") == "zz-two-more is stopped\n"
    finally:
        pool.run("condor_rm", "-constraint", 'regexp("^zz-", HTCDaskGatewayCluster)', check=False)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("n", ["-1", "three", "1.5", "--3"])
def test_a_number_of_workers_that_is_none(n: str) -> None:
    assert wrong("scale", "any", n) == f"Error: '{n}' is not a number of workers; write 0 or more, such as 4\n"


@pytest.mark.usefixtures("client_settings")
@pytest.mark.long
def test_a_job_that_is_none(cluster: Any) -> None:
    cluster.scale(1)
    told = wrong("logs", cluster.name, "0.0")
    assert f"the cluster {cluster.name} has no job or worker '0.0'" in told
    assert len(told.splitlines()) == 1
    job = str(cluster.jobs()[0].id)
    cluster.get_client().wait_for_workers(1, timeout=PATIENCE)
    both = run("logs", cluster.name, job, "0.0")
    assert f"==> htcondor-{job}-1@" in both.stdout, "what there is is shown"
    assert "no job or worker '0.0'" in both.stderr


@pytest.mark.usefixtures("client_settings")
@pytest.mark.long
def test_the_timeline_and_usage_of_a_cluster_that_has_ended(cluster: Any, tmp_path: Path) -> None:
    name = cluster.name
    cluster.scale(1)
    cluster.get_client().wait_for_workers(1, timeout=PATIENCE)
    assert "1 job in" in ok("timeline", name[:8], "-o", tmp_path / "live.svg")
    ok("stop", name)
    told = ok("timeline", name[:8], "-o", tmp_path / "a.html", "-o", tmp_path / "a.png")
    assert "At most 1 asked for, 1 running, 1 joined" in told
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (tmp_path / "a.html").read_text()[:200]
    assert "All" in ok("usage", name[:8])
    assert "'.jpeg' is no kind of file" in wrong("timeline", name, "-o", tmp_path / "a.jpeg")
    # The gateway server is not needed for what lies on this machine.
    there = ok("--address", "http://127.0.0.1:1", "timeline", name[:8], "-o", tmp_path / "b.png")
    assert "1 job in" in there


@pytest.mark.usefixtures("client_settings")
@pytest.mark.parametrize("command", ["jobs", "logs", "stop", "watch", "timeline", "usage"])
def test_a_name_that_is_none(command: str) -> None:
    assert "You have no cluster 'nosuch'. `htcdaskgateway list`" in wrong(command, "nosuch")


@pytest.mark.usefixtures("client_settings")
def test_scaling_a_cluster_that_is_none() -> None:
    assert "You have no cluster 'nosuch'" in wrong("scale", "nosuch", 1)


@pytest.mark.usefixtures("client_settings")
@pytest.mark.parametrize("name", ["../../etc", "a b", '" || true || "'])
def test_a_name_that_can_be_none(name: str) -> None:
    assert "cannot be the name of a Dask Gateway cluster" in wrong("jobs", name)
    assert "cannot be the name of a Dask Gateway cluster" in wrong("logs", name)
    assert "cannot be the name of a Dask Gateway cluster" in wrong("stop", name)


@pytest.mark.usefixtures("client_settings")
def test_a_server_that_is_down() -> None:
    told = wrong("--address", "http://127.0.0.1:1", "list")
    assert told.startswith("Error: no gateway server answers at http://127.0.0.1:1;")
    assert len(told.splitlines()) == 1


@pytest.mark.usefixtures("client_settings")
def test_no_server_that_is_configured() -> None:
    told = wrong("list", DASK_GATEWAY__ADDRESS="")
    assert told.startswith("Error: no gateway server is configured; give --address URL")
    assert len(told.splitlines()) == 1


@pytest.mark.usefixtures("client_settings")
def test_a_wrong_password_is_told_as_one() -> None:
    assert "401" in wrong("list", DASK_GATEWAY_PASSWORD="wrong", DASK_GATEWAY__AUTH__KWARGS="{}")


@pytest.mark.usefixtures("client_settings")
def test_missing_tools_of_htcondor_are_told_with_what_to_do(tmp_path: Path) -> None:
    told = wrong("list", CONDOR_BIN_DIR=str(tmp_path))
    assert "condor_submit" in told
    assert "next:" in told


@pytest.mark.usefixtures("bare")
def test_help_teaches() -> None:
    told = started("--help").stdout
    assert all(command in told for command in COMMANDS)
    assert "Begin with `htcdaskgateway list`" in told
    for command in COMMANDS:
        done = CliRunner().invoke(cli.main, [command, "--help"])
        assert done.exit_code == 0, done.output
        assert len(done.output.splitlines()) > 6
