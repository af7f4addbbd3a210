"""One line that says how far the tests are, where several processes run them; a failure is told at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

EVERY = 15.0
"""Seconds between two lines where there is no terminal whose line could be written anew."""


class StatusLine:
    """Takes the place of pytest's dots."""

    def __init__(self, config: pytest.Config) -> None:
        self._began = time.monotonic()
        self._config = config
        self._total = self._done = self._failed = 0
        self._shown = 0.0

    @property
    def _terminal(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Note how many tests there are."""
        if not self._total:
            self._total = len(ids)
            self._show("the processes start their pools and servers")

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Iterator[Any]:
        """Let nothing be written of a single test; the word is the summary's."""
        category, _, word = yield
        return category, "", word

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count, tell of a failure."""
        if report.failed:
            self._failed += 1
            self._terminal.ensure_newline()
            self._terminal.write_line(f"FAILED {report.nodeid} ({report.when})", red=True)
        if report.when == "teardown":
            self._done += 1
            self._show()

    def _show(self, what: str = "") -> None:
        now = time.monotonic()
        line = f"[{now - self._began:4.0f} s] {self._done} of {self._total} tests, {self._failed} failed"
        if self._terminal.isatty:
            self._terminal.rewrite(f"{line}; {what}" if what else line, erase=True)
        elif what or now - self._shown > EVERY or self._done == self._total:
            self._shown = now
            self._terminal.write_line(f"{line}; {what}" if what else line)
        self._terminal.flush()
