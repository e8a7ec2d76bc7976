"""Snapshots: which of a run's snapshots an analysis uses, and which tensors of them.

In: the steps of a run. Out: the places of those that count: for the plane, the path and the extent. In: patterns of
names. Out: the tensors that they mean.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LayoutError, RunError

OPTIONS = ("start", "stop", "last", "every", "only", "count")
"""The fields that choose snapshots."""


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
    count
        so many, evenly spread, the first and the last of those that are left among them.
    tensors
        patterns of names, such as "head.*" or ["lora_*", "norm.*"] (see `names_matching`): plane, grid and path are of
        these tensors alone, and what else moves keeps the values that it has at the origin. Left out: all that moves.
    base
        where the tensors are that a run has by reference (`Parameters(frozen="reference")`): a file or a folder of
        weights, "module:function", a model, or a state dict.
    align
        whether the hidden units of each further run are reordered so that its last snapshot lies nearest to that of the
        first run (`landscape_hooks.align`): all of its snapshots by the same permutations. The loss is the same.

    Raises
    ------
    RunError
        an option that is no whole number, or leaves nothing whatever the run holds; patterns that are no texts.

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
    count: int | None = field(default=None, kw_only=True)
    tensors: str | Sequence[str] = ()
    base: Any = field(default=None, compare=False)
    align: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", parse_patterns(self.tensors))
        for name, least in (("start", 0), ("stop", 0), ("last", 1), ("every", 1), ("count", 1)):
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
        """Which snapshots are chosen, as JSON; empty where all of them count."""
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
        if self.count is not None and self.count < len(found):
            spread = np.linspace(0, len(found) - 1, self.count) if self.count > 1 else np.array([len(found) - 1])
            found = found[np.unique(spread.round().astype(np.intp))]
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


# -- tensors by name ---------------------------------------------------------------------------------------
def parse_patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    """Patterns of names: one, several, or one text with commas.

    Raises
    ------
    RunError
        they are no texts, or one is empty.
    """
    patterns = given.split(",") if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [given]
    if any(not isinstance(pattern, str) or not pattern.strip() for pattern in patterns):
        raise RunError(f"Found the patterns {given!r}", expected="names of tensors with * and ?, like 'head.*'")
    return tuple(pattern.strip() for pattern in patterns)


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a tensor: it matches the name, or the name without some of the modules before it.

    Examples
    --------
    >>> matches("head.*", "head.weight"), matches("lora_*", "layers.3.q.lora_A.weight"), matches("head.*", "ahead.bias")
    (True, True, False)
    """
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[start:]), pattern) for start in range(len(parts)))


def names_matching(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names that any of the patterns means (`matches`), in their own order.

    Raises
    ------
    LayoutError
        a pattern means none of them; the error lists near names.
    """
    for pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            raise LayoutError(
                f"The pattern '{pattern}' matches none of the {len(names)} tensors",
                expected=f"a pattern such as {', '.join(_near(pattern, names))}",
                mend="* stands for any letters, dots included; the modules before a name may be left out",
            )
    return [name for name in names if any(matches(pattern, name) for pattern in patterns)]


def _near(pattern: str, names: Sequence[str]) -> list[str]:
    """Names that look like a pattern: whole ones, or ends of them."""
    plain = pattern.replace("*", "").replace("?", "").strip(".")
    words: dict[str, list[str]] = {}  # ends of names, and the modules on the way
    for name in names:
        parts = name.split(".")
        for word in (*(".".join(parts[start:]) for start in range(len(parts))), *parts[:-1]):
            words.setdefault(word, []).append(name)
    close = difflib.get_close_matches(plain, list(words), 5, 0.5)
    found = dict.fromkeys(name for word in close for name in words[word])
    return list(found)[:3] or list(names[:3])
