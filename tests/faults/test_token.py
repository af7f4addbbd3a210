"""A client that only a token lets in, whose token is missing or has expired: the error says so and what to do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import wait_until

from htcdaskgateway.errors import CondorAuthenticationError
from htcdaskgateway.local.pool import _user_name
from htcdaskgateway.local.pool_config import DOMAIN, HOST


@pytest.fixture
def token(system, pool, tmp_path, monkeypatch):
    """Make this process a client without the pool's files; returns a function that gives it a token."""
    assert system.pool is not None
    manager = pool.run("condor_config_val", "COLLECTOR_HOST").strip()
    # Not from the collector, which may still know of others that a test has had.
    schedd = pool.run("condor_config_val", "SCHEDD_NAME").strip()
    tokens = tmp_path / "tokens.d"
    tokens.mkdir(mode=0o700)
    configuration = tmp_path / "condor_config"
    configuration.write_text(
        f"CONDOR_HOST = {HOST}\nCOLLECTOR_HOST = {manager}\nSCHEDD_HOST = {schedd}\n"
        f"TRUST_DOMAIN = {DOMAIN}\nUID_DOMAIN = {DOMAIN}\nFILESYSTEM_DOMAIN = {DOMAIN}\n"
        f"SEC_CLIENT_AUTHENTICATION_METHODS = IDTOKENS\nSEC_TOKEN_DIRECTORY = {tokens}\n"
        f"LOCAL_DIR = {tmp_path}\nLOG = {tmp_path}\nRELEASE_DIR = {system.pool.installation.prefix}\n"
    )
    pool_configuration = os.environ["CONDOR_CONFIG"]
    monkeypatch.setenv("CONDOR_CONFIG", str(configuration))

    def give(lifetime: int, user: str = "") -> Path:
        user = user or _user_name(os.getuid() or 1)
        text = subprocess.run(
            [str(pool.bin / "condor_token_create"), "-identity", f"{user}@{DOMAIN}", "-lifetime", str(lifetime)],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            env=dict(os.environ, CONDOR_CONFIG=pool_configuration),
        ).stdout
        path = tokens / "pool"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        return path

    yield give
    # What the fixtures of the cluster clean up with.
    monkeypatch.setenv("CONDOR_CONFIG", pool_configuration)


def test_token_that_is_missing_or_expired_is_named_with_what_to_do(new_cluster, pool, token):
    cluster = new_cluster()
    with pytest.raises(CondorAuthenticationError, match="setup_condor"):
        cluster.scale(1)
    with pytest.raises(CondorAuthenticationError, match="setup_condor"):
        cluster.jobs()
    given = token(lifetime=600)
    cluster.scale(1)
    assert len(cluster.jobs()) == 1
    given.unlink()
    token(lifetime=1)
    wait_until(
        lambda: subprocess.run([str(pool.bin / "condor_q")], capture_output=True, timeout=30).returncode != 0,
        what="the token expires",
    )
    for call in (lambda: cluster.scale(2), cluster.jobs, cluster.shutdown):
        with pytest.raises(CondorAuthenticationError, match="setup_condor"):
            call()


def test_jobs_of_a_token_that_bears_another_name_than_the_account_are_counted_and_removed(new_cluster, pool, token):
    """As in a JupyterHub, whose containers all run as `jovyan`."""
    token(lifetime=600, user="games")
    cluster = new_cluster(requirements="HasNoSuchThing")
    cluster.scale(3)
    assert [job["User"] for job in pool.jobs(cluster.name)] == [f"games@{DOMAIN}"] * 3
    assert len(cluster.jobs()) == 3
    cluster.scale(3)
    cluster.scale(2)
    assert len(cluster.jobs().live) == 2
    assert "cannot run in this pool" in str(cluster.explain())
    cluster.shutdown()
    assert (
        pool.ads("-allusers", "-constraint", f'HTCDaskGatewayCluster == "{cluster.name}" && JobStatus != 3') == []
    )
