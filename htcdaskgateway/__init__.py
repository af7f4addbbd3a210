"""Dask Gateway clusters whose workers are HTCondor jobs."""

from . import config

__version__ = "2.0.0"

config.set_defaults()

from .cluster import HTCGatewayCluster  # noqa: E402 - the defaults come first
from .gateway import HTCGateway  # noqa: E402
from .jobs import JobStatus, WorkerJob, WorkerJobs  # noqa: E402
from .spec import WorkerSpec  # noqa: E402

__all__ = [
    "HTCGateway",
    "HTCGatewayCluster",
    "JobStatus",
    "WorkerJob",
    "WorkerJobs",
    "WorkerSpec",
    "__version__",
]
