"""A plugin of the scheduler: have the notebook's local code, so that graphs that name it can be read there.

Sent as text and evaluated there, as ``scheduler_plugin.py``. A function of a module is pickled by its name, and the
scheduler reads each graph before a worker does. The scheduler's own modules go before those that are sent.
"""

from __future__ import annotations

import importlib
import io
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin


class LocalCode(SchedulerPlugin):  # type: ignore[misc]
    """Put local code on the scheduler's path, in place of what was sent before."""

    def __init__(self) -> None:
        self.key = ""
        self.place: Path | None = None

    async def start(self, scheduler: Any) -> None:
        """Begin; a second client finds it there."""
        scheduler.handlers["htcdaskgateway_scheduler_code"] = self.take

    async def take(self, code: bytes, key: str) -> str:
        """Have this code from now on."""
        if key != self.key:
            place = Path(tempfile.mkdtemp(prefix="htcdaskgateway-code-"))
            with tarfile.open(fileobj=io.BytesIO(bytes(code)), mode="r:gz") as tar:
                if sys.version_info >= (3, 12):
                    tar.extractall(place, filter="data")
                else:
                    tar.extractall(place)  # noqa: S202 - it came from the user's own client
            self.forget()
            self.key, self.place = key, place
            sys.path.append(str(place / f"local-{key}"))
            importlib.invalidate_caches()
        return key

    async def close(self) -> None:
        """End with the scheduler."""
        self.forget()

    def forget(self) -> None:
        """Take away what was sent before; tasks that are there already keep what they have of it."""
        if self.place is None:
            return
        place = str(self.place)
        sys.path[:] = [entry for entry in sys.path if not entry.startswith(place)]
        for name, module in list(sys.modules.items()):
            found = [getattr(module, "__file__", None), *(getattr(module, "__path__", None) or ())]
            if any(str(path).startswith(place) for path in found if path):
                del sys.modules[name]
        shutil.rmtree(place)
        self.place, self.key = None, ""
