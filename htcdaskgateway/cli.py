"""The terminal command: see, scale and stop the clusters of one's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
import click
from dask_gateway import GatewayClusterError, GatewayServerError

from . import __version__, materialization, staging
from .condor import Condor
from .errors import HTCDaskGatewayError
from .fleet import cluster_constraint
from .gateway import HTCGateway
from .jobs import ATTRIBUTES, CLUSTER_ATTRIBUTE, WorkerJobs
from .plain import plain
from .spec import WorkerSpec

_EXPECTED = (
    HTCDaskGatewayError,
    GatewayClusterError,
    GatewayServerError,
    aiohttp.ClientError,
    asyncio.TimeoutError,
    OSError,
    ValueError,
)


class _Group(click.Group):
    """A group of commands whose expected errors are one message and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except _EXPECTED as error:
            raise click.ClickException(plain(str(error)) or f"{type(error).__name__}: no answer") from error


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with `htcdaskgateway list`: it shows the NAMEs that the other commands want. "
    "`htcdaskgateway COMMAND --help` tells more of each.",
)
@click.version_option(__version__)
@click.option(
    "--address", metavar="URL", help="The gateway server; default: dask's configuration, gateway.address."
)
@click.pass_context
def main(ctx: click.Context, address: str | None) -> None:
    """See, scale and stop your Dask clusters of HTCondor workers.

    The gateway server, your login and the HTCondor pool are those that a notebook would use: dask's configuration
    (DASK_GATEWAY__ADDRESS, DASK_GATEWAY_PASSWORD, ...), a .env file, CONDOR_BIN_DIR and HTCDASK_STAGEDIR. Whatever
    a notebook or another machine has started, this sees it and can stop it.
    """
    ctx.obj = address


def _show(text: str) -> None:
    """Print what a gateway, a schedd or a worker has worded."""
    click.echo(plain(text))


@contextlib.contextmanager
def _gateway(address: str | None) -> Iterator[HTCGateway]:
    with HTCGateway(address) as gateway:
        yield gateway


def _jobs(constraint: str) -> dict[str, WorkerJobs]:
    """Return the user's worker jobs that fulfil `constraint`, by the name of their cluster."""
    return asyncio.run(_look(Condor(), constraint))


async def _look(condor: Condor, constraint: str) -> dict[str, WorkerJobs]:
    making = await materialization.factories(condor, constraint)
    ads = await condor.query(constraint, [*ATTRIBUTES, CLUSTER_ATTRIBUTE])
    found = {}
    for name in {_cluster_of(ad) for ad in [*making, *ads]}:
        made = WorkerJobs.from_ads(ad for ad in ads if _cluster_of(ad) == name)
        late = materialization.unmaterialized([ad for ad in making if _cluster_of(ad) == name], made)
        found[name] = WorkerJobs.ordered([*made, *late])
    return found


def _cluster_of(ad: Mapping[str, Any]) -> str:
    return str(ad[CLUSTER_ATTRIBUTE])


def _known(gateway: HTCGateway, name: str) -> bool:
    return any(report.name == name for report in gateway.list_clusters())


def _no_cluster(name: str) -> click.ClickException:
    return click.ClickException(f"you have no cluster {name!r}; `htcdaskgateway list` shows those there are")


@main.command("list")
@click.pass_obj
def list_(address: str | None) -> None:
    """List your clusters, with how many of their jobs run, wait and are held.

    A cluster that is "gone" has jobs in HTCondor's queue and is not known to the gateway server any more: `stop`
    removes its jobs.
    """
    with _gateway(address) as gateway:
        reports = gateway.list_clusters()
    jobs = _jobs(f"{CLUSTER_ATTRIBUTE} =!= undefined")
    known = {report.name for report in reports}
    for report in sorted(reports, key=lambda report: report.start_time):
        started = f"{report.start_time:%Y-%m-%d %H:%M}"
        counts = jobs.get(report.name, WorkerJobs()).summary()
        _show(f"{report.name}  {report.status.name.lower()} since {started}  {counts}")
    for name in sorted(jobs.keys() - known):
        _show(f"{name}  gone  {jobs[name].summary()}")
    if not known and not jobs:
        click.echo("you have no clusters", err=True)


@main.command()
@click.argument("name")
@click.option("--explain", is_flag=True, help="Say in words why jobs do not run, and what to do about it.")
@click.pass_obj
def jobs(address: str | None, name: str, explain: bool) -> None:
    """Show the worker jobs of the cluster NAME as a table.

    A job is idle (it waits in the queue), running, or held (something is wrong: the last column says what). With
    --explain HTCondor is asked why idle jobs wait, too; that takes a few seconds in a large pool.
    """
    staging.check_cluster_name(name)
    if explain:
        with _gateway(address) as gateway, contextlib.closing(gateway.connect(name)) as cluster:
            _show(str(cluster.explain()))
        return
    found = _jobs(cluster_constraint(name)).get(name, WorkerJobs())
    if not found:
        with _gateway(address) as gateway:
            if not _known(gateway, name):
                raise _no_cluster(name)
    _show(str(found))


@main.command()
@click.argument("name")
@click.argument("workers", nargs=-1, metavar="[WORKER|JOB]...")
@click.pass_obj
def logs(address: str | None, name: str, workers: tuple[str, ...]) -> None:
    """Print what the workers of the cluster NAME wrote.

    Give the names of workers (htcondor-16.0-1) or the ids of jobs (16.0, as `jobs` shows them) for those alone.
    Of a running worker the end of its output is fetched from its machine. Of a cluster that has ended, the output
    that came back to this machine is printed.
    """
    where = staging.Staging(name, WorkerSpec.from_keywords())
    with _gateway(address) as gateway:
        if _known(gateway, name):
            with contextlib.closing(gateway.connect(name)) as cluster:
                found = cluster.logs(workers or None)
        else:
            from .logs import read

            if not where.directory.is_dir():
                raise _no_cluster(name)
            found = read(where, workers or None)
    _show(str(found))


@main.command()
@click.argument("name")
@click.argument("n", type=click.IntRange(min=0))
@click.pass_obj
def scale(address: str | None, name: str, n: int) -> None:
    """Bring the cluster NAME to N workers.

    More workers are submitted as HTCondor jobs; of too many, those that wait go first, then those whose results
    are moved most easily. 0 keeps the cluster and removes all its workers.
    """
    with _gateway(address) as gateway:
        if not _known(gateway, name):
            raise _no_cluster(name)
        with contextlib.closing(gateway.connect(name)) as cluster:
            cluster.scale(n)
            _show(cluster.jobs().summary())


@main.command()
@click.argument("name")
@click.pass_obj
def stop(address: str | None, name: str) -> None:
    """Stop the cluster NAME: remove its jobs, end its scheduler and forget its credentials.

    Its results are lost; the workers' output stays for `logs`. This works from any machine of yours, also when the
    notebook that made the cluster is gone, and for a cluster that the gateway server does not know any more.
    """
    staging.check_cluster_name(name)
    with _gateway(address) as gateway:
        if not _known(gateway, name) and not _jobs(cluster_constraint(name)):
            raise _no_cluster(name)
        gateway.stop_cluster(name)
    _show(f"{name} is stopped")


if __name__ == "__main__":
    main(prog_name="htcdaskgateway")
