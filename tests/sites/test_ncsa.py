"""NCSA's lines word for word, with its names, ports and paths, in a root and a network of the test's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long


def test_the_quick_start_runs_as_it_is_with_ncsas_names_and_paths(namespaces, tmp_path):
    missing = [tool for tool in ("ip", "openssl") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    root, work = tmp_path / "root", tmp_path / "files"
    root.mkdir()
    work.mkdir()
    program = Path(__file__).with_name("ncsa_root.py")
    done = subprocess.run(
        [*namespaces, "--net", sys.executable, program, root, work], capture_output=True, text=True, timeout=350
    )
    lines = [text for text in done.stdout.splitlines() if text.startswith("RAN ")]
    assert len(lines) == 1, done.stdout[-2000:] + done.stderr[-4000:]
    code, said, errors, jobs = json.loads(lines[0][4:])
    assert code == 0, said[-2000:] + errors
    assert "Traceback" not in errors
    told = dict(text.split(" ", 1) for text in said.splitlines() if text.startswith(("FOUND ", "LEFT ")))
    found = json.loads(told["FOUND"])
    assert found.pop("scheduler").startswith("gateway://dask.software-dev.ncsa.illinois.edu:8786/")
    assert found.pop("container").endswith("PublicHealth.sif")  # HTCondor sends it, under its name
    assert found == {
        "prefix": "/usr/local",  # the image's Python
        "staging": "/u/alice/htcdask",
        "schedd": "htc-login1.campuscluster.illinois.edu",
        "workers": 2,
    }
    assert json.loads(told["LEFT"]) == []
    assert jobs == []
