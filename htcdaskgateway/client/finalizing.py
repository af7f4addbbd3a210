"""Let the garbage collector close what waits for an event loop."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable
from typing import Any

_collecting: int | None = None  # the thread in which the garbage collector is at work


def _note(phase: str, _: dict[str, Any]) -> None:
    global _collecting
    _collecting = threading.get_ident() if phase == "start" else None


gc.callbacks.append(_note)


def finalize(close: Callable[[], None]) -> None:
    """Run `close` at once where a program lets go of something, and aside where the garbage collector does.

    The stock clients wait for their loop when they are collected, which would never end on the loop's own thread.
    And the garbage collector comes by anywhere, so also where a thread has a lock that the closing needs.
    """
    if sys.is_finalizing():  # as the stock clients, which leave it to atexit
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if threading.current_thread() is threading.main_thread() and _collecting != threading.get_ident():
            close()
            return
    # A program that ends waits for it.
    threading.Thread(target=close, name="htcdaskgateway-finalize").start()
