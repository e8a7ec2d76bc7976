"""`landscape-hooks export`: write the surface as mesh, scene or figure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from landscape_hooks.surface.surface import Surface

FIGURES = [".png", ".svg", ".pdf", ".ps", ".eps", ".pgf"]

INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
"""Of a unit; the point is that of TeX, which `\\the\\columnwidth` prints."""


class Length(click.ParamType):
    """A length with its unit, in inches."""

    name = "length"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Inches of "3.25in"."""
        found = re.fullmatch(r"([0-9]*\.?[0-9]+) *(in|cm|mm|pt)", str(value).strip())
        if found is None:
            self.fail(f"Found {value}; expected a number and its unit, such as 3.25in, 8.3cm, 83mm or 234pt.")
        return float(found[1]) * INCHES[found[2]]


class Grid(click.ParamType):
    """Rows and columns."""

    name = "grid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """(rows, columns) of "1x2"."""
        found = re.fullmatch(r"([1-9][0-9]?)[x×]([1-9][0-9]?)", str(value).strip())
        if found is None:
            self.fail(f"Found {value}; expected rows and columns, such as 1x2.")
        return int(found[1]), int(found[2])


@click.command()
@click.argument("runs", metavar="RUN|F.ply...", nargs=-1, required=True)
@click.option("--ply", type=click.Path(path_type=Path), help="Write the mesh, and the path into F_path.ply.")
@click.option(
    "--glb",
    type=click.Path(path_type=Path),
    help="Write the scene with a marker that moves along the path, for browsers.",
)
@click.option("--vtu", type=click.Path(path_type=Path),
              help="Write the surface for ParaView, and the path into F_path.vtu.")  # fmt: skip
@click.option(
    "--csv",
    type=click.Path(path_type=Path),
    help="Write the losses, the path's into F_path.csv, and those of marks into F_marks.csv.",
)
@click.option("--png", type=click.Path(path_type=Path),
              help="Write a figure; the name decides: PNG, SVG, PDF, PS, EPS or PGF.")  # fmt: skip
@click.option("--heightmap", type=click.Path(path_type=Path),
              help="Write the heights as a PNG of 16 bits a pixel, for Blender.")  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path), help="Write the replay as one page, which opens offline.")
@click.option("--figure", "kind", type=click.Choice(["contours", "surface", "loss"]), default="contours",
              show_default=True, help="The figure that --png draws.")  # fmt: skip
@click.option("--name", "names", multiple=True,
              help="Name of the surface; several, for several panels. [default: the latest]")  # fmt: skip
@click.option("--height", type=click.Choice(["auto", "log10", "linear"]), default="auto", show_default=True,
              help="Scale of the height.")  # fmt: skip
@click.option("--aspect", type=click.Choice(["auto", "equal"]), default="auto", show_default=True,
              help="equal: both axes to one scale, however narrow the plane.")  # fmt: skip
@click.option("--colormap", default="viridis", show_default=True,
              help="viridis, cividis and magma are safe in grey and for the colour-blind, gray is for print in black; "
              "also hypsometric, or any colour map of matplotlib.")  # fmt: skip
@click.option("--width", type=Length(), metavar="LENGTH",
              help="Width of the figure, such as 3.25in, 8.3cm, 83mm or 234pt; its height follows. "
              "[default: 6.4in; 3.25in on paper]")  # fmt: skip
@click.option("--style", type=click.Choice(["screen", "paper"]), default="screen", show_default=True,
              help="paper: letters as in a paper, no title, thin lines; the caption is printed, "
              "for the text.")  # fmt: skip
@click.option("--grid", type=Grid(), metavar="ROWSxCOLUMNS",
              help="Several runs or surfaces in one figure on one scale: rows and columns, such as 1x2.")  # fmt: skip
def export(
    runs: tuple[str, ...],
    ply: Path | None,
    glb: Path | None,
    vtu: Path | None,
    csv: Path | None,
    png: Path | None,
    heightmap: Path | None,
    html: Path | None,
    kind: str,
    names: tuple[str, ...],
    height: str,
    aspect: str,
    colormap: str,
    width: float | None,
    style: str,
    grid: tuple[int, int] | None,
) -> None:
    """Write the surface as a mesh, a scene, a VTU grid, a CSV table, a figure, a page with the replay, or several.
    Several runs, or several names of surfaces, become panels of one figure (--png)."""
    from landscape_hooks.export.glb import write_glb
    from landscape_hooks.export.ply import write_ply
    from landscape_hooks.export.tables import write_csv, write_heightmap
    from landscape_hooks.export.vtu import write_vtu
    from landscape_hooks.viewer.replay.look import Look
    from landscape_hooks.viewer.web.html import write_html

    outputs = (("ply", ply, [".ply"]), ("glb", glb, [".glb"]), ("vtu", vtu, [".vtu"]), ("csv", csv, [".csv"]),
               ("png", png, FIGURES), ("heightmap", heightmap, [".png"]), ("html", html, [".html"]))  # fmt: skip
    if all(file is None for _, file, _ in outputs):
        raise click.UsageError("Say what to write: --ply F.ply, --glb F.glb, --png F.png, ..., or several.")
    for option, file, suffixes in outputs:
        if file is not None and file.suffix.lower() not in suffixes:  # --ply run.zarr/zarr.json would destroy the run
            raise click.UsageError(f"Found --{option} {file}; expected a name that ends in {' or '.join(suffixes)}.")
    which = _panels(runs, names)
    if len(which) > 1 or grid is not None:
        others = [option for option, file, _ in outputs if file is not None and option != "png"]
        if others or kind != "contours":
            what = f"--{others[0]}" if others else f"--figure {kind}"
            raise click.UsageError(f"Found {what} for several surfaces; expected --png, which draws their contours.")
        if grid is not None and grid[0] * grid[1] < len(which):
            raise click.UsageError(f"Found --grid {grid[0]}x{grid[1]} for {len(which)} surfaces; expected more places.")
        assert png is not None
        surfaces = [_surface(run, name) for run, name in which]
        several = len(runs) == 1 and len(names) > 1
        _draw_panels(surfaces, png, grid, list(names) if several else None, width, style,
                     height=height, aspect=aspect, colormap=colormap)  # fmt: skip
        click.echo(f"wrote {png}")
        return
    run, name = which[0]
    surface = _surface(run, name)
    written = write_ply(surface, ply, height=height, colormap=colormap) if ply is not None else []
    if glb is not None:
        written.append(write_glb(surface.so_far(), glb, height=height, colormap=colormap))
    if vtu is not None:
        written += write_vtu(surface.so_far(), vtu, height=height)
    if csv is not None:
        written += write_csv(surface, csv)
    if heightmap is not None:
        written.append(write_heightmap(surface.so_far(), heightmap, height=height))
    if png is not None:
        _draw(surface, png, kind, width, style, height=height, aspect=aspect, colormap=colormap)
        written.append(png)
    if html is not None:
        look = Look(height=height, colormap=colormap, aspect=aspect)
        written.append(write_html(run, html, name=name, look=look))
    for path in written:
        click.echo(f"wrote {path}")


def _panels(runs: tuple[str, ...], names: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """The run and the name of every surface: every name of one run, or one name, or one a run, of several."""
    if len(runs) == 1:
        return [(runs[0], name) for name in names or (None,)]
    if len(names) not in (0, 1, len(runs)):
        raise click.UsageError(f"Found {len(names)} names for {len(runs)} runs; expected one, or one a run.")
    return list(zip(runs, names if len(names) == len(runs) else (names or (None,)) * len(runs), strict=True))


def _surface(run: str, name: str | None) -> Surface:
    """The surface of a run, or of a PLY file."""
    from landscape_hooks.errors import SurfaceError
    from landscape_hooks.surface.surface import Surface
    from landscape_hooks.viewer.replay.landscape import load

    # a run's surface may be a line, which has a figure, but no mesh
    surface = load(run, name=name).surface if run.lower().endswith(".ply") else Surface.open(run, name)
    if surface is None:
        raise SurfaceError(f"{run} is a mesh of another program", expected="a run, or a PLY file written by us")
    return surface


def _draw(surface: Surface, png: Path, kind: str, width: float | None, style: str, **options: str) -> None:
    """Write a figure; on paper, print its caption."""
    from landscape_hooks.export import figure as figures
    from landscape_hooks.export.outfile import whole_file
    from landscape_hooks.export.panels import captions_of

    if kind == "loss":
        drawn = figures.loss_figure(surface, width=width, style=style)
    else:
        draw = figures.surface_figure if kind == "surface" else figures.contour_figure
        drawn = draw(
            surface, width=width, style=style, height=options["height"], colormap=options["colormap"],
            aspect=options["aspect"],
        )  # fmt: skip
    with whole_file(png) as file:
        drawn.savefig(file)
    if style == "paper" and kind == "contours" and min(surface.shape) > 1:
        click.echo(f"caption: {captions_of([surface], options['height'], options['aspect'])[0]}")


def _draw_panels(
    surfaces: list[Surface], png: Path, grid: tuple[int, int] | None, names: list[str] | None, width: float | None,
    style: str, **options: str,
) -> None:  # fmt: skip
    """Write the contours of several surfaces as one figure; on paper, print their captions."""
    from landscape_hooks.export.outfile import whole_file
    from landscape_hooks.export.panels import captions_of, contours_figure, letter

    drawn = contours_figure(
        surfaces, grid=grid, names=names, width=width, style=style, height=options["height"],
        aspect=options["aspect"], colormap=options["colormap"],
    )  # fmt: skip
    with whole_file(png) as file:
        drawn.savefig(file)
    if style == "paper":
        for number, words in enumerate(captions_of(surfaces, options["height"], options["aspect"])):
            click.echo(f"caption: ({letter(number)}) {words}")
