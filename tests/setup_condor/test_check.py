"""The verdicts of ``setup_condor --check``, each seen on a real pool."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from setup_condor.account import DEADLINE

from htcdaskgateway.condor.schedd import Condor
from htcdaskgateway.local.pool import PersonalPool
from htcdaskgateway.setup_condor.verdict import staging_directory


def tool(pool: PersonalPool, directory: Path, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(directory / name), *arguments],
        env={"PATH": f"{pool.installation.bin}:{pool.installation.sbin}:/usr/bin:/bin", **pool.environ},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def probes(account) -> str:
    """The check's jobs that are in the queue; what a test before has removed may still be there."""
    constraint = "HTCDaskGatewayProbe =!= undefined"
    return account.condor("condor_q", "-allusers", "-constraint", constraint, "-af", "ClusterId").stdout


@pytest.fixture
def new_token(condor_pool) -> Callable[..., None]:
    """Write a token of the pool's into a file, private or not."""

    def write(path: Path, *, lifetime: int | None = 3600, mode: int = 0o600) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        arguments = [] if lifetime is None else ["-lifetime", str(lifetime)]
        path.touch(mode=0o600)
        path.write_text(tool(condor_pool, condor_pool.installation.bin, "condor_token_fetch", *arguments))
        path.chmod(mode)

    return write


@pytest.fixture
def configured(account):
    """The account, with a configuration such as setup_condor writes."""

    def write(collector: str) -> None:
        account.configuration.write_text(
            f"COLLECTOR_HOST = {collector}\nSCHEDD_HOST = schedd@\n"
            "SEC_CLIENT_AUTHENTICATION_METHODS = IDTOKENS\nSEC_TOKEN_DIRECTORY = $ENV(HOME)/.condor/tokens.d\n"
        )

    write(account.collector)
    account.point_to = write
    return account


def check(account, before: Sequence[str] = (), **environ: str) -> tuple[int, dict[str, str], str]:
    """Run the check; return its exit code, the lines by their name, and everything it printed."""
    account.settings.update(environ)
    there = account.written()
    done = account.run(*before, *account.command(None, "--check", user=None), timeout=60)
    assert done.stderr == ""
    lines: dict[str, str] = {}
    for line in done.stdout.splitlines():
        verdict, name = line[:4].strip(), line[4:].split()[0]
        assert verdict in ("ok", "FAIL", "?"), line
        lines[name] = lines.get(name, "") + line + "\n"
    assert (done.returncode == 0) == all(line.startswith("ok") for line in done.stdout.splitlines()), done.stdout
    changed = {path for path in account.written() if "/staging" not in path and "known_hosts" not in path}
    assert changed == {path for path in there if "/staging" not in path and "known_hosts" not in path}
    return done.returncode, lines, done.stdout


def wait_for_expiry() -> None:
    """Wait for a token of one second to expire: there is nothing but the clock to wait for."""
    time.sleep(2.1)


def test_a_good_token_passes_every_check_and_leaves_nothing(configured, new_token):
    new_token(configured.token)
    code, lines, text = check(configured)
    assert code == 0, text
    assert str(configured.configuration) in lines["configuration"]
    assert configured.collector in lines["configuration"]
    assert "@pool.test" in lines["token"]
    assert "expires 20" in lines["token"]
    assert "answers, and knows you as" in lines["schedd"]
    assert set(lines) == {"tools", "configuration", "token", "collector", "schedd", "staging"}
    assert "can be written, here and by the schedd" in lines["staging"]
    assert probes(configured) == "", "the probe is taken back"
    assert list((configured.home / "staging").iterdir()) == []
    assert "eyJ" not in text


@pytest.mark.long
def test_an_expired_token_and_one_that_hides_a_good_one(configured, new_token):
    hiding = configured.token.with_name("a-first")
    new_token(hiding, lifetime=1)
    wait_for_expiry()
    code, lines, text = check(configured)
    assert code == 1
    assert lines["token"].startswith("FAIL")
    assert "expired 20" in lines["token"]
    for part in ("collector", "schedd"):
        assert "accepts no token of yours" in lines[part], text
        assert "run `setup_condor`" in lines[part]

    new_token(configured.token)
    code, lines, text = check(configured)
    assert code == 1
    first, second = lines["token"].splitlines()
    assert first.startswith("FAIL")
    assert "before the good htcdaskgateway" in first
    assert f"rm {hiding}" in first
    assert second.startswith("ok")
    assert lines["schedd"].startswith("FAIL")

    hiding.unlink()
    assert check(configured)[0] == 0


def test_a_token_file_readable_by_others(configured, new_token):
    new_token(configured.token, mode=0o644)
    code, lines, _ = check(configured)
    assert code == 1
    assert "can be read by others" in lines["token"]
    assert f"chmod 600 {configured.token}" in lines["token"]
    assert lines["schedd"].startswith("FAIL")


def test_a_missing_token_is_told_with_what_gets_one(configured):
    code, lines, _ = check(configured)
    assert code == 1
    assert "does not exist; run `setup_condor`" in lines["tokens"]
    assert "accepts no token" in lines["schedd"]


