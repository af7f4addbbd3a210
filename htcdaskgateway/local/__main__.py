"""The personal pool from the command line: ``python -m htcdaskgateway.local start``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from .debian import cache_directory
from .errors import LocalSystemError
from .install import find_or_install
from .pool import PersonalPool

_directory = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: cache_directory() / "pool",
    show_default="pool in the user's cache",
    help="Where the pool keeps its state.",
)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except LocalSystemError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
def main() -> None:
    """Run an HTCondor pool of this machine alone."""


@main.command()
@click.option("--suite", help="Use this Debian suite's HTCondor (trixie, sid), even if the machine has another.")
def install(suite: str | None) -> None:
    """Find an HTCondor with daemons, or unpack one from Debian's packages; print where."""
    click.echo(find_or_install(suite).prefix)


@main.command()
@_directory
@click.option(
    "--cpus",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="How many cores the pool pretends to have.",
)
@click.option("--memory", default="16GB", show_default=True, help="How much memory the pool pretends to have.")
@click.option("--config", multiple=True, metavar="NAME=VALUE", help="One more line of condor configuration.")
@click.option("--apptainer", is_flag=True, help="Let jobs run in containers.")
def start(directory: Path, cpus: int, memory: str, config: tuple[str, ...], apptainer: bool) -> None:
    """Start the pool and print what a shell that uses it has to set."""
    values = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in config)}
    pool = PersonalPool(directory, cpus=cpus, memory=memory, config=values, apptainer=apptainer)
    if pool.running():
        click.echo("# it is running already, as it was started", err=True)
    else:
        pool.start(detached=True)
    for name, value in pool.environ.items():
        click.echo(f"export {name}={shlex.quote(value)}")


@main.command()
@_directory
def stop(directory: Path) -> None:
    """End every daemon and every job of the pool; its queue stays."""
    PersonalPool(directory).stop()


@main.command()
@_directory
def status(directory: Path) -> None:
    """Say whether the pool is running, and exit with 1 if it is not."""
    pool = PersonalPool(directory)
    click.echo(pool.status())
    if not pool.running():
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="personal-condor")
