"""Figures for a publication, by matplotlib: contours with the path, the surface in 3-D, the loss along the path.

In: a Surface. Out: a matplotlib Figure, which saves itself as PNG, SVG or PDF.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.captions import BETWEEN, axis_labels, caption
from landscape_hooks.mesh.contours import levels
from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.mesh.stage import ASPECTS
from landscape_hooks.surface.digits import text_of, texts_of
from landscape_hooks.surface.surface import Path, Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

INK = "#1d2430"
HALO = "#ffffff"
QUIET = "#5a6475"
SMALL = 7.5
"""Points of a caption's letters."""


SIDES = (0.4, 1.6)
FLAT = 0.3
STRETCHED = (0.7, 1.3)
"""Heights of the axes by their width: which are drawn to scale, below which no words fit beside them, and those that a
plane beyond the first has."""


def contour_figure(
    surface: Surface,
    *,
    height: str = "auto",
    clip: tuple[float, float] = (0.0, 100.0),
    colormap: str = "viridis",
    size: tuple[float, float] | None = None,
    aspect: str = "auto",
) -> Figure:
    """Filled contours of the loss with labelled lines, and the paths over them (cf. Li et al. 2018, fig. 9).

    `size` is in inches; the default is 6.4 wide, and as high as the sides of the plane require. With `aspect` "auto" a
    plane that is much longer than wide has its shorter side stretched, which the caption says; "equal" draws both axes
    to one scale. Grid points without a finite loss are hatched. For a line (a grid with one row or one column) this is
    `line_figure`.

    Raises
    ------
    SurfaceError
        there is no finite loss to draw.
    LandscapeError
        the aspect is neither of the two.
    """
    _check(aspect)
    surface = surface.so_far()
    if min(surface.shape) == 1:
        return line_figure(surface)
    from landscape_hooks.export.style import blank, ours

    with ours():
        mesh = Mesh.from_surface(surface, height=height, clip=clip)
        sides = sides_of(surface, aspect)
        figure = blank(size or (6.4, float(np.clip((1.35 if sides >= FLAT else 2.2) + 4.75 * sides, 2.0, 14))))
        axes = figure.add_subplot()
        _fill(figure, axes, surface, mesh, colormap, sides)
        _holes(axes, mesh)
        for number, path in enumerate(_shown(surface)):
            _draw_path(axes, path, colors.path_color(number), alone=len(_shown(surface)) == 1)
        _evaluated(axes, surface)
        _frame(axes, surface, sides)
        _head(axes, _title(surface), figure.get_figwidth(), caption(surface, mesh.height, _stretch(surface, sides)))
        if _shown(surface):
            _legend(figure, axes)
    return figure


