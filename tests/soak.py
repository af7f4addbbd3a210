"""Work under faults, for as long as one likes; run by scripts/soak.

What goes wrong and when comes from a seed, which is printed first: the same seed makes the same trouble again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.config
from support import Tools, processes, wait_until
from trouble import Trouble, Work, names

from htcdaskgateway import HTCGateway
from htcdaskgateway.errors import HTCDaskGatewayError
from htcdaskgateway.local import GatewayServer, LocalSystem, PersonalPool

FAULT_EVERY = 20.0
SCALINGS = 50
MOST = 6
PATIENCE = 180.0
TOOLS = ("condor_q", "condor_rm", "condor_submit")
BEGAN = time.monotonic()
SETTINGS = {
    "htcdaskgateway.condor.poll-interval": "500ms",
    "htcdaskgateway.condor.timeout": "10s",
    "htcdaskgateway.worker.death-timeout": "30s",
    # A machine that died is noticed after this time; its default is longer than a short soak.
    "htcdaskgateway.worker.job-extra-directives": {"job_lease_duration": 20},
}


def say(text: object) -> None:
    """Print a line with the seconds since the start."""
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {text}", flush=True)


class Faults:
    """What can go wrong, each by the name of its method."""

    def __init__(self, trouble: Trouble, tools: Tools, cluster: Any, client: Any, chance: random.Random) -> None:
        self.trouble, self.tools, self.cluster, self.client, self.chance = trouble, tools, cluster, client, chance

    def _job(self) -> str | None:
        running = sorted(names(self.client))
        return self.chance.choice(running).removeprefix("htcondor-").rpartition("-")[0] if running else None

    def worker_killed(self) -> None:
        """Kill a worker's process."""
        workers = sorted(self.trouble.workers(self.cluster.name).items())
        if workers:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.chance.choice(workers)[1], signal.SIGKILL)

    def worker_vacated(self) -> None:
        """Evict a worker, which may hand its results over."""
        if job := self._job():
            self.trouble.pool.run("condor_vacate_job", job, check=False)

    def worker_vacated_fast(self) -> None:
        """Evict a worker without a word."""
        if job := self._job():
            self.trouble.pool.run("condor_vacate_job", "-fast", job, check=False)

    def job_held_and_released(self) -> None:
        """Hold a job and release it."""
        if job := self._job():
            self.trouble.pool.run("condor_hold", job, check=False)
            time.sleep(3)
            self.trouble.pool.run("condor_release", job, check=False)

    def schedd_killed(self) -> None:
        """Kill the schedd; the master starts it again."""
        self.trouble.kill_daemon("condor_schedd")

    def schedd_hung(self) -> None:
        """Let the schedd hang for longer than a tool may take, while somebody scales."""
        with self.trouble.hung("condor_schedd"):
            scale(self.cluster, self.chance.randint(1, MOST))

    def tools_noisy(self) -> None:
        """Let a site's banner stand around what the tools print, while somebody scales."""
        for tool in TOOLS:
            real = f'"{self.trouble.pool.bin / tool}" "$@"'
            noise = "echo '[notice] maintenance on Friday'"
            self.tools.script(tool, f"{noise}; {noise} >&2; {real}; code=$?; {noise}; exit $code")
        self._scale_with_tools()

    def queue_unreadable(self) -> None:
        """Let condor_q end in the middle of its answer, while somebody scales."""
        self.tools.answer("condor_q", '[\n{"ClusterId": 1, "Pro')
        self._scale_with_tools()

    def submit_answer_lost(self) -> None:
        """Let a submit succeed and look as if it had not."""
        real = f'"{self.trouble.pool.bin / "condor_submit"}" "$@"'
        self.tools.script("condor_submit", f"{real} > /dev/null; echo 'CEDAR:6001:Failed to connect' >&2; exit 1")
        self._scale_with_tools(MOST)

    def _scale_with_tools(self, n: int | None = None) -> None:
        try:
            scale(self.cluster, self.chance.randint(1, MOST) if n is None else n)
        finally:
            for tool in TOOLS:
                self.tools.restore(tool)

    def startd_killed(self) -> None:
        """Kill the startd and with it all workers; the master starts it again."""
        self.trouble.kill_daemon("condor_startd")

    def server_restarted(self) -> None:
        """Restart the gateway server."""
        self.trouble.system.server.stop_server()
        self.trouble.system.server.start_server()

    def second_client(self) -> None:
        """Let a second client scale to another number."""
        with HTCGateway() as gateway:
            cluster = gateway.connect(self.cluster.name)
            scale(cluster, self.chance.randint(1, MOST))
            cluster.close(shutdown=False)

    def client_restarted(self) -> None:
        """Restart all workers; what they held and computed is gone, as with any Dask client."""
        before = self.client.generation
        self.client.restart(wait_for_workers=False)
        # What is submitted before the client has heard of it is cancelled, and the answer may come sooner.
        wait_until(lambda: self.client.generation > before, PATIENCE, "the client has heard of the restart")

    def stopped_while_adapting(self) -> None:
        """Stop a cluster while another client submits for it; no job may stay or come."""
        with HTCGateway() as gateway, HTCGateway() as other:
            cluster = gateway.new_cluster()
            name = cluster.name
            cluster.adapt(minimum=self.chance.randint(1, 3), maximum=MOST, interval="50ms")
            time.sleep(self.chance.choice([0, 0.1, 0.2, 0.5, 3]))
            insist(lambda: other.stop_cluster(name), f"stop_cluster({name!r})")
            cluster.close(shutdown=False)
            wait_until(lambda: not self.trouble.scheduler(name), PATIENCE, "its scheduler has ended")
            jobs = self.trouble.pool.jobs
            wait_until(lambda: not jobs(name), PATIENCE, lambda: f"no job is left: {jobs(name)}")

    @classmethod
    def all(cls) -> list[str]:
        """Return the names of all faults."""
        return sorted(name for name in vars(cls) if not name.startswith("_") and name != "all")


