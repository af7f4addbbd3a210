"""ssh's command line, what it prints, and what its failures mean."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence

import pexpect

from .errors import LoginError
from .settings import Settings

TRIES = 3
"""How often a password or a second factor is asked for."""

POLL = 0.2  # how long the login node must be silent before its unfinished line is taken for a question
_REFUSED = "Permission denied|Too many authentication failures|No more authentication methods"
CHECK_BOTH = "check the user name and the password; wait before you try again, for some sites lock the account"

# What ssh says when it fails; the first that matches is told.
_FAILURES = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed",
        "the key of {host} is not the one that this machine knows: somebody may be listening in, or the host was "
        "set up anew",
        "ask your site whether the key changed and for its fingerprint; only then remove the old one with "
        "`ssh-keygen -R {known}`, and run setup_condor again",
    ),
    (
        "Could not resolve hostname|Name or service not known",
        "there is no host by the name {host}",
        "check --login-host (htcdaskgateway.setup.login-host) and this machine's network",
    ),
    (
        "Host key verification failed",
        "the key of {host} was not accepted",
        "compare its fingerprint with the one that your site publishes, and run setup_condor again",
    ),
    (
        "[Pp]assword change required|password has expired|password is expired",
        "{host} wants you to change your password first",
        "log in once with `ssh {who}`, change the password there, and run setup_condor again",
    ),
    (
        "Connection refused|No route to host|Network is unreachable|Connection timed out|Operation timed out"
        "|Connection to .* timed out|timed out during banner exchange",
        "{host} cannot be reached",
        "is the host up, and does it ask for your site's network or VPN? Check --login-host and --port",
    ),
    (
        _REFUSED,
        "{host} did not let {user} in",
        "check the user name; try `ssh {who}` by hand",
    ),
    (
        "closed by remote host|Connection closed|Connection reset|Broken pipe|not responding|client_loop"
        "|kex_exchange_identification|Connection to .* closed|disconnected",
        "the connection to {host} was cut",
        "run setup_condor again; if it happens again, try `ssh {who}` by hand",
    ),
)


def who(settings: Settings) -> str:
    """Return whom ssh logs in as, and where."""
    return f"{settings.user}@{settings.login_host}" if settings.user else settings.login_host


def command_line(settings: Settings, remote: Sequence[str]) -> list[str]:
    """Return the command line of ssh that runs `remote` on the login node."""
    strict = any(option.lower().startswith("stricthostkeychecking") for option in settings.ssh_options)
    ours = [
        *([] if strict else ["StrictHostKeyChecking=ask"]),
        f"ConnectTimeout={max(1, round(settings.connect_timeout))}",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=3",
        f"NumberOfPasswordPrompts={TRIES}",
        # What a user's own ssh configuration may say for interactive work, and what would be in the way here.
        "RemoteCommand=none",
        "ClearAllForwardings=yes",
        "LogLevel=INFO",
    ]
    command = ["ssh", "-T"]
    for option in (*ours, *settings.ssh_options):
        command += ["-o", option]
    if settings.user:
        command += ["-l", settings.user]
    if settings.port:
        command += ["-p", str(settings.port)]
    return [*command, "--", settings.login_host, shlex.join(remote)]


def read_some(child: pexpect.spawn) -> str | None:
    """Return what ssh printed, an empty text if it is silent, None at its end."""
    try:
        return str(child.read_nonblocking(4096, timeout=POLL))
    except pexpect.TIMEOUT:
        # A ControlMaster that stays behind keeps the terminal open after ssh has ended.
        return "" if child.isalive() else None
    except pexpect.EOF:
        return None


def exit_code(child: pexpect.spawn) -> int:
    """Return ssh's exit code when it has ended; 255, its own for a failure, if it has none."""
    deadline = time.monotonic() + 5
    while child.isalive() and time.monotonic() < deadline:
        time.sleep(0.02)
    if child.exitstatus is None:
        return 255
    return int(child.exitstatus)


def _matching(text: str) -> tuple[str, str, str] | None:
    return next((row for row in _FAILURES if re.search(row[0], text)), None)


def refused(text: str) -> bool:
    """Tell whether what ssh said means that the login node let nobody in."""
    found = _matching(text)
    return found is not None and found[0] is _REFUSED


def failure(settings: Settings, text: str, tail: str, *, password: bool) -> LoginError:
    """Return why ssh ended with its own exit code, by what it said; `tail` is its end, as it may be shown."""
    host = settings.login_host
    found = _matching(text)
    if found is None:
        return LoginError(f"ssh to {host} failed", f"try `ssh {who(settings)}` by hand", tail)
    pattern, message, hint = found
    if pattern is _REFUSED and password:
        message, hint = "{host} did not accept the password", CHECK_BOTH
    values = {
        "host": host,
        "who": who(settings),
        "user": settings.user or "you",
        "known": f"[{host}]:{settings.port}" if settings.port else host,
    }
    return LoginError(message.format(**values), hint.format(**values), tail)
