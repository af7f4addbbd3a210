"""The path that 1.0.4 had."""

from .client import HTCGatewayCluster

__all__ = ["HTCGatewayCluster"]
