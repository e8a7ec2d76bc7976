"""`landscape-hooks info`: print what a run contains, and verify its surfaces."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option(
    "--verify", is_flag=True, help="Recompute ten points of each surface and the ends of the path, and compare."
)
@click.option("--name", help="With --verify: verify only this surface.")
@click.option("--objective", metavar="MODULE:FUNCTION", help="With --verify: the --objective of the analysis.")
@click.option("--data", metavar="MODULE:FUNCTION", help="With --verify: the --data of the analysis.")
@click.option("--base", metavar="BASE", help="With --verify: the --base of the analysis.")
def info(
    run: str,
    as_json: bool,
    verify: bool,
    name: str | None,
    objective: str | None,
    data: str | None,
    base: str | None,
) -> None:
    """Print what RUN contains: snapshots, parameters, objective, and surfaces with their reports.

    With --verify the exit status is 1 unless every surface could be recomputed and holds.
    """
    from landscape_hooks.cli.description import describe, description_text, plain

    if not verify and (name or objective or data or base):
        raise click.UsageError("--name, --objective, --data and --base belong to --verify.")
    description = describe(run)
    text = description_text(description)
    holds = True
    if verify:
        from landscape_hooks.analysis.verification import verify as verified

        found = verified(run, name, objective=objective, data=data, base=base)
        description["verification"], holds = found.to_json(), found.holds
        text += f"\n{found.text()}"
    click.echo(json.dumps(plain(description), indent=2, allow_nan=False) if as_json else text)
    if not holds:
        raise SystemExit(1)
