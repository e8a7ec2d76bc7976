"""`landscape-hooks info`: what a run holds."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, for programs.")
@click.option(
    "--verify", is_flag=True, help="Compute ten points of each surface and the path's ends anew, and compare."
)
@click.option("--name", help="With --verify: only this surface.")
@click.option("--objective", metavar="MODULE:FUNCTION", help="With --verify: as the surface was analyzed with.")
@click.option("--data", metavar="MODULE:FUNCTION", help="With --verify: as the surface was analyzed with.")
def info(run: str, as_json: bool, verify: bool, name: str | None, objective: str | None, data: str | None) -> None:
    """Say what RUN holds: snapshots, parameters, objective, surfaces and what they show.

    With --verify the exit status is 1 unless every surface was computed anew and holds.
    """
    from landscape_hooks.cli.description import describe, description_text, plain

    if not verify and (name or objective or data):
        raise click.UsageError("--name, --objective and --data belong to --verify.")
    description = describe(run)
    text = description_text(description)
    holds = True
    if verify:
        from landscape_hooks.analysis.verification import verify as verified

        found = verified(run, name, objective=objective, data=data)
        description["verification"], holds = found.to_json(), found.holds
        text += f"\n{found.text()}"
    click.echo(json.dumps(plain(description), indent=2, allow_nan=False) if as_json else text)
    if not holds:
        raise SystemExit(1)
