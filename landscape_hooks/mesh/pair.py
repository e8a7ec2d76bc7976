"""Pair: two surfaces on the same grid, blended or compared, and one height for several surfaces.

In: Surfaces. Out: a Surface between two, their difference as numbers and as colours, and a Height that all share.
A grid point counts where both surfaces hold a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import SurfaceError
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.contours import nice_step
from landscape_hooks.mesh.mesh import Height, Mesh
from landscape_hooks.surface.digits import text_of, texts_of
from landscape_hooks.surface.surface import Path, Surface

Floats = NDArray[np.float64]
Mean = Callable[[Floats, Floats], Floats]

DIVERGING = "RdBu_r"
"""The colour map of a difference: blue where the second surface is lower, red where it is higher."""

UNKNOWN = 128
"""The grey where a difference is not known, since the second surface has no finite loss there."""

SAME = 1e-9
"""Share of an axis by which two coordinates of one grid point may differ."""


def common_height(surfaces: Sequence[Surface], kind: str = "auto", clip: tuple[float, float] = (0.0, 100.0)) -> Height:
    """One height for all: `Height.choose` for the losses of all surfaces together.

    Raises
    ------
    SurfaceError
        no surface has a finite loss, or a logarithm is asked of a loss that is not positive.
    """
    losses = [np.where(surface.present, surface.loss, np.nan).ravel() for surface in surfaces]
    return Height.choose(np.concatenate(losses), kind, clip)


def check_same_grid(first: Surface, second: Surface) -> None:
    """Refuse two surfaces whose grid points do not belong together.

    Raises
    ------
    SurfaceError
        the axes differ, the directions are of another kind, or the same run lies on another plane.
    """
    names = f"'{first.name or 'surface'}' and '{second.name or 'surface'}'"
    mend = "Analyze both with the same --directions, --extent and --size"
    if first.shape != second.shape:
        shapes = " and ".join(f"{rows} x {columns}" for rows, columns in (first.shape, second.shape))
        raise SurfaceError(f"The grids of {names} have {shapes} points", expected="the same grid", mend=mend)
    for axis in ("alpha", "beta"):
        one, other = getattr(first, axis), getattr(second, axis)
        if not np.allclose(one, other, rtol=0, atol=SAME * max(float(np.ptp(one)), 1e-300)):
            raise SurfaceError(
                f"The grids of {names} differ: {axis} goes from {one[0]:.4g} to {one[-1]:.4g} and from "
                f"{other[0]:.4g} to {other[-1]:.4g}",
                expected="the same grid",
                mend=mend,
            )
    kinds = [surface.definition.directions for surface in (first, second)]
    if all(kinds) and kinds[0] != kinds[1]:
        raise SurfaceError(
            f"The directions of {names} are {kinds[0]} and {kinds[1]}", expected="the same plane", mend=mend
        )
    if _is_of_one_run(first, second) and not all(_coincide(*pair) for pair in _pairs(first, second)):
        raise SurfaceError(
            f"The paths lie elsewhere on {names}, so these are two planes", expected="the same plane", mend=mend
        )


def blended(first: Surface, second: Surface, share: float) -> Surface:
    """The surface between two on the same grid: the loss is (1 - share)·first + share·second.

    A point holds a value where both do. `loss_stderr` is the same mean of both errors, which no correlation between
    them exceeds. A path is blended where it is the same on both; otherwise the first surface's is kept for a share
    below one half, and the second's from there on.

    Raises
    ------
    SurfaceError
        the grids differ, or the share is not from 0 to 1.
    """
    check_same_grid(first, second)
    if not 0 <= share <= 1:
        raise SurfaceError(f"Found the share {share:g}", expected="a number from 0 to 1")
    nearer = first if share < 0.5 else second
    if share in (0, 1):
        return nearer

    def mean(one: Floats, other: Floats) -> Floats:
        with np.errstate(invalid="ignore"):  # inf and -inf: NaN
            return np.asarray((1 - share) * one + share * other)

    present = first.present & second.present
    evaluated = first.evaluated & second.evaluated
    same = len(first.paths) == len(second.paths) and all(_coincide(*pair) for pair in _pairs(first, second))
    said = f"{text_of(1 - share)} of {first.name or 'A'}, {text_of(share)} of {second.name or 'B'}"
    return replace(
        nearer,
        loss=mean(first.loss, second.loss),
        loss_stderr=mean(first.loss_stderr, second.loss_stderr),
        evaluated=evaluated,
        interpolated=present & ~evaluated,
        interpolation_error=None,
        metrics={},
        marks=(),
        paths=tuple(_between(one, other, mean) for one, other in _pairs(first, second)) if same else nearer.paths,
        attrs=_shared(first, second) | {"blend": said},
        name=said,
    )


def difference(first: Surface, second: Surface) -> Floats:
    """(A, B) loss of the second surface minus loss of the first; NaN where either has none that is finite.

    Raises
    ------
    SurfaceError
        the grids differ.
    """
    check_same_grid(first, second)
    one, other = (np.where(s.present & np.isfinite(s.loss), s.loss, np.nan) for s in (first, second))
    return np.asarray(other - one)


@dataclass(frozen=True)
class Difference:
    """The difference of two surfaces as the colours of the first one.

    Attributes
    ----------
    values
        (A, B) second minus first, in the unit of the height: of a logarithmic one, log10 of second / first. NaN
        where it is not known.
    kind
        that of the height: "linear" or "log10".
    names
        what both surfaces are called.
    """

    values: Floats
    kind: str
    names: tuple[str, str]

    @classmethod
    def of(cls, first: Surface, second: Surface, height: Height, names: tuple[str, str] = ("A", "B")) -> Difference:
        """The difference of two surfaces on the same grid.

        Raises
        ------
        SurfaceError
            the grids differ.
        """
        values = difference(first, second)
        if height.kind == "log10":
            known = np.isfinite(values) & (first.loss > 0) & (second.loss > 0)
            ratio = np.divide(second.loss, first.loss, out=np.ones_like(values), where=known)
            values = np.where(known, np.log10(ratio, out=np.zeros_like(values), where=known & (ratio > 0)), np.nan)
        return cls(values, height.kind, names)

    @property
    def limit(self) -> float:
        """The largest size of a value: the colours go from minus this to this, and 0 lies in their middle."""
        sizes = np.abs(self.values[np.isfinite(self.values)])
        return float(sizes.max(initial=0.0)) or 1.0

    @property
    def name(self) -> str:
        """What the colours are: "B - A", or "B / A" of a logarithmic height."""
        return self.names[1] + self.short_name[1:-1] + self.names[0]

    @property
    def short_name(self) -> str:
        """`name` with the letters A and B."""
        return "B / A" if self.kind == "log10" else "B - A"

    @property
    def statement(self) -> str:
        """The colours, for a caption."""
        return f"colours: {self.short_name}, A = {self.names[0]}, B = {self.names[1]}"

    @property
    def ticks(self) -> tuple[Floats, list[str]]:
        """Values for the labels of the colour bar, and the labels."""
        if self.kind == "log10":
            size = 10**self.limit
            if self.limit >= 1:
                apart = max(1, round(self.limit / 3))  # powers of ten between two labels
                most = int(self.limit / apart)
                factors = 10.0 ** (np.arange(-most, most + 1) * apart)
            elif size >= 2:
                factors = np.array([0.2, 0.5, 1.0, 2.0, 5.0])
                factors = factors[(factors <= size) & (factors >= 1 / size)]
            else:
                step = nice_step((size - 1) / 2.5)
                half = np.arange(1, int((size - 1) / step + 1e-9) + 1) * step
                factors = np.array([*(1 - half[half < 1 - 1 / size])[::-1], 1.0, *(1 + half)])
            logarithms: Floats = np.log10(factors).astype(np.float64)
            return logarithms, [f"×{text}" for text in texts_of(factors)]
        step = nice_step(self.limit / 2.5)
        most = int(self.limit / step + 1e-9)
        values: Floats = np.arange(-most, most + 1).astype(np.float64) * step
        return values, [f"{'+' if value > 0 else ''}{text_of(float(value))}" for value in values]

    def at(self, mesh: Mesh) -> Floats:
        """(V,) the difference at every vertex of the first surface's mesh; a centre has the mean of its corners."""
        values = np.full(len(mesh.vertices), np.nan)
        count = self.values.size
        values[:count] = self.values.ravel()
        if len(values) > count:
            values[mesh.faces[:, 2].reshape(-1, 4)[:, 0]] = values[mesh.faces[:, 0].reshape(-1, 4)].mean(axis=1)
        return values

    def paint(self, mesh: Mesh) -> Mesh:
        """The first surface's mesh with the colours of the difference."""
        values = self.at(mesh)
        place = np.clip((np.nan_to_num(values) / self.limit + 1) / 2 * 256, 0, 255).astype(np.intp)
        tints = np.where(np.isfinite(values)[:, None], colors.table(DIVERGING)[place], np.uint8(UNKNOWN))
        return replace(mesh, colors=np.asarray(tints, dtype=np.uint8))

    def said_at(self, alpha: float, beta: float, surface: Surface) -> str:
        """The difference at the grid point nearest to a place, as text."""
        value = self.values[np.abs(surface.alpha - alpha).argmin(), np.abs(surface.beta - beta).argmin()]
        if not np.isfinite(value):
            return f"{self.name}: not known"
        return f"{self.name}: " + (f"×{text_of(float(10**value))}" if self.kind == "log10" else f"{value:+.3g}")


