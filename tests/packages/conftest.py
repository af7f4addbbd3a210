"""Environments to be sent, and programs that run in them as a notebook does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent.parent
SITE = next(path for path in sys.path if path.endswith("site-packages"))


class Notebook:
    """A directory with a module beside the notebook, and an environment in which something can be installed.

    It has the packages of the tests' own environment, and takes this checkout from ``PYTHONPATH``.
    """

    def __init__(self, directory, cache):
        self.directory = directory / "notebook"
        self.directory.mkdir()
        (self.directory / "beside.py").write_text("VERSION = 1\n")
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(TOP)}
        venv = directory / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
        self.python = venv / "bin" / "python"
        self.site = next(venv.glob("lib/python3*/site-packages"))
        (self.site / "tests.pth").write_text(f"{SITE}\n")

    def install(self, name, text):
        """Install a package."""
        (self.site / name).mkdir()
        (self.site / name / "__init__.py").write_text(text)

    def run(self, code, python=None, **environment):
        """Run a program in the notebook's directory; return what it printed at last, read as JSON."""
        path = self.directory / "program.py"
        path.write_text(textwrap.dedent(code))
        done = subprocess.run(
            [python or self.python, path],
            cwd=self.directory,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def packed_cache(tmp_path_factory):
    """One cache of what was packed, for all tests of a process: the first look at an environment takes seconds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def notebook(system, tmp_path, packed_cache):
    return Notebook(tmp_path, packed_cache)


@pytest.fixture
def shared(tmp_path):
    """A directory of the execute nodes that may keep packages."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory
