"""Announcement: what a recording says of itself: a line when it begins, and one when it ends.

In: what record() was asked for, and what came of it. Out: sentences, to the logger `landscape_hooks` and to the
standard error stream; to the logger alone where that already writes to a console. Saying something never raises: a
training does not end because nobody reads its standard error.
"""

from __future__ import annotations

import logging
import math
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import zarr

from landscape_hooks.errors import printable, warn_of_recording
from landscape_hooks.progress import in_words, text_of_bytes
from landscape_hooks.store import checked
from landscape_hooks.store.run import RunLike, free_bytes, local_folder, named, size_of

if TYPE_CHECKING:
    from landscape_hooks.objective.variants import KeptRebuild

LOGGER = "landscape_hooks"
PREFIX = "landscape-hooks: "

PATIENCE = 3.0
"""Seconds after which a word is said of work that goes on before the training can begin."""

SHARE = 0.1
"""A run that may take more than this share of the free disk is warned of."""


@dataclass(frozen=True)
class Size:
    """How large a run is going to be.

    Attributes
    ----------
    parameters
        numbers of a snapshot's weights.
    row_bytes, fixed_bytes
        bytes of a snapshot, and of what is stored once.
    most
        the most snapshots; None where the schedule does not say.
    """

    parameters: int
    row_bytes: int
    fixed_bytes: int
    most: int | None

    @property
    def bytes(self) -> int:
        """Bytes of all of it, of one snapshot where their number is not known."""
        return self.row_bytes * (self.most or 1) + self.fixed_bytes

    def __str__(self) -> str:
        words = [f"{self.parameters:,} parameters"]
        if self.fixed_bytes:
            words.append(f"what does not move once ({text_of_bytes(self.fixed_bytes)})")
        row = f"of {text_of_bytes(self.row_bytes)}"
        if self.most:
            words += [f"at most {_snapshots(self.most)} {row}", text_of_bytes(self.bytes)]
        else:
            words += [f"snapshots {row}", "as many as the schedule asks for"]
        return ", ".join(words)


