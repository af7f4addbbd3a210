"""Errors and warnings in a real kernel: the words, and no frames of ours."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from htcdaskgateway.local import LocalSystem


def outputs(*cells: str, environment: dict[str, str] | None = None) -> list[Any]:
    """Run cells in a kernel, and return what each shows."""
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(book, timeout=120, allow_errors=True, kernel_name="python3")
    client.execute(env={**os.environ, **(environment or {})})
    return [cell.outputs for cell in book.cells]


@pytest.fixture(autouse=True)
def _kernel(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}")


def test_an_error_shows_its_words_and_the_whole_is_one_call_away() -> None:
    short, whole = outputs(
        "from htcdaskgateway.errors import ConfigError\n\n"
        "def deep():\n    raise ConfigError('cpus=-1 is no number')\n\ndeep()",
        "%tb Plain",
    )
    (error,) = short
    told = "\n".join(error.traceback)
    assert told.splitlines()[0] == "ConfigError: cpus=-1 is no number"
    assert "%tb Plain" in told
    assert "deep" not in told
    (error,) = whole
    assert "deep" in "\n".join(error.traceback)


@pytest.mark.long
def test_a_warning_shows_no_line_of_ours() -> None:
    (shown,) = outputs(
        "from htcdaskgateway.display.warn import warn\nwarn('jobs are on hold', UserWarning)",
    )
    assert "".join(output.text for output in shown) == "htcdaskgateway:1: UserWarning: jobs are on hold\n"


@pytest.mark.long
def test_a_local_system_that_ends_shuts_its_clusters_down_first() -> None:
    with LocalSystem() as system:
        from htcdaskgateway import HTCGateway

        with HTCGateway() as gateway:
            cluster = gateway.new_cluster()
            cluster.scale(1)
            cluster.wait_for_workers(1, timeout=120)
            assert system.pool is not None
            cluster.get_client()
    assert cluster.status == "closed"
    assert cluster.close() is None
