"""The terminal's commands about sites: which there are, and what one's profile says."""

from __future__ import annotations

import click
import dask.config

from .sites import profile


@click.command("sites")
def sites() -> None:
    """List the sites whose profiles come with this package; * marks the one that is configured.

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
    """Print the profile of the site NAME, or of a file, to start one's own from.

    `htcdaskgateway site ncsa > ~/.config/dask/mine.yaml` is a file that dask reads; or name it in
    `htcdaskgateway: {site: /path/to/mine.yaml}`.
    """
    click.echo(profile.text(name), nl=False)
