"""Sampling: as many probe samples as the contrast of a picture needs.

In: an Objective, and how its losses are had at a few places of the picture. Out: the Objective over a random part of
the samples. The parts of one seed are nested: a larger one holds a smaller one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.objective.objective import Objective

Floats = NDArray[np.float64]
Measured = tuple[Floats, Floats]
"""(P,) losses at the places that are looked at, and their standard errors."""

FEWEST = 64
"""Samples that are tried first; then twice as many, and so on."""

NOISE = 0.02
"""The standard error may be this share of the contrast: what a colour map of fifty steps shows."""

PLACES = 7
"""Snapshots that are looked at."""


@dataclass(frozen=True)
class Drawn:
    """So many samples of a probe, drawn without replacement by `seed`."""

    count: int
    seed: int

    def of(self, objective: Objective) -> Objective:
        """The same loss over these samples; whole batches where samples depend on one another."""
        return objective.drawn(self.count, self.seed)


@dataclass(frozen=True)
class Choice:
    """How many samples were taken, and why.

    Attributes
    ----------
    drawn
        the samples; None where all of them are taken.
    said
        the reason, as a sentence.
    """

    drawn: Drawn | None
    said: str


def choose(objective: Objective, measure: Callable[[Objective], Measured], seed: int) -> Choice:
    """The fewest samples (a power of two) whose standard errors are at most `NOISE` of the contrast.

    The contrast is the range of the losses at the places that are looked at.
    """
    every, count, contrast = objective.samples, FEWEST, math.nan
    while count < every:
        drawn = Drawn(count, seed)
        part = drawn.of(objective)
        if part.samples >= every:
            break
        losses, errors = measure(part)
        known = np.isfinite(losses) & np.isfinite(errors)
        contrast = float(np.ptp(losses[known])) if known.any() else 0.0
        worst = float(errors[known].max()) if known.any() else math.inf
        if known.all() and contrast > 0 and worst <= NOISE * contrast:
            return Choice(
                drawn,
                f"{part.samples:,} of {every:,} probe samples were drawn (seed {seed}): the standard error of their "
                f"loss is at most {worst:.2g} along the path, {worst / contrast:.1%} of the contrast there.",
            )
        wanted = 2 * count
        if known.all() and contrast > 0:  # no need to try what is known to be too few
            wanted = max(wanted, 2 ** math.floor(math.log2(max(count * (worst / (NOISE * contrast)) ** 2 / 2, 1))))
        count = wanted
    why = f"fewer would have a standard error of over {NOISE:.0%} of the contrast along the path"
    if contrast == 0:
        why = "the loss has no contrast along the path, by which their number is chosen"
    return Choice(None, f"All {every:,} probe samples were taken: {why}.")
