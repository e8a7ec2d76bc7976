"""The page that sets the surfaces of two networks side by side: one figure, one HTML file that needs no other.

In: the folder that examples/cifar10.py wrote for each network. Out: comparison.png, comparison.html.
"""

import base64
import html
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from landscape_hooks import Surface

NETWORKS = {"resnet50": "ResNet-50", "vgg11": "VGG-11"}
PLANES = {
    "random": "Random plane, filter-normalised",
    "pca": "Plane of the training's two main directions, with the path",
}


def write_page(folder: Path) -> list[Path]:
    """Write the comparison of the networks that are complete in `folder`; nothing before there are two."""
    results = {name: json.loads((folder / f"{name}.json").read_text())
               for name in NETWORKS if (folder / f"{name}.json").exists()}  # fmt: skip
    results = {name: result for name, result in results.items() if "surfaces" in result.get("seconds", {})}
    if len(results) < 2:
        return []
    surfaces = {(name, plane): Surface.open(folder / f"{name}.zarr", plane) for name in results for plane in PLANES}
    figure, page = folder / "comparison.png", folder / "comparison.html"
    comparison(surfaces, results).savefig(figure, dpi=150)
    page.write_text(page_text(folder, results, surfaces))
    return [figure, page]


def comparison(surfaces: dict[tuple[str, str], Surface], results: dict[str, Any]) -> Figure:
    """A row for each plane, a column for each network; one colour scale a row, so that colours can be compared."""
    figure = Figure(figsize=(10.4, 9.0), layout="constrained")
    grid = figure.subplots(len(PLANES), len(results), squeeze=False)
    for row, (plane, title) in zip(grid, PLANES.items(), strict=True):
        shown = [surfaces[name, plane] for name in results]
        scale = shared_scale(shown)
        for axes, name, surface in zip(row, results, shown, strict=True):
            picture = axes.pcolormesh(surface.alpha, surface.beta, surface.loss.T, norm=scale, shading="gouraud")
            levels = scale.inverse(np.linspace(0, 1, 22)[1:-1])
            axes.contour(surface.alpha, surface.beta, surface.loss.T, levels=levels, colors="white", linewidths=0.5)
            if plane == "pca":
                axes.plot(*surface.path.T, color="white", linewidth=3)
                axes.plot(*surface.path.T, color="#d1345b", linewidth=1.5, marker="o", markersize=2.5)
            axes.plot(0, 0, marker="*", markersize=12, color="#d1345b", markeredgecolor="white")
            axes.set_title(f"{NETWORKS[name]}: {title.split(',')[0].lower()}", loc="left", fontsize=10)
            axes.set_xlabel(surface.attrs["labels"][0])
            axes.set_ylabel(surface.attrs["labels"][1])
        bar = figure.colorbar(picture, ax=row, label="loss on the probe images", aspect=28)
        for set_formatter in (bar.ax.yaxis.set_major_formatter, bar.ax.yaxis.set_minor_formatter):
            set_formatter("{x:g}")
    quick = ", ".join(NETWORKS[name] for name, result in results.items() if result["quick"])
    note = f"   (QUICK: {quick} trained for a moment only)" if quick else ""
    figure.suptitle(f"CIFAR-10{note}", x=0.01, ha="left", fontweight="bold")
    return figure


def shared_scale(surfaces: list[Surface]) -> Normalize:
    """One scale for all, logarithmic where every loss is positive."""
    losses = np.concatenate([surface.loss[np.isfinite(surface.loss)] for surface in surfaces])
    kind = LogNorm if losses.min() > 0 else Normalize
    return kind(losses.min(), losses.max())


