"""Put together what all processes of a run noted, and print the branch coverage; `scripts/test --all` runs it."""

from __future__ import annotations

import sys
from pathlib import Path

from coverage import Coverage, CoverageData
from coverage.exceptions import DataError

TOP = Path(__file__).resolve().parent.parent
REMOTE = TOP / "htcdaskgateway" / "remote"


def place(path: str) -> str:
    """Return the path in the checkout of a file that a worker had a copy of."""
    here = REMOTE / Path(path).name
    return str(here) if here.is_file() else path


def main() -> None:
    """Combine, and print a line for each file that has something left."""
    parts = sorted(TOP.glob(".coverage.*"))
    if not parts:
        sys.exit("no process has noted anything: COVERAGE_TOP and COVERAGE_PROCESS_START have to be set")
    total = CoverageData(str(TOP / ".coverage"))
    for path in parts:
        part = CoverageData(str(path))
        try:
            part.read()
            total.update(part, map_path=place)
        except DataError as error:  # of a process that was killed while it wrote
            print(f"not counted: {error}")
        path.unlink()
    total.write()
    report = Coverage(data_file=str(TOP / ".coverage"), config_file=str(TOP / "pyproject.toml"))
    report.load()
    report.report(file=sys.stdout)


if __name__ == "__main__":
    main()
