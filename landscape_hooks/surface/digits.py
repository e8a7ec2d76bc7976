"""Digits: how many of them a loss is written with, so that numbers that differ read as different ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

MOST = 12
"""Digits beyond which a loss in float32, and its mean in float64, says nothing."""


def text_of(loss: float, step: float = math.inf) -> str:
    """A loss as a short label: 0.02, 1.5, 300, 2e+04; with as many digits as tell it from one that is `step` away."""
    digits = 3 if 1e-3 <= abs(loss) < 1e4 or loss == 0 else 2
    if 0 < step < abs(loss) < math.inf:
        digits = min(MOST, max(digits, math.ceil(math.log10(abs(loss) / step)) + 1))
    return f"{loss:.{digits}g}"


def texts_of(losses: Iterable[float]) -> list[str]:
    """Losses as labels that differ wherever the losses do."""
    given = [float(loss) for loss in losses]
    known = sorted({loss for loss in given if math.isfinite(loss)})
    steps = dict.fromkeys(known, math.inf)
    for a, b in pairwise(known):
        steps[a], steps[b] = min(steps[a], b - a), b - a
    return [text_of(loss, steps.get(loss, math.inf)) for loss in given]
