"""A site of five hosts behind a firewall that lets through what the administrators' page says, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from field_site import documented, field
from hosts import allows

pytestmark = [pytest.mark.long]

_WORK = """
import json
import dask, dask.array as da
from htcdaskgateway import HTCGateway
with HTCGateway() as gateway, gateway.new_cluster() as cluster:
    cluster.scale(4)
    cluster.wait_for_workers(4, timeout=90)
    logs = cluster.logs()
    client = cluster.get_client()
    hosts = {worker["host"] for worker in client.sync(client.scheduler.identity)["workers"].values()}
    x = da.random.default_rng(1).random((2000, 2000), chunks=(250, 2000))
    sums = []
    for method in ("tasks", "p2p"):
        with dask.config.set({"array.rechunk.method": method}):
            sums.append(float(x.rechunk((2000, 250)).sum().compute()))
    gathered = len(b"".join(client.gather(client.map(lambda i: bytes(2**16), range(16)))))
    told = str(cluster.explain())
print(json.dumps({"hosts": sorted(hosts), "sums": sums, "gathered": gathered, "logs": logs, "told": told}))
"""


@pytest.mark.parametrize("spool", [True, False], ids=["spool", "shared directory"])
def test_a_site_works_through_the_ports_that_are_documented_and_uses_no_other(
    spool: bool, tmp_path: Path, needs_hosts: None
) -> None:
    with field(tmp_path / "field", spool=spool) as site:
        site.set_up()
        code, said = site.type("htcdaskgateway.setup_condor", "--check")
        assert code == 0, said
        done = site.notebook(_WORK)
        assert len(done["hosts"]) == 2
        assert done["sums"][0] == pytest.approx(done["sums"][1])
        assert done["gathered"] == 2**20
        assert len(done["logs"]) == 4
        assert all("starts on exec" in text for text in done["logs"].values()), done["logs"]
        assert "All is well" in done["told"]
        stray = {connection for connection in site.hosts.seen() if not allows(documented(), connection)}
        assert not stray
        assert not site.hosts.refused()
