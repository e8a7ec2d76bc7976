"""`landscape-hooks analyze RUN`: the options of `landscape_hooks.analyze`, and what came out in words."""

from __future__ import annotations

from typing import Any

import click

from landscape_hooks.errors import LandscapeError

OWNERS = {
    "directions": {"solver": "pca", "components": "pca", "norm": "random", "points": "points"},
    "engine": {"address": "ray", "worker_cpus": "ray", "worker_gpus": "ray"},
}
"""Options that belong to one kind of directions, or to one engine."""


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    try:
        return None if value is None else tuple(int(v) for v in value.split(","))
    except ValueError as error:
        raise click.BadParameter("expected numbers like 0,1") from error


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--directions", default="pca", show_default=True, help="The plane: pca, random, hessian or points.")
@click.option("--size", default="25", show_default=True, help="Points of the grid: 25, or 25x40.")
@click.option("--extent", default="auto", show_default=True, help="auto (covers the path), or a0,a1,b0,b1.")
@click.option(
    "--batch-norm",
    help="batch, fixed, interpolate or recalibrate. [default: batch where the model has running statistics]",
)
@click.option("--samples", type=click.IntRange(min=1), help="Use only the first so many probe samples.")
@click.option("--objective", metavar="MODULE:FUNCTION", help="A function that returns an Objective.")
@click.option("--data", metavar="MODULE:FUNCTION", help="A function that returns other probe data.")
@click.option("--device", help="Where the loss is computed, as torch spells it.")
@click.option("--engine", default="local", show_default=True, help="Where points are computed: local, or ray.")
@click.option("--address", help="Of the Ray cluster: HOST:PORT, auto or local. [default: RAY_ADDRESS, else local]")
@click.option("--worker-cpus", type=click.IntRange(min=1), default=1, show_default=True, help="CPUs of a Ray worker.")
@click.option(
    "--worker-gpus", type=click.FloatRange(min=0), default=0.0, show_default=True, help="GPUs of a Ray worker."
)
@click.option(
    "--stream/--no-stream",
    default=None,
    help="Read the plane again for every point instead of holding it. [default: for runs recorded in shards]",
)
@click.option("--seed", default=0, show_default=True, help="Seed of random directions.")
@click.option("--name", help="Name of the surface in the run. [default: the directions' name]")
@click.option("--solver", default="auto", show_default=True, help="Of the PCA: gram, covariance, incremental or auto.")
@click.option("--components", default="0,1", show_default=True, callback=_numbers, help="Which principal components.")
@click.option("--points", default="", help="Of the plane through points: three of STEP, RUN:STEP, RUN: (final).")
@click.option("--line", is_flag=True, help="A curve along the first direction alone.")
@click.option("--adaptive", type=float, metavar="TOL", help="Evaluate only where interpolation errs by more than TOL.")
@click.option("--from", "start", type=click.IntRange(min=0), help="Use the snapshots from this step on.")
@click.option("--to", "stop", type=click.IntRange(min=0), help="Use the snapshots up to this step.")
@click.option("--only", metavar="STEPS", callback=_numbers, help="Use the snapshots of these steps: 0,100,200.")
@click.option("--last", type=click.IntRange(min=1), help="Use the last so many snapshots.")
@click.option("--every", type=click.IntRange(min=1), help="Use every so many snapshots, counted from the last.")
@click.option("--metric", "metrics", multiple=True, help="Beside the loss: accuracy, or MODULE:FUNCTION. Repeatable.")
@click.option("--part", metavar="K/N", help="Compute one of N parts and stop; without it, parts are joined.")
@click.option("--norm", default="filter", show_default=True, help="Of random directions: filter, layer, model or none.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Processes, or Ray workers. [default: as many as pay, or fit]"
)
@click.option("--tune/--no-tune", default=True, help="Try first what is fastest on this machine.")
@click.option("--precision", default="float32", show_default=True, help="float32, or bfloat16 (coarser, faster).")
@click.option("--fresh", is_flag=True, help="Compute anew what is already stored.")
@click.option("--log-to", metavar="TRACKER", help="tensorboard:FOLDER, wandb:PROJECT or mlflow:URI.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def analyze(
    context: click.Context, runs: tuple[str, ...], quiet: bool, as_json: bool, log_to: str | None, **options: Any
) -> None:
    """Draw the loss surface that the recorded RUN descended, and store it in the run.

    Several runs share one plane; the surface is stored in the first.
    """
    from landscape_hooks.analysis.analyze import analyze as compute

    try:
        surface = compute(*runs, progress=not quiet, **_objects(context, options))
    except KeyboardInterrupt:
        click.echo("\nInterrupted; what is computed is saved. The same command goes on from there.", err=True)
        raise SystemExit(130) from None
    if log_to is not None:
        from landscape_hooks.integrations.trackers import log_surface

        log_surface(surface, log_to)
    if as_json:
        import json

        click.echo(json.dumps(summary(runs[0], surface), indent=2))
        return
    click.echo(f"Surface '{surface.name}' is in {runs[0]}.")
    for sentence in surface.attrs.get(
        "report", [f"{surface.evaluated.sum()} of {surface.loss.size} losses are there."]
    ):
        click.echo(sentence)


