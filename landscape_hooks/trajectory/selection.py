"""Snapshots: which of a run's snapshots an analysis uses.

In: the steps of a run. Out: the places of those that count: for the plane, the path and the extent.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import RunError

OPTIONS = {"start": "--from", "stop": "--to", "last": "--last", "every": "--every", "only": "--only"}
"""The fields, and what the command line calls them."""


@dataclass(frozen=True)
class Snapshots:
    """The snapshots that an analysis uses, as `analyze(snapshots=)` takes them; of several runs, of each of them.

    The options narrow down what is left by those before them. The last snapshot that is left is always used: the plane
    goes through it.

    Parameters
    ----------
    start, stop
        the first and the last optimizer step that counts.
    only
        a list of steps.
    last
        so many, counted from the end.
    every
        every so many, counted from the last one back.

    Raises
    ------
    RunError
        an option that is no whole number, or leaves nothing whatever the run holds.

    Examples
    --------
    >>> import numpy as np
    >>> Snapshots(start=20, every=2).places(np.array([0, 10, 20, 30, 40]))
    array([2, 4])
    """

    start: int | None = None
    stop: int | None = None
    last: int | None = None
    every: int | None = None
    only: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name, least in (("start", 0), ("stop", 0), ("last", 1), ("every", 1)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _whole(name, value, least))
        if self.start is not None and self.stop is not None and self.start > self.stop:
            raise RunError(
                f"Found the snapshots from step {self.start} to step {self.stop}",
                expected="a first step no later than the last (--from, --to)",
            )
        if self.only is not None:
            given: Any = [self.only] if isinstance(self.only, int | np.integer) else self.only
            steps = tuple(sorted({_whole("only", step, 0) for step in given}))
            if not steps:
                raise RunError("Found no step in the list of snapshots", expected="at least one (--only)")
            object.__setattr__(self, "only", steps)

    @property
    def attrs(self) -> dict[str, Any]:
        """What is chosen, as JSON; empty where all snapshots count."""
        chosen = {name: getattr(self, name) for name in OPTIONS if getattr(self, name) is not None}
        return {name: list(value) if name == "only" else value for name, value in chosen.items()}

    def places(self, steps: NDArray[np.int64], label: str = "") -> NDArray[np.intp]:
        """Places (n,) of the snapshots that count among `steps` (T,), ascending.

        Raises
        ------
        RunError
            none is left, or a step of the list was not recorded.
        """
        found = np.arange(len(steps))
        if self.start is not None:
            found = found[steps[found] >= self.start]
        if self.stop is not None:
            found = found[steps[found] <= self.stop]
        if self.only is not None:
            absent = sorted(set(self.only) - set(steps[found].tolist()))
            if absent:
                raise RunError(
                    f"No snapshot of {label or 'the run'} is of step {', '.join(map(str, absent[:5]))}",
                    expected="recorded steps" + (" within --from and --to" if self._bounded else ""),
                    mend="landscape-hooks info RUN says which steps there are",
                )
            found = found[np.isin(steps[found], self.only)]
        if self.last is not None:
            found = found[-self.last :]
        if self.every is not None:
            found = found[::-1][:: self.every][::-1]
        if not len(found) and self._bounded:
            span = f"steps {steps[0]} to {steps[-1]}" if len(steps) else "no snapshot at all"
            raise RunError(
                f"{label or 'The run'} has {span}, none of them within --from and --to",
                expected="at least one snapshot",
                mend="Choose other steps, or leave them out",
            )
        return found

    @property
    def _bounded(self) -> bool:
        return self.start is not None or self.stop is not None


def _whole(name: str, value: SupportsIndex, least: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
        if number < least:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise RunError(f"Found snapshots with {name}={value!r}", expected=f"a whole number from {least} on") from error
    return number
