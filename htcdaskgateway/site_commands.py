"""The terminal's commands about sites: which there are, and what one's profile says."""

from __future__ import annotations

import click
import dask.config

from .sites import profile


@click.command("sites")
def sites() -> None:
    """List the sites with a profile; * marks yours.

    Choose one with `htcdaskgateway: {site: NAME}` in dask's configuration, or DASK_HTCDASKGATEWAY__SITE=NAME.
    """
    chosen = dask.config.get(profile.KEY, None)
    known = profile.names()
    width = max(map(len, known))
    for name in known:
        first = profile.text(name).partition("\n")[0].removeprefix("# ")
        click.echo(f"{'*' if name == chosen else ' '} {name:{width}}  {first}")
    if chosen is not None and chosen not in known:
        click.echo(f"* {chosen}")


@click.command("site")
@click.argument("name")
def site(name: str) -> None:
    """Print a site's profile, to start your own from.

    NAME is a name from `htcdaskgateway sites`, or the path of a file. Save the profile and change it:
    `htcdaskgateway site ncsa > mine.yaml`. Then choose it in Dask's configuration:
    `htcdaskgateway: {site: /path/to/mine.yaml}`.
    """
    click.echo(profile.text(name), nl=False)
