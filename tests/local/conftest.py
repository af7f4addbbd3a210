"""What the tests of the local system share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import processes

from htcdaskgateway.local.install import Installation, find_or_install


@pytest.fixture(scope="session")
def installation() -> Installation:
    return find_or_install()


@pytest.fixture
def processes_of() -> Callable[[str | Path], list[int]]:
    """Find the processes that name a text, such as a directory, in their command line or environment."""

    def find(text: str | Path) -> list[int]:
        return [pid for pid, command, environment in processes() if str(text) in command + environment]

    return find
