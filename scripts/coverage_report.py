"""Put together what all processes of a run noted, and print the branch coverage; `scripts/test --all` runs it."""

from __future__ import annotations

import sys
from pathlib import Path

from coverage import Coverage, CoverageData
from coverage.exceptions import DataError

TOP = Path(__file__).resolve().parent.parent
REMOTE = TOP / "htcdaskgateway" / "remote"
# Texts that are sent as one, by the name that they have where they run.
TOGETHER = {
    "relay (wire and scheduler)": ("wire", "scheduler"),
    "relay (wire and worker)": ("wire", "worker", "auto"),
    "worker_relay.py": ("wire", "worker", "auto"),
}


def place(path: str) -> str:
    """Return the path in the checkout of a file that a scheduler or a worker had a copy of."""
    # The name of what was taken apart stays, with nothing noted.
    here = REMOTE / ("relay/wire.py" if Path(path).name in TOGETHER else Path(path).name)
    return str(here) if here.is_file() and not Path(path).is_relative_to(TOP / "htcdaskgateway") else path


def take_apart(part: CoverageData, total: CoverageData) -> None:
    """Count what has run of several texts in one for the file of each."""
    for path in [path for path in part.measured_files() if Path(path).name in TOGETHER]:
        files = [REMOTE / "relay" / f"{name}.py" for name in TOGETHER[Path(path).name]]
        # Two empty lines are between them, and what is behind the last belongs to no file.
        owner = [(file, n) for file in files for n, _ in enumerate([*file.open(encoding="utf-8"), "", ""], 1)]
        for context in part.measured_contexts():
            part.set_query_context(context)
            arcs: dict[str, set[tuple[int, int]]] = {str(file): set() for file in files}
            for ends in part.arcs(path) or ():
                if max(map(abs, ends)) > len(owner):
                    continue
                # A negative number is the beginning or the end of what begins in that line.
                (one, before), (other, after) = (owner[abs(n) - 1] for n in ends)
                if one == other:
                    arcs[str(one)].add((before if ends[0] > 0 else -before, after if ends[1] > 0 else -after))
                else:
                    arcs[str(one)].add((before, -1))
                    arcs[str(other)].add((-1, after))
            total.set_context(context)
            total.add_arcs(arcs)
        part.set_query_contexts(None)
        part.purge_files([path])


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
            take_apart(part, total)
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
