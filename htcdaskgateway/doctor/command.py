"""``htcdaskgateway doctor``: one command for the question "why does it not work here?"."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import warnings

import click
from dask_gateway.client import GatewayWarning

from ..scheduler.versions import VersionMismatchWarning
from ..setup_condor.verdict import Verdict


@click.command()
@click.option("--cluster", "name", metavar="NAME", help="Check this cluster, too: its jobs, network and versions.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the lines as JSON; `good` is true, false, or null for unknown."
)
@click.pass_obj
def doctor(address: str | None, name: str | None, as_json: bool) -> None:
    """Say what works, what does not, and what to do.

    Each check prints a line: the configuration and where each value comes from, HTCondor's tools, token, collector
    and schedd, the staging directory as the schedd sees it, the gateway server, its scheduler proxy, your account
    there, the login node, and a worker's settings. It changes nothing; only a held job stands in your queue for a
    moment. The exit code is 0 if every line says ok.
    """
    from . import here

    here.asked_at(address)
    with warnings.catch_warnings():  # of holds and versions, which have lines of their own
        warnings.simplefilter("ignore", GatewayWarning)
        warnings.simplefilter("ignore", VersionMismatchWarning)
        told = asyncio.run(_run(name, as_json))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(verdict) for verdict in told], indent=1))
    if not all(verdict.good for verdict in told):
        sys.exit(1)


async def _run(name: str | None, silent: bool) -> list[Verdict]:
    from . import cluster, here

    told = []
    for verdicts in (here.everything(), *([cluster.everything(name)] if name else [])):
        async for verdict in verdicts:
            told.append(verdict)
            if not silent:
                click.secho(verdict.line(), fg=None if verdict.good else "red")
    return told
