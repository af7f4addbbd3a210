"""What a gateway, a schedd or a worker says does not steer the terminal that it is shown at."""

from __future__ import annotations

import contextlib
import datetime
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from dask_gateway import GatewayServerError

from htcdaskgateway import cli
from htcdaskgateway.errors import CondorError
from htcdaskgateway.fleet.logs import WorkerLogs

EVIL = "\x1b[2Jgone\x1b]0;title\x07\x9b31m\x00"


@pytest.fixture
def gateway(monkeypatch):
    """A gateway that words its answers so, which the real server does not."""
    report = SimpleNamespace(
        name=f"c{EVIL}", status=SimpleNamespace(name=EVIL), start_time=datetime.datetime(2026, 1, 2)
    )
    found = SimpleNamespace(list_clusters=lambda: [report])
    monkeypatch.setattr(cli, "_gateway", lambda address: contextlib.nullcontext(found))
    monkeypatch.setattr(cli, "_jobs", lambda constraint: {})
    return found


def harmless(text: str) -> bool:
    return "gone" in text and all(letter.isprintable() or letter == "\n" for letter in text)


def test_a_list_of_clusters_cannot_steer_the_terminal(gateway):
    done = CliRunner().invoke(cli.main, ["list"])
    assert done.exit_code == 0
    assert harmless(done.output)


def test_an_error_of_the_gateway_cannot_steer_the_terminal(gateway):
    def fail():
        raise GatewayServerError(EVIL)

    gateway.list_clusters = fail
    done = CliRunner().invoke(cli.main, ["list"])
    assert done.exit_code == 1
    assert harmless(done.output)


def test_what_workers_wrote_cannot_steer_the_terminal():
    assert harmless(str(WorkerLogs({"htcondor-1.0-1": f"{EVIL}\r\n"})))


def test_an_error_of_a_tool_cannot_steer_the_terminal():
    assert harmless(str(CondorError("it failed", command=["condor_q"], stderr=EVIL)))
