"""HTCondor's configuration for the user: where it goes, what it says, and how it joins what is there."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ..condor import templating
from ..condor.quoting import quote_config
from ..errors import ConfigError
from .settings import Settings

FILE_NAME = "90-htcdaskgateway.conf"
BEGIN = "# >>> htcdaskgateway: written by setup_condor, which replaces what is between these lines >>>"
END = "# <<< htcdaskgateway <<<"

_BLOCK = re.compile(rf"^{re.escape(BEGIN)}$.*?^{re.escape(END)}$\n?", re.M | re.S)


@dataclass(frozen=True)
class Target:
    """The file that the configuration goes to, and why it is that one."""

    path: Path
    reason: str


def choose_target(settings: Settings, bin_dir: Path) -> Target:
    """Return where the configuration goes; HTCondor's tools in `bin_dir` may lie in a conda environment."""
    if settings.condor_config is not None:
        path = settings.condor_config
        return Target(path / FILE_NAME if path.is_dir() else path, "as you said")
    named = os.environ.get("CONDA_PREFIX")
    refused = ""
    for prefix in (bin_dir.parent, Path(sys.prefix), *([Path(named)] if named else [])):
        directory = prefix / "etc" / "condor" / "config.d"
        if (prefix / "conda-meta").is_dir() and directory.is_dir():
            if os.access(directory, os.W_OK | os.X_OK):
                return Target(directory / FILE_NAME, "this conda environment's")
            refused = f"you may not write to {directory}"
    return Target(Path.home() / ".condor" / "user_config", refused or "your own")


def render(settings: Settings) -> str:
    """Return the block of configuration between its two marks."""
    for name, value in settings.condor_settings.items():
        try:
            quote_config(name, value)
        except ConfigError as error:
            raise ConfigError(f"condor-settings: {error}") from None
    directory = settings.token_directory
    # By $ENV(HOME), so that those who share a conda environment each use their own tokens.
    in_home = directory.relative_to(Path.home()) if directory.is_relative_to(Path.home()) else None
    text = templating.render(
        "condor_config.j2",
        schedd=settings.schedd,
        collector=settings.collector,
        trust_domain=settings.trust_domain,
        uid_domain=settings.uid_domain,
        filesystem_domain=settings.filesystem_domain,
        token_directory=directory,
        token_directory_in_home=in_home,
        settings=settings.condor_settings,
    )
    return f"{BEGIN}\n{text.rstrip()}\n{END}\n"


def merge(existing: str, block: str) -> str:
    """Return `existing` with `block` in the place of an older one, or else at its end, where it wins."""
    if _BLOCK.search(existing):
        return _BLOCK.sub(lambda _: block, existing, count=1)
    if not existing.strip():
        return block
    return existing.rstrip("\n") + "\n\n" + block
