"""The measurement of workers with packages that are sent: packing, the first start on a node, later ones, edits."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config

from htcdaskgateway.packages import keeping, packing

from .pairs import Fact, Row, pairs, timed
from .world import empty_queue, joined, settled, until, wait_joined

WORKERS = 4
PATIENCE = 300
_SITE = Path(next(path for path in sys.path if path.endswith("site-packages")))


class Environment:
    """An environment of about `size` MB: the benchmark's own packages, and copies of NumPy to fill it up.

    One module is installed to be edited.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self.path = directory / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.path], check=True, timeout=PATIENCE)
        self.site = next(self.path.glob("lib/python3*/site-packages"))
        shutil.copytree(_SITE, self.site, symlinks=True, dirs_exist_ok=True)
        for path in self.site.glob("__editable__*"):
            path.unlink()
        # This checkout, which is not what is measured.
        for path in self.site.glob("ncsa_htcdaskgateway*"):
            shutil.rmtree(path)
        number = 0
        while self.size() < size:
            number += 1
            shutil.copytree(_SITE / "numpy", self.site / f"numpy_{number}")
        self.edited = directory / "project" / "edited.py"
        self.edited.parent.mkdir()
        self.edited.write_text("VALUE = 0\n")
        info = self.site / "edited-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Name: edited\nVersion: 1\n")
        (info / "direct_url.json").write_text(json.dumps({"url": "file://", "dir_info": {"editable": True}}))
        (info / "RECORD").write_text("edited.pth,,\nedited-1.dist-info/METADATA,,\n")
        (self.site / "edited.pth").write_text(f"{self.edited.parent}\n")

    def size(self) -> float:
        """Return how large it is, in MB, without what its Python has compiled."""
        found = (path for path in self.path.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
        return sum(path.lstat().st_size for path in found) / 1e6

    def pack(self) -> packing.Packed:
        """Pack it, or see that nothing has changed."""
        return packing.pack(str(self.path))

    def look(self) -> None:
        """Ask for the stat of each file, which is the least that there is to do."""
        subprocess.run(["/usr/bin/du", "-s", self.path], check=True, capture_output=True, timeout=PATIENCE)

    def tar(self) -> None:
        """Make one archive of it by hand, as fast as tar and gzip can."""
        gzip, target = "gzip -1", self.path.with_suffix(".tar.gz")
        command = ["tar", "-I", gzip, "--exclude=__pycache__", "-cf", target, "."]
        subprocess.run(command, cwd=self.path, check=True, timeout=PATIENCE)


def packages(gateway: Any, directory: Path, quick: bool) -> Iterator[Row | Fact]:
    """Send an environment, start workers with it, and bring an edit to them."""
    node = directory / "node"
    node.mkdir()
    node.chmod(0o1777)
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(directory / "packed")
    configured = {"htcdaskgateway.packages.node-directories": [str(node)]}
    try:
        with dask.config.set(configured):
            environment = Environment(directory, 200 if quick else 600)
            yield Fact("the environment", environment.size(), "MB")
            yield from _packing(environment, quick)
            yield from _workers(gateway, environment, node, quick)
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def _packing(environment: Environment, quick: bool) -> Iterator[Row | Fact]:
    def first() -> float:
        shutil.rmtree(keeping.cache())
        return timed(environment.pack)

    row = pairs(
        "pack an environment", "tar, gzip -1", first, lambda: timed(environment.tar), rounds=1 if quick else 5
    )
    yield row
    yield Fact("pack an environment", statistics.median(row.ours), "s", goal=15)
    environment.pack()
    row = pairs(
        "see that nothing has changed",
        "du",
        lambda: timed(environment.pack),
        lambda: timed(environment.look),
        rounds=5,
    )
    yield row
    yield Fact("see that nothing has changed", statistics.median(row.ours), "s", goal=0.5)
    more = environment.site / "more.py"
    text = "".join(f"{secrets.token_hex(32)}\n" for _ in range(20000))
    before = environment.pack()
    more.write_text(text)
    after = environment.pack()
    sent = sum(Path(path).stat().st_size for name, path in after.archives.items() if name.startswith("delta"))
    beside = max(0, sent - len(text))
    yield Fact("one package more: sent beside its own files", beside / 1e6, "MB", goal=1)
    whole = sum(Path(path).stat().st_size for path in before.archives.values())
    yield Row("one package more", "the environment anew", "MB", [sent / 1e6], [whole / 1e6])
    more.unlink()


def _workers(gateway: Any, environment: Environment, node: Path, quick: bool) -> Iterator[Row | Fact]:
    asked = {"cpus": 1, "memory": "500MB"}
    ours = gateway.new_cluster(packages=str(environment.path), **asked)
    plain = gateway.new_cluster(python=str(environment.path / "bin" / "python"), **asked)
    with ours.get_client() as client, plain.get_client() as other:
        said: list[str] = []

        # Within a function, for the workers do not have this module.
        def what_was_said() -> str:
            from pathlib import Path

            return Path("_condor_stderr").read_text()

        def started(cluster: Any, of: Any) -> float:
            seconds = timed(lambda: (cluster.scale(WORKERS), wait_joined(of, WORKERS)))
            said[:] = of.run(what_was_said).values()
            left(cluster, of)
            return seconds

        def left(cluster: Any, of: Any) -> None:
            settled(cluster)
            empty_queue()
            until(lambda: not joined(of), "the workers' leaving")

        def anew() -> float:
            # Removed at the end only: a file system is slow in making many files where as many have just gone.
            for path in node.iterdir():
                path.rename(node.with_name(f"gone-{secrets.token_hex(4)}"))
            (keeping.cache() / "known" / "nodes.json").unlink(missing_ok=True)
            ours.fleet.staging.refresh()
            return started(ours, client)

        # Nobody has read the files yet, which is nobody's merit.
        started(plain, other)
        row = pairs(
            f"{WORKERS} workers on one node that has nothing",
            "the environment on a shared file system",
            anew,
            lambda: started(plain, other),
            rounds=1 if quick else 5,
        )
        yield row
        yield Fact(f"{WORKERS} workers on one node that has nothing", statistics.median(row.ours), "s", goal=12)
        anew()
        yield Fact("… and how many unpacked", sum("packages: unpacked in" in text for text in said), "", goal=1)
        yield pairs(
            f"{WORKERS} workers on one node that has the packages",
            "the environment on a shared file system",
            lambda: started(ours, client),
            lambda: started(plain, other),
            rounds=3 if quick else 10,
            goal=1.1,
        )
        yield from _edits(ours, client, environment, quick)
    ours.shutdown()
    plain.shutdown()


def _edits(cluster: Any, client: Any, environment: Environment, quick: bool) -> Iterator[Row | Fact]:
    cluster.scale(WORKERS)
    wait_joined(client, WORKERS)
    kept = client.map(pow, range(100), [2] * 100)
    client.gather(kept)
    sent = []

    def edited() -> None:
        environment.edited.write_text(f"VALUE = {secrets.randbelow(10**9)}\n")

    def synced() -> float:
        edited()
        seconds = timed(lambda: sent.append(cluster.sync_packages()))
        if sent[-1].workers != WORKERS or client.gather(kept)[9] != 81:
            raise RuntimeError(f"the edit did not reach all workers, or results were lost: {sent[-1]}")
        return seconds

    def scaled() -> float:
        edited()
        return timed(lambda: (cluster.scale(0), cluster.scale(WORKERS), wait_joined(client, WORKERS)))

    rounds = 2 if quick else 5
    ours = [synced() for _ in range(rounds)]
    del kept[:]
    row = Row(
        f"an edit, {WORKERS} running workers", "scale(0), scale(n)", "s", ours, [scaled() for _ in range(rounds)]
    )
    yield row
    yield Fact(f"an edit, {WORKERS} running workers", statistics.median(row.ours), "s", goal=2)
    yield Fact("… and what is sent to each", sent[-1].sent / 1000, "kB", goal=10)
