"""The words stay true: what the README and the pages name is there, and what they show can be read by a machine."""

from __future__ import annotations

import ast
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

import htcdaskgateway
from htcdaskgateway import HTCGateway, HTCGatewayCluster, WorkerSpec, errors, templating
from htcdaskgateway.spec import KEYWORDS
from htcdaskgateway.staging import Staging

TOP = Path(__file__).parent.parent
README = TOP / "README.md"
PAGES = [README, TOP / "CHANGELOG.md", *sorted((TOP / "docs").glob("*.md"))]
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


def test_the_configuration_page_shows_every_key_with_its_comment() -> None:
    page = (TOP / "docs" / "configuration.md").read_text(encoding="utf-8")
    included = re.search(r"```{literalinclude} (\S+)", page)
    assert included
    assert (TOP / "docs" / included[1]).resolve() == DEFAULTS
    lines = DEFAULTS.read_text(encoding="utf-8").splitlines()
    for key in KEYS:
        line = next(line for line in lines if re.match(rf" +{key.rpartition('.')[2]}:", line))
        assert " # " in line, f"{key} has no comment, which is its documentation"


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


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for target in re.findall(r"{doc}`(?:[^`<]*<)?([^`>]+)", text):
        assert (page.parent / f"{target}.md").exists(), f"{page.name}: {target}"


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
@pytest.mark.timeout(120)
def test_the_script_of_the_local_system_page_runs(
    system: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = next(block for block in blocks(TOP / "docs" / "local-system.md", "python") if "__main__" in block)
    # The pool of the other tests serves here too, so that no second one is started.
    monkeypatch.setattr(
        "htcdaskgateway.local.LocalSystem.__init__.__kwdefaults__", {"pool": system.pool, "server": system.server}
    )
    exec(compile(script, "local-system.md", "exec"), {"__name__": "__main__"})
    assert "6" in capfd.readouterr().out.split()


def test_the_readme_cell_runs_with_addresses_changed_only(system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = next(block for block in blocks(README, "python") if "proxy_address=8786" in block)
    for there, here in (
        ('"https://dask.software-dev.ncsa.illinois.edu"', repr(system.address)),
        ("8786", str(system.proxy_address)),
        ('container_image="/u/bengal1/condor/PublicHealth.sif"', "container_image=None"),
    ):
        assert there in cell
        cell = cell.replace(there, here)
    monkeypatch.setenv("DASK_GATEWAY_PASSWORD", system.password)
    scope: dict[str, Any] = {}
    try:
        exec(cell, scope)
        scope["client"].wait_for_workers(2, timeout=60)
        assert scope["client"].submit(sum, [1, 2]).result(timeout=60) == 3
    finally:
        if "client" in scope:
            scope["client"].close()
        if "cluster" in scope:
            scope["cluster"].shutdown()
        if "gateway" in scope:
            scope["gateway"].close()
