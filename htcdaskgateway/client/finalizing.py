"""Let the garbage collector close what waits for an event loop."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
from collections.abc import Callable

AGAIN = 0.1  # seconds until a Ctrl-C is told again, by when the __del__ that it met has returned


def _collecting() -> bool:
    """Return whether the garbage collector is at work: no collection begins while another one goes on.

    A callback in `gc.callbacks` would know, too, but drops the KeyboardInterrupt that happens to meet it.
    """
    before = gc.get_stats()[0]
    gc.collect(0)
    return gc.get_stats()[0] == before


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
        if threading.current_thread() is threading.main_thread() and not _collecting():
            try:
                close()
            except KeyboardInterrupt:  # Python would drop it here
                main = threading.main_thread().ident
                again = threading.Timer(AGAIN, signal.pthread_kill, (main, signal.SIGINT))
                again.daemon = True
                again.start()
            return
    # A program that ends waits for it.
    threading.Thread(target=close, name="htcdaskgateway-finalize").start()
