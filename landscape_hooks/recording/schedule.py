"""When a snapshot is taken: a schedule says, for an optimizer step, which step comes next.

In: counts of optimizer steps. Out: the next due one. Schedules are arithmetic on integers, the same on
every rank of a distributed training. The first snapshot (before any step) and the last one are taken
whatever the schedule says, so a schedule answers only for the steps between.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

from landscape_hooks.errors import LandscapeError

NEVER = 2**62
"""A step that no training reaches."""


class Schedule(ABC):
    """Says which step is due next.

    Attributes
    ----------
    limit
        the number of snapshots it keeps at most, by giving up earlier ones; None where it keeps all.
    count
        the number of snapshots it takes at most, where that is known beforehand.
    stride
        the steps between snapshots, where earlier ones are given up; whenever it has changed, the recorder drops all
        but those that `kept` names.
    """

    limit: int | None = None
    count: int | None = None
    stride: int = 0

    @abstractmethod
    def next(self, step: int) -> int:
        """The smallest due step after `step` (NEVER if there is none)."""

    def admit(self, step: int) -> bool:
        """Called at a due step, just before its snapshot; False leaves it out after all."""
        return True

    def restore(self, steps: Iterable[int], stride: int) -> None:
        """Go on with the snapshots and the stride of a run that was interrupted."""
        return None

    def kept(self) -> list[int]:
        """The steps of the snapshots that are kept so far, where earlier ones are given up."""
        return []

    def describe(self) -> dict[str, Any]:
        """What the run's attributes say about it."""
        return {"kind": type(self).__name__}


class Every(Schedule):
    """Every `n` optimizer steps, counted from step 0."""

    def __init__(self, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise LandscapeError(f"Found every={n!r}", expected="a whole number of optimizer steps, 1 or more")
        self.n = n

    def next(self, step: int) -> int:
        return (step // self.n + 1) * self.n

    def describe(self) -> dict[str, Any]:
        return {"kind": "Every", "n": self.n}


class AtSteps(Schedule):
    """At explicitly listed steps."""

    def __init__(self, steps: Iterable[int]) -> None:
        self.steps = sorted({int(step) for step in steps})
        if not self.steps or self.steps[0] < 0:
            raise LandscapeError(
                f"Found the steps {self.steps[:5]} in the schedule", expected="at least one step, none below 0"
            )
        self.count = len(self.steps) + 2  # and the first and the last

    def next(self, step: int) -> int:
        place = bisect_right(self.steps, step)
        return self.steps[place] if place < len(self.steps) else NEVER

    def describe(self) -> dict[str, Any]:
        return {"kind": "AtSteps", "count": len(self.steps), "last": self.steps[-1]}


class LogSpaced(Schedule):
    """Evenly spaced on a logarithmic scale: dense in the early steps, where the weights move fastest.

    `per_decade` snapshots between step s and step 10·s (fewer where there are fewer whole steps).
    """

    def __init__(self, per_decade: int = 20) -> None:
        if isinstance(per_decade, bool) or not isinstance(per_decade, int) or per_decade < 1:
            raise LandscapeError(f"Found per_decade={per_decade!r}", expected="a whole number, 1 or more")
        self.per_decade = per_decade

    def next(self, step: int) -> int:
        if step < 1:
            return 1
        exponent = max(0, math.floor(math.log10(step) * self.per_decade) - 1)
        while (due := round(10 ** (exponent / self.per_decade))) <= step:
            exponent += 1
        return due

    def describe(self) -> dict[str, Any]:
        return {"kind": "LogSpaced", "per_decade": self.per_decade}


class When(Schedule):
    """When a function of the step says so. On several ranks it must say the same on each."""

    def __init__(self, due: Callable[[int], bool]) -> None:
        self.due = due

    def next(self, step: int) -> int:
        return step + 1

    def admit(self, step: int) -> bool:
        return bool(self.due(step))


class Thinning(Schedule):
    """Evenly spaced and at most `keep`, however long the training turns out.

    Snapshots lie `stride` steps apart. When one more would not fit, every second one goes and the stride
    doubles. One place of the `keep` is reserved for the last snapshot, which need not lie on the stride.
    """

    def __init__(self, keep: int) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 3:
            raise LandscapeError(
                f"Found keep={keep!r}", expected="a whole number of snapshots, 3 or more", mend="The default is 200"
            )
        self.limit = keep
        self.keep = keep
        self.stride = 1
        self.steps: list[int] = []

    def restore(self, steps: Iterable[int], stride: int) -> None:
        self.steps, self.stride = list(steps), max(1, stride)

    def next(self, step: int) -> int:
        first = self.steps[0] if self.steps else 0
        return first + ((step - first) // self.stride + 1) * self.stride

    def admit(self, step: int) -> bool:
        while len(self.steps) >= self.keep - 1:
            self.stride *= 2
            self.steps = [s for s in self.steps if self.on_stride(s, self.stride)]
        if self.steps and not self.on_stride(step, self.stride):
            return False
        self.steps.append(step)
        return True

    def kept(self) -> list[int]:
        return list(self.steps)

    def on_stride(self, step: int, stride: int) -> bool:
        """Whether the row of `step` stays when the stride is `stride`."""
        return (step - self.steps[0]) % stride == 0

    def describe(self) -> dict[str, Any]:
        return {"kind": "Thinning", "keep": self.keep}


MOST, LEAST = 200, 20
BUDGET = 2 * 10**9
"""Where nothing is said, snapshots of this many bytes are kept together: between `LEAST` and `MOST` of them."""


def keep_for(row_bytes: int) -> int:
    """The number of snapshots that is kept where the user says none, for snapshots of `row_bytes` bytes."""
    return max(LEAST, min(MOST, BUDGET // max(1, row_bytes)))


def make_schedule(
    schedule: Schedule | Iterable[int] | int | Callable[[int], bool] | None = None,
    *,
    every: int | None = None,
    keep: int | None = None,
    row_bytes: int = 0,
) -> Schedule:
    """The schedule that record()'s arguments name.

    `schedule` is a Schedule, a list of steps, a whole number (every n) or a function step -> bool; left out, `every`
    makes `Every`, and without it `keep` makes `Thinning` (left out: as many as `keep_for` says of `row_bytes`).

    Raises
    ------
    LandscapeError
        the arguments contradict each other or make no schedule.
    """
    if schedule is None:
        if every is not None:
            return Every(every)
        return Thinning(keep_for(row_bytes) if keep is None else keep)
    if every is not None:
        raise LandscapeError("Found both every= and schedule=", expected="one of them")
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, int):
        return Every(schedule)
    if callable(schedule):
        return When(schedule)
    if isinstance(schedule, Iterable) and not isinstance(schedule, str):
        return AtSteps(schedule)
    raise LandscapeError(
        f"Found schedule={schedule!r}",
        expected="a Schedule, a list of steps, a whole number or a function step -> bool",
    )
