"""What the client asks of a cluster's scheduler: to take the plugin in, to retire workers, to keep a note."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib import resources
from typing import Any, NamedTuple

from distributed.comm.core import CommClosedError
from distributed.protocol.pickle import dumps

from .. import config
from ..errors import ClusterEndedError, SchedulerError
from ..remote import scheduler_plugin

ADAPTIVE = "adaptive"
"""The note that says who adapts the cluster, and within which bounds."""

SCHEDD = "schedd"
"""The note that says which schedd holds the cluster's jobs."""

CLOSING = "closing"
"""The note that says when somebody began to shut the cluster down."""

# How long that note holds, in seconds: a shutdown may fail, and the cluster be used again.
_CLOSING_LASTS = 300.0

# How long an answer may take before the gateway is asked whether the cluster has ended, in seconds.
_PATIENCE = 1.0
_LONGEST_PATIENCE = 10.0


class WorkerCounts(NamedTuple):
    """How many workers of either kind have joined, and how many of its own the gateway server shall start."""

    htcondor: int
    gateway: int
    gateway_wanted: int

    @property
    def joined(self) -> int:
        """All that have joined."""
        return self.htcondor + self.gateway


class Tasks(NamedTuple):
    """How often a task has ended well or failed, how many are to do, and how many each HTCondor worker computes."""

    done: int
    erred: int
    to_do: int
    processing: dict[str, int]


class Connections(NamedTuple):
    """How the pairs of workers that have met reach one another; of a pair, at least one has fetched results.

    Attributes
    ----------
    direct : int
        How many pairs connect to their ports.
    relay : int
        How many use the relay alone. It is not counted on beyond 2500, of which a warning tells.
    """

    direct: int
    relay: int


class Noted(NamedTuple):
    """What whoever is about to submit goes by.

    Which schedd holds the cluster's jobs, if any is noted; when somebody began to shut the cluster down; and
    whether this call was the first to say how many jobs are wanted.
    """

    schedd: str | None
    closing: float | None
    first: bool

    def check_open(self) -> None:
        """Raise a `ClusterEndedError` if somebody shuts the cluster down, or has done so."""
        if self.closing is not None and abs(time.time() - self.closing) < _CLOSING_LASTS:
            raise ClusterEndedError("the cluster is being shut down")


class _FromSource:
    """An object that pickles as the text of a plugin: a class of a module of ``remote/``.

    By reference the plugin would not be found where this package is not installed, and pickled by value it would
    carry the bytecode of this Python, which another minor version misreads.
    """

    def __init__(self, module: str, plugin: str) -> None:
        self.module = module
        self.plugin = plugin

    def __reduce__(self) -> tuple[Any, ...]:
        file = f"{self.module}.py"
        source = resources.files("htcdaskgateway.remote").joinpath(file).read_text(encoding="utf-8")
        scope = {"__name__": f"htcdaskgateway_{self.module}"}
        return eval, (
            # With the file's name, so that a traceback there says where it is from.
            f"exec(compile(source, name, 'exec'), scope) or scope[{self.plugin!r}]()",
            {"source": source, "scope": scope, "name": f"htcdaskgateway/remote/{file}"},
        )


