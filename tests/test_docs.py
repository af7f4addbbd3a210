"""The words stay true: what the README and the pages name is there, and what they show can be read by a machine."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import json
import os
import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from distributed import Client

import htcdaskgateway
from htcdaskgateway import HTCGateway, HTCGatewayCluster, WorkerSpec, errors
from htcdaskgateway.condor import templating
from htcdaskgateway.worker.spec import KEYWORDS
from htcdaskgateway.worker.staging import Staging

TOP = Path(__file__).parent.parent
README = TOP / "README.md"
PAGES = [
    README,
    *(TOP / name for name in ("CHANGELOG.md", "SECURITY.md", "packaging/README.md")),
    *sorted((TOP / "docs").glob("*.md")),
    *sorted((TOP / "docs" / "_generated").glob("*.md")),
]
REPOSITORY = "https://github.com/ncsa/htcdaskgateway"
RAW = "https://raw.githubusercontent.com/ncsa/htcdaskgateway"
DEFAULTS = TOP / "htcdaskgateway" / "htcdaskgateway.yaml"
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    return [text for _, kind, text in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def keys(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return the leaves by their dotted names; an empty mapping is a leaf."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= keys(value, f"{above}{name}.") if isinstance(value, dict) and value else {above + name: value}
    return found


KEYS = keys(yaml.safe_load(DEFAULTS.read_text(encoding="utf-8"))["htcdaskgateway"])
FREE = ("worker.environment.", "worker.job-extra-directives.", "setup.condor-settings.")


by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(TOP).as_posix())


def made(path: Path) -> ModuleType:
    """Return the module of a program that makes pages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_keys_is_current_and_describes_every_key() -> None:
    keys_page = made(TOP / "docs" / "keys.py")
    page = keys_page.PAGE.read_text(encoding="utf-8")
    assert page == keys_page.rendered(), "make it anew: python docs/keys.py"
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| .+ \| (.*) \|$", page, re.M)
    assert sorted(name for name, _ in rows) == sorted(key.rpartition(".")[2] for key in KEYS)
    assert [name for name, description in rows if not description] == []


def test_the_tables_and_the_chart_of_speed_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOP / "scripts"))
    report = importlib.import_module("benchmark.report")
    measures, limits, relay = (
        importlib.import_module(f"benchmark.{name}") for name in ("measures", "limits", "relay")
    )
    assert tuple(measures.MEASURES) == report.MEASURES
    assert tuple(limits.LIMITS) == report.LIMITS
    assert tuple(relay.ALONE) == report.ALONE
    for path, text in report.rendered(json.loads(report.FIGURES.read_text(encoding="utf-8"))).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is not what benchmarks.json says"
        if path.suffix == ".svg":
            chart = ElementTree.fromstring(text)
            assert len(chart.findall(".//{*}circle")) == len(report.BARS), "a bar of the chart has no figures"


def test_every_keyword_of_a_worker_is_a_key() -> None:
    assert {name.replace("_", "-") for name in KEYWORDS} == {
        key.split(".")[1] for key in KEYS if key.startswith("worker.")
    }


@by_page
def test_configuration_in_the_pages_has_keys_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in blocks(page, "yaml"):
        for key in keys(yaml.safe_load(block).get("htcdaskgateway") or {}):
            assert key in KEYS or key.startswith(FREE), f"{page.name}: there is no htcdaskgateway.{key}"
    for name in re.findall(r"DASK_HTCDASKGATEWAY__(\w+)", text):
        key = name.lower().replace("__", ".").replace("_", "-")
        assert key in KEYS, f"{page.name}: there is no htcdaskgateway.{key}"
    for key in re.findall(r"`((?:worker|condor)\.(?!(?:sub|sh|py|log)`)[a-z-]+)`", text):
        assert key in KEYS, f"{page.name}: there is no htcdaskgateway.{key}"


