"""Drawing: the parts of a figure of a surface: contours, holes, paths, axes, title, caption and legend.

In: a Surface, its Mesh and a Style. Out: artists in the axes that are given. `figure` puts the parts together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.captions import BETWEEN, axis_labels, caption
from landscape_hooks.mesh.contours import levels
from landscape_hooks.mesh.mesh import Height, Mesh
from landscape_hooks.mesh.smooth import SAID, finer
from landscape_hooks.mesh.stage import ASPECTS
from landscape_hooks.surface.digits import text_of, texts_of
from landscape_hooks.surface.spots import shown_critical_points, spots
from landscape_hooks.surface.surface import Path, Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.contour import QuadContourSet
    from matplotlib.figure import Figure, SubFigure

    from landscape_hooks.export.style import Style

INK = "#1d2430"
HALO = "#ffffff"
QUIET = "#5a6475"
SMALL = 7.5
"""Points of a caption's letters."""

AWAY = 9.0
"""Points between a mark and its name."""

WAYS = ((1, 0.7), (-1, 0.7), (1, -0.7), (-1, -0.7), (0, 1.2), (0, -1.2), (1, 2), (-1, 2), (1, -2), (-1, -2))
"""Directions in which the name may lie, the best first."""

HAIRLINE = 0.25
"""Points of the thinnest line that presses print."""

DASHES = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
"""Of the paths, first run first, where they are to differ in grey."""

LABELLED = 0.3
"""Length of the shortest line that has a label, in sides of the axes."""

WORDLESS = 0.15
"""Height of the axes by their width up to which lines have no labels: they would be cut."""

SIDES = (0.4, 1.6)
FLAT = 0.3
STRETCHED = (0.7, 1.3)
"""Heights of the axes by their width: which are drawn to scale, below which no words fit beside them, and those that a
plane beyond the first has."""


