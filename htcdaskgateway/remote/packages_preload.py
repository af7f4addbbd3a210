"""A preload of ``dask worker`` with the notebook's packages: tell where they lie, and take new local code.

Sent with the job. New code is for a new process: the job's first process starts another worker in the slot
(``worker_start.py``), and this one is retired when that one has joined, so that its results have somewhere to go.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import tarfile
from pathlib import Path
from typing import Any

REPORT = "htcdaskgateway_packages"
TAKE = "htcdaskgateway_code"


def install(code: bytes, key: str) -> None:
    """Put the local code of that key in place of what is there; each step is whole or not done."""
    new = Path(f"local-{key}")
    if not new.is_dir():
        fresh = Path(f".local-{key}-{os.getpid()}")
        with tarfile.open(fileobj=io.BytesIO(code), mode="r:gz") as tar:
            if sys.version_info >= (3, 12):
                tar.extractall(fresh, filter="data")
            else:
                tar.extractall(fresh)  # noqa: S202 - it came from the user's own client
        (fresh / new).mkdir(parents=True, exist_ok=True)
        try:
            (fresh / new).rename(new)
        except OSError:
            if not new.is_dir():  # else another worker of the job was quicker
                raise
        shutil.rmtree(fresh)
    link = Path(f".link-{os.getpid()}")
    link.symlink_to(new)
    link.replace("local")


def dask_setup(worker: Any) -> None:
    """Begin; called once the worker listens, before it looks for the scheduler."""
    code = str(Path("local").readlink())
    report = {
        "key": os.environ["HTCDASK_PACKAGES_KEY"],
        "machine": os.environ.get("HTCDASK_PACKAGES_MACHINE", ""),
        "code": code.removeprefix("local-"),
    }

    async def take(code: bytes, key: str) -> str:
        install(bytes(code), key)
        asked = Path("successors")
        asked.mkdir(exist_ok=True)
        (asked / str(worker.name).replace("/", "_")).touch()
        os.kill(int(os.environ["HTCDASK_START_PID"]), signal.SIGUSR1)
        return key

    worker.startup_information[REPORT] = lambda _: report
    worker.handlers[TAKE] = take


def unpack(place: str, key: str) -> None:
    """Unpack the local code that came with the job; `key`: that of an archive without files."""
    code = Path(place).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(code), mode="r:gz") as tar:
        names = tar.getnames()
    install(code, names[0].partition("/")[0].removeprefix("local-") if names else key)


if __name__ == "__main__":
    unpack(*sys.argv[1:])
