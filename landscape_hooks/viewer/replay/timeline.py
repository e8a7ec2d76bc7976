"""Timeline: which moment of the replay is shown. Pure arithmetic; time comes in as seconds passed.

A position is a fractional number of a snapshot. What runs evenly in the replay is the *clock*: the optimizer step,
the epoch, or the arc length of the path.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError

Floats = NDArray[np.float64]

SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 10.0)
DURATION = 8.0
"""Seconds that a whole replay takes at speed 1."""

CLOCKS = ("step", "epoch", "arc length")


@dataclass
class Timeline:
    """`clocks` holds for every clock its reading (T,) at the snapshots, not decreasing."""

    clocks: dict[str, Floats]
    clock: str = "step"
    position: float = 0.0
    playing: bool = False
    speed: float = 1.0
    loop: bool = True
    duration: float = DURATION
    _wait: float = field(default=0.0, repr=False)

    HOLD = 1.0
    """Seconds that a looping replay shows its end before it starts again."""

    @classmethod
    def of(cls, step: Floats, epoch: Floats, coordinates: Floats) -> Timeline:
        """The clocks of a path (T,), (T,), (T, 2); the epoch only where it is known and does not fall."""
        clocks = {"step": np.asarray(step, dtype=np.float64)}
        epoch = np.asarray(epoch, dtype=np.float64)
        if len(epoch) and np.isfinite(epoch).all() and np.all(np.diff(epoch) >= 0) and np.ptp(epoch) > 0:
            clocks["epoch"] = epoch
        jumps = np.linalg.norm(np.diff(np.asarray(coordinates, dtype=np.float64), axis=0), axis=1)
        arc = np.concatenate([[0.0], np.cumsum(np.nan_to_num(jumps))]) if len(step) else np.zeros(0)
        if len(arc) and arc[-1] > 0:
            clocks["arc length"] = arc
        return cls(clocks)

    def __len__(self) -> int:
        return len(self.clocks["step"])

    @property
    def last(self) -> float:
        """The largest position."""
        return float(max(len(self) - 1, 0))

    @property
    def index(self) -> int:
        """Number of the snapshot that is shown: the last one reached."""
        return int(np.floor(self.position + 1e-9))

    @property
    def fraction(self) -> float:
        """Share of the replay that has passed, 0 … 1, by the clock."""
        reading = self._reading
        if len(reading) < 2 or reading[-1] <= reading[0]:
            return 0.0
        now = float(np.interp(self.position, np.arange(len(reading)), reading))
        return float((now - reading[0]) / (reading[-1] - reading[0]))

    @property
    def _reading(self) -> Floats:
        return self.clocks[self.clock]

    def at(self, fraction: float) -> float:
        """The position at a share of the replay."""
        reading = self._reading
        if len(reading) < 2 or reading[-1] <= reading[0]:
            return 0.0
        now = reading[0] + min(max(fraction, 0.0), 1.0) * (reading[-1] - reading[0])
        right = int(np.clip(np.searchsorted(reading, now), 1, len(reading) - 1))
        left, width = reading[right - 1], reading[right] - reading[right - 1]
        return float(right - 1 + ((now - left) / width if width > 0 else 1.0))

    # -- moves -----------------------------------------------------------------------------------------
    def advance(self, seconds: float) -> bool:
        """Let time pass while playing; returns whether the picture changes."""
        if not self.playing or len(self) < 2:
            return False
        if self.position >= self.last:
            if not self.loop:
                self.playing = False
                return False
            self._wait += seconds
            if self._wait < self.HOLD:
                return False
            self._wait, self.position = 0.0, 0.0
            return True
        self.scrub(self.fraction + seconds * self.speed / self.duration)
        return True

    def scrub(self, fraction: float) -> None:
        """Go to a share of the replay."""
        self.position = self.last if fraction >= 1 else self.at(fraction)

    def toggle(self) -> None:
        """Play or pause; at the end, play again from the start."""
        self.playing = not self.playing
        if self.playing and self.position >= self.last:
            self.position = 0.0

    def step(self, count: int) -> None:
        """Pause, and go `count` snapshots on (or back)."""
        self.playing = False
        start = np.floor(self.position + 1e-9) if count > 0 else np.ceil(self.position - 1e-9)
        self.position = float(np.clip(start + count, 0, self.last))

    def faster(self, by: int) -> None:
        """Take the next higher (or lower) speed."""
        nearest = int(np.argmin(np.abs(np.log(np.array(SPEEDS) / self.speed))))
        self.speed = SPEEDS[int(np.clip(nearest + by, 0, len(SPEEDS) - 1))]

    def use(self, clock: str) -> None:
        """Take a clock by its name.

        Raises
        ------
        LandscapeError
            there is no such clock, or the run does not know its epochs.
        """
        if clock not in self.clocks:
            raise LandscapeError(f"Found the clock '{clock}'", expected=f"one of: {', '.join(self.clocks)}")
        self.clock = clock

    def next_clock(self) -> None:
        """Change the clock; the moment shown stays."""
        names = [name for name in CLOCKS if name in self.clocks]
        self.clock = names[(names.index(self.clock) + 1) % len(names)]
