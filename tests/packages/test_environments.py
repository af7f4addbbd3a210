"""Environments of different makers, on nodes that have neither them nor any Python."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from htcdaskgateway.errors import ConfigError
from htcdaskgateway.packages import packing

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


def uv(python):
    program = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return program and python and [program, "venv", "--quiet", "--offline", "--no-config", "--python", python]


MAKERS = {
    "venv of this Python": lambda: venv(sys.executable),
    "venv of another of pyenv's": lambda: venv(pyenv("3.12", "3.13", "3.10", "3.11")),
    "venv of Debian's": lambda: venv(debian()),
    "uv's of Debian's": lambda: uv(debian()),
    "uv's of this Python": lambda: uv(os.path.realpath(sys.executable)),
}


@pytest.fixture(params=[pytest.param(name, id=name.replace(" ", "-"), marks=pytest.mark.long) for name in MAKERS])
def made(request, tmp_path, monkeypatch, environment):
    maker = MAKERS[request.param]()
    if maker is None:
        pytest.skip(f"{request.param}: not on this machine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return environment(tmp_path, maker)


def test_it_runs_where_there_is_no_python(made, bare_root, bare_node):
    packed = made.pack()
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
