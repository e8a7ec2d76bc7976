"""Report: what a surface shows, what it hides, and where not to trust it, as sentences.

In: a Surface. Out: sentences, stored with it, printed by `analyze` and repeated by `info`. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.surface.critical import CriticalPoint, critical_points, lowest_pass
from landscape_hooks.surface.digits import percent, place_text, text_of
from landscape_hooks.surface.spots import outside, said_of
from landscape_hooks.surface.surface import Path, Surface

NOTABLE = 0.1
"""A difference between the true loss and the plane's counts if it is above this share of the whole change of the loss,
or of the true loss, whichever is less. A loss that may be negative has no zero to be measured from."""

ROUNDING = {"float64": 1e-12}
OF_FLOAT32 = 3e-7
"""Relative errors of a loss by rounding, by the precision it is computed in."""

SHOWN = 5
"""Largest number of steps that a sentence lists."""

SHOWN_MARKS = 12
"""Largest number of marks that have a sentence each."""

SHOWN_MINIMA = 5
"""Largest number of minima that a sentence lists, the lowest first."""

POLICY = {
    "batch": "Losses are taken with the statistics of each batch, as in training, not as in evaluation.",
    "fixed": "Losses are taken with the final running statistics; an evaluation at an earlier snapshot used others.",
    "interpolate": "Running statistics move with the weights; a snapshot in the plane has its own evaluation's loss.",
    "recalibrate": "Running statistics are measured anew at every point, over the probe samples.",
}


def sentences(surface: Surface, doubts: Sequence[str] = ()) -> list[str]:
    """The report, one sentence for each entry.

    `doubts` are those of the other runs on the surface, and of its loss.
    """
    doubts = list(dict.fromkeys([*surface.doubts, *doubts]))
    said = [_what(surface), *_part(surface), *(f"In doubt: {doubt}" for doubt in doubts), *_divergence(surface)]
    said += [surface.definition.samples_said] if surface.definition.samples_said else []
    if (policy := surface.definition.batch_norm) in POLICY:
        said.append(POLICY[policy])
    said += _buffers(surface) + _variance(surface)
    for path in surface.paths:
        whose = f"{path.label}: " if len(surface.paths) > 1 else ""
        known = path if path.evaluated is None else path.at(path.evaluated)
        of_losses = (_ends(known), _gap(surface, known)) if len(known) else ()
        said += [whose + s for s in (*of_losses, _distance(surface, path), _extent(surface, path)) if s]
    return said + _marks(surface) + _noise(surface) + _critical(surface) + _holes(surface)


def used_up(so_far: Surface) -> str:
    """What is said of a surface (`Surface.so_far`) whose analysis has ended with its budget."""
    there = so_far.attrs.get("so_far", "all points, not all metrics or marks")
    return f"The budget is used up; there are {there}. The same command goes on with it."


def _what(surface: Surface) -> str:
    rows, columns = surface.shape
    definition = surface.definition
    where = f"line along {definition.labels[0]}" if columns == 1 else f"{definition.directions} plane"
    return f"{rows}×{columns} losses over {definition.samples} probe samples on the {where}."


def _part(surface: Surface) -> list[str]:
    """Which tensors the surface is of, where it is not all that moves."""
    definition = surface.definition
    if not definition.only:
        return []
    count, patterns = len(definition.parameters), "', '".join(definition.only)
    some = f"{count} tensors" if count != 1 else "one tensor"
    return [
        f"Only what '{patterns}' means moves here ({some}): everything else keeps the values of step "
        f"{definition.origin_step}, on the plane and at every snapshot. The losses of the path are not those of the "
        "training, but of that step with this part as it was at the snapshot."
    ]


def _divergence(surface: Surface) -> list[str]:
    """What was left out of runs that diverged."""
    said = []
    for found in surface.definition.divergence:
        whose, end = f"{found.run}: " if len(surface.paths) > 1 else "", found.last_finite_step
        if found.left_out:
            snapshots = f"{found.left_out} snapshots" if found.left_out > 1 else "snapshot"
            said.append(
                f"{whose}The training diverged: at step {found.first_step} the {found.what} "
                f"{'is' if found.what == 'loss' else 'are'} not finite any more. The {snapshots} after step {end} "
                f"{'are' if found.left_out > 1 else 'is'} left out; the path ends with the last finite one."
            )
        if found.holes:
            steps = ", ".join(map(str, found.holes[:SHOWN])) + (" ..." if len(found.holes) > SHOWN else "")
            some = f"{len(found.holes)} snapshots are" if len(found.holes) > 1 else "A snapshot is"
            said.append(f"{whose}{some} left out of the path for NaN or infinite values (step {steps}).")
    return said


def _buffers(surface: Surface) -> list[str]:
    """Which buffers count where, of those that are no running statistics and change along the path."""
    names = surface.moving_buffers
    if not names:
        return []
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [
        f"Along the path some buffers change that are no running statistics ({shown}): on the plane these buffers are "
        "those of the origin, at a snapshot its own. What they change is part of the difference between the two losses."
    ]


def _variance(surface: Surface) -> list[str]:
    """The plane's share of the variance, compared with that of a random walk of the same length."""
    ratio, count = surface.explained_variance_ratio, sum(len(p) for p in surface.paths)
    if not np.isfinite(ratio).all() or count < 3:
        return []
    if surface.definition.directions != "pca" or surface.shape[1] == 1:
        first, second = (percent(float(share)) for share in ratio)
        return [f"Along the directions lie {first} and {second} of the trajectory's variance."]
    whole, first, second = (percent(float(share)) for share in (ratio.sum(), *ratio))
    shares = f"The plane holds {whole} of the trajectory's variance ({first} + {second})"
    if len(surface.paths) > 1:
        return [f"{shares}, of {len(surface.paths)} runs together."]
    walk = random_walk_ratio(count)[:2]
    said = [f"{shares}; a pure random walk of {count} snapshots would show {percent(sum(walk))}."]
    if ratio.sum() < sum(walk) + 0.05:
        said.append(
            "That is no more than drift shows: the shape of the path in this plane is no evidence of structure."
        )
    return said


