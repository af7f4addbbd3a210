"""The measurements; each returns rows of a table."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from operator import sub
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import psutil
from distributed import Client, LocalCluster

from htcdaskgateway.condor.jobs import ATTRIBUTES

from .packages import packages
from .pairs import Fact, Row, pairs, timed
from .world import DEADLINE, Bare, as_new, empty_queue, jobs_of, joined, settled, tool, until, wait_joined

WAITING = "false"  # requirements that no slot fulfils: the jobs wait, and no worker disturbs the clock


def submit(gateway: Any, directory: Path, quick: bool) -> Iterator[Row]:
    """Ask for n workers, from the call to its return."""
    sizes = {1: 8, 10: 5, 100: 5} if quick else {1: 25, 10: 25, 100: 15, 1000: 10, 10000: 10}
    cluster = gateway.new_cluster(requirements=WAITING)
    bare = Bare(directory / "submit", cluster, WAITING)

    def by_hand(n: int, before: int = 0) -> float:
        if before:
            bare.submit(before)
        seconds = timed(lambda: bare.scale(before + n))
        empty_queue()
        return seconds

    def first(n: int) -> float:
        as_new(cluster)
        seconds = timed(lambda: cluster.scale(n))
        settled(cluster)
        empty_queue()
        return seconds

    def later(n: int) -> float:
        as_new(cluster)
        cluster.scale(1)
        settled(cluster)
        seconds = timed(lambda: cluster.scale(n + 1))
        settled(cluster)
        empty_queue()
        return seconds

    for n, rounds in sizes.items():
        yield pairs(
            f"first scale({n})", "bare", lambda n=n: first(n), lambda n=n: by_hand(n), rounds=rounds, goal=1.1
        )
        yield pairs(
            f"later scale, {n} more",
            "bare",
            lambda n=n: later(n),
            lambda n=n: by_hand(n, before=1),
            rounds=rounds,
            goal=1.1,
        )
    with published(directory) as ask:
        for n in (1, 10, 100) if quick else (1, 10, 100, 1000):
            if ask is not None:
                yield pairs(
                    f"first scale({n})",
                    "ncsa-htcdaskgateway 1.0.4",
                    lambda n=n: first(n),
                    lambda n=n: ask(n),
                    rounds=sizes[n],
                    goal=1,
                )
    for n in (1, 10) if quick else (1, 10, 100):
        yield pairs(
            f"first scale({n})",
            "dask-jobqueue",
            lambda n=n: first(n),
            lambda n=n: jobqueue_submit(n),
            rounds=3 if quick else 10,
            goal=1,
        )
    cluster.shutdown()


@contextmanager
def published(directory: Path) -> Iterator[Any]:
    """Run 1.0.4's submission code in its own environment; gives a function from n to seconds, or None."""
    python = os.environ.get("BENCH_PUBLISHED_PYTHON")
    if not python:
        yield None
        return
    home = directory / "published-home"
    home.mkdir()
    (home / ".profile").write_text("")  # it sources it
    program = subprocess.Popen(
        [python, str(Path(__file__).with_name("published.py")), os.environ["CONDOR_BIN_DIR"]],
        cwd=home,
        env={**os.environ, "HOME": str(home), "HTCDASK_STAGEDIR": str(home / "stage")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def ask(n: int) -> float:
        program.stdin.write(f"{n}\n")
        program.stdin.flush()
        for line in program.stdout:
            if line.startswith("took "):
                break
        else:
            raise RuntimeError("1.0.4 ended without an answer")
        queued = len(tool("condor_q", "-af", "ClusterId").split())
        if queued != n:
            raise RuntimeError(f"1.0.4 submitted {queued} jobs instead of {n}")
        empty_queue()
        return float(line.split()[1])

    try:
        yield ask
    finally:
        program.kill()
        program.wait()


@contextmanager
def jobqueue(cpus: int = 1, **more: Any) -> Iterator[Any]:
    """Make dask-jobqueue's cluster for the same pool, without TLS, as it comes."""
    from dask_jobqueue import HTCondorCluster

    path = os.environ["PATH"]
    os.environ["PATH"] = f"{os.environ['CONDOR_BIN_DIR']}{os.pathsep}{path}"
    try:
        with HTCondorCluster(
            cores=cpus, processes=1, memory="1GiB", disk="10MB", python=sys.executable, interface="lo", **more
        ) as cluster:
            yield cluster
    finally:
        os.environ["PATH"] = path


def jobqueue_submit(n: int) -> float:
    """Return how long dask-jobqueue takes until it has submitted n jobs."""
    with jobqueue(job_extra_directives={"requirements": WAITING}) as cluster:

        def scale() -> None:
            cluster.scale(n)
            until(lambda: len(cluster.workers) == n, "dask-jobqueue's submissions", pause=0.001)

        seconds = timed(scale)
    empty_queue()
    return seconds


def ready(gateway: Any, directory: Path, quick: bool) -> Iterator[Row]:
    """Ask for n workers, until they have joined."""
    cluster = gateway.new_cluster()
    bare = Bare(directory / "ready", cluster)
    with cluster.get_client() as client:

        def leave() -> None:
            settled(cluster)
            empty_queue()
            until(lambda: not joined(client), "the workers' leaving")

        def ours(n: int) -> float:
            as_new(cluster)
            seconds = timed(lambda: (cluster.scale(n), wait_joined(client, n)))
            leave()
            return seconds

        def by_hand(n: int) -> float:
            seconds = timed(lambda: (bare.submit(n), wait_joined(client, n)))
            leave()
            return seconds

        for n in (1, 4) if quick else (1, 4, 8):
            yield pairs(
                f"{n} worker(s) ready",
                "bare",
                lambda n=n: ours(n),
                lambda n=n: by_hand(n),
                rounds=3 if quick else 10,
                goal=1.05,
            )
            yield pairs(
                f"{n} worker(s) ready",
                "dask-jobqueue (no TLS)",
                lambda n=n: ours(n),
                lambda n=n: jobqueue_ready(n),
                rounds=2 if quick else 10,
                goal=1,
            )
    cluster.shutdown()


def jobqueue_ready(n: int) -> float:
    """Return how long dask-jobqueue takes until n workers have joined."""
    with jobqueue() as cluster, Client(cluster, set_as_default=False) as client:
        seconds = timed(lambda: (cluster.scale(n), wait_joined(client, n)))
    empty_queue()
    return seconds


def worker_start(gateway: Any, directory: Path, quick: bool) -> Iterator[Row]:
    """Start one worker by its script, without HTCondor, until it has joined and left: CPU seconds and memory."""
    cluster = gateway.new_cluster()
    bare = Bare(directory / "start", cluster)
    staged = Path(os.environ["HTCDASK_STAGEDIR"]) / cluster.name
    count = 0
    with cluster.get_client() as client:

        def run(command: list[str], name: str, scratch: Path) -> tuple[float, float]:
            for file in ("dask.crt", "dask.pem"):
                (scratch / file).write_bytes((staged / "credentials" / file).read_bytes())
            environment = {"PATH": "/usr/bin:/bin", "HOME": str(scratch)}
            process = subprocess.Popen(
                command, cwd=scratch, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            wait_joined(client, 1)
            # Each page once, also those that the job's process shares with the worker that it has forked.
            started = psutil.Process(process.pid)
            memory = sum(each.memory_full_info().pss for each in (started, *started.children(recursive=True)))
            client.retire_workers(names=[name], close_workers=True)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                raise RuntimeError(f"{name} ended with {process.returncode}")
            until(lambda: not joined(client), "the worker's leaving")
            return usage.ru_utime + usage.ru_stime, memory / 2**20

        def ours() -> tuple[float, float]:
            nonlocal count
            count += 1
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                for file in ("worker.sh", "worker_start.py", "worker_preload.py"):
                    Path(scratch, file).write_bytes((staged / file).read_bytes())
                Path(scratch, ".job.ad").write_text(f"ClusterId = {count}\nProcId = 0\nNumShadowStarts = 1\n")
                return run(["/bin/sh", "worker.sh"], f"htcondor-{count}.0-1", Path(scratch))

        def by_hand() -> tuple[float, float]:
            nonlocal count
            count += 1
            name = f"htcondor-{count}.1-1"
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                return run(bare.command(name), name, Path(scratch))

        samples = [(ours(), by_hand()) for _ in range(4 if quick else 20)]
    cpu = [[pair[side][0] for pair in samples] for side in (0, 1)]
    memory = [[pair[side][1] for pair in samples] for side in (0, 1)]
    yield Row("a worker's start: CPU", "bare", "s", *cpu, goal=1)
    yield Row("a worker's start: memory", "bare", "MiB", *memory, goal=1)
    cluster.shutdown()


def restart(gateway: Any, directory: Path, quick: bool) -> Iterator[Row]:
    """Restart eight workers, until they are back."""
    cluster = gateway.new_cluster(cpus=1, memory="512MB")
    with (
        cluster.get_client(set_as_default=False) as client,
        LocalCluster(
            n_workers=8, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.ERROR
        ) as local,
        Client(local, set_as_default=False) as its_client,
    ):
        cluster.scale(8)
        wait_joined(client, 8)
        yield pairs(
            "restart of 8 workers",
            "LocalCluster",
            lambda: timed(lambda: client.restart(timeout=DEADLINE)),
            lambda: timed(lambda: its_client.restart(timeout=DEADLINE)),
            rounds=3 if quick else 10,
            goal=1.2,
        )
    cluster.shutdown()


def computing(gateway: Any, directory: Path, quick: bool) -> Iterator[Row]:
    """Compute with NumPy on one worker with two CPUs and two threads, as the jobs' environment lets it."""
    random = da.random.default_rng(0)
    square = random.random((4000, 4000), chunks=(1000, 1000))
    tall = random.random((20000, 200), chunks=(1000, 200))
    works = {"an SVD": da.linalg.svd(tall)[1]}
    if not quick:
        works["a matrix product"] = (square @ square.T).sum()
    cluster = gateway.new_cluster(cpus=2)
    bare = Bare(directory / "computing", cluster, cpus=2)

    with cluster.get_client() as client, jobqueue(2) as other, Client(other, set_as_default=False) as its_client:

        def on(client: Client, name: str, work: Any) -> float:
            workers = client.scheduler_info(n_workers=-1)["workers"]
            (address,) = (address for address, worker in workers.items() if re.match(name, str(worker["name"])))
            return timed(lambda: client.compute(work, workers=[address]).result(DEADLINE))

        cluster.scale(1)
        bare.submit(1)
        other.scale(1)
        wait_joined(client, 2)
        wait_joined(its_client, 1)
        for what, work in works.items():
            for against, its, name in (("bare", client, "htcondor-bare"), ("dask-jobqueue", its_client, "")):
                for _ in range(2):  # the first imports NumPy
                    on(its, name, work)
                    on(client, r"htcondor-\d", work)
                yield pairs(
                    f"{what} in blocks, on 2 threads",
                    against,
                    lambda work=work: on(client, r"htcondor-\d", work),
                    lambda its=its, name=name, work=work: on(its, name, work),
                    rounds=3 if quick else 10,
                    goal=1,
                )
    cluster.shutdown()
    empty_queue()


def shutdown(gateway: Any, directory: Path, quick: bool) -> Iterator[Row]:
    """Shut a cluster down, until its jobs have left the queue."""

    def start(make: Any, running: int, waiting: int) -> Any:
        cluster = gateway.new_cluster()
        with cluster.get_client() as client:
            make(cluster, running, waiting)
            wait_joined(client, running)
        return cluster

    def our_jobs(cluster: Any, running: int, waiting: int) -> None:
        cluster.scale(running)
        settled(cluster)
        if waiting:
            submit_waiting(Path(os.environ["HTCDASK_STAGEDIR"]) / cluster.name / "worker.sub", waiting)

    def bare_jobs(cluster: Any, running: int, waiting: int) -> None:
        bare = Bare(directory / f"shutdown-{cluster.name}", cluster)
        bare.submit(running)
        if waiting:
            submit_waiting(bare.directory / "bare.sub", waiting)

    def submit_waiting(description: Path, n: int) -> None:
        tool("condor_submit", description.name, "-append", f"requirements = {WAITING}", "-queue", str(n),
             cwd=description.parent)  # fmt: skip

    def ours(running: int, waiting: int) -> float:
        cluster = start(our_jobs, running, waiting)
        seconds = timed(lambda: (cluster.shutdown(), until(lambda: not jobs_of(cluster.name), "an empty queue")))
        return seconds

    def by_hand(running: int, waiting: int) -> float:
        cluster = start(bare_jobs, running, waiting)
        seconds = timed(
            lambda: (
                tool("condor_rm", "-constraint", "Bare =?= true"),
                until(lambda: not Bare.jobs(), "an empty queue"),
            )
        )
        cluster.shutdown()
        return seconds

    for running, waiting in ((4, 0),) if quick else ((8, 0), (1, 1000)):
        yield pairs(
            f"shutdown, {running} running, {waiting} waiting",
            "bare condor_rm",
            lambda r=running, w=waiting: ours(r, w),
            lambda r=running, w=waiting: by_hand(r, w),
            rounds=3 if quick else 10,
            goal=1.1,
        )


def looking(gateway: Any, directory: Path, quick: bool) -> Iterator[Row | Fact]:
    """Ask for the state of many jobs, and see how long the event loop stands still meanwhile."""
    n = 2000 if quick else 10000
    cluster = gateway.new_cluster(requirements=WAITING)
    cluster.scale(n)
    settled(cluster)
    fleet = cluster.fleet

    async def longest(work: Callable[[], Awaitable[object]], collect: bool, wait: float, clock: Any) -> float:
        """Return the most that `clock` went on while another task waited for `wait` seconds, in milliseconds."""
        times = [clock()]

        async def tick() -> None:
            while True:
                await asyncio.sleep(wait)
                times.append(clock())

        ticking = asyncio.ensure_future(tick())
        # A full pass of the garbage collector goes over all objects of the process, and any code may begin it.
        if not collect:
            gc.disable()
        try:
            await work()
            times.append(clock())
        finally:
            gc.enable()
            ticking.cancel()
        return max(map(sub, times[1:], times)) * 1000

    async def look_alone() -> float:
        begin = time.perf_counter()
        await fleet.look(max_age=0)
        return time.perf_counter() - begin

    def by_hand() -> float:
        return timed(
            lambda: tool("condor_q", "-constraint", fleet.constraint, "-json", "-attributes", ",".join(ATTRIBUTES))
        )

    rounds = 6 if quick else 15
    for against, other in (
        ("one condor_q, same attributes, not decoded", by_hand),
        (
            "one condor_q -nobatch",
            lambda: timed(lambda: tool("condor_q", "-constraint", fleet.constraint, "-nobatch")),
        ),
    ):
        yield pairs(
            f"the state of {n} jobs",
            against,
            lambda: cluster.gateway.sync(look_alone),
            other,
            rounds=rounds,
            goal=1,
        )
    for who, work, collect, goal in (
        ("nothing to do", lambda: asyncio.sleep(0.5), False, None),
        ("a look, garbage collector aside", lambda: fleet.look(max_age=0), False, 10.0),
        ("a look, garbage collector included", lambda: fleet.look(max_age=0), True, None),
    ):
        title = f"the event loop with {who}: the longest"
        # Waiting for nothing, the other task runs once in each turn of the loop.
        turns = sorted(cluster.gateway.sync(longest, work, collect, 0, time.thread_time) for _ in range(rounds))
        yield Fact(f"{title} turn, median", turns[rounds // 2], "ms", goal)
        yield Fact(f"{title} turn, worst", turns[-1], "ms", goal)
        waits = sorted(cluster.gateway.sync(longest, work, collect, 1e-3, time.perf_counter) for _ in range(rounds))
        yield Fact(f"{title} wait for a timer of 1 ms, median", waits[rounds // 2], "ms")
    loops = sorted(seconds * 1000 for seconds in plain_loops(5e-3, 50 * rounds))
    yield Fact("a plain loop that takes 5 ms at its fastest, median", loops[len(loops) // 2], "ms")
    yield Fact("a plain loop that takes 5 ms at its fastest, worst", loops[-1], "ms")
    before = resource_mib()
    held = [cluster.gateway.sync(fleet._look) for _ in range(4)]
    yield Fact(
        f"a client's memory for {n} jobs watched", (resource_mib() - before) / len(held), "MiB", 20 * n / 1e4
    )
    cluster.shutdown()
    empty_queue()


def plain_loops(seconds: float, times: int) -> list[float]:
    """Return the CPU seconds of a loop that takes `seconds` at its fastest: what the machine adds to a time."""

    def loop(n: int) -> float:
        begin = time.thread_time()
        for _ in range(n):
            pass
        return time.thread_time() - begin

    n = 100_000
    n = int(n * seconds / min(loop(n) for _ in range(100)))
    return [loop(n) for _ in range(times)]


def resource_mib() -> float:
    """Return this process's memory in MiB."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def adaptive(gateway: Any, directory: Path, quick: bool) -> Iterator[Fact]:
    """Burst into work: from the client's call until condor_submit has been called, and has returned."""
    import dask.config

    interval = 1.0
    called, returned = [], []
    for _ in range(2 if quick else 10):
        with dask.config.set({"distributed.adaptive.interval": f"{interval:g}s"}):
            cluster = gateway.new_cluster(requirements=WAITING)
        condor = cluster.fleet.condor
        submit = condor.submit
        times = []

        async def noted(*arguments: Any, submit: Any = submit, times: list[float] = times, **options: Any) -> Any:
            times.append(time.perf_counter())
            answer = await submit(*arguments, **options)
            times.append(time.perf_counter())
            return answer

        condor.submit = noted
        with dask.config.set({"distributed.adaptive.interval": f"{interval:g}s"}):
            cluster.adapt(minimum=0, maximum=4)
        with cluster.get_client() as client:
            time.sleep(np.random.default_rng().uniform(0, interval))  # the burst falls anywhere within an interval
            begin = time.perf_counter()
            futures = client.map(lambda x: x, range(100), pure=False)
            until(lambda times=times: len(times) >= 2, "a submit", pause=0.005)
            called.append(times[0] - begin)
            returned.append(times[1] - begin)
            del futures
        cluster.shutdown()
    yield Fact("adaptive: a burst to its submit, worst", max(called), "s", interval + 0.1)
    yield Fact("adaptive: a burst to its jobs in the queue, worst", max(returned), "s")


def importing(gateway: Any, directory: Path, quick: bool) -> Iterator[Row | Fact]:
    """Import the package beside dask_gateway alone, as a name and with the class that every program needs."""

    def run(statement: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", statement], check=True, timeout=DEADLINE)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    for ours, other in (
        ("import htcdaskgateway", "import dask_gateway"),
        ("from htcdaskgateway import HTCGateway", "from dask_gateway import Gateway"),
    ):
        yield pairs(
            f"{ours}: CPU",
            other,
            lambda ours=ours: run(ours),
            lambda other=other: run(other),
            rounds=5 if quick else 25,
            goal=1.05,
        )
    code = (
        "import sys, json; from dask_gateway import Gateway; before = set(sys.modules);"
        "from htcdaskgateway import HTCGateway;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    more = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    foreign = [name for name in more if not name.startswith("htcdaskgateway")]
    yield Fact("modules of others that our import loads beyond dask_gateway's", len(foreign), "modules")


MEASURES = {
    "submit": submit,
    "ready": ready,
    "worker_start": worker_start,
    "restart": restart,
    "computing": computing,
    "shutdown": shutdown,
    "looking": looking,
    "adaptive": adaptive,
    "importing": importing,
    "packages": packages,
}
