"""`landscape-hooks demo`: train on real data, record, analyze, export, replay."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("landscape-demo"),
              show_default=True, help="Folder for the run and the files.")  # fmt: skip
@click.option("--view/--no-view", default=True, help="Open the replay window at the end, if there is a display.")
@click.option(
    "--size", type=click.IntRange(2, 1001), default=25, show_default=True, help="Grid points along each axis."
)
@click.option("--epochs", type=click.IntRange(1, 1000), default=12, show_default=True, help="Epochs of training.")
def demo(out: Path, view: bool, size: int, epochs: int) -> None:
    """Train on scikit-learn's digits with the hook, analyze, export and replay. Takes two minutes."""
    from landscape_hooks.cli.demo.digits import run_demo
    from landscape_hooks.errors import DisplayError

    result = run_demo(out, size=size, epochs=epochs, say=click.echo)
    click.echo("")
    for sentence in result.surface.attrs["report"]:
        click.echo(sentence)
    click.echo("")
    width = max(len(str(path)) for path in result.files)
    for path, meaning in result.files.items():
        click.echo(f"{path!s:<{width}}  {meaning}")
    click.echo("")
    if view:
        from landscape_hooks.viewer.window import view as open_window

        try:
            open_window(result.run)
        except DisplayError as error:
            click.echo(f"No window: {error}")
            click.echo(f"The replay is in {out / 'digits.html'}, for a browser, and in {out / 'digits.gif'}.")
