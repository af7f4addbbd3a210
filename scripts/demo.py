"""The main job, shown as it happens; run by scripts/demo."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dask.array as da
import dask.config
import psutil
from dask.distributed import worker_client

from htcdaskgateway import HTCGateway
from htcdaskgateway.local import LocalSystem, PersonalPool, image

DEADLINE = 60.0
# The second process goes by the first one's clock.
BEGAN = float(os.environ.get("DEMO_BEGAN", time.monotonic()))


def say(text: object) -> None:
    """Print a line with the seconds since the start."""
    print(f"[{time.monotonic() - BEGAN:5.1f} s] {text}", flush=True)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for `condition`, or fail."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"FAILED: {what} did not happen within {DEADLINE:.0f} s")
        time.sleep(0.1)


def check(holds: bool, what: str) -> None:
    """Go on only if what the demo claims is so."""
    if not holds:
        raise SystemExit(f"FAILED: {what}")
    say(f"  checked: {what}")


def condor(tool: str, *arguments: str) -> str:
    """Return what one of HTCondor's own tools prints."""
    program = Path(os.environ["CONDOR_BIN_DIR"]) / tool
    return subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, check=True, timeout=DEADLINE
    ).stdout.strip()


def queue() -> list[str]:
    """Return the ids of the jobs in the queue, as condor_q itself prints them."""
    return condor("condor_q", "-af:j", "JobStatus").splitlines()


def submissions() -> int:
    """Return how many times condor_submit has been called on this pool, from HTCondor's cluster ids."""
    ids = [
        line.split(".")[0]
        for tool in ("condor_q", "condor_history")
        for line in condor(tool, "-af", "ClusterId").splitlines()
    ]
    return len(set(ids))


def images() -> Iterator[dict[str, str]]:
    """Make images of this Python environment, and give the keywords of workers in them: both ways, both forms."""
    say("making an image of this Python environment, as a .sif file (the first time, Apptainer is fetched)")
    file = str(image.sif())
    say("in the .sif file, which HTCondor sends and starts:")
    yield {"container_image": file, "container_runtime": "htcondor", "python": "python"}
    say("in the same image as a directory, which the worker script starts from its path:")
    yield {"container_image": str(image.sandbox()), "container_runtime": "apptainer", "python": "python"}


def first_notebook(worker: dict[str, str]) -> str:
    """Make a cluster, scale it up and down, compute; leave it running and return its name."""
    gateway = HTCGateway()
    say(f"{gateway!r}: an unmodified server, whose scheduler proxy is at {gateway.proxy_address}")
    cluster = gateway.new_cluster(**worker)
    say(f"a cluster: {cluster!r}")
    client = cluster.get_client()

    say("scale(2)")
    cluster.scale(2)
    client.wait_for_workers(2, timeout=DEADLINE)
    say(f"two HTCondor jobs have joined as workers:\n{condor('condor_q', '-nobatch')}")
    if worker:
        found = client.run(lambda: os.environ.get("APPTAINER_CONTAINER", "")).values()
        name = Path(worker["container_image"]).name
        check({Path(path).name for path in found} == {name}, f"both run in the image {name}")
        say(f"the versions on all sides:\n{cluster.check_versions()}")
    x = da.random.random((3000, 3000), chunks=(1000, 1000))
    mean = float((x + x.T).mean().compute())
    check(abs(mean - 1) < 0.01, f"the mean of x + x.T, computed on the workers, is {mean:.4f}, about 1")

    def squares(n: int) -> int:
        """Ask the cluster from within a task, with a client of the task's own."""
        with worker_client() as own:
            return sum(own.gather(own.map(lambda i: i * i, range(n))))

    found = client.submit(squares, 10).result()
    check(found == 285, f"a task has a client of its own, and computes with it: the sum of 10 squares is {found}")

    say("scale(4)")
    cluster.scale(4)
    client.wait_for_workers(4, timeout=DEADLINE)
    before = submissions()
    say("scale(4) again")
    cluster.scale(4)
    check(submissions() == before and len(queue()) == 4, "nothing was submitted: still 4 jobs in the queue")

    futures = client.map(lambda i: i * i, range(100), pure=False)
    expected = sum(i * i for i in range(100))
    client.gather(futures)
    holders = {worker: len(keys) for worker, keys in client.has_what().items() if keys}
    check(len(holders) > 1, f"100 results lie on {len(holders)} workers")
    say("scale(1)")
    cluster.scale(1)
    until(lambda: len(client.scheduler_info()["workers"]) == 1, "one worker left")
    check(
        sum(client.gather(futures)) == expected, "the results of the three removed workers have moved, none is lost"
    )
    say(f"{cluster!r}")
    client.close()
    cluster.close(shutdown=False)
    say("the first notebook detaches; the cluster goes on")
    return str(cluster.name)


def second_notebook(name: str) -> None:
    """Connect by name, see the first one's job, scale, and shut down; runs in a process of its own."""
    gateway = HTCGateway()
    say(f"process {os.getpid()}: the clusters are {gateway.list_clusters()}")
    cluster = gateway.connect(name)
    check(len(cluster.jobs()) == 1, f"process {os.getpid()} sees the job of the first: {cluster.jobs()[0].id}")
    say("scale(2)")
    cluster.scale(2)
    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=DEADLINE)
        say(f"{cluster!r}: 1 + 1 = {client.submit(sum, [1, 1]).result()}")
    say("shutdown()")
    cluster.shutdown()


def main() -> None:
    """Run the demo, or its second process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connect", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--container", action="store_true", help="run it in a container image, both ways")
    arguments = parser.parse_args()
    if arguments.connect:
        second_notebook(arguments.connect)
        return
    say("starting an HTCondor pool and a dask-gateway server on this machine (the first time, HTCondor is fetched)")
    with LocalSystem(pool=PersonalPool(apptainer=arguments.container)):
        say(f"HTCondor: {condor('condor_version').splitlines()[0]}")
        staging = Path(os.environ["HTCDASK_STAGEDIR"])
        for worker in images() if arguments.container else [{}]:
            name = first_notebook(worker)
            say("a second notebook, in another process:")
            command = [sys.executable, __file__, "--connect", name]
            subprocess.run(command, env={**os.environ, "DEMO_BEGAN": str(BEGAN)}, check=True, timeout=3 * DEADLINE)
            until(lambda: not queue(), "an empty queue")
            check(not queue(), "the queue is empty")
            check(not list(staging.rglob("*.pem")), "no credential is left on disk")
        processes = psutil.Process().children(recursive=True)
    left = [process for process in processes if process.is_running()]
    check(not left, f"none of the {len(processes)} processes of the pool and the server is left")
    say("done")


if __name__ == "__main__":
    with dask.config.set({"htcdaskgateway.condor.poll-interval": "100ms"}):
        main()
