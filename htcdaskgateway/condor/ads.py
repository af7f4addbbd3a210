"""The ads that condor_q prints as JSON, decoded as they come."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import CondorError
from .command import Command, Completed

_ARRAY = re.compile(r"^\[(?=\s*[{\]])", re.M)
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
        hint=f"Is {tool} a wrapper script of your site? Run the command and look at the output.",
    )


class Ads(Generic[T]):
    """The arrays of ads that condor_q prints, decoded as they come; a line before or after is somebody's banner.

    There is one array, or, where a site's wrapper asks several schedds, one of each that has jobs. Thousands of
    ads decoded at once would hold up everything else on the event loop.

    Attributes
    ----------
    made : list
        What `make` made of each ad so far.
    begun : bool
        Whether an array has begun and not come to its end.
    complete : bool
        Whether an array has come to its end.
    """

    def __init__(self, make: Callable[[Mapping[str, Any]], T]) -> None:
        self.made: list[T] = []
        self.begun = self.complete = False
        self._make = make
        self._decode = json.JSONDecoder().raw_decode
        self._broken = False
        self._rest = ""

    def take(self, piece: str) -> None:
        """Decode what `piece` completes."""
        text, at = self._rest + piece, 0
        while not self._broken:
            if not self.begun:
                found = _ARRAY.search(text)
                if found is None:
                    break
                self.begun, at = True, found.end()
            separator = _SEPARATOR.match(text, at)
            at = separator.end() if separator else at
            if text.startswith("]", at):
                self.begun, self.complete = False, True
                text, at = text[at + 1 :], 0
                continue
            try:
                ad, at = self._decode(text, at)
            except ValueError:  # the rest of it is still to come
                break
            if isinstance(ad, Mapping):
                self.made.append(self._make(ad))
            else:
                self._broken = True
        self._rest = text[at:]


async def ask(
    command: Command,
    tool: str,
    *arguments: str,
    attributes: Sequence[str],
    make: Callable[[Mapping[str, Any]], T],
    failing: str,
) -> tuple[Ads[T], Completed]:
    """Return the ads that `tool` prints, and all that it said; none may mean that it has said something else."""
    ads = Ads(make)
    projection = ["-json", "-attributes", ",".join(attributes)]
    done = await command.checked(tool, *arguments, *projection, failing=failing, take=ads.take)
    if ads.begun:
        raise no_list(done)
    return ads, done
