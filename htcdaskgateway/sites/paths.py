"""Paths as a site's profile writes them, for whoever reads it."""

from __future__ import annotations

import getpass
import os
import re
from pathlib import Path

from ..errors import ConfigError

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.A)


def expand(path: str | os.PathLike[str], name: str) -> Path:
    """Return a configured path with ``~``, ``$USER``, ``${UID}`` and other variables filled in.

    Raises
    ------
    ConfigError
        A variable is not set; the message calls the path `name`.
    """
    given = os.fspath(path)
    return Path(_VARIABLE.sub(lambda found: _value(found[1] or found[2], f"{name}={given!r}"), given)).expanduser()


def _value(variable: str, where: str) -> str:
    if variable in os.environ:
        return os.environ[variable]
    if variable == "UID":  # a shell has it, and does not hand it on
        return str(os.getuid())
    if variable == "USER":
        try:
            return getpass.getuser()
        except (OSError, KeyError) as error:
            raise ConfigError(f"{where}: this account has no name; set USER") from error
    raise ConfigError(f"{where}: the variable {variable} is not set")
