"""Everything at once, and the settings put back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dask.config
import pytest
from dask_gateway import Gateway

from htcdaskgateway.local import LocalSystem, LocalSystemError, PersonalPool
from htcdaskgateway.local.processes import run

CLIENT = """
from dask_gateway import Gateway
with Gateway().new_cluster() as cluster:
    print(cluster.scheduler_address.split("/")[2])
"""

# A stock cluster closes its gateway, whose __del__ closes it again and raises; nothing that is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def no_condor(monkeypatch):
    for name in ("CONDOR_CONFIG", "DASK_GATEWAY_PASSWORD", "HTCDASK_STAGEDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.long
def test_settings_lead_there_and_are_put_back(no_condor, installation):
    environ, config = dict(os.environ), dask.config.get("gateway")
    with PersonalPool(installation=installation) as pool:
        with LocalSystem(pool=pool) as system:
            gateway = Gateway()
            assert gateway.address == system.address
            assert gateway.list_clusters() == []
            with pytest.raises(LocalSystemError, match="already"):
                system.start()
            assert os.environ["CONDOR_CONFIG"] == pool.environ["CONDOR_CONFIG"]
            assert dask.config.get("htcdaskgateway.worker.python") == sys.executable
            done = subprocess.run(
                [sys.executable, "-c", CLIENT], capture_output=True, text=True, timeout=60, check=False
            )
            assert done.stdout.strip() == f"127.0.0.1:{system.proxy_address}", done.stderr
            stage = Path(os.environ["HTCDASK_STAGEDIR"])
            assert stage.stat().st_mode & 0o777 == 0o700
            with LocalSystem(pool="existing") as other:
                assert "CONDOR_CONFIG" not in other.environ
                condor_q = Path(os.environ["CONDOR_BIN_DIR"]) / "condor_q"
                assert run([condor_q, "-af", "ClusterId"], timeout=10).returncode == 0
        assert pool.running()
        assert not stage.exists()
        assert not system.server.running()
    assert dict(os.environ) == environ
    assert dask.config.get("gateway") == config
    with pytest.raises(LocalSystemError, match="not running"):
        _ = system.environ


def test_a_pool_that_is_not_there_is_told_and_no_server_is_left(no_condor, tmp_path, monkeypatch):
    monkeypatch.setenv("CONDOR_BIN_DIR", str(tmp_path))
    system = LocalSystem(pool="existing")
    with pytest.raises(LocalSystemError, match="no condor_q"):
        system.start()
    system.stop()
    assert not system.server.running()
