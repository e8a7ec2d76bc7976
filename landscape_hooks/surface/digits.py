"""Digits: how numbers are written, so that those that differ read as different ones, and with no more digits than that.

In: numbers, and a difference or a range that is to be seen. Out: texts. Figures, window, page, captions and report
write with this one rule; `viewer/web/geometry/numbers.js` is the same in JavaScript.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

MOST = 15
"""Digits beyond which a number in float64 says nothing."""

FAR = 3e5
"""Ratio of a number to the range around it from which labels say what they are above an offset."""


def text_of(value: float, step: float = math.inf) -> str:
    """A number as a short label: 0.02, 1.5, 300, 2e+04; with as many digits as tell it from one that is `step` away."""
    digits = 4 if 1e3 <= abs(value) < 1e4 else 3 if 1e-3 <= abs(value) < 1e3 or value == 0 else 2
    if 0 < step < abs(value) < math.inf:
        digits = min(MOST, max(digits, math.ceil(math.log10(abs(value) / step)) + 1))
    return f"{value + 0.0:.{digits}g}"  # no label says -0


def texts_of(values: Iterable[float]) -> list[str]:
    """Numbers as labels that differ wherever the numbers do."""
    given = [float(value) for value in values]
    known = sorted({value for value in given if math.isfinite(value)})
    steps = dict.fromkeys(known, math.inf)
    for a, b in pairwise(known):
        steps[a], steps[b] = min(steps[a], b - a), b - a
    return [text_of(value, steps.get(value, math.inf)) for value in given]


def with_error(value: float, error: float) -> str:
    """A number and its error, to the digit of the error, but to no more than a thousandth of itself; "-" for NaN.

    >>> with_error(259.7, 18.0), with_error(8.05219, 2e-7), with_error(1.5, math.nan), with_error(math.nan, 1.0)
    ('260 ± 20', '8.052 ± 2e-07', '1.5', '-')
    """
    if math.isnan(value):
        return "-"
    if not 0 < error < math.inf or math.isinf(value):
        return text_of(value)
    return f"{text_of(value, max(error, 1e-3 * abs(value)))} ± {text_of(float(f'{error:.1g}'))}"


def place_text(value: float, step: float) -> str:
    """A coordinate to the digit of `step`, which is how far it is from one that reads differently.

    >>> place_text(0.123456, 0.01), place_text(1.2345e-07, 1e-09)
    ('0.12', '1.23e-07')
    """
    if not (math.isfinite(value) and 0 < step < math.inf):
        return text_of(value)
    if abs(value) < step / 2:
        return "0"
    digits = math.floor(math.log10(abs(value))) - math.floor(math.log10(step)) + 1
    return f"{value:.{min(max(digits, 1), MOST)}g}"


def percent(share: float) -> str:
    """A share as a percentage with a digit behind the point, or as many as tell it from 0 % and from 100 %.

    >>> percent(0.25), percent(0.999997), percent(3e-6), percent(1.0)
    ('25.0%', '99.9997%', '0.0003%', '100%')
    """
    if not math.isfinite(share) or share in (0.0, 1.0):
        return f"{100 * share:g}%"
    least = min(abs(share), abs(1 - share))
    decimals = max(1, -math.floor(math.log10(100 * least)))
    if decimals > 6:
        return f"{100 * share:.2g}%" if abs(share) < 0.5 else "100.0%"
    return f"{100 * share:.{decimals}f}%"


@dataclass(frozen=True)
class Labels:
    """Labels of one scale. They say what is above `offset`, which is 0 for nearly all.

    >>> Labels.between(5.0700000001, 5.0700000009).name("loss")
    'loss - 5.07'
    """

    offset: float = 0.0

    @classmethod
    def between(cls, low: float, high: float) -> Labels:
        """Those of a scale from `low` to `high`; far from 0 the offset is a short number near the middle."""
        span, size = high - low, max(abs(low), abs(high))
        if not 0 < span < math.inf or size < FAR * span:
            return cls()
        middle = low + span / 2
        short = (float(f"{middle:.{digits}g}") for digits in range(1, MOST + 1))
        return cls(next((offset for offset in short if abs(offset - middle) <= 10 * span), 0.0))

    def texts(self, values: Iterable[float]) -> list[str]:
        """Labels of numbers that differ wherever the numbers do."""
        above = [float(value) - self.offset for value in values]
        if not self.offset:
            return texts_of(above)
        known = sorted({value for value in above if math.isfinite(value)})
        step = min((b - a for a, b in pairwise(known)), default=0.0)
        return texts_of(0.0 if abs(value) < 1e-3 * step else value for value in above)

    @property
    def above(self) -> str:
        """The offset as the end of an axis has it: "+5.07"; "" without one."""
        return f"{self.offset:+.{MOST}g}" if self.offset else ""

    def name(self, what: str) -> str:
        """What the labels say of `what`: itself, or how far it is above the offset."""
        if not self.offset:
            return what
        return f"{what} {'-' if self.offset > 0 else '+'} {abs(self.offset):.{MOST}g}"
