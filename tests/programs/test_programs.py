"""Programs that others wrote work here as on Dask's own clusters: the examples of docs/programs.md are run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "programs.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S))
BEGINNING = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]

Run = Callable[..., dict[str, Any]]


def code(text: str) -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    return str(block)


@pytest.fixture(scope="module")
def begun(system: Any) -> Iterator[dict[str, Any]]:
    """The names that the page begins with."""
    with system.gateway() as gateway:
        scope: dict[str, Any] = {"gateway": gateway}
        try:
            exec(compile(code(BEGINNING), str(PAGE), "exec"), scope)
            scope["client"].wait_for_workers(2, timeout=120)
            yield scope
        finally:
            if "client" in scope:
                scope["client"].close()
            if "cluster" in scope:
                scope["cluster"].shutdown()


@pytest.fixture
def run(begun: dict[str, Any]) -> Run:
    """Run a section's example, with words changed, and return its names."""

    def example(section: str, changes: dict[str, str] | None = None) -> dict[str, Any]:
        source = code(SECTIONS[section])
        for there, here in (changes or {}).items():
            assert there in source
            source = source.replace(there, here)
        # As a notebook's names, so that what the example defines travels by value.
        scope = {**begun, "__name__": "__main__"}
        exec(compile(source, str(PAGE), "exec"), scope)
        return scope

    return example


def test_scikit_learn_by_joblib(run: Run) -> None:
    search = run("scikit-learn, by joblib")["search"]
    assert search.best_score_ > 0.9
    assert len(search.cv_results_["params"]) == 6


def test_xgboost(run: Run) -> None:
    assert run("XGBoost")["right"] > 0.9


def test_merge_of_dataframes_by_p2p(run: Run) -> None:
    merged = run("A merge of dataframes")["merged"]
    assert sorted(merged["key"]) == list(range(0, 200, 2))


def test_xarray(run: Run) -> None:
    mean = run("xarray")["mean"]
    assert mean.shape == (12, 10)
    assert float(mean[0, 0]) == (0 + 120) / 2


def test_prefect_makes_a_cluster_of_its_own_and_adapts_it(
    run: Run, begun: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):  # its server, ended again
        assert run("Prefect")["total"] == 0 + 1 + 4 + 9
    assert [report.name for report in begun["gateway"].list_clusters()] == [begun["cluster"].name]


def test_coffea(run: Run, tmp_path: Path) -> None:
    ak, uproot = pytest.importorskip("awkward"), pytest.importorskip("uproot")
    path = tmp_path / "events.root"
    with uproot.recreate(path) as file:
        file["Events"] = {"jet_pt": ak.Array([[10.0 * i] * (i % 3) for i in range(300)])}
    found = run("coffea", {"events.root": str(path)})["found"]
    found = found[0] if isinstance(found, tuple) else found
    assert found["events"] == 300
    assert found["jets"] == 300


def test_every_section_is_run() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    assert [section for section in SECTIONS if f'run("{section}"' not in tests] == []
