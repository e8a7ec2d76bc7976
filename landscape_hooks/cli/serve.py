"""`landscape-hooks serve`: show runs in a browser."""

from __future__ import annotations

import click


@click.command()
@click.argument("runs", metavar="RUN|FOLDER...", nargs=-1, required=True)
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on. [default: 8450, or a free one]")
@click.option("--follow", is_flag=True, help="Show new snapshots of a training that is still running.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
def serve(runs: tuple[str, ...], port: int | None, follow: bool, host: str) -> None:
    """Show runs in a browser, here or through a tunnel: for machines without a display.

    A FOLDER shows a list of the runs in it. The address holds a random token.
    """
    from landscape_hooks.viewer.web import server

    server.serve(*runs, port=port, follow=follow, host=host, say=lambda text: click.echo(text))
