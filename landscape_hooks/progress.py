"""Progress: how far a long piece of work is, on the standard error stream.

In: a total, and how much more is done. Out: a bar on a terminal and in a notebook; in a file (cron, SLURM, nohup, CI) a
line at every tenth, and at least every ten minutes; nothing where there is no such stream.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TextIO, TypeVar

Item = TypeVar("Item")

LEAST_SECONDS, MOST_SECONDS = 2.0, 600.0
"""Between two lines, where there is no terminal."""


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
    """

    def __init__(self, shown: bool, total: int, what: str, unit: str) -> None:
        stream = sys.stderr if shown else None
        self._bar: Any
        if stream is None:
            self._bar = _Silence()
        elif _redraws(stream):
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=what, unit=unit, file=stream, smoothing=0.05)
        else:
            self._bar = _Lines(total, what, unit, stream)

    def __enter__(self) -> Callable[[int], object]:
        return self._bar.update

    def __exit__(self, *error: object) -> None:
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
        return bool(stream.isatty()) or type(stream).__module__.startswith("ipykernel")
    return False


class _Silence:
    def update(self, count: int) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines:
    """Whole lines, few of them."""

    def __init__(self, total: int, what: str, unit: str, stream: TextIO) -> None:
        self._total, self._what, self._unit, self._stream = total, what, unit, stream
        self._done = self._said = 0
        self._begun = self._last = time.monotonic()

    def update(self, count: int) -> None:
        self._done += count
        waited = time.monotonic() - self._last
        tenths = self._done * 10 // max(self._total, 1) > self._said * 10 // max(self._total, 1)
        if self._done < self._total and ((tenths and waited > LEAST_SECONDS) or waited > MOST_SECONDS):
            left = waited / (self._done - self._said) * (self._total - self._done) if self._done > self._said else 0.0
            self._say(f"about {in_words(left)} left")

    def close(self) -> None:
        self._say(f"{in_words(time.monotonic() - self._begun)} in all")

    def _say(self, words: str) -> None:
        counted = f"{self._done} of {self._total} {self._unit}{'es' if self._unit.endswith('s') else 's'}"
        self._said, self._last = self._done, time.monotonic()
        with suppress(OSError, ValueError):  # the reader has ended; the work continues
            print(f"{self._what}: {counted}, {words}", file=self._stream, flush=True)


def in_words(seconds: float) -> str:
    """A duration in the two largest of hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