# -- HTML ----------------------------------------------------------------------------------------------------
def page_text(folder: Path, results: dict[str, Any], surfaces: dict[tuple[str, str], Surface]) -> str:
    """The page as text, its pictures inside."""
    quick = [NETWORKS[name] for name, result in results.items() if result["quick"]]
    parts = [QUICK.format(names=" and ".join(quick))] if quick else []
    parts += [
        table(results, surfaces),
        "<h2>On one scale</h2>",
        picture(folder / "comparison.png", "The four surfaces"),
    ]
    for plane, title in PLANES.items():
        parts.append(f"<h2>{title}</h2>")
        parts.append(row(column(folder, name, plane, surfaces[name, plane]) for name in results))
    parts.append("<h2>The training, replayed</h2>")
    parts.append(row(
        f"<h3>{NETWORKS[name]}</h3>" + picture(folder / f"{name}_replay.gif", "Replay")
        + picture(folder / f"{name}_loss.png", "Loss along the path") for name in results
    ))  # fmt: skip
    return FRAME.format(body="\n".join(parts))


def column(folder: Path, name: str, plane: str, surface: Surface) -> str:
    """One surface: in 3-D, its contours, and what it shows and hides."""
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in surface.attrs["report"])
    return (
        f"<h3>{NETWORKS[name]}</h3>"
        + picture(folder / f"{name}_{plane}.png", f"{NETWORKS[name]}, {PLANES[plane]}, in 3-D")
        + picture(folder / f"{name}_{plane}_contours.png", "Contours of the same surface")
        + f"<ul>{said}</ul>"
    )


def row(cells: Any) -> str:
    return '<div class="row">' + "".join(f"<section>{cell}</section>" for cell in cells) + "</div>"


def picture(path: Path, says: str) -> str:
    kind = path.suffix.removeprefix(".")
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(says)}" src="data:image/{kind};base64,{data}">'


def table(results: dict[str, Any], surfaces: dict[tuple[str, str], Surface]) -> str:
    """What was trained and how, a column for each network."""

    def line(what: str, say: Any) -> str:
        return f"<tr><th>{what}</th>" + "".join(f"<td>{say(r)}</td>" for r in results.values()) + "</tr>"

    def computed(name: str) -> str:
        shown = {plane: surfaces[name, plane] for plane in PLANES}
        return ", ".join(f"{plane} {s.evaluated.sum()} of {s.loss.size}" for plane, s in shown.items())

    head = "<tr><th></th>" + "".join(f"<th>{NETWORKS[name]}</th>" for name in results) + "</tr>"
    return f"<table>{head}" + "".join([
        line("settings", lambda r: "quick" if r["quick"] else "full"),
        line("parameters", lambda r: f"{r['parameters']:,}"),
        line("epochs × training images", lambda r: f"{r['settings']['epochs']} × {r['training_images']:,}"),
        line("test images right", lambda r: f"{r['accuracy']:.1%} of {r['test_images']:,}"),
        line("samples a point", lambda r: r["settings"]["samples"]),
        line("points computed, the others interpolated", lambda r: computed(r["model"])),
        line("minutes", lambda r: f"{sum(r['seconds'].values()) / 60:.1f} ({r['device']})"),
    ]) + "</table>"  # fmt: skip


QUICK = (
    '<p class="quick">QUICK: {names} trained for a moment on few images, and the loss is drawn over few samples. '
    "The pictures are computed, but they say nothing about these networks.</p>"
)
FRAME = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Two networks on CIFAR-10: their loss landscapes</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1d2430; max-width: 1200px; margin: 2em auto; padding: 0 1em }}
img {{ width: 100% }}
.row {{ display: flex; gap: 2em }} section {{ flex: 1; min-width: 0 }}
.quick {{ background: #fff3d6; border-left: 5px solid #e0a100; padding: .6em 1em }}
table {{ border-collapse: collapse }} th, td {{ text-align: left; padding: .2em 1.5em .2em 0 }}
ul {{ font-size: 14px; color: #5a6475; padding-left: 1.2em }}
@media (max-width: 700px) {{ .row {{ flex-direction: column }} }}
</style>
<h1>ResNet-50 and VGG-11 on CIFAR-10: their loss landscapes</h1>
{body}
</html>
"""
