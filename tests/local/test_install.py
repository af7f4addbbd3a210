"""HTCondor is found or unpacked, and never half unpacked."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from htcdaskgateway.local import debian
from htcdaskgateway.local.debian import COMPLETE
from htcdaskgateway.local.errors import LocalSystemError
from htcdaskgateway.local.install import DAEMONS, TOOLS, Installation, find, find_or_install, install
from htcdaskgateway.local.processes import run

DEBIAN = Path("/etc/debian_version").exists() and bool(shutil.which("apt-get"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("HTCONDOR_SUITE", "CONDOR_BIN_DIR", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "htcdaskgateway"


def fake(prefix, sbin="sbin", libexec="libexec/condor"):
    for directory, names in (("bin", TOOLS), (sbin, DAEMONS), (libexec, ["condor_shared_port"])):
        (prefix / directory).mkdir(parents=True, exist_ok=True)
        for name in names:
            (prefix / directory / name).touch(mode=0o755)
    return prefix


@pytest.mark.parametrize(
    ("sbin", "libexec"), [("sbin", "libexec/condor"), ("bin", "libexec"), ("sbin", "lib/condor/libexec")]
)
def test_layouts(tmp_path, sbin, libexec):
    found = Installation.at(fake(tmp_path, sbin, libexec))
    assert found is not None
    assert (found.sbin, found.libexec) == (tmp_path / sbin, tmp_path / libexec)


@pytest.mark.parametrize("missing", ["sbin/condor_startd", "bin/condor_q", "libexec/condor/condor_shared_port"])
def test_tools_alone_are_no_installation(tmp_path, missing):
    (fake(tmp_path) / missing).unlink()
    assert Installation.at(tmp_path) is None


def test_order(tmp_path, cache, monkeypatch):
    named, on_path, environment = (fake(tmp_path / name) for name in ("named", "path", "environment"))
    monkeypatch.setattr(sys, "prefix", str(environment))
    assert find().prefix == environment
    monkeypatch.setenv("PATH", str(on_path / "bin"))
    assert find().prefix == on_path
    monkeypatch.setenv("CONDOR_BIN_DIR", str(named / "bin"))
    assert find().prefix == named
    (named / "sbin/condor_master").unlink()
    assert find().prefix == on_path


def test_suite_comes_before_the_machine(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("CONDOR_BIN_DIR", str(fake(tmp_path / "named") / "bin"))
    monkeypatch.setenv("HTCONDOR_SUITE", "no such suite")
    with pytest.raises(LocalSystemError, match="no name of a Debian suite"):
        find_or_install()


def test_not_debian_says_what_to_do(cache, monkeypatch):
    monkeypatch.setattr(debian, "_os_release", lambda: {"ID": "fedora"})
    with pytest.raises(LocalSystemError, match="apt-get install condor"):
        install("trixie")


def test_only_a_complete_one_is_taken(cache, monkeypatch):
    monkeypatch.setattr(debian, "_os_release", lambda: {"ID": "fedora"})
    prefix = cache / "htcondor-trixie"
    fake(prefix / "usr")
    with pytest.raises(LocalSystemError):
        install("trixie")
    (prefix / COMPLETE).write_text("/somewhere/else\n")
    with pytest.raises(LocalSystemError):
        install("trixie")
    (prefix / COMPLETE).write_text(f"{prefix}\n")
    assert install("trixie").prefix == prefix / "usr"


@pytest.mark.skipif(not DEBIAN, reason="unpacks Debian's packages")
@pytest.mark.long
def test_install_from_debian(cache):
    leftover = cache / "htcondor-trixie/usr/bin/interrupted"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    found = install("trixie")
    assert not leftover.exists()
    assert "CondorVersion: 23." in run([found.bin / "condor_version"], timeout=10).stdout
    assert install("trixie") == found
