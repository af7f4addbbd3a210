"""Workers whose port HTCondor maps to another one of the node, as at coffea-casa, on a real pool."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support import Pool, wait_until, workers_of

from htcdaskgateway.condor.jobs import JobId
from htcdaskgateway.local import LocalSystem, PersonalPool
from htcdaskgateway.local.processes import free_ports


@pytest.fixture
def notes(tmp_path) -> Path:
    """A line for each connection to a mapped port, which is in the line."""
    return tmp_path / "connections"


@pytest.fixture
def mapping(shared_server, tmp_path, notes) -> Iterator[tuple[LocalSystem, list[int]]]:
    """A pool whose nodes map the workers' ports, and the ports of its first two workers."""
    ports = free_ports(2)
    wrapper = tmp_path / "wrapper"
    program = Path(__file__).with_name("mapped_port.py")
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {program} {ports[0]},{ports[1]} {notes} "$@"\n')
    wrapper.chmod(0o755)
    with LocalSystem(pool=PersonalPool(config={"USER_JOB_WRAPPER": wrapper}), server=shared_server) as system:
        yield system, ports


@pytest.mark.long
@pytest.mark.parametrize("relay", ["never", "auto"])
def test_workers_join_and_reach_one_another_at_the_ports_that_the_node_maps(mapping, notes, relay):
    system, ports = mapping
    pool = Pool(system.pool.installation.bin)
    with system.gateway() as gateway:
        # condor_submit writes it for jobs in containers alone.
        named = {"My.ContainerServiceNames": '"dask"'}
        cluster = gateway.new_cluster(
            mapped_port="dask", worker_port=ports[0], interface=None, job_extra_directives=named, relay=relay
        )
        try:
            cluster.scale(2)
            cluster.wait_for_workers(2, timeout="60s")
            client = cluster.get_client()
            names = {address: info["name"] for address, info in workers_of(client).items()}
            first, second = names
            told = {urlsplit(address).port for address in names}
            assert not told & {*ports}
            # Each worker has one half, and is given the other.
            halves = [client.submit(bytes, 2**20, workers=[address], pure=False) for address in names]
            sums = [
                client.submit(lambda *given: sum(map(len, given)), *halves, workers=[address], pure=False)
                for address in names
            ]
            assert client.gather(sums, direct=False) == [2**21, 2**21]
            assert len(client.run(lambda: True)) == 2
            # With auto the scheduler connects to none, and of two workers it is enough if one does.
            tried = {int(line) for line in notes.read_text().split()}
            assert tried == told if relay == "never" else tried and tried <= told
            # One that is evicted hands over what nobody can compute again.
            kept = client.scatter(b"kept", workers=[first], direct=False)
            pool.run("condor_vacate_job", str(JobId.of_worker(names[first])))
            wait_until(lambda: first not in workers_of(client), what="the worker is gone")
            assert client.gather(kept, direct=False) == b"kept"
            assert [*client.who_has(kept).values()] == [(second,)]
        except BaseException:
            print(cluster.explain(), cluster.logs())
            raise
        finally:
            cluster.shutdown()
        wait_until(lambda: not pool.jobs(cluster.name), what="the jobs leave the queue")
