"""Run the measurements, print the table, write the figures."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import dask.config

from htcdaskgateway.local import LocalSystem, PersonalPool

from .limits import LIMITS
from .measures import MEASURES
from .pairs import HEADER
from .relay import ALONE, CORES
from .report import FIGURES, markdown, write
from .world import tool


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two to three minutes: fewer rounds, smaller numbers")
    parser.add_argument("--limits", action="store_true", help="measure where the next limits are instead")
    every = [*MEASURES, *LIMITS, *ALONE]
    parser.add_argument(
        "--only",
        metavar="NAME,...",
        type=lambda text: text.split(","),
        action="extend",
        help=f"just these measurements: {', '.join(every)}",
    )
    parser.add_argument(
        "--output", type=Path, help=f"where to write the figures (unless --quick: {FIGURES.name} in docs/)"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.only or ()) - set(every)
    if unknown:
        parser.error(f"there is no measurement {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    if arguments.output and not arguments.output.parent.is_dir():
        parser.error(f"there is no directory {arguments.output.parent} to write to")
    alone = set(arguments.only or ()) & set(ALONE)
    if alone and len(arguments.only) > 1:
        parser.error(f"{', '.join(alone)} needs another pool than the others; measure it alone")
    output = arguments.output or (None if arguments.quick else FIGURES)
    print(markdown(HEADER), markdown(["---"] * len(HEADER)), sep="\n", flush=True)
    limits = dict.fromkeys(("MAX_JOBS_PER_OWNER", "MAX_JOBS_PER_SUBMISSION", "MAX_JOBS_SUBMITTED"), 1_000_000)
    with (
        tempfile.TemporaryDirectory(prefix="htcdaskgateway-bench-") as directory,
        LocalSystem(pool=PersonalPool(cpus=CORES if alone else 8, config=limits)) as system,
        system.gateway() as gateway,
        dask.config.set({"htcdaskgateway.condor.timeout": "600s"}),
    ):
        machine = {
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
            "python": platform.python_version(),
            "htcondor": tool("condor_version").splitlines()[0].strip("$ "),
            # With bokeh, a plain `dask worker` loads its dashboard.
            "versions": versions("ncsa-htcdaskgateway", "dask-gateway", "distributed", "bokeh"),
            "commit": commit(),
            "date": time.strftime("%Y-%m-%d"),
            "quick": arguments.quick,
        }
        for name, measure in {**MEASURES, **LIMITS, **ALONE}.items():
            if name not in (arguments.only or (LIMITS if arguments.limits else MEASURES)):
                continue
            rows, load = [], os.getloadavg()[0]
            for row in measure(gateway, Path(directory), arguments.quick):
                rows.append(row.as_dict())
                print(markdown(row.cells()), flush=True)
                if output:
                    # Row by row, so that a run that is interrupted leaves what it has; with the machine's load,
                    # since what others do meanwhile is a part of the figures.
                    write(output, name, {**machine, "load": [load, os.getloadavg()[0]], "results": rows})


def versions(*names: str) -> dict[str, str | None]:
    """Return the versions of these packages; None for one that is not installed."""
    found: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> str:
    """Return the commit that was measured."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()


main()