def _pairs(first: Surface, second: Surface) -> list[tuple[Path, Path]]:
    return list(zip(first.paths, second.paths, strict=False))


def _coincide(one: Path, other: Path) -> bool:
    """Whether two paths have the same snapshots at the same places."""
    if len(one) != len(other) or not np.array_equal(one.step, other.step):
        return False
    extent = float(np.nanmax(np.ptp(one.coordinates, axis=0), initial=0.0)) if len(one) else 0.0
    return bool(np.allclose(one.coordinates, other.coordinates, rtol=0, atol=1e-6 * extent + 1e-12, equal_nan=True))


def _is_of_one_run(first: Surface, second: Surface) -> bool:
    digests = [surface.attrs.get("trajectory_digest") for surface in (first, second)]
    return bool(digests[0]) and digests[0] == digests[1]


def _between(one: Path, other: Path, mean: Mean) -> Path:
    return replace(
        one,
        loss=mean(one.loss, other.loss),
        plane_loss=mean(one.plane_loss, other.plane_loss),
        loss_stderr=mean(one.loss_stderr, other.loss_stderr),
    )


def _shared(first: Surface, second: Surface) -> dict[str, object]:
    """The attributes in which both agree, and the doubts of both."""
    shared = {key: value for key, value in first.attrs.items() if second.attrs.get(key, ...) == value}
    doubts = list(dict.fromkeys([*first.doubts, *second.doubts]))
    policies = list(dict.fromkeys(surface.definition.batch_norm for surface in (first, second)))
    if len(policies) > 1:
        shared["batch_norm"] = " and ".join(policies)
    return shared | ({"doubts": doubts} if doubts else {})
