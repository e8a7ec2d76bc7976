"""Effort: how much of a surface is computed, and how long that may take.

In: a word, or an option object. Out: the tolerance, the samples and the grid that it stands for, and the moment at
which an analysis ends.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from landscape_hooks.errors import PlaneError

Quality = Literal["draft", "normal", "fine"]

TOLERANCE = {"draft": 0.05, "normal": None, "fine": 0.01}
"""Relative error that interpolated losses may have; None computes every point."""

FINER = 4
"""Points of a fine grid for each one that was asked for, along an axis."""

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Effort:
    """How much of a surface is computed, as `analyze(effort=)` takes it; the quality alone is enough.

    Attributes
    ----------
    quality
        "normal": every point, over all samples. "draft": interpolated where that errs by less than 5 %, from 4×4 points
        on, over as many samples as the contrast needs (`samples="auto"`), the losses of a path at a dozen of its
        snapshots. "fine": a grid four times as dense along each axis,
        interpolated where that errs by less than 1 %.
    budget
        seconds from the call on, or a text like "90s", "2m" or "1h30m": the analysis ends when they are used up, with
        a surface that says how far it came. The same call goes on with it. At least one loss is computed. None: no end.

    Raises
    ------
    PlaneError
        there is no such quality, or the budget is no time above 0.

    Examples
    --------
    >>> Effort("draft", budget="1m30s").seconds
    90.0
    """

    quality: Quality = "normal"
    budget: float | str | None = None

    def __post_init__(self) -> None:
        if self.quality not in get_args(Quality):
            raise PlaneError(f"Found the quality {self.quality!r}", expected=f"one of {', '.join(get_args(Quality))}")
        self.seconds  # noqa: B018  (checks the budget)

    @property
    def seconds(self) -> float:
        """The budget in seconds; inf where there is none."""
        given = self.budget
        if given is None:
            return math.inf
        found = _seconds(given) if isinstance(given, str) else given
        if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found < math.inf:
            raise PlaneError(f"Found the budget {given!r}", expected="a time like 90s, 2m or 1h30m, or seconds")
        return float(found)

    @property
    def tolerance(self) -> float | None:
        """The relative error that interpolated losses may have; None computes every point."""
        return TOLERANCE[self.quality]

    @property
    def rough(self) -> bool:
        """Whether a coarse first lattice and a few snapshots of a path are enough."""
        return self.quality == "draft"

    @property
    def samples(self) -> Literal["auto"] | None:
        """How many samples are taken where nothing is said: None is all of them."""
        return "auto" if self.quality == "draft" else None

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The grid that is computed where `shape` was asked for; it holds all points of that one."""
        if self.quality != "fine":
            return shape
        rows, columns = (n if n == 1 else FINER * (n - 1) + 1 for n in shape)
        return rows, columns

    @property
    def attrs(self) -> dict[str, Any]:
        """What it is, as JSON."""
        return {"quality": self.quality, "budget": None if self.budget is None else self.seconds}


def parse_effort(effort: str | Effort | None) -> Effort:
    """The effort; a text is its quality.

    Raises
    ------
    PlaneError
        it is none.
    """
    if isinstance(effort, Effort):
        return effort
    if effort is not None and not isinstance(effort, str):
        raise PlaneError(f"Found effort={effort!r}", expected='"draft", "normal", "fine" or an Effort(quality, budget)')
    return Effort() if effort is None else Effort(cast(Quality, effort))  # it checks itself


def _seconds(text: str) -> float | None:
    """Of "90", "90s", "1.5m" or "1h30m"; None of anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smh])", text)
    if not parts or re.sub(r"\s", "", text) != "".join(number + unit for number, unit in parts):
        return None
    return sum(float(number) * UNITS[unit] for number, unit in parts)


class UsedUp(Exception):
    """The budget is used up; what was computed until then is stored."""


class Budget:
    """Counts what is done, and ends the work at the first loss after its time.

    Parameters
    ----------
    seconds
        from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._told: Callable[[int], object] = lambda count: None

    def counting(self, tell: Callable[[int], object]) -> Budget:
        """The same, which hands on what is done to `tell`."""
        self._told = tell
        return self

    def __call__(self, count: int) -> None:
        """So many losses more are done.

        Raises
        ------
        UsedUp
            the time is over.
        """
        self._told(count)
        if count and time.monotonic() >= self._end:
            raise UsedUp
