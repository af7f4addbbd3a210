"""An image of this Python is made of this machine's files, once, and has what was asked for and no more."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import threading
import zipfile
from pathlib import Path

import msgpack
import pytest

from htcdaskgateway.local import LocalSystemError, image
from htcdaskgateway.local.apptainer import Apptainer
from htcdaskgateway.local.processes import one_uid_namespace, run

LOOK = """
import importlib.metadata, importlib.util, json, msgpack, sqlite3, ssl, sys
there = [name for name in ("pytest", "dask", "msgpack", "test", "tkinter") if importlib.util.find_spec(name)]
version = importlib.metadata.version("msgpack")
print(json.dumps([sys.prefix, sys.version, version, there, msgpack.unpackb(b"\\x07")]))
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/htcdaskgateway"


@pytest.fixture
def apptainer(cache):
    """This machine's Apptainer or, in a cache that is empty, one that is unpacked for this test."""
    try:
        found = Apptainer.find_or_install()
    except LocalSystemError as error:
        pytest.skip(f"no Apptainer here: {error}")
    return found


def seen_inside(apptainer, path):
    command = [apptainer.program, "--silent", "exec", "--cleanenv", "--no-home", path, "python", "-c", LOOK]
    done = run(one_uid_namespace(command), timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wheel(directory):
    """Make a wheel of msgpack in a version that there is not."""
    path = directory / "msgpack-0.0.7-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("msgpack/__init__.py", "def unpackb(packed): return 'of the wheel'\n")
        for name, text in (
            ("METADATA", "Metadata-Version: 2.1\nName: msgpack\nVersion: 0.0.7\n"),
            ("WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("RECORD", ""),
        ):
            file.writestr(f"msgpack-0.0.7.dist-info/{name}", text)
    return path


@pytest.mark.long
def test_an_image_has_this_python_and_what_was_asked_for_in_the_version_that_was_asked_for(
    apptainer, cache, tmp_path
):
    plain = image.sandbox(["msgpack", "is-not-installed"])
    assert plain.parent == cache / "images"
    assert {path.name for path in plain.parent.iterdir()} == {plain.name, f"{plain.name}.lock"}
    prefix, version, found, there, unpacked = seen_inside(apptainer, plain)
    assert (prefix, there) == ("/usr/local", ["msgpack"])
    assert version == sys.version
    assert (found, unpacked) == (".".join(map(str, msgpack.version)), 7)
    made = plain.stat().st_mtime_ns
    assert image.sandbox(["msgpack", "is-not-installed"]) == plain
    assert plain.stat().st_mtime_ns == made
    other = image.sandbox(["msgpack"], pip=[str(wheel(tmp_path))])
    assert other != plain
    assert seen_inside(apptainer, other)[2:] == ["0.0.7", ["msgpack"], "of the wheel"]


def test_an_image_that_could_not_be_made_leaves_nothing_and_is_made_the_next_time(tmp_path):
    target = tmp_path / "images/one"

    def fail(path):
        path.write_text("half")
        raise LocalSystemError("the disk is full")

    with pytest.raises(LocalSystemError, match="the disk is full"):
        image.made_once(target, fail)
    assert [path.name for path in target.parent.iterdir()] == ["one.lock"]
    image.made_once(target, lambda path: path.write_text("whole"))
    assert target.read_text() == "whole"


def test_two_that_want_the_same_image_at_once_make_it_once(tmp_path):
    target, begun, go, made = tmp_path / "one", threading.Event(), threading.Event(), []

    def make(path):
        begun.set()
        assert go.wait(30)
        made.append(path)
        path.touch()

    # In one process, too, who opens the lock's file anew waits for the other.
    both = [threading.Thread(target=image.made_once, args=[target, make]) for _ in range(2)]
    both[0].start()
    assert begun.wait(30)
    both[1].start()
    go.set()
    for thread in both:
        thread.join(30)
    assert len(made) == 1


def test_a_machine_without_a_c_library_and_a_distribution_without_a_list_of_files_are_named(tmp_path):
    with pytest.raises(LocalSystemError, match="ldd names no C library"):
        image._copy_libraries([Path(__file__)], tmp_path)
    (tmp_path / "bare-1.dist-info").mkdir()
    (tmp_path / "bare-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: bare\nVersion: 1\n")
    bare = importlib.metadata.Distribution.at(tmp_path / "bare-1.dist-info")
    with pytest.raises(LocalSystemError, match=r"bare has no list of its files\. Install it with pip or conda"):
        image._copy_distribution(bare, tmp_path)
