"""`landscape-hooks render`: draw a picture or an animation without a display."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("source", metavar="RUN|F.ply")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write: F.png, F.gif, F.webp or F.mp4.",
)
@click.option("--name", help="Name of the surface. [default: the latest]")
@click.option("--size", default="1280x720", show_default=True, metavar="WxH", help="Size in pixels.")
@click.option("--view", "view_text", default="", metavar="VIEW", help="Camera, as the window's key V prints it.")
@click.option("--colormap", default="viridis", show_default=True,
              help="hypsometric, grey, wireframe, or a colour map of matplotlib.")  # fmt: skip
@click.option(
    "--contours", default="shader", show_default=True, help="Contour lines: shader, 'marching squares' or off."
)
@click.option("--theme", type=click.Choice(["dark", "light"]), default="dark", show_default=True, help="Background.")
@click.option("--height", type=click.Choice(["auto", "log10", "linear", "clipped"]), default="auto", show_default=True,
              help="Scale of the height.")  # fmt: skip
@click.option("--aspect", type=click.Choice(["auto", "equal"]), default="auto", show_default=True,
              help="equal: both axes to one scale, however narrow the plane.")  # fmt: skip
@click.option("--exaggeration", default=1.0, show_default=True, help="Factor on the height.")
@click.option("--captions/--no-captions", default=True, help="Draw axes, colour bar, read-out and title.")
@click.option("--transparent", is_flag=True, help="Draw no background (PNG, WebP).")
@click.option("--frames", default=72, show_default=True, help="Number of frames of an animation.")
@click.option("--fps", default=18, show_default=True, help="Frames per second.")
@click.option("--turn", default=20.0, show_default=True, help="Degrees by which the camera turns during an animation.")
@click.option(
    "--clock",
    default="step",
    show_default=True,
    help="What advances evenly in the replay: step, epoch or 'arc length'.",
)
@click.option(
    "--at", default=1.0, show_default=True, help="Moment of the replay that a picture shows, 0 (start) to 1 (end)."
)
@click.option("--beside", multiple=True, metavar="NAME|RUN|RUN::NAME",
              help="Another surface in a pane of its own, under the same camera and height. Repeatable.")  # fmt: skip
@click.option("--difference", default="", metavar="NAME|RUN|RUN::NAME",
              help="Colour the surface by what this one is higher or lower.")  # fmt: skip
@click.option("--blend", default="", metavar="NAME|RUN|RUN::NAME", help="Mix the surface with this one.")
@click.option("--share", default=0.5, show_default=True, help="Share of the other surface in a blend, 0 to 1.")
def render(
    source: str, output: Path, name: str | None, size: str, view_text: str, colormap: str, contours: str, theme: str,
    height: str, aspect: str, exaggeration: float, captions: bool, transparent: bool, frames: int, fps: int,
    turn: float, at: float, clock: str, beside: tuple[str, ...], difference: str, blend: str, share: float,
) -> None:  # fmt: skip
    """Draw the surface and the path as a picture or an animation. Needs no display."""
    from landscape_hooks.viewer import offscreen
    from landscape_hooks.viewer.replay.look import Look
    from landscape_hooks.viewer.several.opening import Beside

    look = Look(
        colormap=colormap, contours=contours, theme=theme, height=height, exaggeration=exaggeration, captions=captions,
        transparent=transparent, aspect=aspect,
    )  # fmt: skip
    offscreen.render(
        source,
        output,
        size=_size(size),
        name=name,
        view=view_text,
        look=look,
        frames=frames,
        fps=fps,
        turn=turn,
        at=at,
        clock=clock,
        progress=True,
        beside=Beside(beside, difference, blend, share),
    )
    click.echo(f"wrote {output}")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise click.BadParameter(f"found '{text}', expected WIDTHxHEIGHT, such as 1280x720", param_hint="--size")
    return int(width), int(height)
