"""Errors of the whole system on one machine."""

from ..errors import HTCDaskGatewayError


class LocalSystemError(HTCDaskGatewayError):
    """A part of the local system could not be installed, started or stopped."""
