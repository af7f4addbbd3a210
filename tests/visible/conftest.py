"""A system of these tests' own: its machines hold a job that uses more memory than it asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from htcdaskgateway.local import GatewayServer, LocalSystem, PersonalPool

# A personal pool has no cgroups that would notice; this is the policy in HTCondor's manual for such machines.
TOO_MUCH = "(MemoryUsage > RequestMemory) =?= true"
MEMORY_POLICY = {
    "WANT_HOLD": TOO_MUCH,
    "WANT_HOLD_REASON": '"memory usage exceeded request_memory"',
    "WANT_HOLD_SUBCODE": 102,
    "PREEMPT": TOO_MUCH,
    "WANT_SUSPEND": "false",
    "WANT_VACATE": "false",
    "MAXJOBRETIREMENTTIME": 0,
    "STARTER_UPDATE_INTERVAL": 2,
    "STARTER_INITIAL_UPDATE_INTERVAL": 2,
    "POLLING_INTERVAL": 2,
}


@pytest.fixture(scope="session")
def strict_pool() -> Iterator[PersonalPool]:
    """A pool with that policy."""
    with PersonalPool(cpus=4, config=MEMORY_POLICY) as pool:
        yield pool


@pytest.fixture(scope="session")
def its_server() -> Iterator[GatewayServer]:
    with GatewayServer() as server:
        yield server


@pytest.fixture
def system(strict_pool: PersonalPool, its_server: GatewayServer) -> Iterator[LocalSystem]:
    """That pool and a gateway server, in force during a test only: other folders' tests have another system."""
    with LocalSystem(pool=strict_pool, server=its_server) as running:
        yield running
