"""The figure of curvatures: sharpness and its threshold over the steps, the loss beneath.

In: a Curvature, or several. Out: a matplotlib Figure; or, with `ax=`, artists in the caller's axes (see figure.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import SurfaceError
from landscape_hooks.export import drawing
from landscape_hooks.export.curves.sheet import Drawn, added, children, curves, looks, scaled, sheet
from landscape_hooks.surface.digits import text_of
from landscape_hooks.surface.measures.curvature import Curvature

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from landscape_hooks.export.style import Style

Floats = NDArray[np.float64]

SHARPNESS = ("#1f4e9c", "#6f9bd8", "#aac4e8", "#cfdff3")
"""Colours of the eigenvalues of one run, the largest first."""

EDGE, STEP = "#e4572e", "#3a9d7c"
"""Colours of the threshold, and of the curvature along the step."""

RUNS = ("#1f4e9c", "#e4572e", "#3a9d7c", "#8e5bb5", "#b8860b", "#4aa3c7")
"""Colours of several runs."""

DASHED = (0, (5, 2))

TALLEST = 3.0
"""The axis goes no further than so many times the sharpness to show a threshold."""


@overload
def curvature_figure(
    curvature: Curvature | Sequence[Curvature], *, names: Sequence[str] | None = ...,
    size: tuple[float, float] | None = ..., width: float | None = ..., style: str = ..., ax: None = ...,
) -> Figure: ...  # fmt: skip
@overload
def curvature_figure(
    curvature: Curvature | Sequence[Curvature], *, names: Sequence[str] | None = ..., ax: Axes | tuple[Axes, Axes]
) -> Drawn: ...
def curvature_figure(
    curvature: Curvature | Sequence[Curvature],
    *,
    names: Sequence[str] | None = None,
    size: tuple[float, float] | None = None,
    width: float | None = None,
    style: str = "screen",
    ax: Axes | tuple[Axes, Axes] | None = None,
) -> Figure | Drawn:
    """Sharpness over the steps with its error and the threshold 2/η of the steps taken, and the loss beneath.

    Parameters
    ----------
    curvature
        as `landscape_hooks.curvature` returns it; of several, each has its sharpness, threshold and loss in a colour of
        its own. Snapshots that are not computed yet are left out.
    names
        of several, for the legend; left out, by their learning rates.
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
        there is none, or no snapshot of one has a curvature.
    LandscapeError
        the style is unknown.
    """
    given = [curvature] if isinstance(curvature, Curvature) else list(curvature)
    if not given or not all(np.isfinite(found.sharpness).any() for found in given):
        raise SurfaceError("No snapshot has a curvature", expected="one that was computed, and is finite")
    look, context = looks(style, ax)
    words = caption_of(given[0])
    with context:
        if ax is not None:
            both = tuple(ax) if isinstance(ax, tuple | list | np.ndarray) else (ax,)
            before = children(*both)
            _draw(both, given, names, look)
            return Drawn(both, added(before, *both), None, words)
        figure = sheet(size, width, look, 4.6 / 6.4)
        both = tuple(figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1)))
        _draw(both, given, names, look)
        figure.align_ylabels(both)
        if look.title:
            drawing.head(both[0], "Curvature along the path", figure.get_figwidth(), words if look.notes else "")
    return figure


def _draw(axes: Sequence[Axes], given: Sequence[Curvature], names: Sequence[str] | None, look: Style) -> None:
    if len(given) == 1:
        _sharpness(axes[0], given[0], look)
    else:
        plain = None if names is None else [drawing.plain_text(name) for name in names]
        _beside(axes[0], given, plain or [_name(found) for found in given], look)
    axes[0].set_ylabel("sharpness" if given[0].method == "hessian" else "critical sharpness")
    if axes[0].get_ylim()[0] > 0:
        axes[0].set_ylim(bottom=0)
    curves(axes[0])
    axes[0].legend(
        fontsize=look.small, ncols=2 if look.title else 1, loc="best", framealpha=0.85, edgecolor="none",
        facecolor="white",
    )  # fmt: skip
    if len(axes) > 1:
        _losses(axes[1], given, look)
    axes[-1].set_xlabel("optimizer step")


def _name(found: Curvature) -> str:
    known = found.learning_rate[np.isfinite(found.learning_rate)]
    return f"$\\eta$ = {text_of(float(known[0]))}" if len(known) else "unknown learning rate"


def caption_of(curvature: Curvature) -> str:
    """What defines the picture."""
    attrs = curvature.attrs
    how = (
        "eigenvalues of the Hessian (Lanczos), bands: their residuals"
        if curvature.method == "hessian"
        else "critical sharpness along the gradient, bands: the interval in which it was found"
    )
    policy = str(attrs.get("batch_norm", "none"))
    said = [f"{attrs.get('samples', '?')} probe samples", how]
    said += [f"BatchNorm: {policy}"] if policy != "none" else []
    return drawing.plain_text(", ".join(said))


def _sharpness(axes: Axes, found: Curvature, look: Style) -> None:
    """Draw the eigenvalues (or the critical sharpness) of one run, the curvature along the step, and the threshold."""
    lines = _lines(found)
    for number, (values, errors, name) in enumerate(lines):
        color = SHARPNESS[min(number, len(SHARPNESS) - 1)]
        _curve(axes, found, (values, errors), color, name, look, first=number == 0)
    along = found.step_curvature
    if np.isfinite(along).any():
        axes.plot(
            found.step, along, color=STEP, linewidth=1.0 * look.thin, linestyle=(0, (1.5, 1.5)), label="along the step"
        )
    _threshold(axes, found, look, np.concatenate([values for values, _, _ in lines]), EDGE, alone=True)


def _beside(axes: Axes, given: Sequence[Curvature], names: Sequence[str], look: Style) -> None:
    """Draw the sharpness of several runs, each with its threshold."""
    every = np.concatenate([found.sharpness for found in given])
    for number, (found, name) in enumerate(zip(given, names, strict=True)):
        color = RUNS[number % len(RUNS)]
        _curve(axes, found, (found.sharpness, found.sharpness_error), color, name, look, first=True)
        _threshold(axes, found, look, every, color, alone=False)
    if any(np.isfinite(found.threshold).any() for found in given):
        said = "$2/\\eta$ of each" if all(map(_plain, given)) else "threshold of each"
        axes.plot([], [], color=drawing.QUIET, linewidth=1.3 * look.thin, linestyle=DASHED, label=said)


def _curve(
    axes: Axes, found: Curvature, both: tuple[Floats, Floats], color: str, name: str, look: Style, *, first: bool
) -> None:
    """Draw values with their errors; the first line is the thicker one."""
    values, errors = both
    axes.fill_between(found.step, values - errors, values + errors, color=color, alpha=0.25, lw=0)
    few = np.isfinite(values).sum() <= 40
    axes.plot(
        found.step, values, ".-" if few else "-", color=color, markersize=(5 if first else 3) * look.thin,
        linewidth=(1.7 if first else 1.0) * look.thin, zorder=3 if first else 2.5, label=name,
    )  # fmt: skip


def _lines(found: Curvature) -> list[tuple[NDArray[np.float64], NDArray[np.float64], str]]:
    """(values, errors, name) of what is drawn, the sharpness first."""
    if found.method == "critical":
        both = [(found.critical_gradient, found.critical_gradient_error, "along the gradient")]
        if np.isfinite(found.critical_step).any():
            both.append((found.critical_step, found.critical_step_error, "along the step"))
        return both
    names = ["sharpness $\\lambda_1$", *(f"$\\lambda_{n + 1}$" for n in range(1, found.eigenvalues.shape[1]))]
    return [(found.eigenvalues[:, n], found.residuals[:, n], name) for n, name in enumerate(names)]


def _threshold(axes: Axes, found: Curvature, look: Style, drawn: Floats, color: str, *, alone: bool) -> None:
    """Draw the threshold where it is in reach; else, of one run, say how high it is."""
    known = np.isfinite(found.threshold)
    if not known.any():
        return
    limits, top = found.threshold[known], float(np.nanmax(np.abs(drawn)))
    name = ("threshold $2/\\eta$" if _plain(found) else "threshold of the step") if alone else ""
    line: dict[str, Any] = {"color": color, "linewidth": 1.3 * look.thin, "linestyle": DASHED}
    if float(limits.min()) > TALLEST * top:
        if alone:
            above = f"{text_of(float(limits.min()))}{' and more' if np.ptp(limits) else ''}"
            axes.plot([], [], **line, label=f"{name}: {above}, above the picture")
        return
    axes.plot(found.step[known], limits, **line, zorder=4, label=name or None)
    if float(limits.max()) > TALLEST * top:
        axes.set_ylim(top=TALLEST * top)


def _plain(found: Curvature) -> bool:
    """Whether the threshold is 2/η, without momentum and weight decay."""
    known = np.isfinite(found.threshold)
    return bool(np.allclose(found.threshold[known] * found.learning_rate[known], 2, rtol=1e-9))


def _losses(axes: Axes, given: Sequence[Curvature], look: Style) -> None:
    for number, found in enumerate(given):
        color = drawing.INK if len(given) == 1 else RUNS[number % len(RUNS)]
        low, high = found.loss - found.loss_stderr, found.loss + found.loss_stderr
        axes.fill_between(found.step, low, high, color=color, alpha=0.15, lw=0)
        axes.plot(found.step, found.loss, color=color, linewidth=1.3 * look.thin)
    scaled(axes, np.concatenate([found.loss for found in given]))
    axes.set_ylabel("loss" if not look.title else "loss on the\nprobe samples")
    curves(axes)
