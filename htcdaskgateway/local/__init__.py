"""A whole system on one machine, for a laptop, a course or a test: ``with LocalSystem() as system: ...``."""

from .errors import LocalSystemError
from .pool import PersonalPool
from .server import GatewayServer
from .system import LocalSystem

__all__ = ["GatewayServer", "LocalSystem", "LocalSystemError", "PersonalPool"]