@pytest.mark.long
def test_the_schedd_and_then_the_collector_down(configured, condor_pool, collector, new_token):
    with PersonalPool(cpus=1) as mortal:
        # Its signing key is another one, so its token has to come from it.
        port = tool(mortal, mortal.installation.bin, "condor_config_val", "COLLECTOR_HOST").strip()
        configured.point_to(port)
        configured.token.parent.mkdir(parents=True, mode=0o700)
        configured.token.touch(mode=0o600)
        configured.token.write_text(tool(mortal, mortal.installation.bin, "condor_token_fetch"))
        assert check(configured)[0] == 0

        down(mortal, "schedd", configured, "condor_q")
        code, lines, text = check(configured)
        assert code == 1
        assert lines["token"].startswith("ok")
        assert lines["collector"].startswith("ok"), text
        assert lines["schedd"].startswith("FAIL")
        assert "does not answer or is not there" in lines["schedd"]

        down(mortal, "collector", configured, "condor_status", "-collector")
        code, lines, text = check(configured)
        assert code == 1
        assert lines["token"].startswith("ok")
        assert lines["collector"].startswith("FAIL"), text
        assert "does not answer or is not there" in lines["collector"]


def down(pool: PersonalPool, daemon: str, account, *asked: str) -> None:
    """Turn a daemon off and wait until it is."""
    tool(pool, pool.installation.sbin, "condor_off", "-fast", "-daemon", daemon)
    deadline = time.monotonic() + DEADLINE
    while account.condor(*asked).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_missing_tools_are_told_with_what_installs_them(configured):
    code, lines, _ = check(configured, CONDOR_BIN_DIR=str(configured.home))
    assert code == 1
    assert lines["tools"].startswith("FAIL")
    assert "conda install" in lines["tools"]
    assert lines["schedd"].startswith("?")


def test_a_missing_configuration_is_told_with_what_makes_one(account, condor_pool):
    nowhere = {"CONDOR_BIN_DIR": str(condor_pool.installation.bin)}
    if Path("/etc/condor/condor_config").exists():
        nowhere["CONDOR_CONFIG"] = str(account.home / "none")
    code, lines, _ = check(account, **nowhere)
    assert code == 1
    assert lines["tools"].startswith("ok")
    assert lines["configuration"].startswith("FAIL")
    assert "run `setup_condor`" in lines["configuration"]


def test_a_configuration_that_names_no_pool(account):
    account.configuration.write_text("COLLECTOR_HOST =\n")
    code, lines, _ = check(account)
    assert code == 1
    assert "names no collector" in lines["configuration"]


def test_a_staging_directory_that_cannot_be_written(configured, new_token):
    new_token(configured.token)
    (configured.home / "staging").write_text("")
    code, lines, _ = check(configured)
    assert code == 1
    assert lines["staging"].startswith("FAIL")
    assert "HTCDASK_STAGEDIR" in lines["staging"]


@pytest.mark.long
def test_a_staging_directory_that_the_schedd_does_not_see(configured, new_token):
    new_token(configured.token)
    staging = configured.home / "staging"
    staging.mkdir()
    users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    own = [
        "unshare",
        *users,
        "--mount",
        "--",
        "/bin/sh",
        "-c",
        'mount -t tmpfs own "$0" && exec "$@"',
        str(staging),
    ]
    if subprocess.run([*own, "true"], capture_output=True, timeout=DEADLINE).returncode != 0:
        pytest.skip("mounting is not allowed here")
    code, lines, _ = check(configured, before=own)
    assert code == 1
    assert lines["staging"].startswith("FAIL")
    assert "can be written here, but the schedd does not see it" in lines["staging"]
    assert "HTCDASK_STAGEDIR" in lines["staging"]
    assert probes(configured) == ""


class _Gateway(BaseHTTPRequestHandler):
    """The one answer of a gateway that the check asks for."""

    def do_GET(self) -> None:
        self.send_response(*((200,) if self.path == "/base/api/health" else (404, "gone\x1b[2J\x1b]0;title\x07")))
        self.end_headers()
        self.wfile.write(b'{"status": "pass"}')

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def gateway_port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(DEADLINE)


def test_the_gateway_and_its_proxy(account, gateway_port, free_port):
    no_tools = {"CONDOR_BIN_DIR": str(account.home)}
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as proxy:
        _, lines, _ = check(
            account,
            **no_tools,
            DASK_GATEWAY__ADDRESS=f"http://127.0.0.1:{gateway_port}/base",
            DASK_GATEWAY__PROXY_ADDRESS=str(proxy.getsockname()[1]),
        )
    assert lines["gateway"].startswith("ok")
    assert lines["proxy"].startswith("ok")
    _, lines, _ = check(
        account,
        DASK_GATEWAY__ADDRESS=f"http://127.0.0.1:{gateway_port}/wrong",
        DASK_GATEWAY__PROXY_ADDRESS=f"gateway://127.0.0.1:{free_port}",
    )
    assert lines["gateway"].startswith("FAIL")
    assert "404 gone;" in lines["gateway"], "a gateway does not steer the terminal"
    assert lines["proxy"].startswith("FAIL")
    assert f"127.0.0.1:{free_port}" in lines["proxy"]


@pytest.mark.parametrize(
    ("stderr", "why"), [("ERROR: no\nSECMAN:2010: denied\n", "SECMAN:2010: denied"), ("", "Could not submit")]
)
def test_it_is_said_why_the_schedd_could_not_try_the_staging_directory(stage, fake_tools, stderr, why):
    fake_tools.answer("condor_submit", stderr=stderr, code=1)
    told = asyncio.run(staging_directory(Condor(timeout=30)))
    assert told.good is None
    assert why in told.text.partition("could not be tried: ")[2]
