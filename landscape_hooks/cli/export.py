"""`landscape-hooks export`: write the surface as mesh, scene or figure."""

from __future__ import annotations

from pathlib import Path

import click

FIGURES = [".png", ".svg", ".pdf", ".ps", ".eps", ".pgf"]


@click.command()
@click.argument("run", metavar="RUN|F.ply")
@click.option("--ply", type=click.Path(path_type=Path), help="Write the mesh, and the path into F_path.ply.")
@click.option(
    "--glb",
    type=click.Path(path_type=Path),
    help="Write the scene with a marker that moves along the path, for browsers.",
)
@click.option("--vtu", type=click.Path(path_type=Path),
              help="Write the surface for ParaView, and the path into F_path.vtu.")  # fmt: skip
@click.option("--csv", type=click.Path(path_type=Path), help="Write the losses, and the path's into F_path.csv.")
@click.option("--png", type=click.Path(path_type=Path), help="Write a figure; the name decides: PNG, SVG, PDF, PS, EPS or PGF.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the replay as one page, which opens offline.")
@click.option("--figure", "kind", type=click.Choice(["contours", "surface", "loss"]), default="contours",
              show_default=True, help="The figure that --png draws.")  # fmt: skip
@click.option("--name", help="Name of the surface. [default: the latest]")
@click.option("--height", type=click.Choice(["auto", "log10", "linear"]), default="auto", show_default=True,
              help="Scale of the height.")  # fmt: skip
@click.option("--aspect", type=click.Choice(["auto", "equal"]), default="auto", show_default=True,
              help="equal: both axes to one scale, however narrow the plane.")  # fmt: skip
@click.option("--colormap", default="viridis", show_default=True, help="hypsometric, or a colour map of matplotlib.")
def export(
    run: str,
    ply: Path | None,
    glb: Path | None,
    vtu: Path | None,
    csv: Path | None,
    png: Path | None,
    html: Path | None,
    kind: str,
    name: str | None,
    height: str,
    aspect: str,
    colormap: str,
) -> None:
    """Write the surface as a mesh, a scene, a VTU grid, a CSV table, a figure, a page with the replay, or several."""
    from landscape_hooks.errors import SurfaceError
    from landscape_hooks.export import figure as figures
    from landscape_hooks.export.glb import write_glb
    from landscape_hooks.export.outfile import whole_file
    from landscape_hooks.export.ply import write_ply
    from landscape_hooks.export.tables import write_csv
    from landscape_hooks.export.vtu import write_vtu
    from landscape_hooks.surface.surface import Surface
    from landscape_hooks.viewer.replay.landscape import load
    from landscape_hooks.viewer.replay.look import Look
    from landscape_hooks.viewer.web.html import write_html

    outputs = (("ply", ply, [".ply"]), ("glb", glb, [".glb"]), ("vtu", vtu, [".vtu"]), ("csv", csv, [".csv"]),
               ("png", png, FIGURES), ("html", html, [".html"]))  # fmt: skip
    if all(file is None for _, file, _ in outputs):
        raise click.UsageError("Say what to write: --ply F.ply, --glb F.glb, --png F.png, ..., or several.")
    for option, file, suffixes in outputs:
        if file is not None and file.suffix.lower() not in suffixes:  # --ply run.zarr/zarr.json would destroy the run
            raise click.UsageError(f"Found --{option} {file}; expected a name that ends in {' or '.join(suffixes)}.")
    # a run's surface may be a line, which has a figure, but no mesh
    surface = load(run, name=name).surface if run.lower().endswith(".ply") else Surface.open(run, name)
    if surface is None:
        raise SurfaceError(f"{run} is a mesh of another program", expected="a run, or a PLY file written by us")
    written = write_ply(surface, ply, height=height, colormap=colormap) if ply is not None else []
    if glb is not None:
        written.append(write_glb(surface.so_far(), glb, height=height, colormap=colormap))
    if vtu is not None:
        written += write_vtu(surface.so_far(), vtu, height=height)
    if csv is not None:
        written += write_csv(surface, csv)
    if png is not None:
        if kind == "loss":
            drawn = figures.loss_figure(surface)
        elif kind == "surface":
            drawn = figures.surface_figure(surface, height=height, colormap=colormap, aspect=aspect)
        else:
            drawn = figures.contour_figure(surface, height=height, colormap=colormap, aspect=aspect)
        with whole_file(png) as file:
            drawn.savefig(file)
        written.append(png)
    if html is not None:
        look = Look(height=height, colormap=colormap, aspect=aspect)
        written.append(write_html(run, html, name=name, look=look))
    for path in written:
        click.echo(f"wrote {path}")
