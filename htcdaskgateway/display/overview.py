"""What a cluster's view shows, as plain data and in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Overview:
    """What is known of a cluster: `asked` to `held` count jobs, the others workers that have joined."""

    asked: int = 0
    idle: int = 0
    running: int = 0
    held: int = 0
    joined_jobs: int = 0
    joined: int = 0
    others: int = 0  # workers that the gateway server has started itself
    processes: int = 1
    threads: int = 0
    memory: int = 0
    holds: Sequence[str] = ()
    jobs_html: str = ""
    open: bool = True

    def sentence(self) -> str:
        """Return how far the cluster is; it is there only when all workers are."""
        if not self.open:
            return "The cluster is closed."
        asked = self.asked * self.processes
        if not asked and not self.joined:
            text = "No HTCondor worker is asked for."
        elif self.joined == asked:
            text = "The worker has joined." if asked == 1 else f"All {asked} workers have joined."
        else:
            text = f"Asked for {asked}; {self.joined} {'has' if self.joined == 1 else 'have'} joined."
        if self.others:
            text += f" The gateway's own workers: {self.others}."
        return text
