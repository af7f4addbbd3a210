"""The person at the terminal: what is said to them and asked of them."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import click

from ..plain import plain
from .errors import UnansweredError
from .secrets import Secret


class Terminal:
    """A terminal with, perhaps, a person at it, who may take `limit` seconds for an answer."""

    def __init__(self, limit: float, interactive: bool | None = None) -> None:
        self.limit = limit
        self.interactive = sys.stdin.isatty() if interactive is None else interactive

    def say(self, text: str, *, bold: bool = False) -> None:
        """Show a text."""
        click.secho(plain(text), bold=bold or None)

    def show(self, said: str) -> None:
        """Show what somebody else said, indented, without the question that ends it."""
        for line in said.split("\n")[:-1][-20:]:
            if line.rstrip():
                self.say(f"  {line.rstrip()}")

    def ask(self, question: str, *, default: str | None = None, how: str = "") -> str:
        """Return the person's answer to `question`; `how` tells how to answer it without a person."""
        with self._patience(question, how):
            answer: str = click.prompt(
                question, default=default, show_default=bool(default), prompt_suffix=_suffix(question)
            )
        return answer

    def ask_secret(self, question: str, *, how: str = "") -> Secret:
        """Return the person's answer, which is not shown while it is typed and may be empty."""
        with self._patience(question, how):
            return Secret(
                click.prompt(
                    question, default="", show_default=False, hide_input=True, prompt_suffix=_suffix(question)
                )
            )

    @contextlib.contextmanager
    def _patience(self, question: str, how: str) -> Iterator[None]:
        if not self.interactive:
            raise UnansweredError(
                f"There is no terminal to ask: {question.strip()}",
                how or "run setup_condor in a terminal",
            )

        def give_up(number: int, frame: FrameType | None) -> None:
            raise UnansweredError(
                f"no answer within {self.limit:g} s to: {question.strip()}", "run setup_condor again"
            )

        # An alarm ends the wait inside getpass too, which restores the terminal's echo on its way out.
        before = signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, self.limit)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _suffix(question: str) -> str:
    return " " if question.rstrip().endswith((":", "?", ">")) else ": "


def last_lines(text: str) -> str:
    """Return the end of what somebody said, for an error."""
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-12:])
