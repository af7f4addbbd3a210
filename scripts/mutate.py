"""Change the package in many small ways, one at a time, and tell which changes no test notices.

``tox -e mutation -- --sample 100`` takes 100 of them by chance, the same for the same ``--seed``. First all tests
run once, to know which of them run which line; then each change meets those that run its line, the quickest first.
The files are changed in place and put back, so the checkout has to be committed.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from coverage import CoverageData

TOP = Path(__file__).resolve().parent.parent
PACKAGE = TOP / "htcdaskgateway"
# What decides over jobs, files, commands and credentials, wherever in the package it lies.
TARGETS = [
    *("fleet/*.py", "worker/staging.py", "condor/*.py", "remote/worker_start.py", "remote/worker_preload.py"),
    "setup_condor/*.py",
]
TEMPLATES = ["worker.sub.j2", "worker.sh.j2"]
# Processes of their own run these lines, so that it is not known which test does.
_JOB = ["tests/test_rendered.py", "tests/sites/test_dry_run.py", "tests/test_slot.py", "tests/test_worker_life.py"]
BY_NAME = {
    "worker_start.py": _JOB[2:],
    "worker_preload.py": _JOB[2:],
    "worker.sub.j2": _JOB,
    "worker.sh.j2": _JOB,
}
TESTS_A_CHANGE = 12
LIMIT = 300.0
SWAPS: dict[type[ast.AST], str] = {
    **{ast.Eq: "!=", ast.NotEq: "==", ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"},
    **{ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in", ast.And: "or", ast.Or: "and"},
    **{ast.Add: "-", ast.Sub: "+", ast.Mult: "//", ast.FloorDiv: "*"},
}
WORDS = {"&&": "||", "||": "&&", "=?=": "=!=", "=!=": "=?=", ">": "<=", "true": "false", "false": "true"}


class Change(NamedTuple):
    """One change: a file, a line, and what stands in the file's place."""

    path: Path
    line: int
    what: str
    text: str


def changes(path: Path) -> Iterator[Change]:
    """Yield every change of a file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from _changes_of_words(path, source)
        return
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    data = source.encode()

    def change(node: ast.expr | ast.stmt, new: str) -> Change:
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        text = (data[:begin] + new.encode() + data[end:]).decode()
        return Change(path, node.lineno, f"{data[begin:end].decode()!r} -> {new!r}", text)

    def code(node: ast.AST) -> str:
        return f"({ast.unparse(node)})"

    tree = ast.parse(source)
    # Before Python 3.12 nobody knows where in its line a part of an f-string stands.
    unknown = {part for text in ast.walk(tree) if isinstance(text, ast.JoinedStr) for part in ast.walk(text)}
    for node in ast.walk(tree):
        if node in unknown:
            continue
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
            yield change(node, f"({code(node.left)} {SWAPS[type(node.ops[0])]} {code(node.comparators[0])})")
        elif isinstance(node, ast.BoolOp):
            yield change(node, f"({f' {SWAPS[type(node.op)]} '.join(map(code, node.values))})")
        elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS and not isinstance(node.left, ast.Constant):
            yield change(node, f"({code(node.left)} {SWAPS[type(node.op)]} {code(node.right)})")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield change(node, code(node.operand))
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield change(node, str(not node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            yield change(node, repr(node.value + 1))
        elif isinstance(node, (ast.If, ast.While)) and not isinstance(
            node.test, (ast.Compare, ast.BoolOp, ast.UnaryOp)
        ):
            yield change(node.test, f"(not {code(node.test)})")
        elif isinstance(node, ast.Return) and node.value and not isinstance(node.value, ast.Constant):
            yield change(node, "return None")
        elif isinstance(node, (ast.Raise, ast.Continue, ast.Break)) or (
            isinstance(node, ast.Expr) and isinstance(node.value, (ast.Call, ast.Await))
        ):
            yield change(node, "pass")


def _changes_of_words(path: Path, source: str) -> Iterator[Change]:
    """Yield the changes of a submit description's expressions."""
    pattern = "|".join(map(re.escape, WORDS)) + r"|\b\d+\b"
    for found in re.finditer(pattern, source):
        number = source.count("\n", 0, found.start()) + 1
        if not source.splitlines()[number - 1].lstrip().startswith(("#", "{")):
            new = WORDS.get(found[0]) or str(int(found[0]) + 1)
            text = source[: found.start()] + new + source[found.end() :]
            yield Change(path, number, f"{found[0]} -> {new}", text)


