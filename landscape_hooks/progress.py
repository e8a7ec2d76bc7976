"""Progress: how far a long piece of work is, on the standard error stream; and times and sizes in words.

In: a total, and how much more is done. Out: a bar on a terminal and in a notebook; in a file (cron, SLURM, nohup, CI) a
line at every tenth and at least every 30 seconds (of work that takes hours: every hundredth of the time so far);
nothing where there is no such stream. Nothing here is coloured, so NO_COLOR changes nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TextIO, TypeVar

Item = TypeVar("Item")

LEAST_SECONDS, MOST_SECONDS, SHARE = 2.0, 30.0, 0.01
"""Seconds between two lines where there is no terminal; the most are a share of the time so far, where that is more."""


class Progress:
    """Said while in a `with`; the value of the `with` is called with the number that is done besides.

    Parameters
    ----------
    shown
        False says nothing.
    total
        how many there are.
    what, unit
        the work, and one of what is counted, in words.
    done
        how many are done before it begins: they say nothing about the time left.
    """

    def __init__(self, shown: bool, total: int, what: str, unit: str, done: int = 0) -> None:
        stream = sys.stderr if shown else None
        self._bar: Any
        if stream is None:
            self._bar = _Silence()
        elif _redraws(stream):
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=what, unit=unit, file=stream, smoothing=0.05, initial=done)
        else:
            self._bar = _Lines(total, what, unit, stream, done)
        self._before = done

    def __enter__(self) -> Callable[[int], object]:
        return self._bar.update

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and self._bar.n == self._before:
            self._bar.leave = False  # it failed before it began: the error says all
        self._bar.close()


def say(shown: bool, sentence: str) -> None:
    """Write a sentence to the standard error stream, if `shown` and there is one."""
    if shown and sys.stderr is not None:
        with suppress(OSError, ValueError):  # the reader has ended; the work continues
            print(sentence, file=sys.stderr, flush=True)


def counted(items: Iterable[Item], total: int, *, shown: bool, what: str, unit: str) -> Iterator[Item]:
    """Yield the items, and say how many of them are done with."""
    with Progress(shown, total, what, unit) as tick:
        for item in items:
            yield item
            tick(1)


def _redraws(stream: TextIO) -> bool:
    """Whether a line that was written can be written over: on a terminal, and below a notebook's cell."""
    with suppress(AttributeError, OSError, ValueError):
        if os.environ.get("TERM") == "dumb":
            return False
        return bool(stream.isatty()) or type(stream).__module__.startswith("ipykernel")
    return False


class _Silence:
    n = -1

    def update(self, count: int) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines:
    """Whole lines, few of them."""

    def __init__(self, total: int, what: str, unit: str, stream: TextIO, done: int) -> None:
        self._total, self._what, self._unit, self._stream = total, what, unit, stream
        self.n = self._said = done
        self.leave = True
        self._begun = self._last = time.monotonic()

    def update(self, count: int) -> None:
        self.n += count
        now = time.monotonic()
        waited, most = now - self._last, max(MOST_SECONDS, SHARE * (now - self._begun))
        tenths = self.n * 10 // max(self._total, 1) > self._said * 10 // max(self._total, 1)
        if self.n < self._total and ((tenths and waited > LEAST_SECONDS) or waited >= most):
            left = waited / (self.n - self._said) * (self._total - self.n) if self.n > self._said else 0.0
            self._say(f"about {in_words(left)} left")

    def close(self) -> None:
        if self.leave:
            self._say(f"{in_words(time.monotonic() - self._begun)} in all")

    def _say(self, words: str) -> None:
        counted = f"{self.n} of {self._total} {self._unit}{'es' if self._unit.endswith('s') else 's'}"
        self._said, self._last = self.n, time.monotonic()
        with suppress(OSError, ValueError):  # the reader has ended; the work continues
            print(f"{self._what}: {counted}, {words}", file=self._stream, flush=True)


def in_words(seconds: float) -> str:
    """A duration in the two largest of hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def text_of_bytes(count: float) -> str:
    """A number of bytes with three digits and a unit."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.3g} {units[0]}"
