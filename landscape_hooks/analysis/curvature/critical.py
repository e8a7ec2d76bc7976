"""Critical sharpness: how large a step may be before the loss rises, from a few evaluations of the loss alone.

In: the loss along a direction. Out: 2/η of the smallest step size η at which it is higher than where it began (Kalra et
al. 2026, https://arxiv.org/abs/2601.16979). On a quadratic that is the curvature along the gradient, where the
direction is the negative gradient; along an eigenvector it is the eigenvalue.
"""

from __future__ import annotations

import math
from collections.abc import Callable

MOST = 60
"""Times that a step is halved or doubled before the search gives up."""

CLOSE = 1.02
"""Ratio of the ends of the interval at which the search stops."""

RESOLVED = 16.0
"""The loss has to fall by so many units of rounding on the way, or its rise says nothing."""


def critical_sharpness(loss: Callable[[float], float], start: float, rounding: float) -> tuple[float, float]:
    """(2/η, half the width of its interval) along a direction; (NaN, NaN) where the loss does not fall along it.

    Parameters
    ----------
    loss
        the loss after a step of size η along the direction; `loss(0)` is where it begins.
    start
        the first step size that is tried, above 0.
    rounding
        relative rounding of a loss: a fall that is not well above it is none.

    Examples
    --------
    >>> value, error = critical_sharpness(lambda step: (1 - step) ** 2 / 2, 0.1, 1e-16)  # curvature 1
    >>> abs(value - 1) <= error
    True
    """
    begin = loss(0.0)

    def rises(step: float) -> bool:
        return not loss(step) <= begin  # NaN and inf are a rise

    low = high = start
    if rises(start):
        for _ in range(MOST):
            high, low = low, low / 2
            if not rises(low):
                break
        else:
            return math.nan, math.nan
    else:
        for _ in range(MOST):
            low, high = high, high * 2
            if rises(high):
                break
        else:
            return 0.0, 2 / high
    while high / low > CLOSE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rises(middle) else (middle, high)
    if not begin - loss(low / 2) > RESOLVED * rounding * abs(begin):
        return math.nan, math.nan
    return (1 / low + 1 / high), (1 / low - 1 / high)
