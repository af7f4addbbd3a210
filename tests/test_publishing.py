"""What the package says of itself on PyPI, Read the Docs and conda-forge, and where it is cited, agrees."""

from __future__ import annotations

import re
from importlib.metadata import entry_points, metadata, requires
from pathlib import Path

import yaml
from packaging.requirements import Requirement

import htcdaskgateway

TOP = Path(__file__).parent.parent
NAME = "ncsa-htcdaskgateway"
REPOSITORY = "https://github.com/ncsa/htcdaskgateway"


def read(name: str) -> dict[str, object]:
    return yaml.safe_load((TOP / name).read_text(encoding="utf-8"))


def recipe() -> dict[str, dict[str, object]]:
    return read("packaging/conda-forge/recipe.yaml")


def test_the_version_is_the_same_everywhere() -> None:
    assert read("CITATION.cff")["version"] == htcdaskgateway.__version__
    assert recipe()["context"]["version"] == htcdaskgateway.__version__


def test_conda_installs_what_pip_does() -> None:
    wanted = {}
    for text in requires(NAME) or []:
        requirement = Requirement(text)
        if requirement.marker is None:
            wanted[requirement.name] = str(requirement.specifier)
    found = dict(re.fullmatch(r"(\S+) ?(.*)", text).groups() for text in recipe()["requirements"]["run"])
    assert found.pop("__unix") == ""
    assert found.pop("python") == ">=${{ python_min }}"
    assert metadata(NAME)["Requires-Python"] == f">={recipe()['context']['python_min']}"
    found["dask"] = found.pop("dask-core")  # conda's dask is all of Dask and more
    assert found == wanted


def test_conda_has_the_same_commands() -> None:
    scripts = {
        f"{script.name} = {script.value}"
        for script in entry_points(group="console_scripts")
        if script.dist is not None and script.dist.name == NAME
    }
    assert set(recipe()["build"]["python"]["entry_points"]) == scripts


def test_pypi_links_to_the_project() -> None:
    urls = dict(line.split(", ", 1) for line in metadata(NAME).get_all("Project-URL"))
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} <= urls.keys()
    assert urls["Source"] == REPOSITORY == read("CITATION.cff")["repository-code"]
    assert recipe()["about"]["documentation"] == urls["Documentation"]


def test_read_the_docs_builds_what_the_lint_builds() -> None:
    settings = read(".readthedocs.yaml")
    assert (TOP / settings["sphinx"]["configuration"]).is_file()
    assert settings["sphinx"]["fail_on_warning"] is True
    (install,) = settings["python"]["install"]
    assert install["extra_requirements"] == ["docs"]
    assert "docs" in metadata(NAME).get_all("Provides-Extra")
