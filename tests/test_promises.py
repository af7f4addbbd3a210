"""Every test that docs/promises.md names exists, and every test of faults and security is named there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TOP = Path(__file__).parent.parent
PAGE = TOP / "docs" / "promises.md"


def defined_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def named() -> set[tuple[str, str]]:
    return set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8")))


def test_every_test_that_keeps_a_promise_exists() -> None:
    assert len(named()) > 30
    assert not {(file, test) for file, test in named() if test not in defined_in(TOP / file)}


def test_every_row_of_promises_names_a_test() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for row in rows:
        assert "`tests/" in row or "kept by" in row, row


def test_every_test_of_a_fault_keeps_a_promise() -> None:
    existing = {
        (f"tests/faults/{p.name}", test) for p in (TOP / "tests/faults").glob("test_*.py") for test in defined_in(p)
    }
    assert existing <= named()
