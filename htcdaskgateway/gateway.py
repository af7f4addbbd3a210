"""The path that 1.0.4 had."""

from .client import HTCGateway

__all__ = ["HTCGateway"]
