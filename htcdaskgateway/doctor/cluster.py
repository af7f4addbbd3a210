"""What can be said of one cluster: its scheduler, its jobs, who reaches whom, versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import click

from ..client.gateway import HTCGateway
from ..fleet.explain import explain
from ..fleet.reaching import lines
from ..scheduler.reach import reach
from ..setup_condor.verdict import Verdict, last_line
from ..terminal import EXPECTED, meant

# A name that means no cluster, or several, is a line among the others, too.
_ERRORS = (click.ClickException, *EXPECTED)
_TIMEOUT = 60.0


async def everything(name: str) -> AsyncIterator[Verdict]:
    """Yield the verdicts on the cluster `name`, or whose name begins so."""
    try:
        async with HTCGateway(asynchronous=True) as gateway:
            known = await asyncio.wait_for(gateway._clusters(), _TIMEOUT)
            found = meant(name, {report.name for report in known})
            cluster = await asyncio.wait_for(gateway.connect(found), _TIMEOUT)
            try:
                yield Verdict("cluster", True, f"{found}: its scheduler answers")
                for question in (_jobs, _reach, _versions):
                    async for verdict in question(cluster):
                        yield verdict
            finally:
                await cluster.close(shutdown=False)
    except _ERRORS as error:
        yield Verdict("cluster", False, f"{name}: {last_line(str(error)) or 'no answer in time'}")


async def _jobs(cluster: Any) -> AsyncIterator[Verdict]:
    told = await explain(cluster.fleet)
    if not told.findings:
        yield Verdict("jobs", True, told.jobs.summary())
    for finding in told.findings:
        # What waits may well run in a moment.
        good = False if finding.stuck else None
        first = str(finding).partition("\n")[0]
        detail = f" ({last_line(finding.detail)})" if finding.detail else ""
        yield Verdict("jobs", good, first + detail, finding.advice)


async def _reach(cluster: Any) -> AsyncIterator[Verdict]:
    found = await reach(cluster.fleet.scheduler)
    ports = cluster.spec.worker_port
    if not found.names:
        yield Verdict("network", None, "no worker has joined yet, so nothing can be tried")
    elif found.whole:
        among = f"{len(found.names)} of {found.machines} machines" if len(found.names) < found.machines else "all"
        yield Verdict("network", True, f"the scheduler reaches the workers, and they reach each other ({among})")
    else:
        missed = {address for other in found.workers.values() for address in other} | set(found.scheduler)
        hint = (
            f"open TCP {ports} (worker_port) from the gateway's schedulers to the nodes, and between the nodes; "
            "or make a cluster with relay='auto' and no nanny, which needs no such port"
        )
        for line in lines(found, missed):
            yield Verdict("network", False, line, hint)


async def _versions(cluster: Any) -> AsyncIterator[Verdict]:
    versions = await cluster._check_versions()
    if versions.ok:
        yield Verdict("versions", True, "client, scheduler and workers agree")
    for package in versions.mismatches:
        workers = sorted({str(side.get(package)) for side in versions.workers.values()})
        sides = f"here {versions.client.get(package)}, scheduler {versions.scheduler.get(package)}"
        yield Verdict(
            "versions",
            False,
            f"{package}: {sides}, workers {', '.join(workers) or '-'}",
            "install the same version in the notebook's environment, the scheduler's image and the workers' image",
        )
