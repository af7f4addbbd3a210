"""Trouble made on purpose, for the tests of faults and the soak: kill, hang, evict, hold, cut off."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from support import PATIENCE, Pool, processes, wait_until, workers_of

from htcdaskgateway.local import LocalSystem


class Trouble:
    """What can befall one system.

    Parameters
    ----------
    system : LocalSystem
        The pool and the gateway server to make trouble for.
    """

    def __init__(self, system: LocalSystem) -> None:
        assert system.pool is not None
        self.system = system
        self.sbin = system.pool.installation.sbin
        self.pool = Pool(system.pool.installation.bin)
        self._directory = str(system.pool.directory)

    def daemon(self, name: str) -> int:
        """Return the process id of the pool's daemon of that name, or 0 while there is none."""
        for pid, command, environment in processes():
            if Path(command.split(" ")[0]).name == name and self._directory in environment:
                with contextlib.suppress(psutil.Error):  # it has just ended
                    parent = psutil.Process(pid).parent()
                    # To answer a query the schedd forks a child of the same name.
                    if parent and parent.name() == "condor_master":
                        return pid
        return 0

    def kill_daemon(self, name: str) -> None:
        """Kill a daemon, and wait until the master has started it again."""
        old = wait_until(lambda: self.daemon(name), what=f"{name} runs")
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: self.daemon(name) not in (0, old), what=f"the master starts {name} again")

    @contextlib.contextmanager
    def hung(self, name: str) -> Iterator[None]:
        """Let a daemon stand still within the block."""
        pid = wait_until(lambda: self.daemon(name), what=f"{name} runs")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def schedd_down(self) -> Iterator[None]:
        """Let the pool have no schedd within the block."""
        administer = Pool(self.sbin).run
        administer("condor_off", "-fast", "-daemon", "schedd")
        try:
            wait_until(lambda: not self.daemon("condor_schedd"), what="the schedd has ended")
            yield
        finally:
            administer("condor_on", "-daemon", "schedd")
            self.wait_for_schedd()

    def wait_for_schedd(self) -> None:
        """Wait until the schedd answers."""
        wait_until(lambda: self.answers("condor_q", "-totals"), what="the schedd answers")

    def answers(self, tool: str, *arguments: str) -> bool:
        """Tell whether a tool succeeds."""
        try:
            self.pool.run(tool, *arguments)
        except AssertionError:
            return False
        return True

    def workers(self, cluster: str) -> dict[str, int]:
        """Return the process ids of a cluster's workers by the workers' names."""
        found = {}
        for pid, command, environment in processes():
            words = command.split()
            if "--scheduler-sni" in words and f"CLUSTER_NAME={cluster}" in environment:
                found[words[words.index("--name") + 1]] = pid
        return found

    def scheduler(self, cluster: str) -> int:
        """Return the process id of a cluster's scheduler, or 0 if there is none."""
        for pid, command, environment in processes():
            if "dask_gateway.scheduler_preload" in command and f"CLUSTER_NAME={cluster}" in environment:
                return pid
        return 0


def end_a_worker(client: Any, mark: Path) -> None:
    """Have a task end the worker that runs it; return when it has run again, on that worker's successor or another.

    A task that nobody waits for may never run: Dask forgets it, where it had to wait for a worker.
    """

    def end() -> None:
        with contextlib.suppress(FileExistsError):
            mark.mkdir()
            os._exit(5)

    client.submit(end, pure=False).result(PATIENCE)


def names(client: Any) -> set[str]:
    """Return the names of the workers that the scheduler has."""
    return {info["name"] for info in workers_of(client).values()}


def wait_for_workers(client: Any, n: int, but: set[str] = frozenset()) -> set[str]:  # type: ignore[assignment]
    """Wait until the scheduler has just `n` workers, none of which is named in `but`; return their names."""
    wait_until(
        lambda: len(names(client)) == n and not names(client) & but,
        what=lambda: f"{n} workers, none of {sorted(but)}, have joined: {sorted(names(client))}",
    )
    return names(client)


class Work:
    """A computation whose result is known, each of its tasks noted in a file as it begins and ends.

    Parameters
    ----------
    client : distributed.Client
        Where it is computed.
    tasks : int
        How many tasks it has.
    duration : float
        How long each takes, in seconds.
    notes : Path, optional
        A directory for the notes; without it none are made.
    """

    def __init__(self, client: Any, tasks: int, duration: float, notes: Path | None = None) -> None:
        self.expected = [i * i for i in range(tasks)]
        self.notes = notes
        if notes is not None:
            notes.mkdir(exist_ok=True)
        self.futures = client.map(_task(duration, notes), range(tasks), pure=False)
        self.client = client

    def done(self) -> list[int]:
        """Return the numbers of the tasks whose results the scheduler has."""
        return [i for i, future in enumerate(self.futures) if future.status == "finished"]

    def computed(self, task: int) -> int:
        """Return how often a task has been computed to its end."""
        assert self.notes is not None
        return len(list(self.notes.glob(f"{task}-*")))

    def check(self, timeout: float = 90) -> None:
        """Wait for the results and see that they are whole."""
        assert self.client.gather(self.client.submit(list, self.futures).result(timeout=timeout)) == self.expected


def _task(duration: float, notes: Path | None) -> Callable[[int], int]:
    # A function within a function travels to the workers by value; they do not have this module.
    def task(i: int) -> int:
        import time
        import uuid

        time.sleep(duration)
        if notes is not None:
            (notes / f"{i}-{uuid.uuid4().hex}").touch()
        return i * i

    return task


class Ticker:
    """Measures whether an event loop goes on: how long it has stood still at most, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        """Tick until cancelled."""
        import asyncio

        last = time.monotonic()
        while True:
            await asyncio.sleep(0.02)
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            last = now
