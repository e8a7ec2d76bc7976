"""The figure of a curvature: sharpness and its threshold over the steps, the loss beneath.

In: a Curvature. Out: a matplotlib Figure; or, with `ax=`, artists in the caller's axes (see figure.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import SurfaceError
from landscape_hooks.export import drawing
from landscape_hooks.export.curves.sheet import Drawn, added, children, curves, log_if_wide, looks, sheet
from landscape_hooks.surface.measures.curvature import Curvature

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from landscape_hooks.export.style import Style

SHARPNESS = ("#1f4e9c", "#6f9bd8", "#aac4e8", "#cfdff3")
"""Colours of the eigenvalues, the largest first."""

EDGE, STEP = "#e4572e", "#3a9d7c"
"""Colours of the threshold, and of the curvature along the step."""

TALLEST = 3.0
"""The axis goes no further than so many times the sharpness to show a threshold."""


@overload
def curvature_figure(
    curvature: Curvature, *, size: tuple[float, float] | None = ..., width: float | None = ..., style: str = ...,
    ax: None = ...,
) -> Figure: ...  # fmt: skip
@overload
def curvature_figure(curvature: Curvature, *, ax: Axes | tuple[Axes, Axes]) -> Drawn: ...
def curvature_figure(
    curvature: Curvature,
    *,
    size: tuple[float, float] | None = None,
    width: float | None = None,
    style: str = "screen",
    ax: Axes | tuple[Axes, Axes] | None = None,
) -> Figure | Drawn:
    """Sharpness over the steps with its error and the threshold 2/η of the steps taken, and the loss beneath.

    Parameters
    ----------
    curvature
        as `landscape_hooks.curvature` returns it; snapshots that are not computed yet are left out.
    size, width, style
        as in `contour_figure`.
    ax
        axes to draw into; with a pair, the loss is drawn into the second.

    Returns
    -------
    Figure, or Drawn
        the figure; with `ax`, what was drawn into the axes.

    Raises
    ------
    SurfaceError
        no snapshot has a curvature.
    LandscapeError
        the style is unknown.
    """
    if not np.isfinite(curvature.sharpness).any():
        raise SurfaceError("No snapshot has a curvature", expected="one that was computed, and is finite")
    look, context = looks(style, ax)
    words = caption_of(curvature)
    with context:
        if ax is not None:
            both = tuple(ax) if isinstance(ax, tuple | list | np.ndarray) else (ax,)
            before = children(*both)
            _sharpness(both[0], curvature, look)
            if len(both) > 1:
                _loss(both[1], curvature, look)
            both[-1].set_xlabel("optimizer step")
            return Drawn(both, added(before, *both), None, words)
        figure = sheet(size, width, look, 4.6 / 6.4)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
        _sharpness(upper, curvature, look)
        _loss(lower, curvature, look)
        lower.set_xlabel("optimizer step")
        figure.align_ylabels((upper, lower))
        if look.title:
            drawing.head(upper, "Curvature along the path", figure.get_figwidth(), words if look.notes else "")
    return figure


def caption_of(curvature: Curvature) -> str:
    """What defines the picture."""
    attrs = curvature.attrs
    how = (
        "eigenvalues of the Hessian by Lanczos iteration, bands: their residuals"
        if curvature.method == "hessian"
        else "critical sharpness along the gradient, bands: the interval in which it was found"
    )
    policy = str(attrs.get("batch_norm", "none"))
    said = [f"{attrs.get('samples', '?')} probe samples", how]
    said += [f"BatchNorm: {policy}"] if policy != "none" else []
    return drawing.plain_text(", ".join(said))


def _sharpness(axes: Axes, found: Curvature, look: Style) -> None:
    """Draw the eigenvalues (or the critical sharpness), the curvature along the step, and the threshold."""
    known = found.evaluated
    step = found.step[known]
    lines = _lines(found)
    for number, (values, errors, name) in enumerate(lines):
        color = SHARPNESS[min(number, len(SHARPNESS) - 1)]
        low, high = values[known] - errors[known], values[known] + errors[known]
        axes.fill_between(step, low, high, color=color, alpha=0.25, lw=0)
        axes.plot(
            step, values[known], ".-", color=color, markersize=(5 if number == 0 else 3) * look.thin,
            linewidth=(1.8 if number == 0 else 1.0) * look.thin, zorder=3 - number / 10, label=name,
        )  # fmt: skip
    along = found.step_curvature[known]
    if np.isfinite(along).any():
        axes.plot(step, along, color=STEP, linewidth=1.0 * look.thin, linestyle=(0, (1.5, 1.5)), label="along the step")
    _threshold(axes, found, look, np.concatenate([values[known] for values, _, _ in lines]))
    axes.set_ylabel("sharpness" if found.method == "hessian" else "critical sharpness")
    curves(axes)
    axes.legend(fontsize=look.small, frameon=False, ncols=2, loc="best")


def _lines(found: Curvature) -> list[tuple[NDArray[np.float64], NDArray[np.float64], str]]:
    """(values, errors, name) of what is drawn, the sharpness first."""
    if found.method == "critical":
        both = [(found.critical_gradient, found.critical_gradient_error, "along the gradient")]
        if np.isfinite(found.critical_step).any():
            both.append((found.critical_step, found.critical_step_error, "along the step"))
        return both
    names = ["sharpness $\\lambda_1$", *(f"$\\lambda_{n + 1}$" for n in range(1, found.eigenvalues.shape[1]))]
    return [(found.eigenvalues[:, n], found.residuals[:, n], name) for n, name in enumerate(names)]


def _threshold(axes: Axes, found: Curvature, look: Style, drawn: NDArray[np.float64]) -> None:
    """Draw the threshold where it is in reach; else say how high it is."""
    known = found.evaluated & np.isfinite(found.threshold)
    if not known.any():
        return
    limits = found.threshold[known]
    top = float(np.nanmax(np.abs(drawn)))
    name = "threshold $2/\\eta$" if _plain(found) else "threshold of the step"
    if float(limits.min()) > TALLEST * top:
        name += f" ({limits.min():.3g} and more, above)" if np.ptp(limits) else f" ({limits[0]:.3g}, above)"
        axes.plot([], [], color=EDGE, linewidth=1.4 * look.thin, linestyle=(0, (5, 2)), label=name)
        return
    axes.plot(
        found.step[known], limits, color=EDGE, linewidth=1.4 * look.thin, linestyle=(0, (5, 2)), zorder=4, label=name
    )
    if float(limits.max()) > TALLEST * top:
        axes.set_ylim(top=TALLEST * top)


def _plain(found: Curvature) -> bool:
    """Whether the threshold is 2/η, without momentum and weight decay."""
    known = np.isfinite(found.threshold)
    return bool(np.allclose(found.threshold[known] * found.learning_rate[known], 2, rtol=1e-9))


def _loss(axes: Axes, found: Curvature, look: Style) -> None:
    known = found.evaluated
    step, loss, error = found.step[known], found.loss[known], found.loss_stderr[known]
    axes.fill_between(step, loss - error, loss + error, color=drawing.INK, alpha=0.15, lw=0)
    axes.plot(step, loss, ".-", color=drawing.INK, markersize=3 * look.thin, linewidth=1.3 * look.thin)
    log_if_wide(axes, loss)
    axes.set_ylabel("loss" if not look.title else "loss on the\nprobe samples")
    curves(axes)
