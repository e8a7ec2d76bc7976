"""Figures for a publication, by matplotlib: contours with the path, the surface in 3-D, the loss along the path.

In: a Surface. Out: a matplotlib Figure, which saves itself as PNG, SVG, PDF, PS, EPS or PGF in its style; or, with
`ax=`, artists in the caller's axes.

Without `ax`, a function makes a figure of its own in our style and returns that Figure. With `ax`, it draws into these
axes with the caller's settings, adds no title and no caption, and returns a `Drawn`: the axes, the artists that it
added, what a colour bar takes, and the text of the caption.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError
from landscape_hooks.export import drawing
from landscape_hooks.export.curves.sheet import Drawn, added, children, curves, inches_of, log_if_wide, looks, sheet
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.captions import axis_labels, caption
from landscape_hooks.mesh.contours import levels
from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.surface.spots import shown_critical_points, spots
from landscape_hooks.surface.surface import Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    from landscape_hooks.export.style import Style

Percentiles = tuple[float, float]


@overload
def contour_figure(
    surface: Surface, *, height: str = ..., clip: Percentiles = ..., colormap: str = ...,
    size: tuple[float, float] | None = ..., aspect: str = ..., width: float | None = ..., style: str = ...,
    ax: None = ...,
) -> Figure: ...  # fmt: skip
@overload
def contour_figure(
    surface: Surface, *, height: str = ..., clip: Percentiles = ..., colormap: str = ..., aspect: str = ..., ax: Axes
) -> Drawn: ...
def contour_figure(
    surface: Surface,
    *,
    height: str = "auto",
    clip: Percentiles = (0.0, 100.0),
    colormap: str = "viridis",
    size: tuple[float, float] | None = None,
    aspect: str = "auto",
    width: float | None = None,
    style: str = "screen",
    ax: Axes | None = None,
) -> Figure | Drawn:
    """Filled contours of the loss with labelled lines, and the paths over them (cf. Li et al. 2018, fig. 9).

    Between the grid points the heights are bicubic, which the caption says; at the grid points they are the losses.
    With `aspect` "auto" a plane that is much longer than wide has its shorter side stretched, which the caption says;
    "equal" draws both axes to one scale. Grid points without a finite loss are hatched. For a line (a grid with one row
    or one column) this is `line_figure`.

    Parameters
    ----------
    size
        width and height in inches; by default 6.4 wide, or 3.25 in the style "paper", and as high as the sides of the
        plane require.
    width
        inches, in place of `size`: the height follows.
    style
        "screen", or "paper": letters as the surrounding text (a Times), thin lines, no title and no caption.
    ax
        axes to draw into, which takes a place for the colour bar from them; `size`, `width` and `style` are theirs.

    Returns
    -------
    Figure, or Drawn
        the figure; with `ax`, what was drawn into the axes.

    Raises
    ------
    SurfaceError
        there is no finite loss to draw.
    LandscapeError
        the aspect or the style is unknown.
    """
    drawing.check_aspect(aspect)
    surface = surface.so_far()
    if min(surface.shape) == 1:
        return line_figure(surface, ax=ax) if ax is not None else line_figure(
            surface, size=size, width=width, style=style
        )  # fmt: skip
    look, context = looks(style, ax)
    with context:
        mesh = Mesh.from_surface(surface, height=height, clip=clip)
        sides = drawing.sides_of(surface, aspect)
        words = drawing.caption_of(surface, mesh.height, sides)
        if ax is not None:
            before = children(ax)
            filled = drawing.contours(ax, mesh, colormap, look)
            drawing.over(ax, surface, mesh, sides, look)
            if filled is not None:
                drawing.bar(ax.figure, filled, mesh, look, beside=ax, sides=None)
            return Drawn((ax,), added(before, ax), filled, words)
        figure = _blank(size, width, look, sides)
        axes = figure.add_subplot()
        filled = drawing.contours(axes, mesh, colormap, look, labels=sides > drawing.WORDLESS)
        if filled is not None:
            drawing.bar(figure, filled, mesh, look, beside=axes, sides=sides)
        drawing.over(axes, surface, mesh, sides, look)
        _head(axes, look, drawing.title_of(surface), figure, words)
        if drawing.shown_paths(surface):
            drawing.legend(figure, axes, look)
    return figure


def _blank(size: tuple[float, float] | None, width: float | None, look: Style, sides: float) -> Figure:
    """An empty figure of a size, or of a width with the height that axes of these `sides` need."""
    from landscape_hooks.export.style import blank

    wide = inches_of(size, width, look)
    if look.title:
        high = float(np.clip((1.35 if sides >= drawing.FLAT else 2.2) + (wide - 1.65) * sides, 2.0, 14))
    else:
        high = float(np.clip((0.4 if sides >= drawing.FLAT else 1.1) + (wide - 1.1) * sides, 1.2, 14))
    return blank(size or (wide, high), look)


def _head(axes: Axes, look: Style, title: str, figure: Figure, words: str = "") -> None:
    """Draw the title and the caption, if the style has them."""
    if look.title:
        drawing.head(axes, title, figure.get_figwidth(), words if look.notes else "")


@overload
def line_figure(
    surface: Surface, *, size: tuple[float, float] | None = ..., width: float | None = ..., style: str = ...,
    ax: None = ...,
) -> Figure: ...  # fmt: skip
@overload
def line_figure(surface: Surface, *, ax: Axes) -> Drawn: ...
def line_figure(
    surface: Surface,
    *,
    size: tuple[float, float] | None = None,
    width: float | None = None,
    style: str = "screen",
    ax: Axes | None = None,
) -> Figure | Drawn:
    """The loss along a line with its standard error, and the snapshots at their projections onto it.

    The parameters are those of `contour_figure`.
    """
    surface = surface.so_far()
    look, context = looks(style, ax)
    with context:
        if ax is not None:
            before = children(ax)
            _line(ax, surface, look)
            return Drawn((ax,), added(before, ax), None, drawing.title_of(surface))
        figure = sheet(size, width, look, 4.2 / 6.4)
        axes = figure.add_subplot()
        _line(axes, surface, look)
        _head(axes, look, drawing.title_of(surface), figure)
    return figure


def _line(axes: Axes, surface: Surface, look: Style) -> None:
    """Draw the loss along a line, and the snapshots."""
    along = 0 if surface.shape[1] == 1 else 1
    at = surface.alpha if along == 0 else surface.beta
    loss = np.where(surface.present, surface.loss, np.nan).ravel()
    error = surface.loss_stderr.ravel()
    if surface.interpolated is not None and surface.interpolation_error is not None:
        guessed = surface.interpolated.ravel()
        error = np.where(guessed, np.abs(loss) * surface.interpolation_error.ravel(), error)
        axes.plot(at[~guessed], loss[~guessed], ".", color=drawing.INK, markersize=4 * look.thin, label="evaluated")
    axes.fill_between(at, loss - error, loss + error, color=drawing.INK, alpha=0.15, lw=0)
    said = surface.said_of_interpolation()
    name = "loss on the line" + (f": {said}" if said else "")
    axes.plot(at, loss, color=drawing.INK, linewidth=1.6 * look.thin, label=name)
    for number, path in enumerate(drawing.shown_paths(surface)):
        axes.plot(
            path.coordinates[:, along], path.loss, ".-", color=colors.path_color(number), markersize=3.5 * look.thin,
            linewidth=0.8 * look.thin, label=f"{drawing.plain_text(path.label) or 'path'}: loss at the snapshot",
        )  # fmt: skip
    points = shown_critical_points(surface)
    drawing.critical(axes, [(point.kind, point.coordinates[along], point.loss) for point in points], look)
    log_if_wide(axes, loss)
    axes.set_xlabel(drawing.plain_text(axis_labels(surface)[along]))
    axes.set_ylabel("loss on the probe samples")
    curves(axes)
    axes.legend(fontsize=look.small, frameon=False)
    lines = [np.column_stack([path.coordinates[:, along], path.loss]) for path in drawing.shown_paths(surface)]
    drawing.marks(axes, [(spot, spot.coordinates[along], spot.marks[0].loss) for spot in spots(surface)], lines)


@overload
def loss_figure(
    surface: Surface, *, size: tuple[float, float] | None = ..., width: float | None = ..., style: str = ...,
    ax: None = ...,
) -> Figure: ...  # fmt: skip
@overload
def loss_figure(surface: Surface, *, ax: Axes | tuple[Axes, Axes]) -> Drawn: ...
def loss_figure(
    surface: Surface,
    *,
    size: tuple[float, float] | None = None,
    width: float | None = None,
    style: str = "screen",
    ax: Axes | tuple[Axes, Axes] | None = None,
) -> Figure | Drawn:
    """The loss along the path: at the snapshots and at their projections, and the distance from the plane.

    With one `ax` the losses are drawn, with a pair the distance too, into the second. The other parameters are those of
    `contour_figure`.
    """
    surface = surface.so_far()
    look, context = looks(style, ax)
    with context:
        if ax is not None:
            both = tuple(ax) if isinstance(ax, tuple | list | np.ndarray) else (ax,)
            before = children(*both)
            _losses(both[0], surface, look)
            if len(both) > 1:
                _distance(both[1], surface, look)
            both[-1].set_xlabel("optimizer step")
            return Drawn(both, added(before, *both), None, "Loss along the path")
        figure = sheet(size, width, look, 4.6 / 6.4)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1) if look.title else (2, 1))
        _losses(upper, surface, look)
        _distance(lower, surface, look)
        lower.set_xlabel("optimizer step")
        if look.title:
            upper.set_title("Loss along the path", loc="left", fontsize=11, fontweight="bold", color=drawing.INK)
    return figure


def _losses(axes: Axes, surface: Surface, look: Style) -> None:
    """Draw the losses along the paths, with their standard errors."""
    every: list[NDArray[np.float64]] = [np.array([1.0])] if not drawing.shown_paths(surface) else []
    for number, path in enumerate(drawing.shown_paths(surface)):
        color, name = colors.path_color(number), drawing.plain_text(path.label) or "path"
        low, high = path.loss - path.loss_stderr, path.loss + path.loss_stderr
        axes.fill_between(path.step, low, high, color=color, alpha=0.2, lw=0)
        axes.plot(path.step, path.loss, color=color, linewidth=1.8 * look.thin, label=f"{name}: loss at the snapshot")
        axes.plot(
            path.step, path.plane_loss, color=color, linewidth=1.1 * look.thin, linestyle=(0, (4, 2)),
            label=f"{name}: loss at its projection (the surface)",
        )  # fmt: skip
        every += [path.loss, path.plane_loss]
    log_if_wide(axes, np.concatenate(every))
    axes.set_ylabel("loss on the probe samples")
    curves(axes)
    if drawing.shown_paths(surface):
        axes.legend(fontsize=look.small, frameon=False)
    lines = [np.column_stack([path.step, path.loss]) for path in drawing.shown_paths(surface)]
    drawing.marks(axes, [(spot, spot.marks[0].step, spot.marks[0].loss) for spot in spots(surface)], lines)


def _distance(axes: Axes, surface: Surface, look: Style) -> None:
    """Draw the distances of the paths from the plane."""
    for number, path in enumerate(drawing.shown_paths(surface)):
        axes.plot(path.step, path.distance, color=colors.path_color(number), linewidth=1.3 * look.thin)
    axes.set_ylabel("distance\nfrom the plane" if look.title else "distance")
    axes.set_ylim(bottom=0)
    curves(axes)


@overload
def surface_figure(
    surface: Surface, *, height: str = ..., clip: Percentiles = ..., colormap: str = ...,
    view: tuple[float, float] = ..., size: tuple[float, float] | None = ..., aspect: str = ...,
    width: float | None = ..., style: str = ..., ax: None = ...,
) -> Figure: ...  # fmt: skip
@overload
def surface_figure(
    surface: Surface, *, height: str = ..., clip: Percentiles = ..., colormap: str = ...,
    view: tuple[float, float] = ..., aspect: str = ..., ax: Axes,
) -> Drawn: ...  # fmt: skip
def surface_figure(
    surface: Surface,
    *,
    height: str = "auto",
    clip: Percentiles = (0.0, 100.0),
    colormap: str = "viridis",
    view: tuple[float, float] = (32.0, -58.0),
    size: tuple[float, float] | None = None,
    aspect: str = "auto",
    width: float | None = None,
    style: str = "screen",
    ax: Axes | None = None,
) -> Figure | Drawn:
    """The surface in 3-D as vector graphics, with the draped path; `view` is elevation and azimuth in degrees.

    `ax` has the projection "3d". The other parameters are those of `contour_figure`.

    Raises
    ------
    LandscapeError
        the aspect is neither "auto" nor "equal", the style is unknown, or `ax` is flat.
    """
    drawing.check_aspect(aspect)
    surface = surface.so_far()
    look, context = looks(style, ax)
    with context:
        mesh = Mesh.from_surface(surface, height=height, clip=clip)
        sides = drawing.sides_of(surface, aspect)
        words = caption(surface, mesh.height, drawing.stretch_of(surface, sides))
        if ax is not None:
            if ax.name != "3d":
                raise LandscapeError(
                    f"Found axes of the projection '{ax.name}'", expected="'3d'",
                    mend='Make them by figure.add_subplot(projection="3d")',
                )  # fmt: skip
            before = children(ax)
            drawn = _relief(ax, surface, mesh, colormap, view, sides, look)
            return Drawn((ax,), added(before, ax), drawn, words)
        figure = sheet(size, width, look, 5.2 / 6.4)
        axes: Any = figure.add_subplot(projection="3d", computed_zorder=False)
        _relief(axes, surface, mesh, colormap, view, sides, look)
        _head(axes, look, drawing.title_of(surface), figure, words)
    return figure


def _relief(
    axes: Any, surface: Surface, mesh: Mesh, colormap: str, view: tuple[float, float], sides: float, look: Style
) -> ScalarMappable:
    """Draw the surface in space, and the paths on it."""
    from landscape_hooks.export.style import plain_numbers

    alpha, beta = np.meshgrid(surface.alpha, surface.beta, indexing="ij")
    drawn: ScalarMappable = axes.plot_surface(
        alpha, beta, mesh.heights, cmap=drawing.colormap_of(colormap), rcount=100, ccount=100, linewidth=0,
        antialiased=True, vmin=mesh.height.bounds[0], vmax=mesh.height.bounds[1], alpha=0.96,
    )  # fmt: skip
    lines, lift = [], np.array([0, 0, 0.01 * np.ptp(mesh.height.bounds)])
    for number, path in enumerate(drawing.shown_paths(surface)):
        lifted = mesh.drape(path.coordinates).points + lift
        lines.append(lifted)
        axes.plot(*lifted.T, color="white", linewidth=3.2 * look.thin, zorder=4)
        name, color = drawing.plain_text(path.label) or "path", colors.path_color(number)
        axes.plot(*lifted.T, color=color, linewidth=1.7 * look.thin, zorder=5, label=name)
    labels = [drawing.plain_text(label) for label in axis_labels(surface)]
    axes.set_xlabel(labels[0], fontsize=look.small)
    axes.set_ylabel(labels[1], fontsize=look.small)
    axes.set_zlabel(mesh.height.labels.name("loss"), fontsize=look.small)
    losses, index = levels(mesh.height, 20)
    shown = losses[index] if index.sum() >= 3 else losses
    axes.set_zticks(mesh.height.of(shown), labels=mesh.height.labels.texts(shown))
    plain_numbers(axes)
    axes.tick_params(labelsize=look.tiny, pad=1)
    axes.view_init(*view)
    small = (
        {} if look.name != "paper" else {"zoom": 0.88}
    )  # the words beside a small box need a larger part of the picture
    axes.set_box_aspect((1.2 / max(sides, 1), 1.2 * min(sides, 1), 0.62), **small)
    if look.name == "paper":
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.labelpad = -6 if axis is not axes.zaxis else -4
            axis.set_tick_params(pad=-3)
    drawing.marks(axes, [(spot, *mesh.on(spot.coordinates) + lift) for spot in spots(surface)], lines)
    return drawn
