"""A worker's own child of the relay: answers the scheduler's side, so that it knows that the link is there.

Sent as text; no more than Python's own library. A process of its own: what keeps the worker's Python busy, for
however long, does not hold the answers up.
"""

from __future__ import annotations

import os
import select
import socket
import sys

# After so long without a question the link is dead from here, too, in seconds.
SILENCE = 30.0


def answer(link: socket.socket, alive: int, parent: int) -> None:
    """Send back what comes, until either side ends; `alive` ends with the worker."""
    poll = select.poll()
    poll.register(link, select.POLLIN)
    poll.register(alive, select.POLLIN)
    # A process that the worker has forked may keep `alive` open.
    while os.getppid() == parent:
        ready = [fd for fd, _ in poll.poll(SILENCE * 1000)]
        if not ready or alive in ready:
            return
        try:
            asked = link.recv(64)
            if not asked:
                return
            link.send(asked)
        except OSError:  # the link is dead, or so full that it might as well be
            return


if __name__ == "__main__":
    answer(socket.socket(fileno=int(sys.argv[1])), 0, int(sys.argv[2]))
