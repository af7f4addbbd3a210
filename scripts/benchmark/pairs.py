"""Measure two ways in turn, and compare their medians."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

RESAMPLES = 4000
REACHED, MISSED = "reached", "missed"


@dataclass
class Row:
    """One line of a table: ours against another way.

    Attributes
    ----------
    what, against : str
        What was measured, and what it was measured beside.
    unit : str
        The unit of the samples.
    ours, other : list of float
        The samples, in pairs.
    goal : float or None
        The ratio to reach at most.
    """

    what: str
    against: str
    unit: str
    ours: list[float]
    other: list[float]
    goal: float | None = None
    ratio: float = field(init=False)
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        ours, other = np.asarray(self.ours), np.asarray(self.other)
        self.ratio = float(np.median(ours) / np.median(other))
        # Pairs are drawn together, so that what slowed the machine down for a while falls on both.
        drawn = np.random.default_rng(0).integers(0, len(ours), (RESAMPLES, len(ours)))
        ratios = np.median(ours[drawn], axis=1) / np.median(other[drawn], axis=1)
        self.low, self.high = (float(value) for value in np.percentile(ratios, [2.5, 97.5]))

    @property
    def verdict(self) -> str:
        """Say whether the ratio of the medians reaches the goal, or at least the interval."""
        if self.goal is None:
            return ""
        if self.ratio <= self.goal:
            return REACHED
        return "within the noise" if self.low <= self.goal else MISSED

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return {**asdict(self), "verdict": self.verdict}

    def cells(self) -> list[str]:
        """Return the row's cells as text."""
        goal = "-" if self.goal is None else f"≤ {self.goal:g}"
        return [
            self.what,
            self.against,
            f"{np.median(self.ours):.3g} {self.unit}",
            f"{np.median(self.other):.3g} {self.unit}",
            f"{self.ratio:.2f} [{self.low:.2f}, {self.high:.2f}]",
            goal,
            self.verdict,
        ]


HEADER = ["what", "against", "ours", "other", "ratio, 95 % interval", "goal", "verdict"]


@dataclass
class Fact:
    """A figure that is not a ratio."""

    what: str
    value: float
    unit: str
    goal: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fact as plain data."""
        return asdict(self)

    def cells(self) -> list[str]:
        """Return the fact's cells as text."""
        goal = "-" if self.goal is None else f"≤ {self.goal:g} {self.unit}"
        verdict = "" if self.goal is None else REACHED if self.value <= self.goal else MISSED
        return [self.what, "", f"{self.value:.3g} {self.unit}", "", "", goal, verdict]


def timed(action: Callable[[], object]) -> float:
    """Return how long `action` takes, in seconds."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def pairs(
    what: str,
    against: str,
    ours: Callable[[], float],
    other: Callable[[], float],
    *,
    rounds: int,
    unit: str = "s",
    goal: float | None = None,
) -> Row:
    """Measure two ways in turn, beginning now with one and now with the other."""
    samples: dict[str, list[float]] = {"ours": [], "other": []}
    for index in range(rounds):
        order = [("ours", ours), ("other", other)]
        for name, measure in order if index % 2 else reversed(order):
            samples[name].append(measure())
    return Row(what, against, unit, samples["ours"], samples["other"], goal)