def pytest(*arguments: str, limit: float, **environment: str) -> tuple[int, str]:
    """Run the tests; a run that does not end is one that failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", *arguments]
    try:
        done = subprocess.run(
            command, cwd=TOP, env={**os.environ, **environment}, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        # Its jobs are in the kept pool, and have nobody any more.
        stop = [sys.executable, "-m", "htcdaskgateway.local", "stop"]
        subprocess.run(stop, cwd=TOP, check=False, timeout=60)
        return 1, "it does not end"
    return done.returncode, done.stdout


class Tests:
    """Which tests run a line, and how long each takes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._seconds = options.seconds
        paths = options.tests or ([] if options.again else ["tests"])
        if not options.again:
            for old in TOP.glob(".coverage*"):
                old.unlink()
        if paths:
            which = [] if options.long else ["-m", "not long"]
            self._run([*which, *paths], TOP / f".coverage-times-{time.time():.0f}.xml", options.processes)
        cases: list[ET.Element] = []
        for results in sorted(TOP.glob(".coverage-times-*.xml")):
            cases += ET.parse(results).iter("testcase")  # noqa: S314
        self._times = {
            case.get("classname", "").rpartition(".")[2] + "::" + case.get("name", ""): float(case.get("time", 0))
            for case in cases
        }
        self._data = CoverageData(str(TOP / ".coverage"))
        self._data.read()

    def _run(self, which: list[str], results: Path, processes: str) -> None:
        environment = {"COVERAGE_TOP": str(TOP), "COVERAGE_PROCESS_START": str(TOP / "pyproject.toml")}
        environment["COVERAGE_CONTEXTS"] = "1"  # tests/conftest.py names the test that runs
        code, said = pytest(
            *("-n", processes, "--dist", "loadgroup", f"--junitxml={results}", *which),
            limit=3600,
            **environment,
        )
        if code:
            sys.exit(f"the tests fail without any change:\n{said[-3000:]}")
        subprocess.run([sys.executable, str(TOP / "scripts" / "coverage_report.py")], check=True, timeout=300)

    def of(self, change: Change) -> list[str]:
        """Return the tests that a change has to get past."""
        lines = self._data.contexts_by_lineno(str(change.path))
        # What runs at the import belongs to no test, and concerns all of the module's.
        found = list(filter(None, lines.get(change.line, []))) or {
            test for tests in lines.values() for test in tests
        }
        known: list[str] = []
        seconds = 0.0
        for test in sorted(filter(None, found), key=self._time):
            seconds += self._time(test)
            if len(known) < TESTS_A_CHANGE or seconds <= self._seconds:
                known.append(test)
        for name, tests in BY_NAME.items():
            if name == change.path.name:
                return known + tests
        return known

    def _time(self, test: str) -> float:
        path, _, name = test.partition("::")
        return self._times.get(f"{Path(path).stem}::{name}", 60.0)


def where(change: Change) -> str:
    """Return the line that names a change."""
    return f"{change.path.relative_to(TOP)}:{change.line}: {change.what}"


def main() -> None:
    """Make the changes, and list those that no test notices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="how many changes; all by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="print the changes and make none")
    parser.add_argument(
        "--again",
        action="store_true",
        help="the tests have run once already, in this checkout; only --tests run again",
    )
    parser.add_argument("--processes", default="4", help="how many run the tests the first time")
    parser.add_argument("--these", type=Path, help="a file with lines of --list: these changes only")
    parser.add_argument("--long", action="store_true", help="with the tests that are marked as long")
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        help=f"each change meets the {TESTS_A_CHANGE} quickest tests, and further ones up to so many seconds",
    )
    parser.add_argument("--part", default="1/1", help="2/3: the second third, for several machines")
    parser.add_argument("--tests", action="append", help="look at these tests only, such as tests/test_staging.py")
    parser.add_argument("only", nargs="*", help="parts of paths, such as staging")
    options = parser.parse_args()
    paths = [path for pattern in TARGETS for path in sorted(PACKAGE.glob(pattern))]
    paths += [TOP / "templates" / name for name in TEMPLATES]
    wanted = [
        path
        for path in dict.fromkeys(paths)
        if not options.only or any(o in str(path.relative_to(TOP)) for o in options.only)
    ]
    every = [change for path in wanted for change in changes(path)]
    chosen = every
    if options.sample and options.sample < len(every):
        chosen = sorted(random.Random(options.seed).sample(every, options.sample))  # noqa: S311
    if options.these:
        asked = options.these.read_text(encoding="utf-8").splitlines()
        chosen = [change for change in every if any(where(change) in line for line in asked)]
    part, parts = map(int, options.part.split("/"))
    chosen = chosen[part - 1 :: parts]
    print(f"{len(chosen)} of {len(every)} changes in {len(wanted)} files", flush=True)
    if options.list:
        for change in chosen:
            print(where(change))
        return
    status = ["git", "status", "--porcelain", "--", *map(str, wanted)]
    if subprocess.run(status, cwd=TOP, capture_output=True, check=True, timeout=60).stdout:
        sys.exit("commit first: the files are changed in place")
    tests, unnoticed = Tests(options), []
    code, said = pytest("--keep-pool", "tests/test_scaling.py", "-k", "main_job", limit=LIMIT)
    if code:  # each change would count as noticed
        sys.exit(f"a pool that stays up is of no use here:\n{said[-3000:]}")
    for number, change in enumerate(chosen, 1):
        against = tests.of(change)
        before, began = change.path.read_bytes(), time.monotonic()
        try:
            change.path.write_text(change.text, encoding="utf-8")
            code = pytest("-x", "--keep-pool", *against, limit=LIMIT)[0] if against else 0
        finally:
            change.path.write_bytes(before)
        if code == 0:
            unnoticed.append(where(change) if against else f"{where(change)} (no test runs this line)")
        verdict = "noticed" if code else "NOT NOTICED"
        print(
            f"{number}/{len(chosen)} {verdict} after {time.monotonic() - began:.0f} s: {where(change)}", flush=True
        )
    print(f"\n{len(chosen) - len(unnoticed)} of {len(chosen)} changes were noticed; not:", *unnoticed, sep="\n  ")


if __name__ == "__main__":
    main()
