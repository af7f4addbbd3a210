"""Two people in a real JupyterHub, whose service the gateway is."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub.lab import Person

from htcdaskgateway.local.processes import run

pytestmark = [pytest.mark.long]

_START = """
from htcdaskgateway import HTCGateway
gateway = HTCGateway()
cluster = gateway.new_cluster(job_extra_directives={"getenv": "true"})
cluster.scale(1)
cluster.wait_for_workers(1, timeout="100s")
client = cluster.get_client()
print("sum", client.submit(sum, [1, 2, 3]).result())
"""
_SECRET = """
import os
def environ():
    import os
    return dict(os.environ)
token = os.environ["JUPYTERHUB_API_TOKEN"]
seen = [*client.run(environ).values(), client.run_on_scheduler(environ)]
print("leaked", [name for one in seen for name, value in one.items() if token in value])
"""
_OTHERS = """
print("sees", len(gateway.list_clusters()))
scale = lambda name: gateway.scale_cluster(name, 0)
for act in (gateway.get_cluster, gateway.connect, scale, gateway.stop_cluster):
    try:
        act({name!r})
        print("done")
    except Exception as error:
        print("refused", type(error).__name__)
"""
_REFUSED = """
from htcdaskgateway import HTCGateway
try:
    HTCGateway().list_clusters()
except Exception as error:
    print(type(error).__mro__[1].__name__, error)
"""


def test_two_people_have_clusters_that_neither_can_touch_of_the_other(hub: SimpleNamespace) -> None:
    async def work() -> None:
        alice, bob = (Person(hub.url, hub.token, name) for name in ("alice", "bob"))
        await asyncio.gather(alice.start(), bob.start())
        for said in await asyncio.gather(alice.run(_START), bob.run(_START)):
            assert "sum 6" in said, said
        name = (await bob.run("print(cluster.name)")).strip()

        token = (await alice.run("import os; print(os.environ['JUPYTERHUB_API_TOKEN'])")).strip()
        assert len(token) > 20
        assert "leaked []" in await alice.run(_SECRET)
        tool = hub.pool.installation.bin / "condor_q"
        ads = run([tool, "-allusers", "-long"], timeout=60, env=hub.pool._tool_env()).stdout
        assert "alice@pool.test" in ads
        assert token not in ads
        for top in (hub.directory / "home", hub.pool.directory):
            for place, _, names in os.walk(top):
                for path in (Path(place, name) for name in names):
                    own = "jupyter/runtime" in place  # Jupyter's, which has it for itself
                    with contextlib.suppress(FileNotFoundError):  # it has just gone
                        assert own or not path.is_file() or token.encode() not in path.read_bytes(), path

        link = (await alice.run("print(cluster.dashboard_link)")).strip()
        assert link.startswith(f"{hub.url}/services/dask-gateway/clusters/")
        dashboard = await alice.ask("GET", link.removeprefix(hub.url), known=False)
        assert dashboard.code == 200
        assert b"Dask" in dashboard.body
        unknown = await alice.ask("GET", "/services/dask-gateway/api/v1/clusters/", known=False)
        assert unknown.code == 401

        said = await alice.run(_OTHERS.replace("{name!r}", repr(name)))
        assert "sees 1" in said
        assert said.count("refused") == 4, said
        assert "1" in await bob.run("print(len(client.nthreads()))")
        for person in (alice, bob):
            assert "over []" in await person.run("cluster.shutdown(); print('over', gateway.list_clusters())")
            person.socket.close()

    asyncio.run(work())


@pytest.mark.parametrize("hub", [True], indirect=True, ids=["without the scope"])
def test_without_the_scope_a_person_is_told_of_it(hub: SimpleNamespace) -> None:
    async def work() -> None:
        alice = Person(hub.url, hub.token, "alice")
        await alice.start()
        said = await alice.run(_REFUSED)
        assert "GatewayAccessError" in said, said
        assert "access:services!service=dask-gateway" in said
        alice.socket.close()

    asyncio.run(work())
