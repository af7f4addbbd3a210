"""What ``condor_q -better-analyze`` says, boiled down."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ROW = re.compile(r"^\[\d+\]\s+(\d+)\s+(.*\S)", re.M)
_ROW_DRAINED = re.compile(r"^\[\d+\]\s+(\d+)\s+\d+\s+(.*\S)", re.M)
_OF = re.compile(r"^.*Run analysis summary.*Of (\d+) (?:machines|slots)", re.M)
_COUNT = re.compile(r"^\s+(\d+) (?:slots )?(are rejected by your|reject your)", re.M)
_VALUE = re.compile(r"^    (\w+) = (.*)$", re.M)


@dataclass(frozen=True)
class Analysis:
    """What ``condor_q -better-analyze`` says about one job, boiled down.

    `conditions` are those of the job's requirements, each with the number of slots that meet it now. Of the
    `machines` (or undivided slots) so many are `rejected` by the job, even when empty, or are `refusing` it.
    """

    conditions: tuple[tuple[int, str], ...]
    machines: int
    rejected: int
    refusing: int
    values: dict[str, str]

    @property
    def hopeless(self) -> bool:
        """Whether there are machines, and not one of them can ever run the job."""
        return 0 < self.machines == self.rejected


def parse_analysis(text: str) -> Analysis | None:
    """Return what ``condor_q -better-analyze`` said, or None if it is not understood."""
    _, found, table = text.partition("reduces to these conditions")
    if not found:
        return None
    # HTCondor 25 has one more column where machines are divided among jobs.
    row = _ROW_DRAINED if re.search(r"^Step +Matched +Drained", table, re.M) else _ROW
    of = _OF.search(table)
    counts = {kind: int(count) for count, kind in _COUNT.findall(table)}
    _, _, defines = text.partition("defines the following attributes")
    return Analysis(
        conditions=tuple((int(count), condition) for count, condition in row.findall(table)),
        machines=int(of[1]) if of else 0,
        rejected=counts.get("are rejected by your", 0),
        refusing=counts.get("reject your", 0),
        values=dict(_VALUE.findall(defines.partition("\n\n\n")[0].partition("Requirements")[0])),
    )
