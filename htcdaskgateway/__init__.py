"""Dask Gateway clusters whose workers are HTCondor jobs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import config
from ._version import __version__

if TYPE_CHECKING:
    from .client.cluster import HTCGatewayCluster
    from .client.gateway import HTCGateway
    from .condor.jobs import JobStatus, WorkerJob, WorkerJobs
    from .worker.spec import WorkerSpec


config.set_defaults()

# Loaded when they are asked for: setup_condor needs neither dask-gateway nor distributed, which take a second.
_MODULES = {
    "HTCGateway": "client.gateway",
    "HTCGatewayCluster": "client.cluster",
    "JobStatus": "condor.jobs",
    "WorkerJob": "condor.jobs",
    "WorkerJobs": "condor.jobs",
    "WorkerSpec": "worker.spec",
}

__all__ = [
    "HTCGateway",
    "HTCGatewayCluster",
    "JobStatus",
    "WorkerJob",
    "WorkerJobs",
    "WorkerSpec",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_MODULES[name]}", __name__)
    # dask-gateway may have come with it, and its defaults stand beneath the site's profile, too.
    config.put_site()
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
