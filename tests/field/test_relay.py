"""A site behind whose firewall no worker can be reached, neither by the scheduler nor by another worker."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from field_site import CLOSED, documented, field
from hosts import allows
from support import wait_until

pytestmark = [pytest.mark.long]

_WORK = """
import json
import dask, dask.array as da
from htcdaskgateway import HTCGateway
with HTCGateway() as gateway, gateway.new_cluster(relay=RELAY) as cluster:
    cluster.scale(4)
    cluster.wait_for_workers(4, timeout=90)
    client = cluster.get_client()
    hosts = {worker["host"] for worker in client.sync(client.scheduler.identity)["workers"].values()}
    x = da.random.default_rng(1).random((2000, 2000), chunks=(250, 2000))
    sums = []
    for method in ("tasks", "p2p"):
        with dask.config.set({"array.rechunk.method": method}):
            sums.append(float(x.rechunk((2000, 250)).sum().compute()))
    scattered = client.scatter(bytes(2**20), broadcast=True)
    told = client.run(lambda: 1)

    async def ways(dask_worker):
        import asyncio
        from distributed.comm.registry import backends
        return list(await asyncio.gather(*backends["relay"].connector.verdicts.values()))

    ways = [way for found in client.run(ways).values() for way in found] if RELAY == "auto" else []
print(json.dumps({"ways": ways, "hosts": sorted(hosts), "sums": sums, "told": len(told)}))
"""

# Goes on until it is told that it is enough, and says how far it is.
_ROUNDS = """
import json
from pathlib import Path
from htcdaskgateway import HTCGateway

def make(i):
    return bytes([i]) * 8_000_000

def check(own, *parts):
    return [own, *((part[0], len(part), part.count(part[0])) for part in parts)]

right = [(i, 8_000_000, 8_000_000) for i in range(4)]
rounds = 0
with HTCGateway() as gateway, gateway.new_cluster(relay="always") as cluster:
    cluster.scale(4)
    cluster.wait_for_workers(4, timeout=90)
    client = cluster.get_client()
    while not Path("enough").exists():
        made = client.map(make, range(4), pure=False)
        checked = [client.submit(check, i, *made, pure=False) for i in range(4)]
        assert client.gather(checked) == [[i, *right] for i in range(4)]
        rounds += 1
        Path("rounds").write_text(str(rounds))
        Path("workers").write_text(str(len(client.sync(client.scheduler.identity)["workers"])))
print(json.dumps(rounds))
"""


@pytest.mark.parametrize("relay", ["always", "auto"])
def test_workers_that_nobody_can_reach_exchange_results_through_the_one_port_of_the_proxy(
    relay: str, tmp_path: Path, needs_hosts: None
) -> None:
    ports = [rule for rule in documented() if rule.ports != CLOSED]
    assert len(ports) < len(documented())
    with field(tmp_path / "field", open_ports=ports) as site:
        site.set_up()
        done = site.notebook(f"RELAY = {relay!r}\n{_WORK}", timeout=240)
        assert len(done["hosts"]) == 2
        assert done["sums"][0] == pytest.approx(done["sums"][1])
        assert done["told"] == 4
        refused = site.hosts.refused()
        if relay == "always":
            assert not {connection for connection in site.hosts.seen() if not allows(ports, connection)}
            assert not refused
        else:
            # Workers of one node reach each other directly; others have tried, and the scheduler has not.
            assert True in done["ways"]
            assert False in done["ways"]
            assert {source for source, *_ in refused} == {"exec1", "exec2"}


@pytest.mark.parametrize("seconds", [5, 60])
def test_work_goes_on_when_a_link_was_down_in_the_middle_of_transfers(
    seconds: int, tmp_path: Path, needs_hosts: None
) -> None:
    ports = [rule for rule in documented() if rule.ports != CLOSED]
    with field(tmp_path / "field", open_ports=ports) as site, ThreadPoolExecutor(1) as thread:
        site.set_up()
        work = thread.submit(site.notebook, _ROUNDS, timeout=300)

        def told(name: str) -> int:
            if work.done():
                raise AssertionError(f"the work has ended: {work.result()}")
            text = (site.home / name).read_text() if (site.home / name).exists() else ""
            return int(text or 0)

        try:
            wait_until(lambda: told("rounds") >= 2, what="results come")
            with site.hosts.closed("exec1", "gateway", "8786"):
                time.sleep(seconds)  # the outage itself
            before = told("rounds")
            wait_until(lambda: told("rounds") >= before + 2, timeout=60, what="results come again")
            wait_until(lambda: told("workers") == 4, timeout=100, what="all workers have joined again")
        finally:
            (site.home / "enough").touch()
        assert work.result(60) >= 4
