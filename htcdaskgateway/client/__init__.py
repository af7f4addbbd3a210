"""The thin faces of dask-gateway's client: HTCGateway and HTCGatewayCluster."""

from .cluster import HTCGatewayCluster
from .gateway import HTCGateway

__all__ = ["HTCGateway", "HTCGatewayCluster"]
