"""The relay's child process: copies bytes between pairs of sockets that it is given, without a look at them.

Sent as text; no more than Python's own library. Of a receiver that does not read, one pipe's content is kept. Each
worker gives one socket more, for its pulse: a byte that comes back as long as its link is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import socket
import sys
import time

SIZE = 1 << 20
F_SETPIPE_SZ = 1031
MOVE_NONBLOCK = 3
# How often a worker's side is asked, in seconds, and how many questions in a row may stay without an answer.
PULSE = 4.0
MISSED = 4
MOST_NAMES = 4096


class Half:
    """One direction: bytes from `src` to `dst`, at most one pipe of them in between."""

    def __init__(self, src: int, dst: int) -> None:
        self.src, self.dst = src, dst
        self.pipe: tuple[int, int] | None = None
        self.held = 0
        self.eof = False


class Pulse:
    """The link of one worker, which may be dead without an end of any connection: a firewall may forget them."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name, self.sock = name, sock
        self.missed = 0

    def heard(self) -> bool:
        """Take answers; False when the worker's side has ended."""
        try:
            answers = self.sock.recv(64)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.missed = 0
        return bool(answers)

    def ask(self) -> None:
        """Ask again."""
        self.missed += 1
        with contextlib.suppress(OSError):  # that it has ended is told where answers are taken
            self.sock.send(b".")


class Splicer:
    """All pairs, and the pulses of the workers."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.epoll = select.epoll()
        self.epoll.register(control.fileno(), select.EPOLLIN)
        self.out: dict[int, Half] = {}
        self.into: dict[int, Half] = {}
        self.socks: dict[int, socket.socket] = {}
        self.mask: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.pulses: dict[int, Pulse] = {}

    def take(self) -> bool:
        """Take the next pair, or a worker's pulse; False when the scheduler has closed."""
        data, fds, _, _ = socket.recv_fds(self.control, MOST_NAMES, 2)
        names = data.decode().split("\n")
        socks = [socket.socket(fileno=fd) for fd in fds]
        if not data or len(socks) != len(names):  # no descriptors are left for it: both ends see it close
            for sock in socks:
                sock.close()
            return bool(data)
        for sock in socks:
            sock.setblocking(False)
        if len(socks) == 1:
            self.pulses[socks[0].fileno()] = Pulse(names[0], socks[0])
            self.epoll.register(socks[0].fileno(), select.EPOLLIN)
            return True
        self.socks |= {sock.fileno(): sock for sock in socks}
        one, other = (sock.fileno() for sock in socks)
        # Each end by its worker's name.
        self.names[one], self.names[other] = names
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
            del self.into[end], self.mask[end], self.names[end]
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

    def forget(self, fd: int) -> str:
        """Close a pulse; return its worker's name."""
        pulse = self.pulses.pop(fd)
        self.epoll.unregister(fd)
        pulse.sock.close()
        return pulse.name

    def feel(self) -> None:
        """Ask all workers' sides; where a link is dead, close what hangs on it and tell the scheduler."""
        for half in self.out.values():  # of connections that are open and idle no pipe is kept: four files each
            if not half.held:
                self.empty(half)
        for fd, pulse in list(self.pulses.items()):
            if pulse.missed < MISSED:
                pulse.ask()
                continue
            name = self.forget(fd)
            for end in [end for end, found in self.names.items() if found == name]:
                if end in self.out:  # or it went with its other end
                    self.drop(end)
            with contextlib.suppress(BlockingIOError):  # a scheduler that takes nothing has other worries
                self.control.send(name.encode(), socket.MSG_DONTWAIT)

    def run(self) -> None:
        """Serve until the scheduler closes its side."""
        due = time.monotonic() + PULSE
        while True:
            events = dict(self.epoll.poll(max(0.0, due - time.monotonic())))
            # Last, so that no event is taken for one of a new pair with the same descriptor.
            news = events.pop(self.control.fileno(), None)
            for fd, event in events.items():
                if fd in self.out:
                    self.serve(fd, event)
                elif fd in self.pulses and not self.pulses[fd].heard():
                    self.forget(fd)
            if news and not self.take():
                return
            # After the answers have been taken. However long this process was held up, that is one question missed.
            if time.monotonic() >= due:
                self.feel()
                due = time.monotonic() + PULSE


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Splicer(socket.socket(fileno=int(sys.argv[1]))).run()
