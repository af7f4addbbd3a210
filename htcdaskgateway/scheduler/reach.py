"""Ask scheduler and workers who reaches whom."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from distributed.protocol.pickle import dumps

from ..remote.reach import Sent
from .link import SchedulerLink

CONNECT_TIMEOUT = 3.0
"""How long one connection may take, in seconds."""

MOST_MACHINES = 20
"""How many machines are asked: each connects to each other one."""


@dataclass(frozen=True)
class Reach:
    """Who does not reach whom.

    Attributes
    ----------
    names : dict
        The workers that took part by their addresses, one of a machine.
    machines : int
        On how many machines there are workers.
    scheduler : dict
        The addresses that the scheduler does not reach, each with why not.
    workers : dict
        By a worker's address the same of that worker.
    """

    names: dict[str, str]
    machines: int
    scheduler: dict[str, str]
    workers: dict[str, dict[str, str]]

    @property
    def whole(self) -> bool:
        """Whether all reach all."""
        return not self.scheduler and not self.workers


async def reach(link: SchedulerLink) -> Reach:
    """Return who reaches whom now; where something is cut, that takes some seconds."""
    source = resources.files("htcdaskgateway.remote").joinpath("reach.py").read_text(encoding="utf-8")
    told = await link.ask_function(
        "try who reaches whom",
        dumps(Sent("from_scheduler", source)),
        dumps({"source": source, "timeout": CONNECT_TIMEOUT, "most": MOST_MACHINES}),
    )
    return Reach(**told)
