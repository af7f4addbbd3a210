"""What the tests on a network of hosts share."""

from __future__ import annotations

import shutil

import pytest
from hosts import why_not


@pytest.fixture(scope="session")
def needs_hosts() -> None:
    """Skip where this machine cannot have hosts, or no sshd."""
    reason = why_not() or ("" if shutil.which("sshd", path="/usr/sbin:/usr/bin") else "sshd is not installed")
    if reason:
        pytest.skip(reason)
