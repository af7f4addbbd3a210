"""The command ``setup_condor``: from a password to a working condor_q, or what keeps it from working."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import click

from .. import config
from ..errors import HTCDaskGatewayError
from ..plain import plain
from .errors import StoppedError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

_PATH = click.Path()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Say what works and what does not. Change nothing.")
@click.option("--renew", is_flag=True, help="Fetch a new token even if the old one works.")
@click.option("--user", "-u", help="Your name at the login node.")
@click.option("--login-host", help="The login node.")
@click.option("--port", type=int, help="Its ssh port.")
@click.option(
    "--ssh-option", "-o", "ssh_options", multiple=True, help="As ssh's -o: IdentityFile=..., ProxyJump=..."
)
@click.option(
    "--host-key", help="The fingerprint, SHA256:..., of the login node's key, if ssh does not know it yet."
)
@click.option("--duo", help="push, phone, sms, passcode, the number of a listed option, or ask.")
@click.option("--schedd", help="The schedd that takes your jobs.")
@click.option("--collector", help="The pool's central manager.")
@click.option("--trust-domain", help="The pool's TRUST_DOMAIN.")
@click.option("--uid-domain", help="The pool's UID_DOMAIN.")
@click.option("--filesystem-domain", help="The pool's FILESYSTEM_DOMAIN.")
@click.option("--token-command", help="condor_token_fetch, or its path, on the login node.")
@click.option("--token-lifetime", help="How long the token is valid, such as 30d.")
@click.option("--token-name", help="The name of the token's file.")
@click.option("--token-directory", type=_PATH, help="Where the token goes.")
@click.option("--condor-config", type=_PATH, help="Where HTCondor's configuration goes.")
@click.option("--connect-timeout", help="Time limit for connecting to the login node.")
@click.option("--answer-timeout", help="How long the login node may stay silent.")
@click.option("--duo-timeout", help="How long you may take to answer Duo.")
@click.option("--ask-timeout", help="How long you may take to answer a question here.")
@click.option("--debug", is_flag=True, help="Show the dialogue with ssh, secrets blanked.")
def main(check: bool, renew: bool, debug: bool, **options: Any) -> None:
    """Log in to the pool's login node, store a token from there, and set HTCondor's tools up.

    Values come from the options, else the environment, a .env file or Dask's configuration
    (htcdaskgateway.setup.*). What is missing, it asks for.
    """
    if debug:
        _log_to_terminal()
    try:
        good = _check() if check else _set_up(options, renew)
    except StoppedError as error:
        click.secho(plain(f"\nsetup_condor: {error}"), err=True)
        sys.exit(EXIT_INTERRUPTED)
    except HTCDaskGatewayError as error:
        click.secho(plain(f"setup_condor: {error}"), err=True)
        good = False
    except (KeyboardInterrupt, click.Abort):
        click.secho("\nsetup_condor: stopped", err=True)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0 if good else EXIT_FAILED)


def _set_up(options: dict[str, Any], renew: bool) -> bool:
    from . import run, settings
    from .terminal import Terminal

    config.load()
    found = settings.load({name.replace("_", "-"): value for name, value in options.items()})
    return run.run(found, Terminal(found.ask_timeout), renew=renew)


def _check() -> bool:
    config.load()
    return asyncio.run(_check_all())


async def _check_all() -> bool:
    from . import check

    good = True
    async for verdict in check.everything():
        click.secho(verdict.line(), fg=None if verdict.good else "red")
        good = good and verdict.good is True
    return good


def _log_to_terminal() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("debug: %(message)s"))
    logger = logging.getLogger("htcdaskgateway")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