@by_page
def test_python_in_the_pages_compiles_and_names_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        tree = ast.parse(textwrap.dedent(block), filename=str(page))  # a block may stand in a list
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "htcdaskgateway":
                module = __import__(str(node.module), fromlist=["*"])
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                kind = {"cluster": HTCGatewayCluster, "gateway": HTCGateway}.get(node.value.id)
                instance = {"name"}
                assert kind is None or hasattr(kind, node.attr) or node.attr in instance, ast.unparse(node)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "gateway.new_cluster":
                mine = {str(keyword.arg) for keyword in node.keywords} - {"image", "shutdown_on_close"}
                assert mine <= KEYWORDS, f"{page.name}: {mine - KEYWORDS}"


@by_page
def test_methods_in_the_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for kind, name in ((HTCGatewayCluster, "cluster"), (HTCGateway, "gateway")):
        for method in set(re.findall(rf"\b{name}\.(\w+)\(", text)):
            assert hasattr(kind, method), f"{page.name}: {name}.{method}()"


@by_page
def test_commands_in_the_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for script in set(re.findall(r"\bscripts/([a-z_-]+)\b", text)):
        assert os.access(TOP / "scripts" / script, os.X_OK), f"{page.name}: there is no scripts/{script}"
    for module in set(re.findall(r"python -m (htcdaskgateway[\w.]*)", text)):
        assert (TOP / module.replace(".", "/") / "__main__.py").is_file(), f"{page.name}: {module}"