def _objects(context: click.Context, flat: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `landscape_hooks.analyze`, whose options are objects."""
    from landscape_hooks.analysis.frame import parse_directions
    from landscape_hooks.evaluation.engines import OPTIONS, parse_engine
    from landscape_hooks.plane.grid import parse_size
    from landscape_hooks.trajectory.selection import Snapshots

    _check_owners(context, flat)

    def taken(*names: str) -> dict[str, Any]:
        return {name: flat.pop(name) for name in names}

    kinds = {"pca": taken("solver", "components"), "random": taken("norm"), "points": taken("points")}
    kind = flat["directions"]
    flat["directions"] = type(parse_directions(kind))(**kinds.get(kind, {}))
    engine = parse_engine(flat["engine"])
    cluster = taken("address", "worker_cpus", "worker_gpus")
    shared = taken("workers", "device", "precision", "stream", "tune")
    own = {"address": cluster["address"], "cpus": cluster["worker_cpus"], "gpus": cluster["worker_gpus"]}
    flat["engine"] = OPTIONS[flat["engine"]](**shared, **({} if engine.attrs["engine"] == "local" else own))
    flat["snapshots"] = Snapshots(**taken("start", "stop", "last", "every", "only"))
    if flat.pop("line"):
        flat["size"] = (parse_size(flat["size"])[0], 1)
    return flat


def _check_owners(context: click.Context, flat: dict[str, Any]) -> None:
    """Refuse an option that the chosen directions, or the chosen engine, would not look at."""
    from click.core import ParameterSource

    for choice, owners in OWNERS.items():
        for name, owner in owners.items():
            given = context.get_parameter_source(name) is not ParameterSource.DEFAULT
            if given and flat[choice] != owner:
                option = f"--{name.replace('_', '-')}"
                raise LandscapeError(f"Found {option} with --{choice} {flat[choice]}", mend=f"Add --{choice} {owner}")


def summary(run: str, surface: Any) -> dict[str, Any]:
    """What `--json` prints: the attributes, and the figures of the report."""
    figures = {}
    if surface.paths:
        path = surface.paths[0]
        figures = {
            "final_loss": _number(path.loss[-1]),
            "final_plane_loss": _number(path.plane_loss[-1]),
            "largest_distance": _number(path.distance.max()),
        }
    return {
        "run": run,
        "name": surface.name,
        "shape": list(surface.shape),
        "explained_variance_ratio": [_number(v) for v in surface.explained_variance_ratio],
        **figures,
        "attrs": dict(surface.attrs),
    }


def _number(value: float) -> float | None:
    """JSON has no NaN or inf."""
    value = float(value)
    return value if value - value == 0 else None
