"""The pool, the gateway server and the bare way of doing things: a submit description and a command by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from htcdaskgateway.condor import Condor
from htcdaskgateway.condor.jobs import WorkerJobs
from htcdaskgateway.fleet.queue import cluster_constraint
from htcdaskgateway.scheduler.link import SCHEDD

DEADLINE = 300.0


def until(condition: Callable[[], bool], what: str, pause: float = 0.02) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not happen within {DEADLINE:g} s")
        time.sleep(pause)


def tool(name: str, *arguments: str, cwd: Path | None = None) -> str:
    """Run one of HTCondor's tools, as a person's script would."""
    program = Path(os.environ["CONDOR_BIN_DIR"]) / name
    done = subprocess.run([str(program), *arguments], cwd=cwd, capture_output=True, text=True, timeout=DEADLINE)
    if done.returncode not in (0, 1) or (done.returncode == 1 and name != "condor_rm"):
        raise RuntimeError(f"{name} {arguments}: {done.stderr}")
    return done.stdout


def empty_queue() -> None:
    """Remove every job of the pool and wait until none is left."""
    tool("condor_rm", "-all")
    until(lambda: not tool("condor_q", "-af", "ClusterId"), "an empty queue")


class Bare:
    """The least that HTCondor and Dask can do: written by hand, with the same TLS path to the scheduler.

    Parameters
    ----------
    directory : Path
        Where to write the submit description.
    cluster : HTCGatewayCluster
        Whose scheduler the workers join.
    requirements : str
        ClassAd expression; ``false`` for jobs that are to wait.
    cpus : int
        The CPUs and threads of a worker.
    """

    def __init__(self, directory: Path, cluster: Any, requirements: str = "true", cpus: int = 1) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.cluster = cluster
        self.cpus = cpus
        (directory / "dask.crt").write_text(cluster.security.tls_cert)
        (directory / "dask.pem").write_text(cluster.security.tls_key)
        script = directory / "bare.sh"
        # Its workers' names begin like ours, so that dask-gateway's service leaves them alone.
        script.write_text(
            f"#!/bin/sh\nexport HOME=$PWD PATH=/usr/bin:/bin\nexec {' '.join(self.command('htcondor-bare-$1'))}\n"
        )
        script.chmod(0o700)
        (directory / "bare.sub").write_text(
            "executable = bare.sh\n"
            "arguments = $(ClusterId).$(ProcId)\n"
            "transfer_input_files = dask.crt, dask.pem\n"
            "should_transfer_files = yes\n"
            f"request_cpus = {cpus}\n"
            "request_memory = 1GB\n"
            f"requirements = {requirements}\n"
            "My.Bare = true\n"
            "log = bare.log\n"
        )

    def command(self, name: str) -> list[str]:
        """Return the command line of a worker, as dask's documentation has it, for the gateway's proxy."""
        address = self.cluster.scheduler_address.replace("gateway://", "tls://").rpartition("/")[0]
        return [
            *(sys.executable, "-m", "distributed.cli.dask_worker", address),
            *("--scheduler-sni", f"daskgateway-{self.cluster.name}"),
            *("--tls-ca-file", "dask.crt", "--tls-cert", "dask.crt", "--tls-key", "dask.pem"),
            *("--no-nanny", "--nthreads", str(self.cpus), "--memory-limit", str(2**30), "--interface", "lo"),
            *("--death-timeout", "60", "--name", name),
        ]

    def submit(self, n: int) -> None:
        """Submit `n` jobs."""
        tool("condor_submit", "-terse", "bare.sub", "-queue", str(n), cwd=self.directory)

    def scale(self, n: int) -> None:
        """Count the jobs and submit what is missing of `n`, as a careful person does."""
        self.submit(n - self.jobs())

    @staticmethod
    def jobs() -> int:
        """Return how many of them are in the queue."""
        return len(tool("condor_q", "-constraint", "Bare =?= true", "-af", "ClusterId").split())


def joined(client: Any) -> int:
    """Return how many workers the scheduler has."""
    return len(client.scheduler_info(n_workers=-1)["workers"])


def wait_joined(client: Any, n: int) -> None:
    """Wait until the scheduler has n workers; the same way for all, whatever their own waiting costs."""
    until(lambda: joined(client) >= n, f"{n} workers", pause=0.01)


def settled(cluster: Any) -> None:
    """Wait for the second count that follows a scale, so that it does not fall into the next measurement."""
    cluster.gateway.sync(cluster.fleet.settled)


def as_new(cluster: Any) -> None:
    """Let the next scale be a cluster's first, without the 2 s that starting another scheduler takes."""
    fleet = cluster.fleet
    fleet.seen, fleet._seen_at = WorkerJobs(), -float("inf")
    # Nobody has noted yet how many jobs are wanted and which schedd holds them, nor has one answered.
    fleet.schedd, fleet._located, fleet._began = "", False, False
    fleet.condor.answered, fleet.condor.answering = "", ()
    cluster.gateway.sync(fleet.scheduler.note, wanted=None, **{SCHEDD: ""})


def jobs_of(cluster_name: str) -> int:
    """Return how many jobs of a cluster are in the queue, in whatever state."""
    return len(tool("condor_q", "-constraint", cluster_constraint(cluster_name), "-af", "ClusterId").split())


def condor() -> Condor:
    """Return the library's way to the tools."""
    return Condor()
