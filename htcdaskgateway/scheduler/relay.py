"""The relay as the scheduler is sent it, and what a client in front of it knows of it."""

from __future__ import annotations

from typing import Any

from distributed.comm.core import Connector
from distributed.comm.registry import backends
from distributed.comm.tcp import TLSConnector

from ..remote.relay import source, worker_source
from ..remote.relay.wire import SCHEME, RelayBackend

# None of the names by which HTCondorWorkers finds other versions of itself.
NAME = "htcdaskrelay-1"


class Source:
    """An object that pickles as the text of the scheduler's plugin, of its child, and of the workers' plugin."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (
            "exec(compile(source, name, 'exec'), scope) or scope['Relay'](child, worker)",
            {
                "source": source("wire", "scheduler"),
                "name": "htcdaskgateway/remote/relay (wire and scheduler)",
                "scope": {"__name__": "htcdaskgateway_relay"},
                "child": source("child"),
                "worker": worker_source(self.how),
            },
        )


class AtItsPort(Connector):  # type: ignore[misc]
    """From a client to a worker with an address of the relay, such as for ``client.gather(…, direct=True)``."""

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Any:
        """Return a comm with the worker."""
        return await TLSConnector().connect(address.partition("/")[0], deserialize=deserialize, **connection_args)


def know_addresses() -> None:
    """Let clients of this process connect to workers, unless it is a worker and knows a better way."""
    backends.setdefault(SCHEME, RelayBackend(AtItsPort()))