def scale(cluster: Any, n: int) -> None:
    """Scale; a clear error is an answer too, anything else is not."""
    try:
        cluster.scale(n)
    except HTCDaskGatewayError as error:
        say(f"  scale({n}): {type(error).__name__}: {str(error).splitlines()[0]}")


def insist(call: Callable[[], object], what: str) -> None:
    """Call until it succeeds."""

    def done() -> bool:
        try:
            call()
        except HTCDaskGatewayError:
            return False
        return True

    wait_until(done, PATIENCE, f"{what} succeeds")


def soak(system: LocalSystem, tools: Tools, minutes: float, chance: random.Random) -> None:
    """Work, scale and break things for that long; then see that all is well."""
    trouble = Trouble(system)
    with HTCGateway() as gateway:
        before = leftovers(gateway)
        cluster = gateway.new_cluster()
        name, stage = cluster.name, cluster.fleet.staging.directory
        client = cluster.get_client()
        faults, made = Faults(trouble, tools, cluster, client, chance), Counter[str]()
        insist(lambda: cluster.scale(3), "scale(3)")
        end = time.monotonic() + 60 * minutes
        next_fault, next_scaling = time.monotonic() + FAULT_EVERY / 2, time.monotonic()
        scalings, whole = 0, 0
        work = Work(client, 60, 0.2)
        while time.monotonic() < end:
            if all(future.done() for future in work.futures):
                work.check(timeout=PATIENCE)
                whole += 1
                work = Work(client, chance.randint(20, 80), chance.choice([0.05, 0.2, 0.5]))
            if time.monotonic() >= next_fault:
                fault = chance.choice(Faults.all())
                say(f"fault: {fault.replace('_', ' ')}")
                getattr(faults, fault)()
                made[fault] += 1
                if fault == "client_restarted":
                    work = Work(client, 60, 0.2)
                next_fault = time.monotonic() + FAULT_EVERY
            if time.monotonic() >= next_scaling:
                n = chance.randint(0, MOST)
                scale(cluster, n)
                scalings += 1
                if n == 0:  # a computation needs somebody
                    more = chance.randint(1, MOST)
                    insist(lambda more=more: cluster.scale(more), f"scale({more})")
                next_scaling += 60 * minutes / SCALINGS
            time.sleep(0.2)
        say(f"{scalings} scalings, {whole} computations whole, faults: {dict(sorted(made.items()))}")
        insist(lambda: cluster.scale(3), "scale(3)")
        work.check(timeout=PATIENCE)
        wait_until(lambda: len(trouble.pool.jobs(name)) == 3, PATIENCE, "three jobs")
        wait_until(lambda: len(names(client)) == 3, PATIENCE, lambda: f"three workers: {names(client)}")
        say("the last results are whole, and 3 workers are 3 jobs")
        work.futures.clear()
        client.close()
        try:
            cluster.shutdown()
        except HTCDaskGatewayError as error:  # on a busy machine a tool may be too slow; asked again it has to end
            say(f"  shutdown(): {type(error).__name__}")
            insist(lambda: gateway.stop_cluster(name), f"stop_cluster({name!r})")
        wait_until(lambda: not trouble.pool.ads(), PATIENCE, lambda: f"no job is left: {trouble.pool.ads()}")
        wait_until(lambda: not trouble.workers(name), PATIENCE, "no worker is left")
        wait_until(lambda: not trouble.scheduler(name), PATIENCE, "no scheduler is left")
        tops = (stage, system.pool.directory)  # type: ignore[union-attr]

        def credentials() -> list[str]:  # a starter may just be about to remove its own
            return [place for top in tops for place, _, names in os.walk(top) if "dask.pem" in names]

        wait_until(lambda: not credentials(), PATIENCE, lambda: f"no credential is left: {credentials()}")
        for what, old in before.items():
            wait_until(
                lambda what=what, old=old: not leftovers(gateway)[what] - old,
                timeout=30,
                what=lambda what=what, old=old: f"no {what} are left: {leftovers(gateway)[what] - old}",
            )
    say("no job, worker, scheduler, credential, task or file descriptor is left")


