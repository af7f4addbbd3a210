"""From a password to a working condor_q: the steps of setup_condor in their order."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from ..condor.schedd import Condor
from ..condor.tools import tool_environment
from ..errors import CondorConfigError
from ..files import write_private
from . import check, condor_config, files, tokens, upgrade
from .condor_config import Target
from .errors import SetupError, StoppedError, StoreError
from .fetch import fetch
from .files import NewFile
from .secrets import Redactor
from .settings import Settings
from .terminal import Terminal
from .tokens import Token
from .verdict import Verdict


def run(settings: Settings, terminal: Terminal, *, renew: bool = False) -> bool:
    """Make the user's environment ready, and tell whether HTCondor's queue answers afterwards."""
    condor = Condor()
    target = condor_config.choose_target(settings, condor.bin_dir)
    block = condor_config.render(settings)
    token_path = settings.token_directory / settings.token_name
    for path in (token_path, target.path):
        _check_writable(path)
    upgrade.clear(settings, target, terminal, renew=renew)
    configuration = _merged(target.path, block)
    kept = None if renew else _kept(token_path)
    if kept is not None and configuration is None:
        proof, _ = _prove(condor, target, terminal)
        if proof.good:
            terminal.say(f"Token: {kept.summary()}")
            terminal.say(proof.line())
            terminal.say("Everything is in place; nothing was changed. Use --renew for a new token.", bold=True)
            return True
    try:
        if kept is not None and configuration is not None and _tried(condor, block):
            terminal.say(f"Token: {kept.summary()}; it works, so that no login is needed")
            _store(None, token_path, target, configuration, terminal)
        else:
            token = fetch(_with_user(settings, terminal), terminal, Redactor())
            terminal.say(f"Token: {token.summary()}")
            _store(token, token_path, target, configuration, terminal)
    except (KeyboardInterrupt, click.Abort):
        raise StoppedError("stopped; nothing was changed") from None
    proof, in_force = _prove(condor, target, terminal)
    if proof.good:
        _forget_old_tokens(terminal)
        terminal.say(proof.line())
        on_path = shutil.which("condor_q") is not None
        program = "condor_q" if on_path else shlex.quote(str(condor.bin_dir / "condor_q"))
        terminal.say(
            f"Done: {program} works." if in_force else f"Done: with the line above, {program} works in your shell.",
            bold=True,
        )
        return True
    terminal.say("The token and the configuration are written, but the queue cannot be used:", bold=True)
    asyncio.run(_diagnose(condor, terminal))
    return False


def _with_user(settings: Settings, terminal: Terminal) -> Settings:
    if settings.user is not None or not terminal.interactive:
        return settings
    question = f"Your user name at {settings.login_host}"
    answer = terminal.ask(question, default=_ssh_user(settings)).strip()
    if not answer or answer.startswith("-") or not answer.isprintable() or " " in answer:
        raise SetupError(f"{answer!r} is not a user name", "run setup_condor again")
    return replace(settings, user=answer)


def _ssh_user(settings: Settings) -> str | None:
    """Return the user name that ssh would take, for it may be written in the user's ssh configuration."""
    options = [part for option in settings.ssh_options for part in ("-o", option)]
    try:
        done = subprocess.run(  # noqa: S603 - the settings are checked, and no shell is between
            ["ssh", "-G", *options, "--", settings.login_host],  # noqa: S607 - the ssh that is used afterwards
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next((line[5:].strip() for line in done.stdout.splitlines() if line.startswith("user ")), None)


def _check_writable(path: Path) -> None:
    """Raise before anybody is asked for a password if `path` could not be written afterwards."""
    if path.is_dir():
        raise StoreError(f"{path} is a directory, where a file was to be written", "give another name or path")
    ancestor = path.parent
    while not ancestor.exists() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise StoreError(
            f"{path} cannot be written: {ancestor} is "
            + ("not yours to write to" if ancestor.is_dir() else "not a directory"),
            "change its permissions, or give another place with --token-directory or --condor-config",
        )


def _merged(path: Path, block: str) -> str | None:
    """Return what the configuration file shall say, or None if it says so already."""
    try:
        existing = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", "change its permissions") from error
    merged = condor_config.merge(existing, block)
    return None if merged == existing else merged


def _kept(path: Path) -> Token | None:
    """Return a token that is there and good for a while: the one of this name, or else HTCondor's first."""
    try:
        found = tokens.directory(path.parent)
    except OSError:
        return None
    good = [file for file in found if not file.open_to_others and len(file.tokens) == 1 and file.tokens[0].fresh()]
    good.sort(key=lambda file: file.path != path)
    return good[0].tokens[0] if good else None


def _tried(condor: Condor, block: str) -> bool:
    """Tell whether the schedd answers with a configuration that is not written yet."""
    before = os.environ.get("CONDOR_CONFIG")
    with tempfile.TemporaryDirectory(prefix="htcdaskgateway-") as directory:
        path = Path(directory) / "condor_config"
        write_private(path, block)
        os.environ["CONDOR_CONFIG"] = str(path)
        try:
            return asyncio.run(check.schedd_verdict(condor)).good is True
        finally:
            if before is None:
                del os.environ["CONDOR_CONFIG"]
            else:
                os.environ["CONDOR_CONFIG"] = before


def _forget_old_tokens(terminal: Terminal) -> None:
    """Remove the replaced tokens from the backups: one that lies there is good for whoever finds it."""
    backups = Path.home() / ".condor" / "backups"
    try:
        for file in tokens.directory(backups) if backups.is_dir() else ():
            if file.tokens:
                file.path.unlink()
                terminal.say(f"Removed, since the new one works: {file.path}")
    except OSError as error:
        terminal.say(f"An old token in {backups} cannot be removed: {error.strerror or error}")


def _store(token: Token | None, path: Path, target: Target, configuration: str | None, terminal: Terminal) -> None:
    backups = Path.home() / ".condor" / "backups"
    new = [] if token is None else [NewFile(path, f"{token.text}\n".encode())]
    if configuration is not None:
        # A link to the file, from somebody's dotfiles, stays one.
        place = target.path.resolve()
        mode = stat.S_IMODE(place.stat().st_mode) if place.exists() else 0o644
        new.append(NewFile(place, configuration.encode(errors="surrogateescape"), mode))
    try:
        old = [backup for file in new if (backup := files.backup_of(file.path, backups)) is not None]
        files.write_all([*old, *new])
        if path.parent.stat().st_mode & 0o077 and _holds_tokens_alone(path.parent):
            path.parent.chmod(0o700)
            terminal.say(f"{path.parent} was open to others; it is yours alone now.")
    except OSError as error:
        raise StoreError(
            f"{error.filename or path} cannot be written: {error.strerror or error}; nothing was changed",
            "make room or change the permissions, or give another place with --token-directory or --condor-config",
        ) from error
    for backup in old:
        terminal.say(f"What was there before is kept as {backup.path}")
    if token is not None:
        terminal.say(f"Written: {path}")
    if configuration is None:
        terminal.say(f"Unchanged: {target.path}")
    else:
        terminal.say(f"Written: {target.path} ({target.reason})")


def _holds_tokens_alone(directory: Path) -> bool:
    """Tell whether a directory is one for tokens, and not one that other things, or people, use, too."""
    found = tokens.directory(directory)
    return all(file.tokens for file in found) and len(found) == sum(1 for _ in directory.iterdir())


def _prove(condor: Condor, target: Target, terminal: Terminal) -> tuple[Verdict, bool]:
    """Ask the schedd with the configuration that was written; tell whether a shell needs no line more."""
    in_force = asyncio.run(_put_in_force(condor, target, terminal))
    return asyncio.run(check.schedd_verdict(condor)), in_force


async def _put_in_force(condor: Condor, target: Target, terminal: Terminal) -> bool:
    try:
        read = await check.sources(condor)
    except CondorConfigError:
        read = ()
    named = tool_environment(condor.bin_dir).get("CONDOR_CONFIG", "")
    found = any(path.exists() and path.samefile(target.path) for path in read)
    needed = "" if found else str(target.path)
    if found and "CONDOR_CONFIG" not in os.environ:
        needed = named  # the library names it to the tools; a shell's condor_q has nobody to do that
    if not needed:
        return True
    outside = os.environ.get("CONDOR_CONFIG")
    why = f"CONDOR_CONFIG={outside} leads them elsewhere" if outside else "they look elsewhere"
    terminal.say(f"HTCondor's tools do not read {target.path} by themselves ({why}). Put this into your")
    terminal.say(f"shell's profile, and type it now: export CONDOR_CONFIG={shlex.quote(needed)}", bold=True)
    os.environ["CONDOR_CONFIG"] = needed
    return False


async def _diagnose(condor: Condor, terminal: Terminal) -> None:
    async for verdict in check.pool(condor):
        terminal.say(verdict.line())
