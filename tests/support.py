"""What the tests share besides fixtures: waiting for a condition, and HTCondor's tools under observation."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from htcdaskgateway.local import PersonalPool

T = TypeVar("T")

COVERAGE = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
"""What lets a process note which lines it runs, where that is wanted."""

_SELDOM = {
    # By default an idle worker looks at its clock 50 times in a second and at its threads 100 times. That is most
    # of what it costs, 4 % of a core, and of a scheduler's 3 %.
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "500ms",
    "DASK_DISTRIBUTED__WORKER__PROFILE__INTERVAL": "100ms",
}
_environment = {**COVERAGE, **_SELDOM}

JOBS = {"STARTER_JOB_ENVIRONMENT": '"' + " ".join(f"{name}={value}" for name, value in _environment.items()) + '"'}
"""The setting of a pool that gives the workers of tests what is theirs."""

SCHEDULERS = f"c.ClusterConfig.environment = {{**c.ClusterConfig.environment, **{_environment!r}}}"
"""The line of a server's configuration that does so for schedulers."""

PATIENCE = 120.0
"""How long a test waits for what it expects, in seconds; generous, since the machine may be busy."""


def first_is_quick(values: Iterable[Any]) -> list[Any]:
    """Mark a test's parameters as long, but the first: where each costs seconds, that one shows most mistakes."""
    first, *others = (value if isinstance(value, tuple) else (value,) for value in values)
    return [pytest.param(*first), *(pytest.param(*other, marks=pytest.mark.long) for other in others)]


def workers_of(client: Any) -> dict[str, Any]:
    """Return what the scheduler tells of its workers.

    Dask's `scheduler_info` may return what came last, every two seconds, and tells of none.
    """
    return client.sync(client.scheduler.identity)["workers"]  # type: ignore[no-any-return]


def reconnected(client: Any) -> None:
    """Wait until a client has its connection again or has given up: closed meanwhile, Dask's raises an error."""
    wait_until(lambda: client.status in ("running", "closed"), what=lambda: f"the client is {client.status}")


def wait_until(condition: Callable[[], T], timeout: float = PATIENCE, what: str | Callable[[], object] = "") -> T:
    """Ask until `condition` returns something true, and return that; fail after `timeout` seconds.

    `what` says in the failure's message what was waited for; a callable is asked for it at that moment.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            text = what() if callable(what) else what or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"after {timeout:g} s still not: {text} (last seen: {found!r})")
        time.sleep(0.1)


class Tools:
    """A directory of HTCondor's tools: scripts that note each call and then run the real tool, or play a part.

    Parameters
    ----------
    directory : Path
        Where the scripts are made; what ``CONDOR_BIN_DIR`` is set to.
    real : Path, optional
        The directory of the real tools, each of which gets a script. Without it there is none until one is made.
    """

    def __init__(self, directory: Path, real: Path | None = None) -> None:
        self.directory = directory
        self.real = real
        self._log = directory / ".calls"
        directory.mkdir(parents=True, exist_ok=True)
        for tool in sorted(real.glob("condor_*")) if real else ():
            self.restore(tool.name)

    def script(self, tool: str, body: str) -> None:
        """Make `tool` a shell script with that body; its calls are noted."""
        path = self.directory / tool
        # One printf is one write, so that calls at the same time do not mix.
        note = f"printf '%s\\037' \"$(printf '\\036'){tool}\" \"$@\" >> {shlex.quote(str(self._log))}"
        # Replaced, not rewritten: the old one may be running at this moment.
        fresh = path.with_name(f".{tool}.new")
        fresh.write_text(f"#!/bin/sh\n{note}\n{body}\n")
        fresh.chmod(0o755)
        fresh.replace(path)

    def answer(self, tool: str, stdout: str = "", stderr: str = "", code: int = 0) -> None:
        """Make `tool` a script that prints these texts and exits with `code`."""
        self.script(
            tool,
            f"printf '%s' {shlex.quote(stdout)}; printf '%s' {shlex.quote(stderr)} >&2; exit {code}",
        )

    def restore(self, tool: str) -> None:
        """Make `tool` run the real one again."""
        assert self.real is not None
        self.script(tool, f'exec {shlex.quote(str(self.real / tool))} "$@"')

    @property
    def calls(self) -> list[list[str]]:
        """The calls so far, each a list of the tool's name and its arguments."""
        text = self._log.read_text() if self._log.exists() else ""
        return [call.split("\037")[:-1] for call in text.split("\036")[1:]]

    def calls_of(self, tool: str) -> list[list[str]]:
        """The arguments of each call of one tool so far."""
        return [arguments for name, *arguments in self.calls if name == tool]

    def forget(self) -> None:
        """Begin to count anew."""
        self._log.unlink(missing_ok=True)