def check(holds: bool, what: str) -> None:
    """Go on only if it holds."""
    if not holds:
        raise SystemExit(f"FAILED: {what}")


def leftovers(gateway: Any) -> dict[str, Counter[str]]:
    """Return what this process has open: asyncio's tasks and file descriptors, by what they are."""

    async def tasks() -> list[str]:
        own = asyncio.current_task()
        return [task.get_coro().__qualname__ for task in asyncio.all_tasks() if task is not own]  # type: ignore[union-attr]

    files: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            files[str(entry.readlink()).split(":")[0]] += 1
        except FileNotFoundError:  # the directory that is being read
            continue
    return {"tasks": Counter(gateway.sync(tasks)), "files": files}


def main() -> None:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to work (default: 10)")
    parser.add_argument("--seed", type=int, default=None, help="which trouble to make (default: another each time)")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    say(f"scripts/soak --minutes {arguments.minutes:g} --seed {seed}")
    warnings.simplefilter("ignore")
    pool = PersonalPool(config={"MASTER_BACKOFF_CONSTANT": 1, "MASTER_BACKOFF_CEILING": 2})
    server = GatewayServer(persistent=True)
    places: list[str] = []

    def left() -> list[str]:
        return [command for _, command, environment in processes() if any(place in environment for place in places)]

    with (
        tempfile.TemporaryDirectory() as directory,  # the end of the system needs the tools, too
        LocalSystem(pool=pool, server=server) as system,
        dask.config.set(SETTINGS),
    ):
        places += [str(pool.directory), str(server.directory)]
        # The first cluster of a process opens what stays open: the loop's own, imports, a thread pool.
        with HTCGateway() as gateway:
            gateway.new_cluster().shutdown()
        tools = Tools(Path(directory), pool.installation.bin)
        os.environ["CONDOR_BIN_DIR"] = directory
        soak(system, tools, arguments.minutes, random.Random(seed))
    wait_until(lambda: not left(), 30, lambda: f"no process is left: {left()}")
    say("no process is left; all is well")


if __name__ == "__main__":
    main()
