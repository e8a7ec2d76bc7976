"""`landscape-hooks view`: open the replay window."""

from __future__ import annotations

import click


@click.command()
@click.argument("source", metavar="RUN|F.ply")
@click.option("--name", help="Name of the surface. [default: the latest]")
@click.option("--view", "view_text", default="", metavar="VIEW", help="Camera, as the key V prints it, or top, or iso.")
@click.option("--colormap", default="viridis", show_default=True, help="Colour map at the start; the key C changes it.")
@click.option("--theme", type=click.Choice(["dark", "light"]), default="dark", show_default=True, help="Background.")
@click.option("--height", type=click.Choice(["auto", "log10", "linear", "clipped"]), default="auto", show_default=True,
              help="Scale of the height.")  # fmt: skip
@click.option("--aspect", type=click.Choice(["auto", "equal"]), default="auto", show_default=True,
              help="equal: both axes to one scale, however narrow the plane.")  # fmt: skip
@click.option("--play/--no-play", default=True, help="Start playing at once.")
@click.option("--follow", is_flag=True, help="Show what a training or an analysis that is still running adds.")
@click.option("--beside", multiple=True, metavar="NAME|RUN|RUN::NAME",
              help="Another surface in a pane of its own, under the same camera and height. Repeatable.")  # fmt: skip
@click.option("--difference", default="", metavar="NAME|RUN|RUN::NAME",
              help="Colour the surface by what this one is higher or lower.")  # fmt: skip
@click.option("--blend", default="", metavar="NAME|RUN|RUN::NAME", help="Mix the surface with this one.")
@click.option("--share", default=0.5, show_default=True, help="Share of the other surface in a blend, 0 to 1.")
def view(
    source: str,
    name: str | None,
    view_text: str,
    colormap: str,
    theme: str,
    height: str,
    aspect: str,
    play: bool,
    follow: bool,
    beside: tuple[str, ...],
    difference: str,
    blend: str,
    share: float,
) -> None:
    """Open a window that replays the optimizer's path over the loss surface. H lists the keys."""
    from landscape_hooks.viewer import window
    from landscape_hooks.viewer.replay.look import Look
    from landscape_hooks.viewer.several.opening import Beside

    window.view(
        source,
        name=name,
        view=view_text,
        look=Look(colormap=colormap, theme=theme, height=height, aspect=aspect),
        play=play,
        follow=follow,
        beside=Beside(beside, difference, blend, share),
    )
