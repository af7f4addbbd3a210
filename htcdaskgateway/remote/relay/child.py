"""The relay's child process: copies bytes between pairs of sockets that it is given, without a look at them.

Sent as text; no more than Python's own library. Of a receiver that does not read, one pipe's content is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import socket
import sys

SIZE = 1 << 20
F_SETPIPE_SZ = 1031
MOVE_NONBLOCK = 3


class Half:
    """One direction: bytes from `src` to `dst`, at most one pipe of them in between."""

    def __init__(self, src: int, dst: int) -> None:
        self.src, self.dst = src, dst
        self.pipe: tuple[int, int] | None = None
        self.held = 0
        self.eof = False


class Splicer:
    """All pairs."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.epoll = select.epoll()
        self.epoll.register(control.fileno(), select.EPOLLIN)
        self.out: dict[int, Half] = {}
        self.into: dict[int, Half] = {}
        self.socks: dict[int, socket.socket] = {}
        self.mask: dict[int, int] = {}

    def take(self) -> bool:
        """Take the next pair; False when the scheduler has closed."""
        data, fds, _, _ = socket.recv_fds(self.control, 1, 2)
        socks = [socket.socket(fileno=fd) for fd in fds]
        if len(socks) != 2:  # no descriptors are left for it: both ends see it close
            for sock in socks:
                sock.close()
            return bool(data)
        for sock in socks:
            sock.setblocking(False)
            self.socks[sock.fileno()] = sock
        one, other = (sock.fileno() for sock in socks)
        self.out[one] = self.into[other] = Half(one, other)
        self.out[other] = self.into[one] = Half(other, one)
        for fd in (one, other):
            self.mask[fd] = select.EPOLLIN
            self.epoll.register(fd, select.EPOLLIN)
        return True

    def drop(self, fd: int) -> None:
        """Close a pair: the gateway's proxy passes no half of a close on."""
        half = self.out[fd]
        for end in (half.src, half.dst):
            self.empty(self.out.pop(end))
            del self.into[end], self.mask[end]
            self.epoll.unregister(end)
            self.socks.pop(end).close()

    def empty(self, half: Half) -> None:
        """Close the pipe of one direction."""
        if half.pipe:
            os.close(half.pipe[0])
            os.close(half.pipe[1])
            half.pipe = None

    def flush(self, half: Half) -> None:
        """Pass on what is held, as far as the receiver takes it."""
        assert half.pipe  # noqa: S101
        with contextlib.suppress(BlockingIOError):
            while half.held:
                half.held -= os.splice(half.pipe[0], half.dst, half.held, flags=MOVE_NONBLOCK)

    def fill(self, half: Half) -> None:
        """Take what has come, and pass it on."""
        if half.pipe is None:
            half.pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # more than this account may have: smaller ones do
                fcntl.fcntl(half.pipe[1], F_SETPIPE_SZ, SIZE)
        try:
            moved = os.splice(half.src, half.pipe[1], SIZE, flags=MOVE_NONBLOCK)
        except BlockingIOError:
            return
        half.eof = not moved
        half.held += moved
        self.flush(half)

    def interest(self, fd: int) -> None:
        """Wait for what can be done at this end."""
        own = self.out[fd]
        mask = 0 if own.held or own.eof else select.EPOLLIN
        mask |= select.EPOLLOUT if self.into[fd].held else 0
        if mask != self.mask[fd]:
            self.mask[fd] = mask
            self.epoll.modify(fd, mask)

    def serve(self, fd: int, event: int) -> None:
        """Do what one end is ready for."""
        own, reverse = self.out[fd], self.into[fd]
        try:
            if event & select.EPOLLOUT and reverse.held:
                self.flush(reverse)
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and not own.held and not own.eof:
                self.fill(own)
            ended = any(half.eof and not half.held for half in (own, reverse))
            # HUP, too, is a reset: this side shuts nothing down before it drops the pair.
            if ended or event & (select.EPOLLERR | select.EPOLLHUP):
                self.drop(fd)
                return
            self.interest(own.src)
            self.interest(own.dst)
        except OSError:  # one end has gone, or there are no descriptors for a pipe: both see it close
            self.drop(fd)

    def run(self) -> None:
        """Serve until the scheduler closes its side."""
        while True:
            events = dict(self.epoll.poll())
            # Last, so that no event is taken for one of a new pair with the same descriptor.
            news = events.pop(self.control.fileno(), None)
            for fd, event in events.items():
                if fd in self.out:
                    self.serve(fd, event)
            if news and not self.take():
                return


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Splicer(socket.socket(fileno=int(sys.argv[1]))).run()
