"""The user's own code: editable installs, modules beside the notebook, and what is too much."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import py_compile
import subprocess
import sys

import pytest

from htcdaskgateway.errors import ConfigError
from htcdaskgateway.packages import packing

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "3.2.1"
"""
IMPORTED = """
import importlib.metadata, json, in_src, flat
print(json.dumps([in_src.VALUE, flat.VALUE, flat.__file__, importlib.metadata.version("flat")]))
"""


@pytest.fixture
def edited(tmp_path, environment, monkeypatch):
    """An environment with two projects that are installed to be edited, one with its source in ``src``."""
    for name in ("setuptools", "pip"):
        if importlib.util.find_spec(name) is None:  # not imported: in a process that has distutils, it fails
            pytest.skip(f"editable installs are made with {name}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = environment(tmp_path)
    (made.site / "tests.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")))
    for name, place in {"in_src": "src/in_src", "flat": "flat"}.items():
        project = tmp_path / f"project-{name}"
        (project / place).mkdir(parents=True)
        (project / place / "__init__.py").write_text("VALUE = 'before'\n")
        (project / "pyproject.toml").write_text(PROJECT.format(name=name))
        pip = [sys.executable, "-m", "pip", "--python", made.path / "bin" / "python", "install", "-qq", "--no-deps"]
        subprocess.run(
            [*pip, "--no-index", "--no-build-isolation", "-e", project],
            check=True,
            timeout=120,
            capture_output=True,
        )
    (made.site / "tests.pth").unlink()
    return made


@pytest.fixture
def node(make_node, tmp_path):
    return make_node(tmp_path)


@pytest.mark.long
def test_editable_installs_are_sent_as_they_are_now_and_an_edit_sends_no_package_again(edited, node, tmp_path):
    before = edited.pack()
    code, out, err = node.run(before, code=IMPORTED)
    assert code == 0, err
    in_src, flat, file, version = json.loads(out)
    assert (in_src, flat, version) == ("before", "before", "3.2.1")
    assert "/local/flat/" in file
    for place in ("project-in_src/src/in_src", "project-flat/flat"):
        (tmp_path / place / "__init__.py").write_text("VALUE = 'after'\n")
    after = edited.pack()
    assert (after.key, after.base) == (before.key, before.base)
    assert after.local != before.local
    code, out, err = node.run(after, code=IMPORTED, base=False)
    assert json.loads(out)[:2] == ["after", "after"], err


NAMES = """
import json
from htcdaskgateway.packages.environment import Environment
from htcdaskgateway.packages.local_code import LocalCode
print(json.dumps([file.name for file in LocalCode(Environment.of("notebook")).files()]))
"""


def test_modules_beside_the_notebook_and_of_pythonpath_are_sent_and_data_and_tests_beside_them_are_not(
    desk, tmp_path
):
    for name in ("pack/__init__.py", "pack/sub/deep.py", "pack/table.csv", "space/inner.py", "tests/test_it.py"):
        place = desk.directory / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("")
    for name in ("data/events.csv", ".hidden/secret.py", "big.csv", "notebook.ipynb", "pack/__pycache__/x.pyc"):
        place = desk.directory / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("")
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "by_path.py").write_text("")
    (tmp_path / "named" / "beside.py").write_text("another of that name")
    names = desk.run(NAMES, PYTHONPATH=f"{desk.environment['PYTHONPATH']}:{tmp_path / 'named'}")
    sent = {name for name in names if not name.startswith(("htcdaskgateway", "scripts", "templates"))}
    expected = {"beside.py", "program.py", "by_path.py", "pack/__init__.py", "pack/sub/deep.py", "pack/table.csv"}
    assert expected | {"space/inner.py"} <= sent
    assert not [name for name in sent if name.startswith(("tests", "data", ".")) or "__pycache__" in name]
    assert not sent & {"big.csv", "notebook.ipynb"}
    assert len(names) == len(set(names))


def test_too_much_beside_the_notebook_is_refused_and_the_largest_are_named(tmp_path, environment, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = environment(tmp_path)
    project = tmp_path / "project"
    (project / "much").mkdir(parents=True)
    (project / "much" / "__init__.py").write_text("")
    for name, size in {"small": 1, "middle": 20, "large": 40}.items():
        with (project / "much" / f"{name}.bin").open("wb") as file:
            file.truncate(size * 10**6)
    info = made.site / "much-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: much\nVersion: 1\n")
    (info / "direct_url.json").write_text(json.dumps({"url": "file://", "dir_info": {"editable": True}}))
    (info / "RECORD").write_text("much.pth,,\nmuch-1.dist-info/METADATA,,\n")
    (made.site / "much.pth").write_text(f"{project}\n")
    with pytest.raises(ConfigError) as caught:
        packing.pack(str(made.path))
    said = str(caught.value)
    assert "the local code has 61 MB, and at most 50 MB" in said
    assert said.index("large.bin (40.0 MB)") < said.index("middle.bin (20.0 MB)")


@pytest.mark.long
def test_a_file_that_was_edited_by_hand_in_site_packages_counts_and_compiled_modules_do_not(
    tmp_path, environment, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = environment(tmp_path)
    before = made.pack()
    py_compile.compile(str(made.site / "pack_me" / "__init__.py"), doraise=True)
    assert made.pack().key == before.key
    (made.site / "pack_me" / "__init__.py").write_text("VALUE = 'by hand'\n")
    assert made.pack().key != before.key
    (made.site / "pack_me" / "__init__.py").write_text("VALUE = 'first'\n")
    assert made.pack().key == before.key


@pytest.mark.long
def test_a_second_look_reads_no_file_again(tmp_path, environment, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = environment(tmp_path)
    made.pack()
    opened = []
    monkeypatch.setattr("htcdaskgateway.packages.index._SETTLED_NS", 0)
    made.pack()  # what was new at the first look is settled now
    monkeypatch.setattr("htcdaskgateway.packages.index._read", lambda path: opened.append(path))
    made.pack()
    assert opened == []


@pytest.mark.long
def test_packing_shows_how_far_it_is(tmp_path, environment, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shown = []

    @contextlib.contextmanager
    def progress(title, total):
        yield lambda done, note: shown.append((title, done, total, note))

    monkeypatch.setattr(packing, "progress", progress)
    made = environment(tmp_path)
    made.pack()
    titles, done, totals, notes = zip(*shown, strict=True)
    assert (set(titles), set(notes), len(set(totals))) == ({"packing"}, {"MiB"}, 1)
    assert list(done) == sorted(done)
    assert done[-1] == totals[0]
    shown.clear()
    made.pack()
    assert shown == []
