"""The ads that condor_q prints as JSON, decoded as they come."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import CondorError
from .command import Completed

ARRAY = re.compile(r"^\[(?=\s*[{\]])", re.M)
_SEPARATOR = re.compile(r"[\s,]*")
T = TypeVar("T")


def no_list(done: Completed) -> CondorError:
    """Return the error that tells of an answer which is not the array of ads."""
    tool = Path(done.command[0]).name
    return CondorError(
        f"{tool} answered something that is not a list of jobs",
        command=done.command,
        returncode=done.returncode,
        stderr=(done.stderr + done.stdout)[-2000:],
        hint=f"is {tool} a wrapper script of your site? Run the command by hand and look",
    )


class Ads(Generic[T]):
    """The array of ads that condor_q prints, decoded as it comes; a line before or after it is somebody's banner.

    Thousands of ads decoded at once would hold up everything else on the event loop.

    Attributes
    ----------
    made : list
        What `make` made of each ad so far.
    complete : bool
        Whether the array has come to its end.
    """

    def __init__(self, make: Callable[[Mapping[str, Any]], T]) -> None:
        self.made: list[T] = []
        self.complete = False
        self._make = make
        self._decode = json.JSONDecoder().raw_decode
        self._begun = self._over = False
        self._rest = ""

    def take(self, piece: str) -> None:
        """Decode what `piece` completes."""
        text, at = self._rest + piece, 0
        if not self._begun and (found := ARRAY.search(text)):
            self._begun, at = True, found.end()
        while self._begun and not self._over:
            separator = _SEPARATOR.match(text, at)
            at = separator.end() if separator else at
            if text.startswith("]", at):
                self.complete = self._over = True
                break
            try:
                ad, at = self._decode(text, at)
            except ValueError:  # the rest of it is still to come
                break
            if not isinstance(ad, Mapping):
                self._over = True
                break
            self.made.append(self._make(ad))
        self._rest = text[at:]