class Pool:
    """The queue of the running pool, as HTCondor's own tools show it to a person."""

    def __init__(self, bin_dir: Path) -> None:
        self.bin = bin_dir

    def run(self, tool: str, *arguments: object, check: bool = True, **options: Any) -> str:
        """Run a tool and return what it printed; `options` are those of `subprocess.run`."""
        done = subprocess.run(
            [str(self.bin / tool), *map(str, arguments)], capture_output=True, text=True, timeout=60, **options
        )
        if check:
            assert done.returncode == 0, f"{tool} {arguments}: {done.stderr}"
        return done.stdout

    def ads(self, *arguments: str, tool: str = "condor_q") -> list[dict[str, Any]]:
        """Return the ads that condor_q (or condor_history) prints."""
        return json.loads(self.run(tool, "-json", *arguments) or "[]")  # type: ignore[no-any-return]

    def jobs(self, cluster: str) -> list[dict[str, Any]]:
        """Return the ads of a Dask cluster's jobs in the queue, except those that are removed or complete."""
        constraint = f'HTCDaskGatewayCluster == "{cluster}" && JobStatus != 3 && JobStatus != 4'
        return self.ads("-constraint", constraint)

    def history(self, cluster: str) -> list[dict[str, Any]]:
        """Wait until those have left the queue that `jobs` passes over; return the ads of all that have left it."""
        constraint = f'HTCDaskGatewayCluster == "{cluster}"'
        leaving = f"{constraint} && (JobStatus == 3 || JobStatus == 4) && LeaveJobInQueue =!= true"
        wait_until(lambda: not self.ads("-constraint", leaving), what="what has ended leaves the queue")
        return self.ads("-constraint", constraint, tool="condor_history")

    def statuses(self, cluster: str) -> list[int]:
        """Return the job statuses of a Dask cluster's jobs, sorted: 1 idle, 2 running, 5 held."""
        return sorted(job["JobStatus"] for job in self.jobs(cluster))


@contextmanager
def schedd_beside(pool: PersonalPool, name: str, **settings: str) -> Iterator[PersonalPool]:
    """Give another schedd of a pool, with its own configuration; the pool's collector has both when this begins."""
    config = (pool.directory / "condor_config").read_text()
    (port,) = (line.split("=")[1].strip() for line in config.splitlines() if line.startswith("SHARED_PORT_PORT"))
    own = {
        "DAEMON_LIST": "MASTER, SCHEDD",
        "SCHEDD_NAME": name,
        "COLLECTOR_HOST": f"127.0.0.1:{port}",
        # When it tells the negotiator of new jobs, each can wait for the other's answer, for 20 s.
        "SCHEDD_SEND_RESCHEDULE": "false",
    }
    with PersonalPool(config={**own, **settings}) as beside:
        there = Pool(beside.installation.bin)

        def found() -> bool:
            names = {*there.run("condor_status", "-schedd", "-af", "Name").split()}
            # The collector may still know one of that name that has ended.
            answer = there.run("condor_q", "-name", name, "-totals", check=False)
            return {"schedd@", name} <= names and "Total for query" in answer

        wait_until(found, what="both schedds can be found")
        yield beside


def processes() -> Iterator[tuple[int, str, str]]:
    """Yield each other process's id, command line and environment, as far as they can be read."""
    for process in psutil.process_iter():
        if process.pid != os.getpid():
            try:
                command, environment = " ".join(process.cmdline()), process.environ()
            except (psutil.Error, OSError):  # it has just ended, or is not ours to look at
                continue
            yield process.pid, command, "\n".join(f"{name}={value}" for name, value in environment.items())


def children_with(argument: str) -> Callable[[], list[int]]:
    """Return what to run in a worker or scheduler for the ids of its own children that have `argument`."""

    def found() -> list[int]:
        import psutil

        # Passes over a child that has just ended, where `children` and `cmdline` raise.
        everything = psutil.process_iter(["ppid", "cmdline"])
        ours = [process for process in everything if process.info["ppid"] == os.getpid()]
        return [process.pid for process in ours if argument in (process.info["cmdline"] or [])]

    return found


def running_processes(word: str) -> list[int]:
    """Return the ids of this machine's processes that have `word` in their command lines."""
    return [pid for pid, command, _ in processes() if word in command]