def headings(page: Path) -> set[str]:
    """Return the fragments by which GitHub and the site know a page's headings."""
    lines = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S).splitlines()
    titles = [line.lstrip("#").strip() for line in lines if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        path, _, fragment = target.partition("#")
        if path.startswith((f"{REPOSITORY}/blob/HEAD/", f"{RAW}/HEAD/")):
            found = TOP / path.split("/HEAD/")[1]
        elif path.startswith(("http://", "https://")):
            continue
        else:
            found = page.parent / path if path else page
        assert found.exists(), f"{page.name}: {target}"
        assert not fragment or fragment in headings(found), f"{page.name}: {target}"


def test_links_of_the_readme_work_on_pypi_too() -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", README.read_text(encoding="utf-8"))
    assert len(targets) > 10
    assert [target for target in targets if not target.startswith("https://")] == []


@by_page
def test_pages_read_on_github_too(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    # Only the site has the docstrings of the reference.
    allowed = {"{eval-rst}"} if page.name == "api.md" else set()
    assert set(re.findall(r"^```({[\w-]+})", text, re.M)) <= allowed
    assert re.findall(r"{(?:doc|ref|py:\w+)}`", text) == []


def test_every_page_is_in_the_contents_once() -> None:
    docs = TOP / "docs"
    trees = re.findall(
        r"^   :caption: (.+)\n\n((?:   \S+\n)+)", (docs / "index.rst").read_text(encoding="utf-8"), re.M
    )
    assert [caption for caption, _ in trees] == ["Start", "Use", "For administrators", "Background", "Reference"]
    listed = [name for _, names in trees for name in names.split()]
    pages = [*docs.glob("*.md"), *docs.glob("*.ipynb"), *docs.glob("_generated/*.md")]
    names = [path.relative_to(docs).with_suffix("").as_posix() for path in pages if path.name != "README.md"]
    assert sorted(listed) == sorted(names)
    front = (docs / "README.md").read_text(encoding="utf-8")
    assert [name for name in names if f"]({name}." not in front] == [], "GitHub's readers have the front page alone"


def test_the_page_on_how_it_works_names_every_file_that_is_staged() -> None:
    page = (TOP / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    for name in Staging("c1", WorkerSpec.from_keywords()).rendered("gateway://localhost:8786/c1"):
        assert f"`{name}`" in page, f"{name} is not described"


def test_the_page_on_templates_names_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(templating, "render", lambda template, **values: given.update({template: values}) or "")
    Staging("c1", WorkerSpec.from_keywords(memory="1GB")).rendered("gateway://127.0.0.1:8786/c1")
    shown: dict[str, set[str]] = {"worker.sub.j2": set(), "worker.sh.j2": set()}
    for line in (TOP / "docs" / "templates.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        for end, template in ((".sub", "worker.sub.j2"), (".sh", "worker.sh.j2")):
            if len(cells) > 3 and cells[2] in ("both", f"`{end}`"):
                shown[template] |= set(re.findall(r"`(\w+)`", cells[1]))
    assert shown == {template: set(values) for template, values in given.items()}


def test_the_troubleshooting_page_names_every_error() -> None:
    page = (TOP / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    kinds = [name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")]
    assert kinds
    assert [name for name in kinds if f"`{name}`" not in page and name not in page] == []


def test_the_api_page_names_everything_public() -> None:
    page = (TOP / "docs" / "api.md").read_text(encoding="utf-8")
    public = [name for name in htcdaskgateway.__all__ if not name.startswith("_")]
    assert [name for name in public if not re.search(rf"autoclass:: {name}$", page, re.M)] == []


def test_the_changelog_has_this_version() -> None:
    assert f"\n## {htcdaskgateway.__version__}\n" in (TOP / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_first_screen_of_the_readme_has_the_two_commands() -> None:
    first = README.read_text(encoding="utf-8").splitlines()[:20]
    assert [line.split()[0] for line in first if line.startswith("scripts/")] == ["scripts/demo", "scripts/test"]


@pytest.mark.core
@pytest.mark.long
@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("docs/local-system.md", ["6\n"]),
        ("README.md", ["6\n", "Cannot get 1 worker", "/no/such/python", "What to do:", "joined"]),
    ],
)
def test_the_script_of_a_whole_system_runs(
    page: str, shown: list[str], system: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = next(block for block in blocks(TOP / page, "python") if "__main__" in block)
    # The pool of the other tests serves here too, so that no second one is started.
    monkeypatch.setattr(
        "htcdaskgateway.local.LocalSystem.__init__.__kwdefaults__", {"pool": system.pool, "server": system.server}
    )
    exec(compile(script, page, "exec"), {"__name__": "__main__"})
    printed = capfd.readouterr().out
    assert [text for text in shown if text not in printed] == []


def test_the_readmes_cells_run_with_other_numbers_only(system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [block for block in blocks(README, "python") if "LocalSystem" not in block]
    assert "cluster.shutdown()" in cells[-1]
    for there, here in (
        ('"https://dask.example.org"', repr(system.address)),
        ("8786", str(system.proxy_address)),
        ('"8GB"', '"1GB"'),  # this machine's pool has less
    ):
        assert there in cells[0]
        cells[0] = cells[0].replace(there, here)
    monkeypatch.setenv("DASK_GATEWAY_PASSWORD", system.password)
    scope: dict[str, Any] = {}
    try:
        exec(cells[0], scope)
        scope["client"].wait_for_workers(4, timeout=60)
        exec(cells[1], scope)
        exec(cells[2], scope)
        assert scope["cluster"].status == "closed"
    finally:
        for name in ("client", "cluster", "gateway"):
            if name in scope:
                scope[name].close()


@by_page
def test_workers_in_the_pages_can_be_asked_for(page: Path, bare: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(textwrap.dedent(block))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "gateway.new_cluster":
                given = {}
                for keyword in node.keywords:
                    with contextlib.suppress(ValueError):  # no literal, or an option of the server
                        given[str(keyword.arg)] = ast.literal_eval(keyword.value)
                WorkerSpec.from_keywords(**{name: value for name, value in given.items() if name in KEYWORDS})


@pytest.mark.long
def test_the_lines_for_those_who_come_from_dask_jobqueue_run(system: Any, gateway: Any) -> None:
    cell = (
        blocks(TOP / "docs" / "from-dask-jobqueue.md", "python")[0].replace('"16GiB"', '"1GiB"').replace("=4", "=1")
    )
    scope: dict[str, Any] = {}
    try:
        exec(cell, scope)
        scope["client"].wait_for_workers(2, timeout=60)
        with Client(scope["cluster"]) as own:  # as with dask-jobqueue's clusters
            assert own.submit(sum, [1, 2]).result(timeout=60) == 3
    finally:
        for name in ("client", "cluster", "gateway"):
            if name in scope:
                scope[name].close()
