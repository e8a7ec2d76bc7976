"""`landscape-hooks info`: what a run holds."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, for programs.")
def info(run: str, as_json: bool) -> None:
    """Say what RUN holds: snapshots, parameters, objective, surfaces and what they show."""
    from landscape_hooks.description import describe, description_text

    description = describe(run)
    click.echo(json.dumps(description, indent=2) if as_json else description_text(description))
