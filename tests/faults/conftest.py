"""What the tests of faults share: short times, and a staging root of each test's own."""

from __future__ import annotations

from collections.abc import Iterator

import dask.config
import pytest
from trouble import Trouble

from htcdaskgateway.local import GatewayServer, LocalSystem, PersonalPool

TIMES = {
    "htcdaskgateway.condor.poll-interval": "100ms",
    "htcdaskgateway.worker.death-timeout": "20s",
    # How long a client looks for a scheduler that has gone.
    "distributed.comm.timeouts.connect": "10s",
}


@pytest.fixture(scope="session")
def breakable_pool(shared_pool: PersonalPool) -> PersonalPool:
    return shared_pool


@pytest.fixture(scope="session")
def breakable_server(shared_server: GatewayServer) -> GatewayServer:
    return shared_server


@pytest.fixture
def system(breakable_pool: PersonalPool, breakable_server: GatewayServer) -> Iterator[LocalSystem]:
    """The pool and the gateway server, with a staging root of the test's own."""
    with LocalSystem(pool=breakable_pool, server=breakable_server) as running, dask.config.set(TIMES):
        yield running


@pytest.fixture
def trouble(system: LocalSystem) -> Trouble:
    return Trouble(system)
