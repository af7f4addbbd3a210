"""A plugin of the scheduler: let HTCondor's workers live behind a stock dask-gateway server.

Sent as text and evaluated there, so it imports distributed only and runs on any Python the scheduler has.

dask-gateway's service in the scheduler (``scheduler_preload.py``) counts every worker and retires those beyond
the number that the server asked for. HTCondor's workers are not the server's: this plugin takes them out of that
count, and keeps the service's choice of whom to retire to its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.versions import get_versions

VERSION = 2
PREFIX = "htcondor-"
NAME = "htcdaskgateway-"
NOTES = "htcdaskgateway"
JOINS = "joins"
MOST_JOINS = 20_000

NO_NANNY = (
    "{what} needs a nanny, and the cluster's HTCondor workers have none: make the cluster with nanny=True "
    "(htcdaskgateway.worker.nanny)"
)


def is_ours(name: object) -> bool:
    """Tell whether the worker `name` is an HTCondor job's."""
    return str(name).startswith(PREFIX)


def job_of(name: str) -> str:
    """Return what the names of a job's workers have in common; a job may have several."""
    job, at, schedd = name.partition("@")
    return "-".join(job.split("-")[:3]) + at + schedd


class GatewayView:
    """The scheduler as dask-gateway's service sees it: it retires, and asks for, workers of its own only."""

    def __init__(self, scheduler: Any, plugin: HTCondorWorkers) -> None:
        self._scheduler = scheduler
        self._plugin = plugin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def workers_to_close(self, target: int, attribute: str) -> list[str]:
        """Choose among the gateway's own; the service asks for names."""
        own = sum(not is_ours(ws.name) for ws in self._scheduler.workers.values())
        return self._plugin.cheapest(max(0, own - target), ours=False)

    def adaptive_target(self, target_duration: float | None = None) -> int:
        """Ask for what HTCondor's workers leave to do."""
        return self._plugin.target(target_duration, ours=False)


