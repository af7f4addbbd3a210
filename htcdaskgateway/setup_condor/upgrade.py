"""What version 1.0.4 left behind that would keep a new token or configuration from use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import files, tokens
from .condor_config import Target
from .errors import SetupError, StoreError
from .files import NewFile
from .settings import Settings
from .terminal import Terminal

_WRITTEN = {"CONDOR_HOST", "COLLECTOR_HOST", "SEC_CLIENT_AUTHENTICATION_METHODS", "SCHEDD_HOST"}


@dataclass(frozen=True)
class Leftover:
    """A file that is in the way, why, and what is to be in its place, if anything."""

    path: Path
    why: str
    instead: bytes | None = None


def leftovers(settings: Settings, target: Target, *, renew: bool = False) -> list[Leftover]:
    """Return what is in the way of a token in `settings` and of the configuration in `target`."""
    found = []
    directory = settings.token_directory
    for file in tokens.directory(directory) if directory.is_dir() else ():
        ends = bool(file.tokens) and not any(token.fresh() for token in file.tokens)
        # The first token by name that fits is taken, be it good or not. 1.0.4 named it as the schedd.
        if file.path.name < settings.token_name and (ends or (renew and file.path.name == settings.schedd)):
            said = "; ".join(token.expiry() for token in file.tokens)
            found.append(Leftover(file.path, f"HTCondor takes this token ({said}) before the new one"))
    configuration = target.path.parent.parent / "condor_config"
    if target.path.parent.name == "config.d" and configuration.is_file():
        lines = configuration.read_text(encoding="utf-8", errors="replace").splitlines()
        if {line.partition("=")[0].strip() for line in lines if line.strip()} == _WRITTEN:
            found.append(
                Leftover(
                    configuration,
                    "version 1.0.4 wrote this over the package's own, so that config.d beside it is not read",
                    f"RELEASE_DIR = {configuration.parents[2]}\nLOCAL_CONFIG_DIR = {target.path.parent}\n".encode(),
                )
            )
    return found


def clear(settings: Settings, target: Target, terminal: Terminal, *, renew: bool = False) -> None:
    """Have what is in the way moved to the backups if the person agrees, and else raise SetupError."""
    try:
        found = leftovers(settings, target, renew=renew)
        if not found:
            return
        for one in found:
            terminal.say(f"In the way: {one.path}: {one.why}")
        backups = Path.home() / ".condor" / "backups"
        by_hand = f"move it away by hand: {', '.join(str(one.path) for one in found)}"
        answer = terminal.ask(f"Move it to {backups}? (yes/no)", default="yes", how=by_hand)
        if answer.strip().lower() not in ("y", "yes"):
            raise SetupError("what an older version left is in the way; nothing was changed", by_hand)
        copies = [copy for one in found if (copy := files.backup_of(one.path, backups)) is not None]
        new = [NewFile(one.path, one.instead, 0o644) for one in found if one.instead is not None]
        files.write_all([*copies, *new])
        for one in found:
            if one.instead is None:
                one.path.unlink()
    except OSError as error:
        raise StoreError(
            f"what an older version left cannot be moved away: {error}",
            "move it by hand, and try again",
        ) from error
