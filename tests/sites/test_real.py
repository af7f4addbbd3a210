"""Sites' profiles as they are, run for real: with the sites' own paths, in a root of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
SCRATCH = "/uscmst1b_scratch/lpc1/3DayLifetime/alice/htcdask"
EXPECTED = {
    "ncsa": {"staging": "/u/alice/htcdask", "proxy": False},
    "fermilab-eaf": {"staging": SCRATCH, "proxy": True, "srv": True},
    "fermilab-lpc": {"staging": SCRATCH, "proxy": True, "schedd": "schedd@"},
    "cern-lxplus": {"proxy": False},
}


@pytest.fixture(scope="module")
def found(namespaces, tmp_path_factory, lasting_proxy) -> dict[str, tuple[dict, str]]:
    """What each site's cluster has shown, or what it has said instead."""
    root, home = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("home")
    program = Path(__file__).with_name("private_root.py")
    done = subprocess.run(
        [*namespaces, sys.executable, program, root, home, lasting_proxy, *EXPECTED],
        capture_output=True,
        text=True,
        timeout=550,
    )
    lines = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("SITE ")]
    assert len(lines) == len(EXPECTED), done.stdout[-2000:] + done.stderr[-4000:]
    return {site: (shown, said) for site, shown, said in lines}


@pytest.mark.parametrize("site", EXPECTED)
def test_a_cluster_computes_with_the_sites_profile_and_paths(site, found):
    shown, said = found[site]
    assert shown is not None, said
    assert shown["prefix"] == "/usr/local", "the image's Python"
    for name, value in EXPECTED[site].items():
        assert shown[name] == value, name
