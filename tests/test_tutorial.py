"""The tutorial runs from its first cell to its last, and shows what it says it shows."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "tutorial.ipynb"


def printed(notebook: Any) -> str:
    """Return what the cells show, as text."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            texts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(texts)


SHOWN = (
    "workers joined 2/2",
    "328350",
    "cannot run in this pool",
    "is held: its worker's Python is not on that machine",
    ": /opt/no-such-env/bin/python\n",
    "3 jobs in ",
    "not run long enough for a proposal",
)


@pytest.mark.long
def test_a_newcomer_gets_through_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("DASK_", "HTCDASK", "CONDOR_", "_CONDOR_")):
            monkeypatch.delenv(name)  # it starts a system of its own
    notebook = nbformat.read(NOTEBOOK, 4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, startup_timeout=180, kernel_name="python3", resources=where).execute()
    shown = printed(notebook)
    assert [text for text in SHOWN if text not in shown] == [], shown


def test_what_the_page_shows_is_what_the_tutorial_prints() -> None:
    shown = printed(nbformat.read(NOTEBOOK, 4))
    assert [text for text in SHOWN if text not in shown] == [], (
        "run it anew: jupyter execute --inplace docs/tutorial.ipynb"
    )
    assert pwd.getpwuid(os.getuid()).pw_dir not in shown, "it tells of whose machine it was run on"
