"""Let the garbage collector close what waits for an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


def finalize(close: Callable[[], None]) -> None:
    """Run `close`, aside if an event loop runs in this thread: the garbage collector comes by anywhere.

    The stock clients wait for their loop when they are collected; on the loop's own thread that would never end.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        close()
    else:
        threading.Thread(target=close, daemon=True, name="htcdaskgateway-finalize").start()
