"""What the tests of faults share: a pool and a server of their own, which they may break, and short times."""

from __future__ import annotations

from collections.abc import Iterator

import dask.config
import pytest
from trouble import Trouble

from htcdaskgateway.local import GatewayServer, LocalSystem, PersonalPool

# The master waits this long before it starts a daemon again that was killed; 10 s by default.
POOL = {"MASTER_BACKOFF_CONSTANT": 1, "MASTER_BACKOFF_CEILING": 2}

TIMES = {
    "htcdaskgateway.condor.poll-interval": "100ms",
    "htcdaskgateway.worker.death-timeout": "20s",
    # How long a client looks for a scheduler that has gone.
    "distributed.comm.timeouts.connect": "10s",
}


@pytest.fixture(scope="session")
def breakable_pool() -> Iterator[PersonalPool]:
    with PersonalPool(config=POOL) as pool:
        yield pool


@pytest.fixture(scope="session")
def breakable_server() -> Iterator[GatewayServer]:
    with GatewayServer(persistent=True) as server:
        yield server


@pytest.fixture
def system(breakable_pool: PersonalPool, breakable_server: GatewayServer) -> Iterator[LocalSystem]:
    """A pool and a gateway server that these tests may break, with a staging root of the test's own."""
    with LocalSystem(pool=breakable_pool, server=breakable_server) as running, dask.config.set(TIMES):
        yield running


@pytest.fixture
def trouble(system: LocalSystem) -> Trouble:
    return Trouble(system)