def _marks(surface: Surface) -> list[str]:
    """The loss at each mark, by the measure of the surface; and which of them the picture does not show."""
    said = []
    for mark in surface.marks[:SHOWN_MARKS]:
        whose = f"{surface.paths[mark.run].label}: " if len(surface.paths) > 1 else ""
        off = mark.finite and outside(surface, mark)
        place = ", ".join(text_of(float(c)) for c in mark.coordinates)
        where = f" It lies outside the grid, at ({place}); --extent can include it." if off else ""
        hidden = "" if mark.finite else "; it is not shown"
        said.append(f"{whose}{said_of(mark)}{hidden}.{where}")
    left = len(surface.marks) - SHOWN_MARKS
    return [*said, f"There are {left} more marks."] if left > 0 else said


def _ends(path: Path) -> str:
    first, last, shown_first, shown_last = _texts(path.loss[0], path.loss[-1], path.plane_loss[0], path.plane_loss[-1])
    error = f" (± {path.loss_stderr[-1]:.2g})" if np.isfinite(path.loss_stderr[-1]) else ""
    if len(path.loss) == 1:
        return f"The run has one snapshot, with a loss of {last}{error}; the plane shows {shown_last} there."
    return f"The loss goes from {first} to {last}{error}; the plane shows {shown_first} to {shown_last}."


def _texts(*losses: float) -> list[str]:
    """Losses with four digits, or so many that what they differ by is seen."""
    finite = [loss for loss in losses if np.isfinite(loss)]
    span = float(np.ptp(finite)) if finite else 0.0
    return [_text(float(loss), span / 10) for loss in losses]


def _text(loss: float, step: float) -> str:
    """A loss with four digits, or so many that it differs from one that is `step` away."""
    four = abs(loss) / 999
    return text_of(loss, min(step, four) if step > 0 else four)


def _gap(surface: Surface, path: Path) -> str:
    """Where the loss of the surface differs from the true loss, by the measure of what the loss changed."""
    path = path if path.evaluated is None else path.at(path.evaluated)
    finite = np.isfinite(path.loss) & np.isfinite(path.plane_loss)
    if not finite.any():
        return "No snapshot has a finite loss both by itself and on the plane."
    with np.errstate(invalid="ignore"):
        gap = np.where(finite, np.abs(path.plane_loss - path.loss), 0.0)
    gap[np.isfinite(path.loss) != np.isfinite(path.plane_loss)] = np.inf
    worst = int(np.argmax(gap))
    true = path.loss[np.isfinite(path.loss)]
    change = float(np.ptp(true))
    size = np.nan_to_num(np.abs(path.loss), posinf=0.0)
    rounding = ROUNDING.get(surface.definition.precision, OF_FLOAT32) * size
    # The two losses are of the same samples, so the noise of their difference is less than that of either.
    noise = np.minimum(2 * np.nan_to_num(path.loss_stderr, posinf=0.0), NOTABLE * change)
    measure = np.minimum(change, size) if true.min() >= 0 else change
    off = int((gap > np.maximum(NOTABLE * measure, noise) + rounding).sum())
    if not off:
        if len(path) > 1 and change <= 2 * rounding.max():
            return "The loss changes by no more than its rounding, so whether the surface carries the path is open."
        return (
            "The surface carries the path: at no snapshot does it differ notably from the true loss, by the measure of "
            "what the loss changed."
        )
    true_text, shown = _texts(path.loss[worst], path.plane_loss[worst])
    return (
        f"At {off} of {len(path)} snapshots the surface does not show the true loss (it differs by over {NOTABLE:.0%} "
        f"of it, or of all that the loss changed), most at step {path.step[worst]}: {true_text} against {shown} on the "
        "plane."
    )


def _distance(surface: Surface, path: Path) -> str:
    worst = int(np.argmax(path.distance))
    far = f"The path leaves the plane by up to {path.distance[worst]:.3g} in weight space (step {path.step[worst]})"
    start = float(np.hypot(np.linalg.norm(path.coordinates[0] - path.coordinates[-1]), path.distance[0]))
    if surface.definition.normalization != "orthonormal" or not start > 0:
        return far + "."
    return f"{far}, {percent(float(path.distance[worst] / start))} of the distance from start to end."


