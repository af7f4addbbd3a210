"""Who reaches whom: run in the scheduler and, sent on by it, in its workers.

Sent as text and evaluated there, so it imports distributed only and runs on any Python the scheduler has. Each
connects as Dask itself does, to ports that Dask itself connects to.
"""

from __future__ import annotations

import asyncio
from typing import Any

from distributed.comm import connect
from distributed.core import send_recv
from distributed.protocol.pickle import dumps


class Sent:
    """A function of this file, which pickles as the file's text."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        scope = {"__name__": "htcdaskgateway_reach"}
        return eval, (
            "exec(compile(source, file, 'exec'), scope) or scope[name]",
            {"source": self.source, "file": "htcdaskgateway/remote/reach.py", "name": self.name, "scope": scope},
        )


def words(error: BaseException) -> str:
    """Return in a few words why a connection failed."""
    text = f"{error} {error.__cause__ or ''}"
    if "refused" in text:
        return "refused"
    return "no answer" if isinstance(error, (OSError, asyncio.TimeoutError)) and "ssl" not in text.lower() else text


async def from_worker(addresses: list[str], timeout: float, dask_worker: Any) -> dict[str, str]:
    """Return the addresses that this worker does not reach, each with why not."""

    async def attempt(address: str) -> str:
        try:
            comm = await connect(address, timeout=timeout, **dask_worker.connection_args)
            await comm.close()
        except Exception as error:
            return words(error)
        return ""

    told = await asyncio.gather(*map(attempt, addresses))
    return {address: why for address, why in zip(addresses, told, strict=True) if why}


async def from_scheduler(source: str, timeout: float, most: int, dask_scheduler: Any) -> dict[str, Any]:
    """Return who does not reach whom, for one worker of each machine and `most` machines."""
    chosen: dict[str, Any] = {}
    for worker in list(dask_scheduler.workers.values()):
        chosen.setdefault(worker.host, worker)
    asked = {worker.address: str(worker.name) for worker in list(chosen.values())[:most]}
    sent = dumps(Sent("from_worker", source))

    async def attempt(address: str) -> tuple[str, dict[str, str]]:
        try:
            comm = await connect(address, timeout=timeout, **dask_scheduler.connection_args)
        except Exception as error:
            return words(error), {}
        try:
            others = [other for other in asked if other != address]
            question = send_recv(
                comm, op="run", function=sent, kwargs=dumps({"addresses": others, "timeout": timeout})
            )
            answer = await asyncio.wait_for(question, 2 * timeout)
            return "", dict(answer["result"])
        except Exception as error:
            return words(error), {}
        finally:
            comm.abort()

    told = dict(zip(asked, await asyncio.gather(*map(attempt, asked)), strict=True))
    return {
        "names": asked,
        "machines": len(chosen),
        "scheduler": {address: why for address, (why, _) in told.items() if why},
        "workers": {address: missed for address, (_, missed) in told.items() if missed},
    }