class HTCondorWorkers(SchedulerPlugin):  # type: ignore[misc]
    """Keep HTCondor's workers out of the gateway's count, and retire them when the client asks."""

    version = VERSION

    async def start(self, scheduler: Any) -> None:
        """Begin; an older version of this plugin makes room, before a newer one this one does nothing."""
        service = scheduler.services.get("gateway")
        if service is None:
            raise RuntimeError("this scheduler was not started by a dask-gateway server")
        self.scheduler, self.service = scheduler, service
        self.choosing: bool | None = None
        self.names: dict[str, str] = {}
        others = {name: plugin for name, plugin in scheduler.plugins.items() if name.startswith(NAME)}
        self.active = not any(plugin.version >= VERSION for plugin in others.values())
        if not self.active:
            return
        for name in others:
            scheduler.remove_plugin(name)
        # Also where clients of older versions keep and look for them.
        self.notes: dict[str, Any] = scheduler.task_metadata.setdefault(NOTES, {})
        service.scheduler = GatewayView(scheduler, self)
        scheduler.handlers["htcdaskgateway_note"] = self.note
        scheduler.handlers["htcdaskgateway_noted"] = self.noted
        scheduler.handlers["htcdaskgateway_workers"] = self.workers
        scheduler.handlers["htcdaskgateway_retire"] = self.retire
        scheduler.handlers["htcdaskgateway_adaptive"] = self.adaptive
        scheduler.handlers["htcdaskgateway_versions"] = self.versions
        scheduler.handlers["htcdaskgateway_tasks"] = self.tasks
        scheduler.handlers["htcdaskgateway_packages"] = self.packages
        self.require_nannies()
        for address in scheduler.workers:
            self.take_out(address)

    def restart(self, scheduler: Any) -> None:
        """Keep the notes through a client's ``restart()``, which empties the scheduler's metadata."""
        if self.active:
            scheduler.task_metadata[NOTES] = self.notes

    async def note(self, values: dict[str, Any], unless: dict[str, Any]) -> dict[str, Any]:
        """Keep values for as long as the cluster lives, and those of `unless` that nobody has put there.

        Return what whoever is about to submit goes by, in the same exchange: clients race with one another.
        """
        known = self.notes.get("wanted") is not None or self.names or self.notes.get(JOINS)
        first = "wanted" in values and not known
        self.notes.update(values)
        self.notes.update({name: value for name, value in unless.items() if not self.notes.get(name)})
        return {"schedd": self.notes.get("schedd"), "closing": self.notes.get("closing"), "first": first}

    async def noted(self, name: str, default: Any = None) -> Any:
        """Return a value that some client has put there."""
        return self.notes.get(name, default)

    def require_nannies(self) -> None:
        """Let calls that need a nanny fail at once where HTCondor's workers have none."""
        scheduler = self.scheduler

        def checked(call: Callable[..., Any], what: str, concerns: Callable[..., bool]) -> Callable[..., Any]:
            @functools.wraps(call)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                if concerns(**kwargs):
                    raise RuntimeError(NO_NANNY.format(what=what))
                return await call(*args, **kwargs)

            return wrapped

        def plugin_fails(**_: Any) -> bool:
            return (self.notes.get("spec") or {}).get("nanny") is False

        def broadcast_fails(workers: Iterable[str] | None = None, nanny: bool = False, **_: Any) -> bool:
            asked = scheduler.workers if workers is None else workers
            found = [ws for address in asked if (ws := scheduler.workers.get(address))] if nanny else []
            return any(is_ours(ws.name) and not ws.nanny for ws in found)

        register = checked(scheduler.register_nanny_plugin, "a nanny plugin", plugin_fails)
        scheduler.register_nanny_plugin = scheduler.handlers["register_nanny_plugin"] = register
        broadcast = checked(scheduler.broadcast, "a call of nannies", broadcast_fails)
        scheduler.handlers["broadcast"] = broadcast

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """Take a worker of ours out of the gateway's count, and note when it came."""
        if self.active and self.take_out(worker):
            begun = scheduler.workers[worker].extra.get(NOTES, {}).get("begun")
            self.record(self.names[worker], True, begun)

    def take_out(self, worker: str) -> bool:
        """Take a worker out of the gateway's count, if it is one of ours."""
        name = self.scheduler.workers[worker].name
        if is_ours(name):
            self.names[worker] = name
            self.service.active_workers.discard(name)
        return is_ours(name)

    def record(self, name: str, joined: bool, begun: float | None = None) -> None:
        """Note that a worker has joined or left, and when it began to look for the scheduler by its own clock."""
        joins = self.notes.setdefault(JOINS, [])
        joins.append([time.time(), name, joined, begun])
        del joins[:-MOST_JOINS]

    def remove_worker(self, scheduler: Any, worker: str, **kwargs: Any) -> None:
        """Keep a worker of ours from being reported as one that the gateway lost."""
        name = self.names.pop(worker, None)
        self.service.closed_workers.discard(name)
        if name is not None:
            self.record(name, False)

    def valid_workers_downscaling(self, scheduler: Any, workers: list[Any]) -> list[Any]:
        """Restrict a choice of workers to one kind."""
        if self.choosing is None:
            return workers
        return [ws for ws in workers if is_ours(ws.name) == self.choosing]

    def cheapest(self, n: int, ours: bool) -> list[str]:
        """Return the names of up to `n` workers of one kind whose loss costs least."""
        self.choosing = ours
        try:
            return list(self.scheduler.workers_to_close(n=n, attribute="name")) if n else []
        finally:
            self.choosing = None

    def own(self) -> dict[str, Any]:
        """Return the states of our workers by their names."""
        return {ws.name: ws for ws in self.scheduler.workers.values() if is_ours(ws.name)}

    async def workers(self, n: int = 0) -> dict[str, Any]:
        """Return our workers: how many tasks each processes, the cheapest `n` of them by name; and all counts."""
        own = self.own()
        cheapest = self.cheapest(n, ours=True) if n else []
        # The scheduler leaves out workers with long-running tasks; they are chosen last.
        rest = sorted(own.keys() - set(cheapest), key=lambda name: (len(own[name].processing), own[name].nbytes))
        return {
            "processing": {name: len(ws.processing) for name, ws in own.items()},
            "cheapest": [*cheapest, *rest][:n],
            "counts": self.counts(),
        }

    def counts(self) -> tuple[int, int, int]:
        """Return how many of our workers run, how many of the gateway's, and how many those shall be."""
        running = [is_ours(ws.name) for ws in self.scheduler.workers.values() if ws.status is Status.running]
        theirs = running.count(False)
        return running.count(True), theirs, max(theirs, self.service.count)

    def target(self, target_duration: float | None, ours: bool, threads: int = 1) -> int:
        """Return how many workers of one kind the work asks for, beside those of the other kind.

        `threads` is how many a worker will have; used while there is no worker that shows it.
        """
        self.choosing = ours  # so that a choice of whom to close, too, is made among this kind
        try:
            total = int(self.scheduler.adaptive_target(target_duration))
        finally:
            self.choosing = None
        workers = self.scheduler.workers.values()
        return total - sum(is_ours(ws.name) != ours for ws in workers) if workers else math.ceil(total / threads)

    async def adaptive(self, target_duration: float, threads: int) -> dict[str, Any]:
        """Return how many workers of ours are asked for, those that have joined, and those that do nothing."""
        own = self.own()
        return {
            "target": self.target(target_duration, ours=True, threads=threads),
            "joined": list(own),
            "unoccupied": sorted(self.idle(own), key=lambda name: own[name].nbytes),
        }

    def idle(self, workers: dict[str, Any]) -> list[str]:
        """Return those of our `workers` that have no task, nor one on its way; a job's only all together."""
        stealing = self.scheduler.extensions.get("stealing")
        thieves = {theft["thief"] for theft in stealing.in_flight.values()} if stealing else set()
        busy = {job_of(name) for name, ws in workers.items() if ws.processing or ws.actors or ws in thieves}
        return [name for name in workers if job_of(name) not in busy]

    async def versions(self) -> dict[str, Any]:
        """Return the versions that the scheduler has, and those that each worker told when it joined."""
        workers = {str(ws.name): ws.versions for ws in self.scheduler.workers.values()}
        return {"scheduler": get_versions(), "workers": workers}

    async def packages(self) -> dict[str, dict[str, str]]:
        """Return what our workers with the notebook's packages tell of them, by the workers' addresses."""
        return {
            address: {**told, "name": str(ws.name), "status": ws.status.name}
            for address, ws in self.scheduler.workers.items()
            if (told := ws.extra.get("htcdaskgateway_packages"))
        }

    async def tasks(self) -> dict[str, Any]:
        """Return how many tasks are done, failed, computed and to do, and how many each worker of ours computes."""
        states: dict[str, int] = {}
        done = erred = 0
        for prefix in self.scheduler.task_prefixes.values():
            # These count on; a task that nobody wants any more is in no state.
            done += prefix.state_counts["memory"]
            erred += prefix.state_counts["erred"]
            for state, count in prefix.states.items():
                states[state] = states.get(state, 0) + count
        to_do = sum(states.get(state, 0) for state in ("waiting", "queued", "no-worker", "processing"))
        own = {name: len(ws.processing) for name, ws in self.own().items()}
        return {"done": done, "erred": erred, "to_do": to_do, "processing": own}

    async def retire(
        self, names: list[str], timeout: float, unoccupied: bool = False, force: bool = False
    ) -> list[str]:
        """Move the data of these workers to others and close them; return those that had to be kept.

        A worker whose data has nowhere to go, or is not moved within `timeout` seconds, goes on working.
        `unoccupied`: so does one that has got a task since it was chosen. `force`: none is kept; those that would
        have been are closed with what they hold, and their jobs are to be removed at once.
        """
        stimulus = f"htcdaskgateway-retire-{time.time()}"
        own = self.own()
        chosen = {name: own[name] for name in names if name in own}
        retiring = [chosen[name] for name in (self.idle(chosen) if unoccupied else chosen)]
        for ws in retiring:
            # From this moment on it is given no task; retire_workers begins a little later only.
            self.scheduler.handle_worker_status_change(Status.closing_gracefully, ws, stimulus)
        addresses = [ws.address for ws in retiring]
        try:
            with contextlib.suppress(asyncio.TimeoutError):  # the answer says who stays
                await asyncio.wait_for(
                    self.scheduler.retire_workers(workers=addresses, close_workers=True, remove=True), timeout
                )
        finally:
            for ws in retiring:
                if self.scheduler.workers.get(ws.address) is ws and ws.status is Status.closing_gracefully:
                    # Back to work: the scheduler first, as retire_workers does it.
                    self.scheduler.handle_worker_status_change(Status.running, ws, stimulus)
                    message = {"op": "worker-status-change", "status": "running", "stimulus_id": stimulus}
                    self.scheduler.stream_comms[ws.address].send(message)
        kept = [name for name, ws in chosen.items() if self.scheduler.workers.get(ws.address) is ws]
        for name in kept if force else ():
            # As an expected end. Otherwise the tasks that it runs would be blamed, and fail after some of these.
            await self.scheduler.remove_worker(chosen[name].address, stimulus_id=stimulus, expected=True)
        return kept
