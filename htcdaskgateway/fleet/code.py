"""The notebook's code at the workers: bring it there, and take note of which machines have the packages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .. import config
from ..errors import ConfigError, PackagesError
from ..packages import nodes, packing
from ..packages.packed import Packed
from ..plain import counted
from ..remote.scheduler_plugin import job_of
from ..scheduler.link import SchedulerLink
from .fleet import Fleet

logger = logging.getLogger(__name__)

# How long a new worker may take to join, in seconds, and how often it is looked for.
_PATIENCE = 60.0
_PAUSE = 0.05


@dataclass(frozen=True, repr=False)
class Synced:
    """What `HTCGatewayCluster.sync_packages` has done.

    Attributes
    ----------
    workers : int
        How many workers have started anew.
    sent : int
        How many bytes each of them was sent.
    packages_changed : bool
        Whether installed packages have changed, which only jobs that start from now on will have.
    kept : tuple of str
        The workers that go on beside their successors, because their results had nowhere to go.
    """

    workers: int
    sent: int
    packages_changed: bool
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = "No worker that runs needs the local code anew."
        if self.workers:
            text = f"{counted(self.workers, 'worker')} started anew, {self.sent / 1000:.1f} kB sent to each."
        if self.packages_changed:
            text += (
                " Installed packages have changed: jobs that start from now on have them; scale(0) ends the others."
            )
        if self.kept:
            text += f" These still hold results that could not be moved: {', '.join(self.kept)}."
        return text

    __repr__ = __str__


async def sync(fleet: Fleet) -> Synced:
    """Bring the local code as it is now to the workers that run and to those that will."""
    stage, packages = fleet.staging, fleet.staging.spec.packages
    if packages is None or stage.packed is None:
        raise ConfigError('the cluster was not made with packages="notebook", so its workers have no code to sync')
    before, stage.packed = stage.packed, await packing.pack_beside(packages, image=stage.spec.packages_image)
    packed = stage.packed
    await asyncio.to_thread(stage.refresh)
    told = await fleet.scheduler.packages()
    old = {address: worker["name"] for address, worker in told.items() if worker["code"] != packed.local}
    code = await at_scheduler(fleet.scheduler, packed)
    changed = packed.key != before.key or any(worker["key"] != packed.key for worker in told.values())
    if not old:
        return Synced(0, len(code), changed)
    answers = await fleet.scheduler.send_code(list(old), code, packed.local)
    for address, answer in answers.items():
        if answer != packed.local and address in old:
            logger.warning("the worker %s has not taken the new code: %r", old[address], answer)
    taken = [old[address] for address, answer in answers.items() if answer == packed.local]
    ready = await _successors(fleet, taken, packed.local)
    kept = await fleet.scheduler.retire(ready, config.seconds("retire-timeout"))
    if len(ready) < len(old):
        missing = sorted({*old.values()} - {*ready})
        raise PackagesError(
            f"{len(missing)} of {len(old)} workers did not start anew and go on with the code they had: "
            f"{', '.join(missing)}. cluster.logs() says why; call sync_packages() again to try again"
        )
    return Synced(len(ready), len(code), changed, tuple(kept))


async def at_scheduler(scheduler: SchedulerLink, packed: Packed) -> bytes:
    """Bring the local code to the scheduler, and return it."""
    code = await asyncio.to_thread(Path(packed.archives["local.tar.gz"]).read_bytes)
    await scheduler.have_code(code, packed.local)
    return code


async def _successors(fleet: Fleet, names: list[str], code: str) -> list[str]:
    """Wait until each worker's job has a new one for it; return the names of those that have."""
    deadline = time.monotonic() + _PATIENCE
    wanted = Counter(job_of(name) for name in names)
    while True:
        told = (await fleet.scheduler.packages()).values()
        # One that has just joined is given no results yet.
        new = [worker for worker in told if worker["code"] == code and worker["status"] == "running"]
        there = Counter(job_of(worker["name"]) for worker in new)
        ready = [name for name in names if there[job_of(name)] >= wanted[job_of(name)]]
        if len(ready) == len(names) or time.monotonic() > deadline:
            return ready
        await asyncio.sleep(_PAUSE)


async def learn(fleet: Fleet) -> None:
    """Take note of the machines whose cache has the packages, so that they are not sent there again."""
    packed = fleet.staging.packed
    if packed is None or not nodes.directories():
        return
    told = (await fleet.scheduler.packages()).values()
    machines = {worker["machine"] for worker in told if worker["machine"] and worker["key"] == packed.key}
    if await asyncio.to_thread(nodes.note, packed, machines):
        await asyncio.to_thread(fleet.staging.refresh)
