"""`htcdaskgateway doctor` on a pool and a server of this machine; `tests/field` has a whole site, with faults."""

from __future__ import annotations

import json
import re
from typing import Any

import dask.config
import pytest
from click.testing import CliRunner
from support import PATIENCE

from htcdaskgateway import cli
from htcdaskgateway.setup_condor.verdict import Verdict


@pytest.fixture(autouse=True)
def _settings(system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in system.environ.items():
        monkeypatch.setenv(name, value)
    # No login node is asked.
    dask.config.set({"htcdaskgateway.setup.login-host": None})


def lines(cluster: str, *before: str) -> tuple[int, dict[str, Verdict]]:
    """Ask for a cluster, too; return the exit code and the last line of each name."""
    done = CliRunner().invoke(cli.main, [*before, "doctor", "--json", "--cluster", cluster])
    return done.exit_code, {line["name"]: Verdict(**line) for line in json.loads(done.stdout)}


def test_a_person_reads_a_line_for_each_thing_and_only_what_is_wrong_says_so(cluster: Any) -> None:
    done = CliRunner().invoke(cli.main, ["doctor", "--cluster", cluster.name[:10]])
    assert done.exit_code == 1
    told = [line.split(None, 2) for line in done.stdout.splitlines()]
    good = {name for word, name, _ in told if word == "ok"}
    # An account of this machine is let in without a token.
    assert {name for word, name, _ in told if word == "FAIL"} == {"tokens"}
    assert {name for word, name, _ in told if word == "?"} == {"network"}, "no worker has joined yet"
    assert good == {
        *("site", "setting", "tools", "configuration", "collector", "schedd", "staging", "gateway", "proxy"),
        *("account", "worker", "cluster", "jobs", "versions"),
    }


@pytest.mark.long
def test_workers_that_reach_each_other_are_said_to(cluster: Any) -> None:
    cluster.scale(2)
    cluster.get_client().wait_for_workers(2, timeout=PATIENCE)
    _, told = lines(cluster.name)
    assert told["network"] == Verdict(
        "network", True, "the scheduler reaches the workers, and they reach each other (all)"
    )
    assert told["jobs"].text == "2 running, 0 idle, 0 held"


def test_a_job_that_cannot_run_is_explained(new_cluster: Any) -> None:
    cluster = new_cluster(requirements='Machine == "nowhere"')
    cluster.scale(1)
    code, told = lines(cluster.name)
    assert code == 1
    assert told["jobs"].good is False
    assert "requirements" in told["jobs"].hint


def test_a_server_that_does_not_answer_and_a_cluster_that_is_none_are_told(cluster: Any) -> None:
    code, told = lines("nosuch")
    assert (code, told["cluster"].good) == (1, False)
    assert re.search("no cluster 'nosuch'", told["cluster"].text)
    code, told = lines("nosuch", "--address", "http://127.0.0.1:1")
    assert code == 1
    assert (told["gateway"].good, told["account"].good, told["cluster"].good) == (False, None, False)