def _extent(surface: Surface, path: Path) -> str:
    """A sentence if the path is too small to be seen."""
    width = np.ptp(surface.alpha), np.ptp(surface.beta)
    shares = [float(np.ptp(path.coordinates[:, k]) / width[k]) for k in (0, 1) if width[k] > 0]
    if shares and max(shares) < 0.05:
        return f"In this picture the path is a dot: it covers {percent(max(shares))} of its width."
    return ""


def _noise(surface: Surface) -> list[str]:
    shown = surface.loss[surface.evaluated & np.isfinite(surface.loss)]
    error = surface.loss_stderr[surface.evaluated & np.isfinite(surface.loss_stderr)]
    if not shown.size or not error.size:
        return ["The standard error of the losses is not known."] if shown.size else []
    lowest = int(np.argmin(np.where(surface.evaluated & np.isfinite(surface.loss), surface.loss, np.inf)))
    here = float(surface.loss_stderr.ravel()[lowest])
    said = f"The lowest loss shown is {_text(float(shown.min()), here / 2 if here > 0 else 0.0)}"
    if not np.isfinite(here):
        return [f"{said}; its standard error is not known."]
    return [f"{said} ± {here:.2g}; finer differences are those of the samples."]


def _critical(surface: Surface) -> list[str]:
    """The minima of the grid, and the lowest pass between the two lowest of them."""
    points = critical_points(surface)
    every = [point for point in points if point.kind == "minimum"]
    real = [point for point in every if point.real]
    if not real:
        return []
    edge = " (at the edge of what is known: the loss may fall further beyond it)"
    steps = np.diff(sorted(point.loss for point in real))
    step = float(steps[steps > 0].min(initial=np.inf))
    texts = [f"{text_of(p.loss, step)} at {_place(surface, p)}{edge * p.at_edge}" for p in real[:SHOWN_MINIMA]]
    more = f" and {len(real) - SHOWN_MINIMA} more" if len(real) > SHOWN_MINIMA else ""
    said = [f"The grid has {len(real)} minima" if len(real) > 1 else "The grid has one minimum"]
    said[0] += f": {', '.join(texts)}{more}."
    way = lowest_pass(points, *real[:2]) if len(real) > 1 else None
    if way is not None:
        above = way.loss - real[1].loss
        said.append(
            f"The lowest pass between the two lowest has a loss of {text_of(way.loss, above / 10)} at "
            f"{_place(surface, way)}, {text_of(above)} above the higher of them."
        )
    if false := len(every) - len(real):
        known = np.isfinite(surface.loss_stderr[surface.evaluated]).any()
        bound = "twice its standard error (as if the two were of different samples)" if known else "rounding"
        said.append(
            f"{false} more {'do' if false > 1 else 'does'} not count: to a lower minimum the loss rises by no more "
            f"than {bound}."
        )
    return said


def _place(surface: Surface, point: CriticalPoint) -> str:
    """The coordinates of a grid point, to a tenth of the grid's step."""
    texts = []
    for axis, value in zip((surface.alpha, surface.beta), point.coordinates, strict=True):
        if len(axis) > 1:
            texts.append(place_text(value, float(np.diff(axis).min()) / 10))
    return f"({', '.join(texts)})"


def clamped(grid: NDArray[np.bool_], path: NDArray[np.bool_]) -> list[str]:
    """Where variances that `interpolate` moves lie below 0: masks of the grid's points and of the path's."""
    if not grid.any() and not path.any():
        return []
    return [
        f"At {int(grid.sum())} of {len(grid)} grid points and {int(path.sum())} of {len(path)} snapshots' projections "
        "an interpolated variance falls below 0 and is held at 0: activations, and with them the loss, can explode "
        "there. Do not trust those; --batch-norm recalibrate or batch takes statistics that fit the weights."
    ]


def _holes(surface: Surface) -> list[str]:
    bad = int((~np.isfinite(surface.loss) & surface.present).sum())
    return [f"{bad} of {surface.loss.size} losses are NaN or infinite; they are left as they are."] if bad else []


def random_walk_ratio(length: int, components: int = 2) -> tuple[float, ...]:
    """Expected explained variance ratios of a random walk's first principal components, for D much larger than T.

    In high dimension the centred walk's scatter is J S Sᵀ J with S the summation matrix, whatever the steps
    (Antognini & Sohl-Dickstein 2018, https://arxiv.org/abs/1806.08805, section 3). It is the pseudo-inverse of the
    Laplacian of a path of T points, so its eigenvalues are 1/(2 - 2 cos(πk/T)), k = 1 … T-1; their sum is (T²-1)/6.
    """
    k = np.arange(1, min(components, length - 1) + 1)
    variance = 1 / (4 * np.sin(np.pi * k / (2 * length)) ** 2)
    return tuple(float(v) for v in variance * 6 / (length**2 - 1))
