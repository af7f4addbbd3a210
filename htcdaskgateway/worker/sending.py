"""What goes with a job beside its script and credentials: more files, and an X.509 proxy."""

from __future__ import annotations

import os

from ..errors import ConfigError
from . import checks
from .spec import WorkerSpec


def proxy_file(spec: WorkerSpec) -> str | None:
    """Return the path of the X.509 proxy that goes with the jobs of `spec`."""
    if isinstance(spec.x509_proxy, str):
        return spec.x509_proxy
    usual = f"/tmp/x509up_u{os.getuid()}"  # noqa: S108 - where its makers put it
    return (os.environ.get("X509_USER_PROXY") or usual) if spec.x509_proxy else None


def check_files(spec: WorkerSpec) -> None:
    """Check that what is to go with the jobs is there, before anybody is asked for anything."""
    for path in spec.transfer_input_files:
        if not checks.is_address(path) and not os.access(path, os.R_OK):
            raise ConfigError(f"transfer_input_files: {path!r} is not there, or cannot be read")
    found = proxy_file(spec)
    if found and not os.access(found, os.R_OK):
        raise ConfigError(
            f"x509_proxy: there is no X.509 proxy in {found!r}; make one (`voms-proxy-init`), set X509_USER_PROXY, "
            "or pass x509_proxy=False"
        )