class Voice:
    """Says what one recording has to say.

    Parameters
    ----------
    shown
        False says nothing.
    store
        the run.
    """

    def __init__(self, shown: bool = False, store: RunLike = "") -> None:
        self._shown, self._store = shown, store
        self._begun = False
        self._of_loss = ""

    def say(self, sentence: str, stream: TextIO | None = None) -> None:
        """One line; `stream` is the standard error stream, where that is replaced for now."""
        if not self._shown:
            return
        with suppress(Exception):  # handlers are anybody's code
            log = logging.getLogger(LOGGER)
            if _silenced(log):
                return
            log.info("%s", sentence)
            if _on_console(log):
                return
        stream = sys.stderr if stream is None else stream
        if stream is not None:
            with suppress(Exception):  # closed, gone, or no file at all
                print(PREFIX + sentence, file=stream, flush=True)

    def silence(self) -> None:
        """Say nothing any more: the recording could not begin."""
        self._shown = False

    @contextmanager
    def patience(self, what: str) -> Iterator[None]:
        """Say what is going on, where it takes longer than `PATIENCE`."""
        stream = sys.stderr  # tracing replaces it meanwhile
        waiting = threading.Timer(PATIENCE, self.say, (f"{what} takes a while ...", stream))
        waiting.daemon = True
        if self._shown:
            waiting.start()
        try:
            yield
        finally:
            waiting.cancel()

    def storing(self, work: Callable[[], KeptRebuild]) -> KeptRebuild:
        """Do the work that stores the loss, and say of it what, and how long it took."""
        began = time.monotonic()
        with self.patience("Tracing the loss"):
            kept = work()
        seconds = time.monotonic() - began
        taken = f"{seconds:.1f} s" if seconds < 60 else in_words(seconds)
        self._of_loss = f"The loss is stored ({_value(kept)}); that took {taken}."
        if self._begun:
            self.say(self._of_loss)
        return kept

    # -- the two lines --------------------------------------------------------------------------------------
    def begin(self, root: zarr.Group, size: Size, *, recorded: int | None, awaited: str = "") -> None:
        """Where to, how much, at most how large, and whether the loss is stored.

        `recorded` is how many snapshots the run has that is gone on with; None for a new one. `awaited` says when a
        loss that waits for its data is stored.
        """
        where, free = printable(named(self._store)), free_bytes(self._store)
        begun = f"Recording into {where}" if recorded is None else f"Going on with {where} ({_snapshots(recorded)})"
        left = "" if free is None else f" ({text_of_bytes(free)} free)"
        none = awaited or "No loss is stored yet."
        loss = self._of_loss or ("The loss is stored already." if _has_loss(root) else none)
        self.say(f"{begun}: {size}{left}. {loss}")
        self._begun = True
        there = 0 if recorded is None else recorded * size.row_bytes + size.fixed_bytes
        if free is not None and size.bytes - there > SHARE * free:
            takes = f"up to {text_of_bytes(size.bytes)}" if size.most else f"{text_of_bytes(size.row_bytes)} a snapshot"
            warn_of_recording(
                f"The run {where} is going to take {takes}, and the disk has {text_of_bytes(free)} left. Keep fewer "
                "snapshots (keep=), take them less often (every=), or store float16 (storage=Storage(dtype='float16'))."
            )

    def end(self, root: zarr.Group, snapshots: int) -> None:
        """How many snapshots there are, how large the run is, and what comes next."""
        size = size_of(self._store)
        large = "" if size is None else f", {text_of_bytes(size)}"
        self.say(f"Recorded {_snapshots(snapshots)}{large}. Next: {self._next(snapshots, _has_loss(root))}")

    def _next(self, snapshots: int, has_loss: bool) -> str:
        options = [] if has_loss else ["--objective module:function"]
        options += ["--directions random"] if snapshots < 2 else []
        if local_folder(self._store) is None and not isinstance(self._store, str):
            return "landscape_hooks.analyze of this store"
        where = named(self._store)
        return " ".join(["landscape-hooks analyze", printable(shlex.quote(where)), *options])


def _has_loss(root: zarr.Group) -> bool:
    """Whether the run holds a loss, as far as it can be read."""
    with suppress(Exception):
        found = checked.group(root, "objective")
        return found is not None and found.attrs.get("complete") is True
    return False


def _snapshots(count: int) -> str:
    return f"{count} snapshot{'s' * (count != 1)}"


def _value(kept: KeptRebuild) -> str:
    """The loss on the probe samples, as it was when it was stored."""
    of = f"{kept.samples:,} probe sample{'s' * (kept.samples != 1)}"
    if math.isnan(kept.value) and not kept.valued:
        return of
    some = of if kept.valued >= kept.samples else f"the first {kept.valued:,} of {of}"
    return f"{kept.value:.4g} on {some} now"


# -- where a line goes ------------------------------------------------------------------------------------------
def _silenced(log: logging.Logger) -> bool:
    """Whether somebody said that this logger is to be quiet.

    That the root logger shows warnings only does not say so; and `logging.config` disables loggers unasked.
    """
    return log.level > logging.INFO or log.manager.disable >= logging.INFO


def _on_console(log: logging.Logger) -> bool:
    """Whether what was logged now has been written to a console."""
    if not log.isEnabledFor(logging.INFO):
        return False
    known: logging.Logger | None = log
    while known is not None:
        if any(handler.level <= logging.INFO and _is_console(handler) for handler in known.handlers):
            return True
        known = known.parent if known.propagate else None
    return False


def _is_console(handler: logging.Handler) -> bool:
    """A handler of the standard library that writes elsewhere is none; one of another library is taken for one."""
    if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
        stream = handler.stream
        terminal = False
        with suppress(Exception):
            terminal = bool(stream.isatty())
        return terminal or stream in (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)
    return not type(handler).__module__.startswith("logging")
