"""Let the garbage collector close what waits for an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


def finalize(close: Callable[[], None]) -> None:
    """Run `close`, aside but in a main thread without an event loop: the garbage collector comes by anywhere.

    The stock clients wait for their loop when they are collected, which would never end on the loop's own thread.
    In one whose loop is to begin, or has ended, they wait for a lock of Dask's, which who waits for the thread has.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if threading.current_thread() is threading.main_thread():
            close()
            return
    threading.Thread(target=close, daemon=True, name="htcdaskgateway-finalize").start()
