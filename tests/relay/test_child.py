"""The relay's processes that move bytes and answer for links, by themselves: what workers see of them."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from support import PATIENCE, wait_until

from htcdaskgateway.remote.relay import child, pulse

Pair = tuple[socket.socket, socket.socket]


def connected() -> Pair:
    """Return both ends of a connection of TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for end in (one, other):
        end.settimeout(PATIENCE)
    return one, other


class Relay:
    """The child, in a thread, and the scheduler's side of it."""

    def __init__(self) -> None:
        self.control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(PATIENCE)
        self.splicer = child.Splicer(its)
        self.thread = threading.Thread(target=self.splicer.run)
        self.thread.start()
        self.ends: list[socket.socket] = []

    def give(self, *names: str) -> list[socket.socket]:
        """Give the child a connection with each of these workers; return the workers' ends."""
        pairs = [connected() for _ in names]
        socket.send_fds(self.control, ["\n".join(names).encode()], [its.fileno() for _, its in pairs])
        for _, its in pairs:
            its.close()
        self.ends += [end for end, _ in pairs]
        return [end for end, _ in pairs]

    def close(self) -> None:
        self.control.close()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        for sock in (*self.ends, self.splicer.control, *self.splicer.socks.values()):
            sock.close()
        for told in self.splicer.pulses.values():
            told.sock.close()
        for half in self.splicer.out.values():
            self.splicer.empty(half)
        self.splicer.epoll.close()


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Relay]]:
    """Start the relay; `pulse` is how often it asks, in seconds."""
    made = []

    def start(pulse: float = PATIENCE) -> Relay:
        monkeypatch.setattr(child, "PULSE", pulse)
        made.append(Relay())
        return made[-1]

    yield start
    for each in made:
        each.close()


def received(sock: socket.socket, size: int) -> bytes:
    """Return so many bytes, or those that came before the end."""
    parts = []
    while size and (part := sock.recv(min(size, 65536))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def reset(sock: socket.socket) -> None:
    """Close a connection as the kernel does for a process that was killed with bytes unread."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def ended(sock: socket.socket) -> bool:
    """Wait for the end of a connection."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_both_workers_get_all_that_the_other_sends_in_its_order_whoever_reads_late(
    relay: Callable[..., Relay],
) -> None:
    one, other = relay().give("one", "other")
    back, sent = os.urandom(3_000_000), os.urandom(64_000_000)
    # More than the kernel and the relay keep: it can go on only when the other reads.
    sending = [threading.Thread(target=end.sendall, args=[what]) for end, what in ((one, sent), (other, back))]
    for thread in sending:
        thread.start()
    assert received(one, len(back)) == back
    assert sending[0].is_alive(), "not all that was sent was kept in between"
    assert received(other, len(sent)) == sent
    for thread in sending:
        thread.join(PATIENCE)


def test_a_connection_that_is_idle_keeps_no_pipe_and_goes_on(relay: Callable[..., Relay]) -> None:
    running = relay(pulse=0.05)
    one, other = running.give("one", "other")
    for _ in range(2):
        one.sendall(b"here")
        assert received(other, 4) == b"here"
        wait_until(
            lambda: not any(half.pipe for half in list(running.splicer.out.values())), what="no pipe is left"
        )


def test_what_was_sent_before_the_end_arrives_and_then_the_end(relay: Callable[..., Relay]) -> None:
    one, other = relay().give("one", "other")
    one.sendall(b"the last words")
    one.close()
    assert received(other, 100) == b"the last words"


def test_a_worker_that_was_killed_ends_its_connection_and_no_other(relay: Callable[..., Relay]) -> None:
    running = relay()
    one, other = running.give("one", "other")
    third, fourth = running.give("third", "fourth")
    reset(one)
    assert ended(other)
    third.sendall(b"here")
    assert received(fourth, 4) == b"here"


def test_both_workers_see_the_end_where_the_relay_got_no_descriptors_for_them(relay: Callable[..., Relay]) -> None:
    running = relay()
    one, its = connected()
    running.ends.append(one)
    socket.send_fds(running.control, [b"one\nother"], [its.fileno()])
    its.close()
    assert ended(one)
    third, fourth = running.give("third", "fourth")
    third.sendall(b"here")
    assert received(fourth, 4) == b"here"


def test_a_link_that_is_dead_ends_the_workers_connections_and_the_scheduler_is_told(
    relay: Callable[..., Relay],
) -> None:
    running = relay(pulse=0.05)
    dead, _ = running.give("dead", "other")
    other, third = running.give("other", "third")
    one, partner = running.give("dead", "partner")
    (silent,) = running.give("dead")
    assert running.control.recv(4096) == b"dead"
    assert all(map(ended, (dead, one, partner)))
    assert ended(silent) or received(silent, 100).strip(b".") == b""
    other.sendall(b"here")
    assert received(third, 4) == b"here"


def test_a_link_that_is_answered_for_stays_and_the_end_of_a_worker_is_no_dead_link(
    relay: Callable[..., Relay],
) -> None:
    running = relay(pulse=0.3)
    (link,) = running.give("worker")
    alive, of_the_worker = os.pipe()
    answering = threading.Thread(target=pulse.answer, args=[link, alive, os.getppid()])
    answering.start()
    try:
        one, other = running.give("worker", "other")
        (silent,) = running.give("silent")
        # Who does not answer is given up meanwhile.
        assert running.control.recv(4096) == b"silent"
        one.sendall(b"here")
        assert received(other, 4) == b"here"
        assert len(running.splicer.pulses) == 1
    finally:
        os.close(of_the_worker)
        answering.join(PATIENCE)
        os.close(alive)
    assert not answering.is_alive()
    silent.close()
    reset(link)
    wait_until(lambda: not running.splicer.pulses, what="the worker's pulse is forgotten")
    running.control.setblocking(False)
    with pytest.raises(BlockingIOError):
        running.control.recv(4096)


@pytest.mark.parametrize("how", ["the scheduler's side closes", "it is silent", "it is reset"])
def test_the_process_that_answers_for_a_link_ends_with_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    link, its = connected()
    alive, of_the_worker = os.pipe()
    if how == "it is silent":
        monkeypatch.setattr(pulse, "SILENCE", 0.1)
    answering = threading.Thread(target=pulse.answer, args=[link, alive, os.getppid()])
    answering.start()
    if how == "it is reset":
        its.sendall(b"." * 10)
        wait_until(lambda: its.recv(64))
        its.sendall(b".")
        reset(its)
    elif how == "the scheduler's side closes":
        its.close()
    answering.join(PATIENCE)
    assert not answering.is_alive()
    for end in (link, its):
        end.close()
    for fd in (alive, of_the_worker):
        os.close(fd)
