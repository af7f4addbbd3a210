"""Where the next limits are: many jobs in one schedd, many workers behind one proxy, many workers starting at once.

Run by ``scripts/bench --limits``. All of it stays on this machine's loopback address and ends by itself.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from .pairs import Fact, timed
from .world import DEADLINE, Bare, empty_queue, jobs_of, settled, tool, until

WAITING = "false"
MAX_IDLE = 100
HANDSHAKES_AT_ONCE = 50
WINDOW = 20.0


def resident(name: str, word: str = "") -> float:
    """Return the memory of this user's processes of that name, in MiB."""
    return sum(process.memory_info().rss for process in named(name, word)) / 2**20


def named(name: str, word: str = "") -> list[psutil.Process]:
    """Return the running processes of that name, with `word` in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == name and any(word in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has just ended
            continue
    return found


def own_pool(name: str) -> float:
    """Return the memory of this benchmark's own daemon, in MiB, whoever else runs one of that name."""
    configuration = os.environ["CONDOR_CONFIG"]
    total = 0
    for process in named(name):
        try:
            mine = process.environ().get("CONDOR_CONFIG") == configuration
        except psutil.Error:
            continue
        total += process.memory_info().rss if mine else 0
    return total / 2**20


def jobs(gateway: Any, directory: Path, quick: bool) -> Iterator[Fact]:
    """Ask for, look at and remove ever more jobs of one schedd."""
    for n in (1000, 10_000) if quick else (1000, 10_000, 100_000):
        cluster = gateway.new_cluster(requirements=WAITING)
        before = own_pool("condor_schedd")
        yield Fact(f"{n} jobs: scale", timed(lambda: cluster.scale(n)), "s")
        settled(cluster)
        yield Fact(f"{n} jobs: memory of the schedd", own_pool("condor_schedd") - before, "MiB")
        me = psutil.Process()
        rss = me.memory_info().rss
        yield Fact(f"{n} jobs: look", timed(lambda: cluster.gateway.sync(cluster.fleet.look, 0)), "s")
        yield Fact(f"{n} jobs: memory of the client", (me.memory_info().rss - rss) / 2**20, "MiB")
        yield Fact(f"{n} jobs: one more", timed(lambda: cluster.scale(n + 1)), "s")
        settled(cluster)
        counted = timed(lambda: tool("condor_q", "-constraint", cluster.fleet.constraint, "-totals"))
        yield Fact(f"{n} jobs: condor_q -totals", counted, "s")
        yield Fact(f"{n} jobs: half of them removed", timed(lambda: cluster.scale(n // 2)), "s")
        yield Fact(f"{n} jobs: shutdown of the other half", timed(cluster.shutdown), "s")
        yield Fact(f"{n} jobs: until the queue is empty", timed(empty_queue), "s")


def materialization(gateway: Any, directory: Path, quick: bool) -> Iterator[Fact]:
    """Ask for as many jobs with late materialization, of which few are in the queue at a time."""
    for n in (1000, 10_000) if quick else (1000, 10_000, 100_000):
        what = f"{n} jobs, max_idle={MAX_IDLE}"
        cluster = gateway.new_cluster(requirements=WAITING, max_idle=MAX_IDLE)
        before = own_pool("condor_schedd")
        yield Fact(f"{what}: scale", timed(lambda: cluster.scale(n)), "s")
        settled(cluster)
        # The schedd makes them in its own time.
        until(lambda cluster=cluster: jobs_of(cluster.name) >= MAX_IDLE, "jobs that may wait")
        yield Fact(f"{what}: memory of the schedd", own_pool("condor_schedd") - before, "MiB")
        yield Fact(f"{what}: look", timed(lambda: cluster.gateway.sync(cluster.fleet.look, 0)), "s")
        yield Fact(f"{what}: one more", timed(lambda: cluster.scale(n + 1)), "s")
        settled(cluster)
        yield Fact(f"{what}: half of them removed", timed(lambda: cluster.scale(n // 2)), "s")
        yield Fact(f"{what}: shutdown of the other half", timed(cluster.shutdown), "s")
        yield Fact(f"{what}: until the queue is empty", timed(empty_queue), "s")


def connections(gateway: Any, directory: Path, quick: bool) -> Iterator[Fact]:
    """Open as many TLS connections to a scheduler through the gateway's proxy as many workers would."""
    cluster = gateway.new_cluster()
    sni = f"daskgateway-{cluster.name}"
    host, port = cluster.scheduler_address.replace("gateway://", "").split("/")[0].split(":")
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.check_hostname = False
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        credentials = Path(scratch)
        (credentials / "dask.crt").write_text(cluster.security.tls_cert)
        (credentials / "dask.pem").write_text(cluster.security.tls_key)
        context.load_verify_locations(credentials / "dask.crt")
        context.load_cert_chain(credentials / "dask.crt", credentials / "dask.pem")
    proxy = [p for p in named("dask-gateway-proxy") if any(f":{port}" in part for part in p.cmdline())]
    scheduler = scheduler_process(cluster)

    async def opened(n: int) -> tuple[list[Any], float]:
        limit = asyncio.Semaphore(HANDSHAKES_AT_ONCE)

        async def one() -> Any:
            async with limit:
                return await asyncio.wait_for(
                    asyncio.open_connection(host, int(port), ssl=context, server_hostname=sni), DEADLINE
                )

        begin = time.perf_counter()
        pairs = await asyncio.gather(*(one() for _ in range(n)))
        return pairs, time.perf_counter() - begin

    async def measure(n: int) -> list[Fact]:
        memory = [sum(p.memory_info().rss for p in group) for group in (proxy, [scheduler])]
        cpu = [sum(sum(p.cpu_times()[:2]) for p in group) for group in (proxy, [scheduler])]
        pairs, seconds = await opened(n)
        after = [sum(p.memory_info().rss for p in group) for group in (proxy, [scheduler])]
        cpu_after = [sum(sum(p.cpu_times()[:2]) for p in group) for group in (proxy, [scheduler])]
        facts = [Fact(f"{n} connections at once: handshakes a second", n / seconds, "1/s")]
        for index, who in enumerate(("proxy", "scheduler")):
            each = (cpu_after[index] - cpu[index]) / n * 1000
            facts.append(Fact(f"{n} connections at once: CPU of the {who} for each", each, "ms"))
            grown = (after[index] - memory[index]) / n / 1024
            facts.append(Fact(f"{n} connections at once: memory of the {who} for each", grown, "KiB"))
        for _, writer in pairs:
            writer.transport.abort()
        await asyncio.sleep(1)
        return facts

    try:
        for n in (200,) if quick else (500, 2000):
            yield from asyncio.run(measure(n))
    finally:
        cluster.shutdown()


def scheduler_process(cluster: Any) -> psutil.Process:
    """Return the process of a cluster's scheduler."""
    with cluster.get_client() as client:
        return psutil.Process(client.run_on_scheduler(os.getpid))


# A worker's way to the scheduler with nothing behind it: registration, heartbeats and all that goes with them.
_WORKERS = """
import asyncio, sys
from distributed import Worker
from distributed.security import Security

async def main(address, sni, n):
    security = Security(tls_ca_file="dask.crt", tls_worker_cert="dask.crt", tls_worker_key="dask.pem",
                        require_encryption=True)
    workers = []
    for i in range(n):
        workers.append(await Worker(address, scheduler_sni=sni, security=security, name=f"htcondor-1.{i}-1",
                                    nthreads=1, memory_limit=2**28, host="127.0.0.1", port=0,
                                    local_directory="scratch"))
    print("joined", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def workers(gateway: Any, directory: Path, quick: bool) -> Iterator[Fact]:
    """Let many idle workers, packed into a few processes, join one scheduler through the proxy."""
    each, processes = (20, 1) if quick else (50, 3)
    cluster = gateway.new_cluster()
    bare = Bare(directory / "many", cluster)
    address = bare.command("x")[3]
    scheduler = scheduler_process(cluster)
    started, pipe = [], subprocess.PIPE
    try:
        memory, cpu = scheduler.memory_info().rss, sum(scheduler.cpu_times()[:2])
        for number in range(processes):
            program = _WORKERS.replace("htcondor-1.", f"htcondor-{number + 1}.")
            command = [sys.executable, "-c", program, address, f"daskgateway-{cluster.name}", str(each)]
            started.append(
                subprocess.Popen(command, cwd=bare.directory, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
            )
        for process in started:
            if process.stdout.readline() != b"joined\n":
                raise RuntimeError("workers did not join")
        n = each * processes
        join = (sum(scheduler.cpu_times()[:2]) - cpu) / n * 1000
        yield Fact(f"{n} workers: CPU of the scheduler for each that joins", join, "ms")
        grown = (scheduler.memory_info().rss - memory) / n / 1024
        yield Fact(f"{n} workers: memory of the scheduler for each", grown, "KiB")
        yield Fact(f"{n} workers: descriptors of the scheduler for each", scheduler.num_fds() / n, "files")
        cpu, begin = sum(scheduler.cpu_times()[:2]), time.perf_counter()
        time.sleep(WINDOW)
        share = (sum(scheduler.cpu_times()[:2]) - cpu) / (time.perf_counter() - begin)
        yield Fact(f"{n} idle workers: share of a core that the scheduler uses", share * 100, "%")
    finally:
        for process in started:
            process.kill()
            process.wait()
        cluster.shutdown()


def files(gateway: Any, directory: Path, quick: bool) -> Iterator[Fact]:
    """Count what one worker's start asks of the file system that holds its Python."""
    strace = shutil.which("strace")
    if not strace:
        return
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".strace") as trace:
        command = [sys.executable, "-c", "import distributed.cli.dask_worker"]
        traced = [strace, "-f", "-y", "-o", trace.name, "-e", "trace=%file,read,pread64,fstat,getdents64"]
        subprocess.run([*traced, *command], check=True, timeout=DEADLINE, env={"PATH": "/usr/bin:/bin"})
        lines = Path(trace.name).read_text(errors="replace").splitlines()
    opened = [line for line in lines if re.search(r"\bopenat?\(", line)]
    stats = [line for line in lines if re.search(r"\b(newfstatat|stat|lstat|statx|access|readlink)\(", line)]
    reads = [line for line in lines if re.search(r"\bp?read(64)?\(", line)]
    total = sum(int(found[1]) for line in reads if (found := re.search(r"= (\d+)$", line)))
    yield Fact("one worker's start: files opened", sum("ENOENT" not in line for line in opened), "calls")
    yield Fact("one worker's start: files asked for that are not there",
               sum("ENOENT" in line for line in [*opened, *stats]), "calls")  # fmt: skip
    yield Fact("one worker's start: file states asked for", len(stats), "calls")
    yield Fact("one worker's start: bytes read", total / 2**20, "MiB")


LIMITS = {
    "jobs": jobs,
    "materialization": materialization,
    "connections": connections,
    "workers": workers,
    "files": files,
}
