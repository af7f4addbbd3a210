"""What the tests of scaling share: tasks whose runs are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Runs:
    """A folder in which each run of a task leaves a file: how often did each run?"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def task(self) -> Callable[..., Any]:
        """Return a function that notes its run, takes a time in seconds, and returns `size` bytes."""
        folder = str(self.folder)

        def run(key: int, seconds: float, size: int = 0) -> bytes:  # here, for workers cannot import this module
            import time
            import uuid

            with open(f"{folder}/{key}-{uuid.uuid4().hex}", "x"):
                pass
            time.sleep(seconds)
            return bytes(size)

        return run

    def held_until(self, flag: Path) -> Callable[..., Any]:
        """Return a function that notes its run and ends when `flag` exists, or after two minutes."""
        folder = str(self.folder)
        path = str(flag)

        def run(key: int) -> int:
            import os
            import time
            import uuid

            with open(f"{folder}/{key}-{uuid.uuid4().hex}", "x"):
                pass
            for _ in range(1200):
                if os.path.exists(path):
                    break
                time.sleep(0.1)
            return key

        return run

    @property
    def counts(self) -> Counter[int]:
        """How often the task of each key ran."""
        return Counter(int(file.name.partition("-")[0]) for file in self.folder.iterdir())


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")