def head(axes: Axes, title: str, inches: float, below: str = "") -> None:
    """Draw the title, in a size that fits its length, and the caption, in as many lines as it needs."""
    size = float(np.clip(11 * 9.4 * inches / max(len(title), 1), 6.5, 11))
    lines = lines_of(below, inches - 0.9) if below else []
    axes.set_title(title, loc="left", fontsize=size, fontweight="bold", color=INK, pad=11 * (1 + len(lines)))
    axes.annotate(
        "\n".join(lines), (0, 1), xytext=(0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=SMALL,
        linespacing=1.25, color=QUIET, in_layout=False,  # a long caption does not shrink the axes
    )  # fmt: skip


def lines_of(text: str, inches: float) -> list[str]:
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


def legend(figure: Figure, axes: Axes, look: Style) -> None:
    """Draw the legend below the axes, in as many columns as fit; the figure grows by its height."""
    from matplotlib.transforms import offset_copy

    handles, labels = axes.get_legend_handles_labels()
    letter = (look.small if look.title else 0.85 * look.small) / 8  # a Times is narrower
    inches = [0.5 * letter + 0.06 * letter * len(label) for label in labels]
    columns = int(np.clip(figure.get_figwidth() / max(inches), 1, min(3, len(labels))))
    columns = len(labels) if sum(inches) < figure.get_figwidth() - 0.3 else columns
    rows = -(-len(labels) // columns)
    columns = -(-len(labels) // rows)
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.19 * letter * rows)
    place = offset_copy(axes.transAxes, figure, x=-30 * letter, y=-look.drop, units="points")  # below the axis' name
    axes.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=place, ncols=columns,
        fontsize=look.small, frameon=False, borderaxespad=0,
    )  # fmt: skip


def plain_text(text: str) -> str:
    """A name with its dollar signs escaped, so that matplotlib reads no formula."""
    return text.replace("$", r"\$")


def title_of(surface: Surface) -> str:
    runs = [plain_text(path.label) for path in surface.paths if path.label]
    what = {"pca": "the plane of its main directions", "random": "a random filter-normalised plane"}
    plane = what.get(
        str(surface.attrs.get("directions")), f"the plane '{plain_text(str(surface.attrs.get('directions')))}'"
    )
    plane = plane.replace("its", "their") if len(runs) > 1 else plane
    if surface.attrs.get("directions") not in what and not surface.attrs.get("directions"):
        plane = "a plane"
    where = "along a line" if min(surface.shape) == 1 else f"in {plane}"
    around = ", ".join(runs)
    around = around if len(runs) == 1 or (len(runs) == 2 and len(around) <= 45) else f"{len(runs)} runs"
    return f"Loss around {around} {where}" if runs else f"Loss {where}"


def shown_paths(surface: Surface) -> list[Path]:
    """The paths that have a snapshot."""
    return [path for path in surface.paths if len(path)]


def sides_of(surface: Surface, aspect: str = "auto") -> float:
    """Height of the axes by their width: that of the plane, unless it is much longer than wide and may be stretched."""
    sides = float(np.ptp(surface.beta) / np.ptp(surface.alpha))
    return sides if aspect == "equal" or SIDES[0] <= sides <= SIDES[1] else float(np.clip(sides, *STRETCHED))


def stretch_of(surface: Surface, sides: float) -> float:
    """How many times as long a unit along beta is drawn as one along alpha, in axes of these sides."""
    return sides / sides_of(surface, "equal")


def check_aspect(aspect: str) -> None:
    if aspect not in ASPECTS:
        raise LandscapeError(f"Found the aspect '{aspect}'", expected=f"one of {', '.join(ASPECTS)}")


def colormap_of(name: str) -> ListedColormap:
    """The colour map `name`, for matplotlib."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(colors.table(name) / 255.0, name=name)


def contours(axes: Axes, mesh: Mesh, colormap: str, look: Style, *, labels: bool = True) -> QuadContourSet | None:
    """Filled contours, lines, and labels at the index levels; what a colour bar takes, or None for a constant loss.

    They are drawn from the smooth heights between the grid points.
    """
    from matplotlib import patheffects

    low, high = mesh.height.bounds
    losses, index = levels(mesh.height, 24)
    if not len(losses):
        axes.text(0.5, 0.5, f"constant loss {text_of(low)}", transform=axes.transAxes, ha="center")
        return None
    alpha, beta, fine = finer(mesh)
    heights = np.ma.masked_invalid(fine.T)
    lines = mesh.height.of(losses)
    steps = np.concatenate([[low], lines[(lines > low) & (lines < high)], [high]])
    filled = axes.contourf(alpha, beta, heights, levels=steps, cmap=colormap_of(colormap), corner_mask=False)
    filled.set_edgecolor("face")  # a viewer of PDFs shows no seams between the colours
    filled.set_linewidth(HAIRLINE)
    for heavy in (False, True):
        some = lines[index == heavy]
        if not len(some):
            continue
        drawn = axes.contour(
            alpha, beta, heights, levels=some, colors="white", linestyles="solid", corner_mask=False,
            linewidths=max((0.9 if heavy else 0.35) * look.thin, HAIRLINE), alpha=0.9 if heavy else 0.55,
        )  # fmt: skip
        if heavy and labels:
            words = mesh.height.labels.texts(float(mesh.height.inverse(level)) for level in drawn.levels)
            names = dict(zip(map(float, drawn.levels), words, strict=True))
            axes.set(xlim=(alpha[0], alpha[-1]), ylim=(beta[0], beta[-1]))
            for label in axes.clabel(
                drawn, fmt=names, fontsize=look.tiny, colors="white", inline_spacing=4, manual=_places(drawn, mesh)
            ):
                label.set_path_effects([patheffects.withStroke(linewidth=1.6, foreground="#00000066")])
    return filled


def _places(drawn: QuadContourSet, mesh: Mesh) -> list[tuple[float, float]]:
    """Where the labels of lines lie: one a line that is long enough, away from the edges, the paths and each other."""
    assert mesh.grid is not None
    start, extent = mesh.bounds[0][:2], np.ptp(np.array(mesh.bounds)[:, :2], axis=0)
    paths = [path.coordinates for path in shown_paths(mesh.grid)]
    taken = (np.concatenate([np.empty((0, 2)), *paths]) - start) / extent
    found = []
    for line in (line for lines in drawn.allsegs for line in lines):
        points = (np.asarray(line) - start) / extent
        if np.linalg.norm(np.diff(points, axis=0), axis=1).sum() < LABELLED:
            continue
        points = points[:: max(1, len(points) // 80)]
        edge = np.minimum(points, 1 - points).min(axis=1)
        if not np.array_equal(line[0], line[-1]):  # it ends at an edge or at a hole
            edge = np.minimum(edge, np.linalg.norm(points[:, None] - points[[0, -1]], axis=2).min(axis=1))
        others = np.linalg.norm(points[:, None] - taken, axis=2).min(axis=1) if len(taken) else np.ones(len(points))
        room = np.minimum(edge, 0.12) + np.minimum(others, 0.12)
        best = int(np.argmax(np.where(edge > 0.05, room, -1)))
        if edge[best] > 0.05:
            taken = np.concatenate([taken, points[best : best + 1]])
            found.append(tuple(points[best] * extent + start))
    return found


def bar(
    figure: Figure | SubFigure, filled: QuadContourSet, mesh: Mesh, look: Style, *, beside: Any, sides: float | None
) -> None:
    """The colour bar in units of the loss: below axes that are too flat for it, else beside them.

    Beside axes of these `sides` it is as high as they are, at any aspect ratio; with None it takes its place from the
    axes `beside`, of which there may be several.
    """
    if sides is None:
        bar = figure.colorbar(filled, ax=beside, spacing="proportional", aspect=24, pad=0.02)
    elif sides < FLAT:
        bar = figure.colorbar(filled, ax=beside, location="bottom", aspect=40, pad=0.02, spacing="proportional")
    else:
        wide = max(sides, 1.0)  # the bar is as wide beside narrow axes
        place = beside.inset_axes((1.0 + 0.025 * wide, 0.0, 0.03 * wide, 1.0))
        bar = figure.colorbar(filled, cax=place, spacing="proportional")
    losses, index = levels(mesh.height, 24)
    lines = mesh.height.of(losses)
    shown = lines[index] if index.sum() >= 3 else lines
    bar.set_ticks(shown.tolist(), labels=mesh.height.labels.texts(float(mesh.height.inverse(level)) for level in shown))
    bar.ax.minorticks_off()
    bar.ax.tick_params(length=3.5 * look.thin, width=0.8 * look.thin)
    bar.outline.set_visible(False)
    bar.set_label(mesh.height.labels.name("loss on the probe samples"), color=INK)


def hatch(axes: Axes, mesh: Mesh, look: Style) -> None:
    """Hatch the cells without a finite loss, so that they do not look like a value."""
    if not mesh.open_cells.any():
        return
    axes.set_facecolor("#eef0f3")
    patch = axes.patch
    patch.set_hatch("////")
    patch.set_edgecolor("#b3bac6")
    found = [f"{name}: {count}" for name, count in mesh.missing.items()]
    axes.text(
        0.99, 0.01, "hatched = " + ", ".join(found) + " points", transform=axes.transAxes, ha="right",
        fontsize=look.tiny, color=INK, bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 2},
    )  # fmt: skip


def mark_evaluated(axes: Axes, surface: Surface) -> None:
    """Mark the evaluated points by small dots, if a part of the surface is interpolated."""
    if surface.said_of_interpolation():
        rows, columns = np.nonzero(surface.evaluated)
        axes.plot(
            surface.alpha[rows], surface.beta[columns], linestyle="none", marker=".", markersize=1.2, color="white",
            alpha=0.6, markeredgewidth=0, zorder=1.5,
        )  # fmt: skip
        axes.plot([], [], linestyle="none", marker=".", markersize=3, color=QUIET, label="evaluated points")


def trail(axes: Axes, path: Path, number: int, look: Style, *, alone: bool) -> None:
    """Draw the path with a light outline, its snapshots as dots, start and end marked."""
    from matplotlib import patheffects

    points, color, thin = path.coordinates, colors.path_color(number), look.thin
    case = [patheffects.withStroke(linewidth=3.4 * thin, foreground=HALO), patheffects.Normal()]
    name = plain_text(path.label) or "path"
    axes.plot(
        *points.T,
        color=color,
        linewidth=1.7 * thin,
        linestyle=DASHES[number % len(DASHES)] if look.dashes else "solid",
        solid_joinstyle="round",
        path_effects=case,
        label=f"{name}: {len(path)} snapshots",
    )
    if len(path) <= 400:
        axes.plot(*points.T, linestyle="none", marker="o", markersize=2.2 * thin, color=color, markeredgewidth=0)
    first, last = texts_of((path.loss[0], path.loss[-1]))
    start, end = f"start: step {path.step[0]}, loss {first}", f"end: step {path.step[-1]}, loss {last}"
    marks = ((0, "o", HALO, start, 7.0), (-1, "*", color, end, 13.0))
    for which, marker, face, label, size in marks:
        axes.plot(
            *points[which],
            linestyle="none",
            marker=marker,
            markersize=size * thin,
            markerfacecolor=face,
            markeredgecolor=INK,
            markeredgewidth=0.9 * thin,
            label=label if alone else None,
            zorder=5,
        )


def critical(axes: Axes, placed: Sequence[tuple[str, float, float]], look: Style) -> None:
    """Mark minima by small triangles and saddles by crosses: each a kind and its place on the axes."""
    from matplotlib import patheffects

    case = [patheffects.withStroke(linewidth=2.4 * look.thin, foreground=INK), patheffects.Normal()]
    for kind, marker, size, says in (("minimum", "v", 4.2, "minimum of the grid"), ("saddle", "x", 4.6, "saddle")):
        some = np.array([place for of, *place in placed if of == kind]).reshape(-1, 2)
        if len(some):
            axes.plot(
                *some.T, linestyle="none", marker=marker, markersize=size * look.thin, color=HALO, zorder=4,
                markeredgewidth=1.1 * look.thin, path_effects=case, label=says,
            )  # fmt: skip


def frame(axes: Axes, surface: Surface, sides: float, look: Style) -> None:
    from landscape_hooks.export.style import plain_numbers

    labels = [plain_text(label) for label in axis_labels(surface)]
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_xlim(surface.alpha[0], surface.alpha[-1])
    axes.set_ylim(surface.beta[0], surface.beta[-1])
    axes.set_box_aspect(sides)
    if sides < FLAT:
        axes.set_ylabel(labels[1].partition(" (")[0], rotation=0, ha="right", va="center")
        axes.set_yticks([surface.beta[0], surface.beta[-1]] if sides > 0.05 else [])
    plain_numbers(axes)
    axes.tick_params(length=3 * look.thin**0.5, width=0.7 * look.thin**0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def over(axes: Axes, surface: Surface, mesh: Mesh, sides: float, look: Style) -> None:
    """Draw what lies over the contours: holes, paths, evaluated points, and the axes."""
    hatch(axes, mesh, look)
    paths = shown_paths(surface)
    for number, path in enumerate(paths):
        trail(axes, path, number, look, alone=len(paths) == 1)
    mark_evaluated(axes, surface)
    critical(axes, [(point.kind, *point.coordinates) for point in shown_critical_points(surface)], look)
    frame(axes, surface, sides, look)
    marks(axes, [(spot, *spot.coordinates) for spot in spots(surface)], [path.coordinates for path in paths], ends=True)


def marks(
    axes: Any, placed: Sequence[tuple[Any, ...]], lines: Sequence[NDArray[np.float64]], *, ends: bool = False
) -> None:
    """Draw the marks: each a Spot and its place on the axes, which have their limits and their other texts by now.

    Names keep off the `lines`, each (T, 2 or 3): the paths. Where the figure draws the `ends` of the paths, a mark that
    is an end has a point already, and gets the name only. A mark without a finite place is left out.
    """
    from matplotlib import patheffects

    placed = [one for one in placed if np.isfinite(np.array(one[1:], dtype=float)).all()]
    if not placed:
        return
    for spot, *place in placed:
        if not (spot.at_end and ends):
            axes.plot(
                *[[value] for value in place], linestyle="none", marker="D", markersize=6, markeredgewidth=0.9,
                zorder=6, markerfacecolor=colors.path_color(spot.path), markeredgecolor=HALO,
                path_effects=[patheffects.withStroke(linewidth=2.6, foreground=INK), patheffects.Normal()],
            )  # fmt: skip
    axes.figure.figure.draw_without_rendering()
    taken = [text.get_window_extent() for text in axes.texts if text.get_text()]
    taken += [key.get_window_extent()] if (key := axes.get_legend()) is not None else []
    places = np.array([place for _, *place in placed], dtype=float)
    spread = [_flat(axes, points) for points in (*lines, places)]
    avoid = axes.transData.transform(np.concatenate(spread))
    for (spot, *_), anchor in zip(placed, spread[-1], strict=True):
        taken.append(_name(axes, spot.name.replace("$", r"\$"), anchor, taken, avoid))


def _name(axes: Any, name: str, anchor: NDArray[np.float64], taken: list[Any], avoid: NDArray[np.float64]) -> Any:
    """Write a name beside `anchor`, where the least is under it; returns the box that it takes."""
    from matplotlib import patheffects

    label = axes.annotate(
        name, anchor, textcoords="offset points", xytext=(0, 0), fontsize=SMALL, fontweight="bold", color=INK, zorder=7,
        in_layout=False, annotation_clip=False,
        path_effects=[patheffects.withStroke(linewidth=2.2, foreground=HALO)],
    )  # fmt: skip
    inside, tried = axes.get_window_extent(), []
    for order, (right, up) in enumerate(WAYS):
        across = {1: "left", 0: "center", -1: "right"}[right]
        upright = "center" if right else "bottom" if up > 0 else "top"
        label.set(position=(AWAY * right, AWAY * up), ha=across, va=upright)
        box = label.get_window_extent()
        out = not (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1)
        crossed = ((avoid >= (box.x0, box.y0)) & (avoid <= (box.x1, box.y1))).all(axis=1).sum()
        cost = 100 * out + 50 * box.count_overlaps(taken) + min(int(crossed), 40) + 0.01 * order
        tried.append((cost, {"position": (AWAY * right, AWAY * up), "ha": across, "va": upright}, box))
    _, chosen, box = min(tried, key=lambda one: one[0])
    label.set(**chosen)
    return box


def _flat(axes: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 2) points of the axes; of axes in three dimensions, (N, 3) points as they are projected."""
    if points.shape[1] == 2:
        return points
    seen = np.column_stack([points, np.ones(len(points))]) @ axes.get_proj().T
    return np.asarray(seen[:, :2] / seen[:, 3:], dtype=float)


def caption_of(surface: Surface, height: Height, sides: float) -> str:
    """The caption of the contours of a surface: what defines it, and how the lines are drawn."""
    return caption(surface, height, stretch_of(surface, sides)) + BETWEEN + SAID
