"""The terminal command: see, scale and stop the clusters of one's own."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import click
from dask_gateway.client import GatewayWarning

from ._version import __version__
from .client.gateway import HTCGateway
from .condor.jobs import CLUSTER_ATTRIBUTE, JobId, WorkerJobs
from .condor.quoting import quote_classad
from .condor.schedd import Condor
from .doctor.command import doctor
from .fleet.queue import look_by_cluster
from .plain import plain
from .site_commands import site, sites
from .terminal import EXPECTED, Group, meant, number, staged
from .worker import staging
from .worker.spec import WorkerSpec


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with `htcdaskgateway list`: it shows the NAMEs for the other commands; the first letters "
    "are enough. If something does not work, `htcdaskgateway doctor` says why. `htcdaskgateway COMMAND --help` "
    "explains each.",
)
@click.version_option(__version__)
@click.option(
    "--address", metavar="URL", help="The gateway server; default: dask's configuration, gateway.address."
)
@click.pass_context
def main(ctx: click.Context, address: str | None) -> None:
    """See, scale and stop your Dask clusters of HTCondor workers.

    It uses the same gateway server, login and HTCondor pool as a notebook: dask's configuration
    (DASK_GATEWAY__ADDRESS, DASK_GATEWAY_PASSWORD, ...), a .env file, CONDOR_BIN_DIR and HTCDASK_STAGEDIR. It sees
    and stops what a notebook or another machine has started.
    """
    ctx.obj = address


main.add_command(sites)
main.add_command(site)
main.add_command(doctor)


def _show(text: str) -> None:
    """Print what a gateway, a schedd or a worker has worded."""
    click.echo(plain(text))


@contextlib.contextmanager
def _gateway(address: str | None) -> Iterator[HTCGateway]:
    with HTCGateway(address) as gateway:
        yield gateway


def _jobs(constraint: str) -> dict[str, WorkerJobs]:
    """Return the user's worker jobs that fulfil `constraint`, by the name of their cluster."""
    return asyncio.run(look_by_cluster(Condor(), constraint))


def _jobs_of(prefix: str) -> dict[str, WorkerJobs]:
    """Return the worker jobs of the clusters whose names begin with `prefix`."""
    staging.check_cluster_name(prefix)
    return _jobs(f"substr({CLUSTER_ATTRIBUTE}, 0, {len(prefix)}) =?= {quote_classad(prefix)}")


def _names(gateway: HTCGateway) -> set[str]:
    return {report.name for report in gateway.list_clusters()}


@contextlib.contextmanager
def _cluster(address: str | None, name: str) -> Iterator[Any]:
    """Connect to the cluster that the gateway server knows under `name`, or under a name that begins so."""
    staging.check_cluster_name(name)
    with _gateway(address) as gateway:
        found = meant(name, _names(gateway))
        with contextlib.closing(gateway.connect(found)) as cluster:
            yield cluster


@contextlib.contextmanager
def _perhaps_gone(address: str | None, name: str) -> Iterator[tuple[str, Any]]:
    """Return a cluster's whole name, and the cluster or, where the gateway does not know it any more, None."""
    staging.check_cluster_name(name)
    with _gateway(address) as gateway:
        try:
            running = _names(gateway)
        except EXPECTED as error:
            # What lies on this machine can be read all the same.
            if not staged():
                raise
            message = f"the gateway server does not answer ({error}); this is what lies on this machine"
            click.echo(plain(message), err=True)
            running = set()
        found = meant(name, {*running, *staged()})
        if found not in running:
            yield found, None
            return
        with contextlib.closing(gateway.connect(found)) as cluster:
            yield found, cluster


