"""The relay as the scheduler is sent it."""

from __future__ import annotations

from typing import Any

from ..remote.relay import source

# None of the names by which HTCondorWorkers finds other versions of itself.
NAME = "htcdaskrelay-1"


class Source:
    """An object that pickles as the text of the scheduler's plugin, of its child, and of the workers' plugin."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (
            "exec(compile(source, name, 'exec'), scope) or scope['Relay'](child, worker)",
            {
                "source": source("wire", "scheduler"),
                "name": "htcdaskgateway/remote/relay (wire and scheduler)",
                "scope": {"__name__": "htcdaskgateway_relay"},
                "child": source("child"),
                "worker": source("wire", "worker"),
            },
        )
