"""What the user configured: dask's configuration, the environment, and a `.env` file."""

from __future__ import annotations

import copy
import grp
import logging
import os
import pwd
import re
import stat
import sys
from pathlib import Path
from typing import Any

import dask.config
import yaml
from dask.utils import parse_timedelta

from .errors import ConfigError
from .sites import profile

logger = logging.getLogger(__name__)

_PREFIXES = ("DASK_HTCDASKGATEWAY__", "DASK_GATEWAY__")

# The variables that a .env file may set.
_KNOWN = re.compile(
    r"DASK_HTCDASKGATEWAY__\w+|DASK_GATEWAY__\w+|DASK_GATEWAY_PASSWORD|HTCDASK_STAGEDIR|JUPYTERHUB_API_TOKEN"
    r"|CONDOR_CONFIG|_CONDOR_(?:CONDOR_HOST|COLLECTOR_HOST|SCHEDD_HOST|SEC_TOKEN_DIRECTORY|\w+_DOMAIN)"
)

# The keys that it may not: they name a program, or say how one runs.
_PROGRAMS = (
    "condor.bin-dir",
    "template-directory",
    "worker.container-binds",
    "worker.container-command",
    "worker.container-image",
    "worker.container-options",
    "worker.environment",
    "worker.job-extra-directives",
    "worker.job-script-prologue",
    "worker.python",
    "worker.submit-command-extra",
    "worker.worker-extra-args",
    "setup.condor-settings",
    "setup.ssh-options",
    "setup.token-command",
)


def set_defaults() -> None:
    """Put this package's defaults, and the site's above them, beneath what the user's configuration says."""
    said = {"htcdaskgateway": copy.deepcopy(dask.config.get("htcdaskgateway", None) or {})}
    text = Path(__file__).with_name("htcdaskgateway.yaml").read_text(encoding="utf-8")
    dask.config.update_defaults(yaml.load(text, profile.Loader))  # noqa: S506 - it is a safe one
    put_site(said)


def put_site(said: dict[str, Any] | None = None) -> None:
    """Put the site's profile in force, if it can be read; `said` is what a program has set already."""
    try:
        profile.apply(said)
    except ConfigError as error:
        # To import this, and to list the sites, needs none; `load` raises it.
        logger.info("%s", error)


def get(key: str) -> Any:
    """Return the configured value of ``htcdaskgateway.<key>``."""
    return dask.config.get(f"htcdaskgateway.{key}")


def seconds(key: str) -> float:
    """Return the configured time of ``htcdaskgateway.<key>`` in seconds."""
    return parse_seconds(get(key), f"htcdaskgateway.{key}")


def parse_seconds(value: Any, name: str, *, zero: bool = False) -> float:
    """Return `value`, a number of seconds or a text such as ``"60s"``, in seconds; an error calls it `name`."""
    try:
        found = float(parse_timedelta(value, default="seconds"))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        found = -1.0
    if not 0 <= found < float("inf") or (found == 0 and not zero) or isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} is not a time; write 60, '60s', '5m', '2h' or '1d'")
    return found


def load() -> None:
    """Read a ``.env`` file, and put the site's profile in force that is configured now.

    Raises
    ------
    ConfigError
        There is no such site.
    """
    put_site()
    load_dotenv()
    profile.apply()


def load_dotenv() -> None:
    """Read a ``.env`` file of the working directory or of one above it; the environment wins.

    The working directory may lie in somebody else's. So the file has to be the user's own, or root's, and of its
    variables only those are taken that this package, dask-gateway or HTCondor know, and that name no program.

    Dask reads its ``DASK_…`` variables when it is imported, so those of the file are handed to it here.
    """
    import dotenv

    path = dotenv.find_dotenv(usecwd=True)
    if not path:
        return
    try:
        # Not to wait for a writer, should it be a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            whose = _not_trusted(os.fstat(descriptor))
            named = {} if whose else dotenv.dotenv_values(stream=file)
    except (OSError, UnicodeDecodeError) as error:
        whose, named = f"it cannot be read ({error})", {}
    if whose:
        logger.warning("%s is not read: %s", path, whose)
        return
    fresh = {name: value for name, value in named.items() if value is not None and name not in os.environ}
    refused = sorted(name for name, value in fresh.items() if _leads_to_a_program(name, value))
    if refused:
        logger.warning(
            "%s: %s not taken from a file that lies about, for it names a program or how one runs; set it in the "
            "environment or in dask's configuration",
            path,
            ", ".join(refused) + (" is" if len(refused) == 1 else " are"),
        )
    fresh = {name: value for name, value in fresh.items() if name not in refused and _KNOWN.fullmatch(name)}
    os.environ.update(fresh)
    ours = {name: value for name, value in fresh.items() if name.startswith(_PREFIXES)}
    if ours:
        # As from the environment they win over files and defaults; what a program has set wins over them.
        beneath = dask.config.merge(profile.beneath(), *dask.config.collect_yaml(dask.config.paths))
        dask.config.update(
            dask.config.config, dask.config.collect_env(ours), priority="new-defaults", defaults=beneath
        )


def _not_trusted(found: os.stat_result) -> str:
    """Return why a file of this owner and mode may hold another's words, or nothing."""
    if found.st_uid not in (os.geteuid(), 0):
        return "it belongs to somebody else"
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid)):
        return "others may write to it; `chmod go-w` it"
    return ""


def _is_own_group(number: int) -> bool:
    """Tell whether a group is the one that many systems make for each user alone, named as the user."""
    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_gid == user.pw_gid and group.gr_name == user.pw_name and not {*group.gr_mem} - {user.pw_name}


def _leads_to_a_program(name: str, value: str) -> bool:
    """Tell whether a variable is known and says which program runs, or how."""
    if name == "CONDOR_BIN_DIR":
        return True
    if name == "CONDOR_CONFIG":
        # Such a file may run a program itself; one that came with the .env file must not.
        place = Path(value).expanduser().resolve()
        usual = Path("/etc"), Path(sys.prefix), Path.home() / ".condor"
        return not any(place.is_relative_to(known.resolve()) for known in usual)
    if not name.startswith(_PREFIXES):
        return False
    found = dask.config.collect_env({name: value})
    # A dotted name of a class, which dask-gateway imports.
    kind = dask.config.get("gateway.auth.type", None, config=found)
    site = dask.config.get("htcdaskgateway.site", None, config=found)
    return (
        "." in str(kind)
        or profile.is_path(str(site))
        or any(dask.config.get(f"htcdaskgateway.{key}", None, config=found) is not None for key in _PROGRAMS)
    )