@main.command("list")
@click.pass_obj
def list_(address: str | None) -> None:
    """List your clusters and the numbers of their jobs.

    It counts the jobs that run, wait and are held.

    A cluster that is "gone" still has jobs in HTCondor's queue, but the gateway server does not know it any more:
    `stop` removes its jobs.
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
        click.echo("You have no clusters.", err=True)


@main.command()
@click.argument("name")
@click.option("--explain", is_flag=True, help="Say why jobs do not run, and what to do about it.")
@click.pass_obj
def jobs(address: str | None, name: str, explain: bool) -> None:
    """Show the worker jobs of the cluster NAME as a table.

    A job is idle (it waits in the queue), running, or held (something is wrong: the last column says what).
    --explain also asks HTCondor why idle jobs wait, which takes a few seconds in a large pool.
    """
    if explain:
        with _cluster(address, name) as cluster:
            _show(str(cluster.explain()))
        return
    found = _jobs_of(name)
    if name not in found:
        with _gateway(address) as gateway:
            name = meant(name, {*found, *_names(gateway)})
    _show(str(found.get(name, WorkerJobs())))


@main.command()
@click.argument("name")
@click.argument("workers", nargs=-1, metavar="[WORKER|JOB]...")
@click.pass_obj
def logs(address: str | None, name: str, workers: tuple[str, ...]) -> None:
    """Print what the workers of the cluster NAME wrote.

    Give the names of workers (htcondor-16.0-1) or the ids of jobs (16.0, as `jobs` shows them) for those alone.
    From a running worker it fetches the end of the output. After a cluster has ended, it prints the output that
    came back.
    """
    with _perhaps_gone(address, name) as (found, cluster):
        if cluster is None:
            from .fleet.logs import read

            written = read(_staging(found), workers or None)
            there = set()
        else:
            written = cluster.logs(workers or None)
            there = {text for job in cluster.jobs() for text in (str(job.id), job.worker_name)}
    if written or not workers:
        _show(str(written))
    missing = [
        worker for worker in workers if worker not in there and not any(_is_of(name, worker) for name in written)
    ]
    if missing:
        hint = f"`htcdaskgateway jobs {name}` lists them" if cluster else "nothing of it came back"
        raise click.ClickException(f"the cluster {found} has no job or worker {missing[0]!r}; {hint}")


def _staging(name: str) -> staging.Staging:
    return staging.Staging(name, WorkerSpec.from_keywords())


def _is_of(worker: str, asked: str) -> bool:
    """Tell whether the output of `worker` is what was `asked` for: a job or a worker."""
    return worker == asked or asked in (str(JobId.of_worker(worker)), worker.partition("@")[0])


@main.command(context_settings={"ignore_unknown_options": True})  # -1 is no option
@click.argument("name")
@click.argument("n")
@click.pass_obj
def scale(address: str | None, name: str, n: str) -> None:
    """Scale the cluster NAME to N workers.

    Jobs that wait leave first, then the workers whose results move most easily. 0 removes all workers and keeps
    the cluster.
    """
    count = number(n)
    with _cluster(address, name) as cluster:
        cluster.scale(count)
        _show(cluster.jobs().summary())


@main.command()
@click.argument("name")
@click.option("--interval", default=1.0, show_default=True, help="Seconds between two looks.")
@click.pass_obj
def watch(address: str | None, name: str, interval: float) -> None:
    """Watch the jobs and tasks of the cluster NAME, until Ctrl-C.

    A live table: how many jobs are asked for, wait, start, run and are held, how many tasks are done and to do, and
    each job with its machine. It costs the schedd no more than a notebook's view (poll-interval).
    Without a terminal it prints the table once.
    """
    from .display.watch import show
    from .fleet.watching import view_of

    if not interval > 0:
        raise click.ClickException(f"--interval {interval:g} is not a time of more than zero seconds")
    with _cluster(address, name) as cluster, warnings.catch_warnings():
        warnings.simplefilter("ignore", GatewayWarning)  # of holds, which the table shows
        show(lambda: cluster.gateway.sync(view_of, cluster.fleet), interval)


@main.command()
@click.argument("name")
@click.option(
    "-o",
    "--output",
    multiple=True,
    metavar="FILE",
    help="A .html, .png or .svg file; default: one .html, one .png.",
)
@click.pass_obj
def timeline(address: str | None, name: str, output: tuple[str, ...]) -> None:
    """Plot what became of the jobs of the cluster NAME, and tell where the time went.

    It reads the jobs' own event log, so it costs the schedd nothing, and works when the cluster has ended.
    """
    from .fleet.timeline import read_timeline

    with _perhaps_gone(address, name) as (found, cluster):
        told = read_timeline(_staging(found)) if cluster is None else cluster.timeline()
    _show(str(told))
    for file in output or (f"timeline-{found}.html", f"timeline-{found}.png"):
        click.echo(f"saved as {told.save(file)}")


@main.command()
@click.argument("name")
@click.pass_obj
def usage(address: str | None, name: str) -> None:
    """Show what the jobs of the cluster NAME asked for and used, and what to ask for next time.

    It reads the queue and HTCondor's history, so it works when the cluster has ended, too.
    """
    from .fleet.usage import read_usage

    with _perhaps_gone(address, name) as (found, _):
        _show(str(asyncio.run(read_usage(Condor(), found))))


@main.command()
@click.argument("name")
@click.pass_obj
def stop(address: str | None, name: str) -> None:
    """Stop the cluster NAME, with its jobs and scheduler.

    It also deletes the credentials. The results are lost; the workers' output stays for `logs`. This works from any
    machine of yours, also when the notebook that made the cluster is gone, and for a cluster that the gateway
    server does not know any more.
    """
    jobs = _jobs_of(name)
    with _gateway(address) as gateway:
        name = meant(name, {*jobs, *_names(gateway)})
        gateway.stop_cluster(name)
    _show(f"{name} is stopped")


if __name__ == "__main__":
    main(prog_name="htcdaskgateway")