def _head(axes: Axes, title: str, inches: float, below: str = "") -> None:
    """Draw the title, in a size that fits its length, and the caption, in as many lines as it needs."""
    size = float(np.clip(11 * 9.4 * inches / max(len(title), 1), 6.5, 11))
    lines = _lines(below, inches - 0.9) if below else []
    axes.set_title(title, loc="left", fontsize=size, fontweight="bold", color=INK, pad=11 * (1 + len(lines)))
    axes.annotate(
        "\n".join(lines), (0, 1), xytext=(0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=SMALL,
        linespacing=1.25, color=QUIET, in_layout=False,  # a long caption does not shrink the axes
    )  # fmt: skip


def _lines(text: str, inches: float) -> list[str]:
    """A caption as lines that fit the width, broken between its parts."""
    from matplotlib.textpath import TextPath

    lines: list[str] = []
    for part in text.split(BETWEEN):
        longer = BETWEEN.join([*lines[-1:], part])
        if lines and TextPath((0, 0), longer, size=SMALL).get_extents().width <= 72 * inches:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def _legend(figure: Figure, axes: Axes) -> None:
    """Draw the legend below the axes, in as many columns as fit."""
    from matplotlib.transforms import offset_copy

    handles, labels = axes.get_legend_handles_labels()
    inches = [0.5 + 0.06 * len(label) for label in labels]
    columns = int(np.clip(figure.get_figwidth() / max(inches), 1, min(3, len(labels))))
    columns = len(labels) if sum(inches) < figure.get_figwidth() - 0.3 else columns
    rows = -(-len(labels) // columns)
    columns = -(-len(labels) // rows)
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.19 * rows)
    place = offset_copy(axes.transAxes, figure, x=-30, y=-32, units="points")  # below the axis' name
    axes.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=place, ncols=columns, fontsize=8,
        frameon=False, borderaxespad=0,
    )  # fmt: skip


def _plain(text: str) -> str:
    """A name with its dollar signs escaped, so that matplotlib reads no formula."""
    return text.replace("$", r"\$")


def _title(surface: Surface) -> str:
    runs = [_plain(path.label) for path in surface.paths if path.label]
    what = {"pca": "the plane of its main directions", "random": "a random filter-normalised plane"}
    plane = what.get(
        str(surface.attrs.get("directions")), f"the plane '{_plain(str(surface.attrs.get('directions')))}'"
    )
    plane = plane.replace("its", "their") if len(runs) > 1 else plane
    if surface.attrs.get("directions") not in what and not surface.attrs.get("directions"):
        plane = "a plane"
    where = "along a line" if min(surface.shape) == 1 else f"in {plane}"
    around = ", ".join(runs)
    around = around if len(runs) == 1 or (len(runs) == 2 and len(around) <= 45) else f"{len(runs)} runs"
    return f"Loss around {around} {where}" if runs else f"Loss {where}"


def _shown(surface: Surface) -> list[Path]:
    """The paths that have a snapshot."""
    return [path for path in surface.paths if len(path)]


def sides_of(surface: Surface, aspect: str = "auto") -> float:
    """Height of the axes by their width: that of the plane, unless it is much longer than wide and may be stretched."""
    sides = float(np.ptp(surface.beta) / np.ptp(surface.alpha))
    return sides if aspect == "equal" or SIDES[0] <= sides <= SIDES[1] else float(np.clip(sides, *STRETCHED))


def _stretch(surface: Surface, sides: float) -> float:
    """How many times as long a unit along beta is drawn as one along alpha, in axes of these sides."""
    return sides / sides_of(surface, "equal")


def _check(aspect: str) -> None:
    if aspect not in ASPECTS:
        raise LandscapeError(f"Found the aspect '{aspect}'", expected=f"one of {', '.join(ASPECTS)}")


def _map(name: str) -> ListedColormap:
    """The colour map `name`, for matplotlib."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(colors.table(name) / 255.0, name=name)


def _fill(figure: Figure, axes: Axes, surface: Surface, mesh: Mesh, colormap: str, sides: float) -> None:
    """Filled contours, lines with labels at the index levels, and the colour bar in loss units.

    Beside axes that are too flat for it, by their `sides`, the bar lies below.
    """
    from matplotlib import patheffects

    heights = np.ma.masked_invalid(mesh.heights.T)
    low, high = mesh.height.bounds
    losses, index = levels(mesh.height, 24)
    if not len(losses):
        axes.text(0.5, 0.5, f"constant loss {text_of(low)}", transform=axes.transAxes, ha="center")
        return
    lines = mesh.height.of(losses)
    steps = np.concatenate([[low], lines[(lines > low) & (lines < high)], [high]])
    filled = axes.contourf(surface.alpha, surface.beta, heights, levels=steps, cmap=_map(colormap), corner_mask=False)
    for heavy in (False, True):
        some = lines[index == heavy]
        if not len(some):
            continue
        drawn = axes.contour(
            surface.alpha,
            surface.beta,
            heights,
            levels=some,
            colors="white",
            linestyles="solid",
            linewidths=0.9 if heavy else 0.35,
            alpha=0.9 if heavy else 0.55,
            corner_mask=False,
        )
        if heavy:
            words = mesh.height.labels.texts(float(mesh.height.inverse(level)) for level in drawn.levels)
            names = dict(zip(map(float, drawn.levels), words, strict=True))
            for label in axes.clabel(drawn, fmt=names, fontsize=7, colors="white", inline_spacing=4):
                label.set_path_effects([patheffects.withStroke(linewidth=1.6, foreground="#00000066")])
    if sides < FLAT:
        bar = figure.colorbar(filled, ax=axes, location="bottom", aspect=40, pad=0.02, spacing="proportional")
    else:
        wide = max(sides, 1.0)  # the bar is as wide beside narrow axes
        beside = axes.inset_axes(
            (1.0 + 0.025 * wide, 0.0, 0.03 * wide, 1.0)
        )  # as high as the axes, at any aspect ratio
        bar = figure.colorbar(filled, cax=beside, spacing="proportional")
    shown = lines[index] if index.sum() >= 3 else lines
    bar.set_ticks(shown.tolist(), labels=mesh.height.labels.texts(float(mesh.height.inverse(level)) for level in shown))
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    bar.set_label(mesh.height.labels.name("loss on the probe samples"), color=INK)


def _holes(axes: Axes, mesh: Mesh) -> None:
    """Hatch the cells without a finite loss, so that they do not look like a value."""
    if not mesh.open_cells.any():
        return
    axes.set_facecolor("#eef0f3")
    patch = axes.patch
    patch.set_hatch("////")
    patch.set_edgecolor("#b3bac6")
    found = [f"{name}: {count}" for name, count in mesh.missing.items()]
    axes.text(
        0.99, 0.01, "hatched = " + ", ".join(found) + " points", transform=axes.transAxes, ha="right", fontsize=7,
        color=INK, bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 2},
    )  # fmt: skip


def _evaluated(axes: Axes, surface: Surface) -> None:
    """Mark the evaluated points by small dots, if a part of the surface is interpolated."""
    if surface.said_of_interpolation():
        rows, columns = np.nonzero(surface.evaluated)
        axes.plot(
            surface.alpha[rows], surface.beta[columns], linestyle="none", marker=".", markersize=1.2, color="white",
            alpha=0.6, markeredgewidth=0, zorder=1.5,
        )  # fmt: skip
        axes.plot([], [], linestyle="none", marker=".", markersize=3, color=QUIET, label="evaluated points")


def _draw_path(axes: Axes, path: Path, color: str, *, alone: bool) -> None:
    """Draw the path with a light outline, its snapshots as dots, start and end marked."""
    from matplotlib import patheffects

    points = path.coordinates
    case = [patheffects.withStroke(linewidth=3.4, foreground=HALO), patheffects.Normal()]
    name = _plain(path.label) or "path"
    axes.plot(
        *points.T,
        color=color,
        linewidth=1.7,
        solid_joinstyle="round",
        path_effects=case,
        label=f"{name}: {len(path)} snapshots",
    )
    if len(path) <= 400:
        axes.plot(*points.T, linestyle="none", marker="o", markersize=2.2, color=color, markeredgewidth=0)
    first, last = texts_of((path.loss[0], path.loss[-1]))
    start, end = f"start: step {path.step[0]}, loss {first}", f"end: step {path.step[-1]}, loss {last}"
    marks = ((0, "o", HALO, start, 7.0), (-1, "*", color, end, 13.0))
    for which, marker, face, label, size in marks:
        axes.plot(
            *points[which],
            linestyle="none",
            marker=marker,
            markersize=size,
            markerfacecolor=face,
            markeredgecolor=INK,
            markeredgewidth=0.9,
            label=label if alone else None,
            zorder=5,
        )


def _frame(axes: Axes, surface: Surface, sides: float) -> None:
    from landscape_hooks.export.style import plain_numbers

    labels = [_plain(label) for label in axis_labels(surface)]
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_xlim(surface.alpha[0], surface.alpha[-1])
    axes.set_ylim(surface.beta[0], surface.beta[-1])
    axes.set_box_aspect(sides)
    if sides < FLAT:
        axes.set_ylabel(labels[1].partition(" (")[0], rotation=0, ha="right", va="center")
        axes.set_yticks([surface.beta[0], surface.beta[-1]] if sides > 0.05 else [])
    plain_numbers(axes)
    axes.tick_params(length=3, width=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def line_figure(surface: Surface, *, size: tuple[float, float] = (6.4, 4.2)) -> Figure:
    """The loss along a line with its standard error, and the snapshots at their projections onto it."""
    surface = surface.so_far()
    along = 0 if surface.shape[1] == 1 else 1
    at = surface.alpha if along == 0 else surface.beta
    loss = np.where(surface.present, surface.loss, np.nan).ravel()
    from landscape_hooks.export.style import blank, ours, plain_numbers

    with ours():
        figure = blank(size)
        axes = figure.add_subplot()
        error = surface.loss_stderr.ravel()
        if surface.interpolated is not None and surface.interpolation_error is not None:
            guessed = surface.interpolated.ravel()
            error = np.where(guessed, np.abs(loss) * surface.interpolation_error.ravel(), error)
            axes.plot(at[~guessed], loss[~guessed], ".", color=INK, markersize=4, label="evaluated")
        axes.fill_between(at, loss - error, loss + error, color=INK, alpha=0.15, lw=0)
        said = surface.said_of_interpolation()
        axes.plot(at, loss, color=INK, linewidth=1.6, label="loss on the line" + (f": {said}" if said else ""))
        for number, path in enumerate(_shown(surface)):
            axes.plot(
                path.coordinates[:, along], path.loss, ".-", color=colors.path_color(number), markersize=3.5,
                linewidth=0.8, label=f"{_plain(path.label) or 'path'}: loss at the snapshot",
            )  # fmt: skip
        finite = loss[np.isfinite(loss)]
        if len(finite) and finite.min() > 0 and finite.max() / finite.min() > 10:
            axes.set_yscale("log")
        axes.set_xlabel(_plain(axis_labels(surface)[along]))
        axes.set_ylabel("loss on the probe samples")
        axes.grid(color="#e3e6eb", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        plain_numbers(axes)
        _head(axes, _title(surface), figure.get_figwidth())
        axes.legend(fontsize=8, frameon=False)
    return figure


def loss_figure(surface: Surface, *, size: tuple[float, float] = (6.4, 4.6)) -> Figure:
    """The loss along the path: at the snapshots and at their projections, and the distance from the plane."""
    from landscape_hooks.export.style import blank, ours, plain_numbers

    surface = surface.so_far()
    with ours():
        figure = blank(size)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        every: list[NDArray[np.float64]] = []
        for number, path in enumerate(_shown(surface)):
            color, name = colors.path_color(number), _plain(path.label) or "path"
            upper.fill_between(
                path.step, path.loss - path.loss_stderr, path.loss + path.loss_stderr, color=color, alpha=0.2, lw=0
            )
            upper.plot(path.step, path.loss, color=color, linewidth=1.8, label=f"{name}: loss at the snapshot")
            upper.plot(
                path.step, path.plane_loss, color=color, linewidth=1.1, linestyle=(0, (4, 2)),
                label=f"{name}: loss at its projection (the surface)",
            )  # fmt: skip
            lower.plot(path.step, path.distance, color=color, linewidth=1.3)
            every += [path.loss, path.plane_loss]
        values = np.concatenate(every) if every else np.array([1.0])
        values = values[np.isfinite(values)]
        if len(values) and values.min() > 0 and values.max() / values.min() > 10:
            upper.set_yscale("log")
        upper.set_ylabel("loss on the probe samples")
        lower.set_ylabel("distance\nfrom the plane")
        lower.set_xlabel("optimizer step")
        lower.set_ylim(bottom=0)
        for axes in (upper, lower):
            plain_numbers(axes)
            axes.grid(color="#e3e6eb", linewidth=0.6)
            axes.set_axisbelow(True)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        upper.set_title("Loss along the path", loc="left", fontsize=11, fontweight="bold", color=INK)
        if _shown(surface):
            upper.legend(fontsize=8, frameon=False)
    return figure


def surface_figure(
    surface: Surface,
    *,
    height: str = "auto",
    clip: tuple[float, float] = (0.0, 100.0),
    colormap: str = "viridis",
    view: tuple[float, float] = (32.0, -58.0),
    size: tuple[float, float] = (6.4, 5.2),
    aspect: str = "auto",
) -> Figure:
    """The surface in 3-D as vector graphics, with the draped path; `view` is elevation and azimuth in degrees.

    `aspect` is as in `contour_figure`.

    Raises
    ------
    LandscapeError
        the aspect is neither "auto" nor "equal".
    """
    _check(aspect)
    from landscape_hooks.export.style import blank, ours, plain_numbers

    surface = surface.so_far()
    with ours():
        mesh = Mesh.from_surface(surface, height=height, clip=clip)
        figure = blank(size)
        axes: Any = figure.add_subplot(projection="3d", computed_zorder=False)
        alpha, beta = np.meshgrid(surface.alpha, surface.beta, indexing="ij")
        axes.plot_surface(
            alpha, beta, mesh.heights, cmap=_map(colormap), rcount=100, ccount=100, linewidth=0, antialiased=True,
            vmin=mesh.height.bounds[0], vmax=mesh.height.bounds[1], alpha=0.96,
        )  # fmt: skip
        for number, path in enumerate(_shown(surface)):
            drape = mesh.drape(path.coordinates)
            lifted = drape.points + np.array([0, 0, 0.01 * np.ptp(mesh.height.bounds)])
            axes.plot(*lifted.T, color="white", linewidth=3.2, zorder=4)
            axes.plot(
                *lifted.T, color=colors.path_color(number), linewidth=1.7, zorder=5, label=_plain(path.label) or "path"
            )
        labels = [_plain(label) for label in axis_labels(surface)]
        axes.set_xlabel(labels[0], fontsize=8)
        axes.set_ylabel(labels[1], fontsize=8)
        axes.set_zlabel(mesh.height.labels.name("loss"), fontsize=8)
        losses, index = levels(mesh.height, 20)
        shown = losses[index] if index.sum() >= 3 else losses
        axes.set_zticks(mesh.height.of(shown), labels=mesh.height.labels.texts(shown))
        plain_numbers(axes)
        axes.tick_params(labelsize=7, pad=1)
        axes.view_init(*view)
        sides = sides_of(surface, aspect)
        axes.set_box_aspect((1.2 / max(sides, 1), 1.2 * min(sides, 1), 0.62))
        _head(axes, _title(surface), figure.get_figwidth(), caption(surface, mesh.height, _stretch(surface, sides)))
    return figure
