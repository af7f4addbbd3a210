"""A system of these tests' own: its machines hold a job that uses more memory than it asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from htcdaskgateway.local import LocalSystem, PersonalPool

# A personal pool has no cgroups that would notice; this is the policy in HTCondor's manual for such machines.
TOO_MUCH = "(MemoryUsage > RequestMemory) =?= true"
TOO_MUCH_DISK = "(TARGET.DiskUsage > MY.Disk) =?= true"
MEMORY_POLICY = {
    "WANT_HOLD": f"{TOO_MUCH} || {TOO_MUCH_DISK}",
    "WANT_HOLD_REASON": f'strcat(ifThenElse({TOO_MUCH_DISK}, "disk", "memory"), " usage exceeded the request")',
    "WANT_HOLD_SUBCODE": f"ifThenElse({TOO_MUCH_DISK}, 104, 102)",
    "PREEMPT": f"{TOO_MUCH} || {TOO_MUCH_DISK}",
    "WANT_SUSPEND": "false",
    "WANT_VACATE": "false",
    "MAXJOBRETIREMENTTIME": 0,
    "STARTER_UPDATE_INTERVAL": 2,
    "STARTER_INITIAL_UPDATE_INTERVAL": 2,
    "POLLING_INTERVAL": 2,
}


# Not "package": a folder without __init__.py is none, and the system would stay in force for other tests.
@pytest.fixture(scope="module")
def system() -> Iterator[LocalSystem]:
    """A pool with that policy, and a gateway server."""
    with LocalSystem(pool=PersonalPool(cpus=4, config=MEMORY_POLICY)) as running:
        yield running
