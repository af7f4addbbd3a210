"""Run the workers of one job, and start them anew in its slot for as long as they are wanted there.

Sent with the job: ``python worker_start.py ADDRESS OPTIONS...`` takes the options of ``dask worker``. Dask is
imported once and each worker is forked from here, so that a restart costs no import; with ``--nworkers`` there are
several. A Python that cannot run a worker ends with an exit code of its own.

How a worker ends is told by ``worker_preload.py``; what this process makes of it, for HTCondor:

* 0, not wanted any more: when all have ended so, the job ends with 0;
* 74, cut off, and 75, restarted: the next worker starts in the slot, under the next name;
* anything else, a failure: all leave, and the job ends as that worker did.

HTCondor's signal (an eviction, condor_rm) is passed on: all leave, and the job ends with 75. SIGUSR1 is a worker's
own (``packages_preload.py``): for each that asks, another is started beside it, with new local code.
"""

from __future__ import annotations

import gc
import importlib
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

CANNOT = 78
LOST = 74
AGAIN = 75

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

# A worker that is cut off sooner than this, in seconds, was started in vain, and each that follows waits longer.
SHORT = 10.0
LONGEST_PAUSE = 30.0


class Workers:
    """The workers of one start of a job: `main` runs one, given the options of ``dask worker``, and ends."""

    def __init__(self, main: Callable[[list[str]], object], options: list[str]) -> None:
        self.main = main
        self.options = list(options)
        self.name = self._take("--name", "")
        self.count = int(self._take("--nworkers", "1"))
        self.started = 0
        self.running: dict[int, float] = {}
        self.leaving = False
        self.in_vain = 0

    def _take(self, option: str, default: str) -> str:
        if option not in self.options:
            return default
        at = self.options.index(option)
        value = self.options[at + 1]
        del self.options[at : at + 2]
        return value

    def run(self) -> int:
        """Return how the job ends when its last worker has ended: an exit code, or a signal's number negated."""
        for number in SIGNALS:
            signal.signal(number, self.leave)
        if "HTCDASK_PACKAGES_KEY" in os.environ:  # its workers ask for successors when their code is synced
            signal.signal(signal.SIGUSR1, self.succeed)
            os.environ["HTCDASK_START_PID"] = str(os.getpid())
        for _ in range(self.count):
            self.begin()
        code = 0
        while self.running:
            pid, status = os.wait()
            if pid not in self.running:  # in a container this may be everyone's parent
                continue
            lived = time.monotonic() - self.running.pop(pid)
            ended = os.waitstatus_to_exitcode(status)
            if ended in (AGAIN, LOST) and not self.leaving:
                self.in_vain = self.in_vain + 1 if ended == LOST and lived < SHORT else 0
                self.begin(min(2.0 ** (self.in_vain // self.count), LONGEST_PAUSE) if self.in_vain else 0.0)
            elif ended != 0:
                code = code or (AGAIN if self.leaving else ended)
                self.leave()
        return code

    def begin(self, pause: float = 0.0) -> None:
        """Fork the next worker, which starts after `pause` seconds."""
        self.started += 1
        job, at, schedd = self.name.partition("@")
        name = self.name if self.started == 1 else f"{job}-{self.started}{at}{schedd}"
        if self.started > 1:  # the script has told of the first
            sys.stdout.write(f"{time.ctime()} {name} starts on {platform.node()}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that came between would find a worker that is not known yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, signal.SIGUSR1))
        pid = os.fork()
        if pid == 0:
            self.be(name, pause)
        self.running[pid] = time.monotonic() + pause
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, signal.SIGUSR1))

    def be(self, name: str, pause: float) -> None:
        """Be that worker, in a process of its own; the end of it."""
        for number in (*SIGNALS, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, signal.SIGUSR1))
        time.sleep(pause)
        importlib.invalidate_caches()  # the local code may be new
        os.environ["DASK_GATEWAY_WORKER_NAME"] = name
        # One that takes another's place knows that the scheduler was to be reached.
        os.environ["HTCDASKGATEWAY_FIRST"] = "1" if self.started <= self.count else ""
        self.main([*self.options, "--name", name])
        sys.exit(0)

    def succeed(self, *_: object) -> None:
        """Start a worker for each that has asked for a successor; the handler of SIGUSR1."""
        for asked in sorted(Path("successors").iterdir()):
            asked.unlink()
            if not self.leaving:
                self.begin()

    def leave(self, *_: object) -> None:
        """Tell all workers to hand over what they hold, and start no other; the handler of HTCondor's signals."""
        self.leaving = True
        for pid in list(self.running):
            os.kill(pid, signal.SIGTERM)


def where() -> str:
    """Return the words for this Python and the machine or container that it is in."""
    image = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")
    place = f"in the image {image}" if image else f"on {platform.node()}"
    return f"Python {platform.python_version()} ({sys.executable}) {place}"


def start() -> int:
    """Run the workers to their end and return the job's exit code, or a signal's number negated."""
    try:
        import dask
        import distributed
        import msgpack
        from distributed.cli.dask_worker import main
    except Exception as error:
        sys.stderr.write(
            f"{where()} cannot run a Dask worker: {type(error).__name__}: {error}. dask and distributed, of the "
            "client's versions, have to be installed there.\n"
        )
        return CANNOT
    of_msgpack = ".".join(map(str, msgpack.version))
    versions = f"dask {dask.__version__}, distributed {distributed.__version__}, msgpack {of_msgpack}"
    sys.stderr.write(f"{where()} has {versions}\n")
    # What is there by now stays shared between the workers.
    gc.freeze()
    return Workers(lambda options: main(options, prog_name="dask worker"), sys.argv[1:]).run()


def end(code: int) -> None:
    """End this process with an exit code, or as a worker did that a signal has killed."""
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    # The first process of a container survives its own signal.
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    end(start())
