"""Find HTCondor's tools, and the environment they run in."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from .. import config
from ..errors import CondorNotFoundError
from ..sites.paths import expand

# Secrets of the gateway that no tool of HTCondor needs, lest a site's `getenv` puts them into a job.
_NOT_FOR_TOOLS = re.compile(r"DASK_GATEWAY_PASSWORD|DASK_GATEWAY__AUTH__.*|JUPYTERHUB_.*TOKEN|JPY_API_TOKEN", re.I)
_MACHINE_CONFIGS = (
    "/etc/condor/condor_config",
    "/usr/local/etc/condor_config",
    "~condor/condor_config",
)


def find_bin_dir() -> Path:
    """Return the directory of HTCondor's command line tools.

    ``CONDOR_BIN_DIR`` or else ``htcdaskgateway.condor.bin-dir`` is taken at its word; without them the
    environment of the running Python is looked at, and then ``PATH``.
    """
    for source, named in (
        ("CONDOR_BIN_DIR", os.environ.get("CONDOR_BIN_DIR")),
        ("htcdaskgateway.condor.bin-dir", config.get("condor.bin-dir")),
    ):
        if named:
            directory = expand(named, source)
            missing = _missing_tools(directory)
            if missing:
                raise CondorNotFoundError(f"{source} is {str(named)!r}, but there is no {missing}")
            return directory
    environment = Path(sys.prefix) / "bin"
    if not _missing_tools(environment):
        return environment
    found = shutil.which("condor_submit")
    if found and not _missing_tools(Path(found).parent):
        return Path(found).parent
    raise CondorNotFoundError(
        f"HTCondor's tools (condor_submit, condor_q, condor_rm) are not in {environment} and not on PATH"
    )


def _missing_tools(directory: Path) -> str:
    tools = ("condor_submit", "condor_q", "condor_rm")
    return next((tool for tool in tools if not os.access(directory / tool, os.X_OK)), "")


def tool_environment(bin_dir: Path) -> dict[str, str]:
    """Return the environment in which the tools of `bin_dir` run.

    A notebook's kernel has no ``CONDOR_CONFIG``: conda's htcondor sets it in its activate script only. So where
    the tools lie in a conda environment and nothing else is said, that environment's configuration is used. The
    user's own ``~/.condor/user_config`` HTCondor reads beside a configuration of the machine only (HTCondor's
    manual, *Ordered Evaluation to Set the Configuration*); where there is none, it is named to the tools here.
    """
    environment = {name: value for name, value in os.environ.items() if not _NOT_FOR_TOOLS.fullmatch(name)}
    if "CONDOR_CONFIG" not in environment:
        conda = bin_dir.parent
        in_conda = conda / "etc" / "condor" / "condor_config"
        own = Path.home() / ".condor" / "user_config"
        if (conda / "conda-meta").is_dir() and in_conda.is_file():
            environment["CONDOR_CONFIG"] = str(in_conda)
        elif own.is_file() and not any(map(_exists, _MACHINE_CONFIGS)):
            environment["CONDOR_CONFIG"] = str(own)
    return environment


def _exists(path: str) -> bool:
    # Unlike Path's, this expanduser lets a user be who does not exist.
    return os.path.isfile(os.path.expanduser(path))  # noqa: PTH111, PTH113
