"""What the client asks of a cluster's scheduler: to take the plugin in, to retire workers, to keep a note."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from importlib import resources
from typing import Any, NamedTuple

from distributed.comm.core import CommClosedError
from distributed.protocol.pickle import dumps

from . import config
from .errors import SchedulerError
from .remote import scheduler_plugin

ADAPTIVE = "adaptive"
"""The note that says who adapts the cluster, and within which bounds."""


class WorkerCounts(NamedTuple):
    """How many workers a scheduler has.

    Attributes
    ----------
    htcondor, gateway : int
        Workers of either kind that have joined.
    gateway_wanted : int
        How many of its own the gateway server shall start.
    """

    htcondor: int
    gateway: int
    gateway_wanted: int

    @property
    def joined(self) -> int:
        """All that have joined."""
        return self.htcondor + self.gateway


class _FromSource:
    """An object that pickles as the text of a plugin.

    By reference the plugin would not be found where this package is not installed, and pickled by value it would
    carry the bytecode of this Python, which another minor version misreads.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        source = (
            resources.files("htcdaskgateway.remote").joinpath("scheduler_plugin.py").read_text(encoding="utf-8")
        )
        scope = {"__name__": "htcdaskgateway_scheduler_plugin"}
        return eval, (
            # With the file's name, so that a traceback there says where it is from.
            "exec(compile(source, name, 'exec'), scope) or scope['HTCondorWorkers']()",
            {"source": source, "scope": scope, "name": "htcdaskgateway/remote/scheduler_plugin.py"},
        )


class SchedulerLink:
    """The client's side of the scheduler plugin.

    Parameters
    ----------
    comm : distributed.core.rpc
        The cluster's ``scheduler_comm``.
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.timeout = config.seconds("scheduler-timeout")

    async def install(self) -> None:
        """Put the plugin into the scheduler; where it is already, nothing happens.

        Raises
        ------
        SchedulerError
            The scheduler does not answer, or does not take it.
        """
        with _explained("take in the plugin that lets HTCondor's workers join"):
            await asyncio.wait_for(
                self.comm.register_scheduler_plugin(
                    plugin=dumps(_FromSource()),
                    name=f"{scheduler_plugin.NAME}{scheduler_plugin.VERSION}",
                    idempotent=True,
                ),
                self.timeout,
            )

    async def workers(self, cheapest: int = 0) -> tuple[dict[str, int], list[str]]:
        """Return the workers that are HTCondor jobs.

        Parameters
        ----------
        cheapest : int
            How many to choose among them.

        Returns
        -------
        dict of str to int
            How many tasks each processes, by the worker's name.
        list of str
            The names of the `cheapest` ones, those whose loss costs the least first.
        """
        with _explained("tell its workers"):
            answer = await asyncio.wait_for(self.comm.htcdaskgateway_workers(n=cheapest), self.timeout)
        return dict(answer["processing"]), list(answer["cheapest"])

    async def counts(self) -> WorkerCounts:
        """Return how many workers of either kind there are."""
        with _explained("count its workers"):
            answer = await asyncio.wait_for(self.comm.htcdaskgateway_workers(n=0), self.timeout)
        return WorkerCounts(*answer["counts"])

    async def adaptive(self, target_duration: float, threads: int) -> tuple[int, list[str], list[str]]:
        """Return what adaptive scaling of HTCondor's workers goes by.

        Parameters
        ----------
        target_duration : float
            How long the work at hand should take, in seconds.
        threads : int
            How many threads a worker has.

        Returns
        -------
        int
            How many workers the work asks for, beside those of the gateway server.
        list of str
            The names of those that have joined.
        list of str
            The names of those that process nothing, those with the least data first.
        """
        with _explained("tell what the work asks for"):
            answer = await asyncio.wait_for(
                self.comm.htcdaskgateway_adaptive(target_duration=target_duration, threads=threads), self.timeout
            )
        return int(answer["target"]), list(answer["joined"]), list(answer["unoccupied"])

    async def versions(self) -> dict[str, Any]:
        """Return what `versions.compare` reads: the versions that the scheduler and each worker have."""
        with _explained("tell its versions"):
            return dict(await asyncio.wait_for(self.comm.htcdaskgateway_versions(), self.timeout))

    async def retire(
        self, names: list[str], timeout: float, *, unoccupied: bool = False, force: bool = False
    ) -> list[str]:
        """Retire workers, so that their data moves to others.

        Parameters
        ----------
        names : list of str
            The workers' names.
        timeout : float
            How long that may take, in seconds.
        unoccupied : bool
            Only those that process nothing at that moment.
        force : bool
            Close those, too, whose data cannot be moved; their jobs are to be removed at once.

        Returns
        -------
        list of str
            The names of those that stay, because their data could not be moved or they have got work; with
            `force` of those that were closed all the same.
        """
        with _explained("retire workers"):
            return list(
                await asyncio.wait_for(
                    self.comm.htcdaskgateway_retire(
                        names=names, timeout=timeout, unoccupied=unoccupied, force=force
                    ),
                    timeout + self.timeout,
                )
            )

    async def note(self, **values: Any) -> None:
        """Keep values at the scheduler for as long as the cluster lives."""
        with _explained("keep a note"):
            await asyncio.wait_for(self.comm.htcdaskgateway_note(values=values), self.timeout)

    async def noted(self, name: str, default: Any = None) -> Any:
        """Return a value that some client has put there with `note`."""
        with _explained("read a note"):
            answer = self.comm.htcdaskgateway_noted(name=name, default=default)
            return await asyncio.wait_for(answer, self.timeout)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except asyncio.TimeoutError as error:
        raise SchedulerError(f"the scheduler did not {what} in time") from error
    except (OSError, CommClosedError) as error:
        raise SchedulerError(f"the scheduler cannot be asked to {what}; has the cluster ended? {error}") from error
    except Exception as error:
        # Whatever its handlers raise comes back over the wire as itself.
        raise SchedulerError(f"the scheduler could not {what}: {type(error).__name__}: {error}") from error
