"""Have a token made on the login node."""

from __future__ import annotations

import re

from . import tokens
from .errors import LoginError, TokenError
from .login import Login
from .secrets import Blanker
from .settings import Settings
from .terminal import Terminal
from .tokens import Token

_MISSING = re.compile(r"command not found|: not found|No such file or directory|Unknown command", re.I)
_NEW_PASSWORD = re.compile(r"password change required|password (?:has|is) expired", re.I)


def remote_command(settings: Settings) -> list[str]:
    """Return the command that makes a token on the login node."""
    command = [settings.token_command]
    if settings.schedd:
        command += ["-name", settings.schedd]
    if settings.token_lifetime:
        command += ["-lifetime", str(settings.token_lifetime)]
    return command


def fetch(settings: Settings, terminal: Terminal, blank: Blanker) -> Token:
    """Log in, have a token made, and return it.

    Raises
    ------
    SetupError
        There is none; the message says why.
    """
    command = remote_command(settings)
    said, code = Login(settings, terminal, blank).run(command)
    host, shown = settings.login_host, "\n".join(blank(said).strip().splitlines()[-12:])
    by_hand = f"log in with `ssh {host}` and try `{' '.join(command)}` there"
    if _NEW_PASSWORD.search(said):
        raise LoginError(
            f"{host} wants a new password before it lets you in",
            f"log in once with `ssh {host}`, change the password there, and run setup_condor again",
            shown,
        )
    if code == 127 or (code != 0 and _MISSING.search(said)):
        raise TokenError(
            f"{host} has no {settings.token_command}",
            "is it the pool's login node (--login-host)? If the program lies elsewhere there, give its path with "
            "--token-command",
            shown,
        )
    if code != 0:
        raise TokenError(f"{settings.token_command} on {host} failed with exit code {code}", by_hand, shown)
    token = tokens.find(said)
    if token is None:
        raise TokenError(f"{settings.token_command} on {host} answered something that is no token", by_hand, shown)
    if token.expired():
        raise TokenError(
            f"{host} gave a token that has {token.expiry()}", "is this machine's clock right? Compare `date` there"
        )
    return token