class SchedulerLink:
    """The client's side of the scheduler plugin, by a cluster's ``scheduler_comm``.

    Each question raises a `SchedulerError` where the scheduler does not answer in time or has failed at it, and a
    `ClusterEndedError` where the gateway says so: `ending` returns, awaited, in words why the cluster has ended, or
    None. It is asked as soon as an answer is late.
    """

    def __init__(self, comm: Any, ending: Callable[[], Awaitable[str | None]] | None = None) -> None:
        self.comm = comm
        self.ending = ending
        self.timeout = config.seconds("scheduler-timeout")

    async def _ask(self, what: str, question: Awaitable[Any], timeout: float | None = None) -> Any:
        """Return the scheduler's answer."""
        answer = asyncio.ensure_future(question)
        try:
            with _explained(what):
                return await self._wait(answer, self.timeout if timeout is None else timeout)
        except ClusterEndedError:
            raise
        except SchedulerError as error:
            if isinstance(error.__cause__, (OSError, CommClosedError)):
                await self._check_ending()
            raise
        finally:
            answer.cancel()

    async def _wait(self, answer: asyncio.Future[Any], timeout: float) -> Any:
        end, patience = time.monotonic() + timeout, _PATIENCE
        while True:
            await asyncio.wait([answer], timeout=max(0.0, min(patience, end - time.monotonic())))
            if answer.done():
                return answer.result()
            await self._check_ending()
            if time.monotonic() >= end:
                raise asyncio.TimeoutError
            patience = min(2 * patience, _LONGEST_PATIENCE)

    async def _check_ending(self) -> None:
        ended = await self.ending() if self.ending else None
        if ended:
            raise ClusterEndedError(ended)

    async def install(self) -> None:
        """Put the plugin into the scheduler; where it is already, nothing happens."""
        name = f"{scheduler_plugin.NAME}{scheduler_plugin.VERSION}"
        plugin = dumps(_FromSource("scheduler_plugin", "HTCondorWorkers"))
        await self._ask(
            "take in the plugin that lets HTCondor's workers join",
            self.comm.register_scheduler_plugin(plugin=plugin, name=name, idempotent=True),
        )

    async def install_relay(self, how: str) -> None:
        """Let workers reach one another by a relay, always or with ``auto``; a second time nothing happens."""
        from .relay import NAME, Source, know_addresses

        know_addresses()
        await self._ask(
            "take in the relay between workers",
            self.comm.register_scheduler_plugin(plugin=dumps(Source(how)), name=NAME, idempotent=True),
        )

    async def connections(self) -> Connections:
        """Return how the pairs of workers that have met reach one another."""
        return Connections(**await self._ask("count the relay's pairs", self.comm.htcdaskgateway_relay_pairs()))

    async def workers(self, cheapest: int = 0) -> tuple[dict[str, int], list[str]]:
        """Return how many tasks each HTCondor worker has, and the names of those that are `cheapest` to lose."""
        answer = await self._ask("tell its workers", self.comm.htcdaskgateway_workers(n=cheapest))
        return dict(answer["processing"]), list(answer["cheapest"])

    async def counts(self) -> WorkerCounts:
        """Return how many workers of either kind there are."""
        answer = await self._ask("count its workers", self.comm.htcdaskgateway_workers(n=0))
        return WorkerCounts(*answer["counts"])

    async def adaptive(self, target_duration: float, threads: int) -> tuple[int, list[str], list[str]]:
        """Return what adaptive scaling of HTCondor's workers goes by.

        That is how many workers the work asks for beside those of the gateway server, if it is to take
        `target_duration` seconds with `threads` a worker; the names of those that have joined; and the names of
        those that process nothing, those with the least data first.
        """
        answer = await self._ask(
            "tell what the work asks for",
            self.comm.htcdaskgateway_adaptive(target_duration=target_duration, threads=threads),
        )
        return int(answer["target"]), list(answer["joined"]), list(answer["unoccupied"])

    async def tasks(self) -> Tasks:
        """Return how much is done and to do."""
        answer = await self._ask("tell its tasks", self.comm.htcdaskgateway_tasks())
        return Tasks(**answer)

    async def ask_function(self, what: str, function: bytes, arguments: bytes) -> dict[str, Any]:
        """Return what a pickled coroutine function returns that is run in the scheduler."""
        answer = await self._ask(what, self.comm.run_function(function=function, kwargs=arguments))
        if answer["status"] != "OK":
            raise SchedulerError(
                f"the scheduler could not {what}: {answer.get('exception_text', answer['status'])}"
            )
        return dict(answer["result"])

    async def versions(self) -> dict[str, Any]:
        """Return what `versions.compare` reads: the versions that the scheduler and each worker have."""
        return dict(await self._ask("tell its versions", self.comm.htcdaskgateway_versions()))

    async def packages(self) -> dict[str, dict[str, str]]:
        """Return what the workers with the notebook's packages tell of them, by the workers' addresses."""
        return dict(await self._ask("tell its workers' packages", self.comm.htcdaskgateway_packages()))

    async def have_code(self, code: bytes, key: str) -> None:
        """Let the scheduler have the local code itself, which graphs name."""
        plugin = dumps(_FromSource("scheduler_code", "LocalCode"))
        name = f"{scheduler_plugin.NAME}code"
        await self._ask(
            "take in the plugin that has local code",
            self.comm.register_scheduler_plugin(plugin=plugin, name=name, idempotent=True),
        )
        await self._ask("take local code", self.comm.htcdaskgateway_scheduler_code(code=code, key=key))

    async def send_code(self, workers: list[str], code: bytes, key: str) -> dict[str, Any]:
        """Send local code to the workers of these addresses; return what each says, an error where one failed."""
        message = {"op": "htcdaskgateway_code", "code": code, "key": key}
        asked = self.comm.broadcast(msg=message, workers=workers, on_error="return")
        return dict(await self._ask("send code to its workers", asked))

    async def retire(
        self, names: list[str], timeout: float, *, unoccupied: bool = False, force: bool = False
    ) -> list[str]:
        """Retire workers within `timeout` seconds, so that their data moves to others; return who stays.

        They stay because their data could not be moved or, with `unoccupied`, because they have got work. With
        `force` they are closed all the same, and their jobs are to be removed at once.
        """
        asked = self.comm.htcdaskgateway_retire(names=names, timeout=timeout, unoccupied=unoccupied, force=force)
        return list(await self._ask("retire workers", asked, timeout + self.timeout))

    async def note(self, schedd: str = "", /, **values: Any) -> Noted:
        """Keep values at the scheduler for as long as the cluster lives, and `schedd` unless one is noted.

        Return what whoever is about to submit goes by, from the same moment.
        """
        unless = {SCHEDD: schedd} if schedd else {}
        asked = self.comm.htcdaskgateway_note(values=values, unless=unless)
        return Noted(**await self._ask("keep a note", asked))

    async def noted(self, name: str, default: Any = None) -> Any:
        """Return a value that some client has put there with `note`."""
        answer = self.comm.htcdaskgateway_noted(name=name, default=default)
        return await self._ask("read a note", answer)

    async def note_closing(self) -> Noted:
        """Let all clients know that the cluster is about to be shut down; return what is noted."""
        asked = self.comm.htcdaskgateway_note(values={CLOSING: time.time()}, unless={})
        return Noted(**await self._ask("note that the cluster ends", asked, _LONGEST_PATIENCE))


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except ClusterEndedError:
        raise
    except asyncio.TimeoutError as error:
        raise SchedulerError(f"the scheduler did not {what} in time") from error
    except (OSError, CommClosedError) as error:
        raise SchedulerError(f"Cannot ask the scheduler to {what}. Has the cluster ended? {error}") from error
    except Exception as error:
        # Whatever its handlers raise comes back over the wire as itself.
        raise SchedulerError(f"the scheduler could not {what}: {type(error).__name__}: {error}") from error
