"""Have a token made on the login node."""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Sequence

from . import tokens
from .errors import LoginError, TokenError
from .login import Login
from .secrets import Redactor
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


def framed(command: Sequence[str], mark: str) -> list[str]:
    """Return the command that runs `command` on the login node, and tells by `mark` which words are its own.

    A login shell is used where the plain one does not find the program: many a site's profile sets its PATH.
    The last line names the exit code, for 255 is ssh's own.
    """
    inner = f"printf '\\n%s\\n' {mark}; {shlex.join(command)}; printf '\\n%s %d\\n' {mark} $?; exit 0"
    again = shlex.quote(f"exec /bin/sh -c {shlex.quote(inner)}")
    # tcsh takes no -l beside another option.
    script = (
        f"if command -v {shlex.quote(command[0])} >/dev/null 2>&1; then {inner}; fi; "
        'case "$SHELL" in */bash|*/zsh|*/ksh|*/fish) ;; *) SHELL=/bin/sh ;; esac; '
        f'exec "$SHELL" -l -c {again}'
    )
    return ["/bin/sh", "-c", script]


def unframed(said: str, mark: str, code: int) -> tuple[str, str, int]:
    """Return what the command printed, that with its errors, and its exit code.

    Where `framed` did not run it, as where a key has a fixed command, that is all that was said.
    """
    said = said.replace("\r\n", "\n")
    found = re.search(rf"^{mark}\n(.*)^{mark} (\d+)$", said, re.M | re.S)
    if found is None:
        return said, said, code
    # Errors come by another channel, and perhaps late.
    return found[1], f"{found[1]}{said[found.end() :]}", int(found[2])


def fetch(settings: Settings, terminal: Terminal, blank: Redactor) -> Token:
    """Log in, have a token made, and return it."""
    command = remote_command(settings)
    mark = secrets.token_hex(16)
    said, code = Login(settings, terminal, blank).run(framed(command, mark))
    printed, said, code = unframed(said, mark, code)
    host, shown = settings.login_host, "\n".join(blank(said).strip().splitlines()[-12:])
    by_hand = f"log in with `ssh {host}` and try `{' '.join(command)}` there"
    if code != 0 and _NEW_PASSWORD.search(said):
        raise LoginError(
            f"{host} wants you to change your password first",
            f"log in once with `ssh {host}`, change the password there, and run setup_condor again",
            shown,
        )
    if code == 127 or (code != 0 and _MISSING.search(said)):
        raise TokenError(
            f"{host} has no {settings.token_command}",
            "is it the pool's login node (--login-host)? If the program is elsewhere, give its path with "
            "--token-command",
            shown,
        )
    if code != 0:
        raise TokenError(f"{settings.token_command} on {host} failed with exit code {code}", by_hand, shown)
    token = tokens.find(printed)
    if token is None:
        raise TokenError(f"{settings.token_command} on {host} answered something that is no token", by_hand, shown)
    if token.expired():
        raise TokenError(
            f"{host} gave a token that has {token.expiry()}", "is this machine's clock right? Compare `date` there"
        )
    return token
