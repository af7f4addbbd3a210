"""What is said where the local system cannot run."""

from __future__ import annotations

import os
import sys

import pytest

from htcdaskgateway.local import LocalSystemError
from htcdaskgateway.local.install import WAY_OUT, find_or_install
from htcdaskgateway.local.processes import one_uid_namespace


def test_elsewhere_than_on_linux_nothing_is_advised_that_would_not_help(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(LocalSystemError, match="needs Linux") as told:
        find_or_install()
    assert "install" not in str(told.value)


def test_condas_htcondor_is_not_advised():
    assert "conda-forge's htcondor has none" in WAY_OUT
    assert "conda install" not in WAY_OUT


def test_root_without_user_namespaces_is_told_what_to_do(monkeypatch, tmp_path):
    program = tmp_path / "unshare"
    program.write_text("#!/bin/sh\necho unshare failed: Operation not permitted >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(LocalSystemError, match=r"Operation not permitted.*runuser"):
        one_uid_namespace(["true"])
