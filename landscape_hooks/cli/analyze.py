"""`landscape-hooks analyze RUN`: the options of `landscape_hooks.analyze`; prints the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from landscape_hooks.errors import LandscapeError

if TYPE_CHECKING:
    from landscape_hooks.surface.measures.flatness import Flatness
    from landscape_hooks.surface.surface import Surface

OWNERS = {
    "directions": {"solver": "pca", "components": "pca", "norm": "random", "points": "points"},
    "engine": {"address": "ray", "worker_cpus": "ray", "worker_gpus": "ray"},
}
"""Options that one kind of directions, or one engine, uses: choice, then option, then owner."""


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    try:
        return None if value is None else tuple(int(v) for v in value.split(","))
    except ValueError as error:
        raise click.BadParameter("expected numbers like 0,1") from error


def _samples(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "auto":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"found '{value}', expected a number from 1 on, or auto")
    return int(value)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--directions", default="pca", show_default=True, help="Directions of the plane: pca, random, hessian or points."
)
@click.option("--size", default="25", show_default=True, help="Number of grid points along each axis: 25, or 25x40.")
@click.option(
    "--extent", default="auto", show_default=True, help="Extent of the grid: auto (covers the path), or a0,a1,b0,b1."
)
@click.option(
    "--batch-norm",
    help="BatchNorm policy: batch, fixed, interpolate or recalibrate. "
    "[default: batch, if the model has running statistics]",
)
@click.option(
    "--samples",
    metavar="N|auto",
    callback=_samples,
    help="Use only the first N probe samples; auto: as many, drawn by --seed, as the contrast of the picture needs.",
)
@click.option(
    "--quality",
    type=click.Choice(["draft", "normal", "fine"]),
    default="normal",
    show_default=True,
    help="draft: interpolate, and take few samples. fine: a grid four times as dense, interpolated.",
)
@click.option(
    "--budget",
    metavar="TIME",
    help="End after this time (90s, 2m, 1h30m) with what is there; the same command goes on with it.",
)
@click.option("--objective", metavar="MODULE:FUNCTION", help="A function that returns an Objective.")
@click.option("--data", metavar="MODULE:FUNCTION", help="A function that returns other probe data.")
@click.option(
    "--device",
    help="Device on which the loss is computed, such as cpu or cuda:1; cuda:0,cuda:2 and cuda (all GPUs) have a "
    "process each. [default: a GPU if there is one]",
)
@click.option("--engine", default="local", show_default=True, help="Engine that computes the points: local or ray.")
@click.option(
    "--address", help="Address of the Ray cluster: HOST:PORT, auto or local. [default: RAY_ADDRESS, else local]"
)
@click.option(
    "--worker-cpus", type=click.IntRange(min=1), default=1, show_default=True, help="CPUs for each Ray worker."
)
@click.option(
    "--worker-gpus", type=click.FloatRange(min=0), default=0.0, show_default=True, help="GPUs for each Ray worker."
)
@click.option(
    "--stream/--no-stream",
    default=None,
    help="Read the plane from the run for every point, to save memory. [default: for sharded runs]",
)
@click.option("--seed", default=0, show_default=True, help="Seed of random directions.")
@click.option("--name", help="Name of the surface in the run. [default: the directions' name]")
@click.option(
    "--solver", default="auto", show_default=True, help="Solver of the PCA: gram, covariance, incremental or auto."
)
@click.option(
    "--components", default="0,1", show_default=True, callback=_numbers, help="The two principal components to use."
)
@click.option("--points", default="", help="Three points of the plane: each STEP, RUN:STEP, or RUN: (final).")
@click.option("--line", is_flag=True, help="Compute a line along the first direction, no grid.")
@click.option("--adaptive", type=float, metavar="TOL", help="Interpolate where the relative error is below TOL.")
@click.option("--from", "start", type=click.IntRange(min=0), help="First step of the snapshots to use.")
@click.option("--to", "stop", type=click.IntRange(min=0), help="Last step of the snapshots to use.")
@click.option(
    "--only",
    metavar="PATTERN",
    help="Draw only the tensors of these names, such as 'head.*'; or, given steps such as 0,100,200, use only these "
    "snapshots. Repeatable.",
    multiple=True,
)
@click.option("--base", metavar="BASE", help="Tensors recorded by reference: a FILE, a FOLDER or MODULE:FUNCTION.")
@click.option(
    "--align", is_flag=True, help="Reorder the hidden units of further runs, so that each lies nearest to the first."
)
@click.option("--last", type=click.IntRange(min=1), help="Use only the last N snapshots.")
@click.option("--every", type=click.IntRange(min=1), help="Use every N-th snapshot, counted from the last.")
@click.option(
    "--metric", "metrics", multiple=True, help="Compute this as well: accuracy, or MODULE:FUNCTION. Repeatable."
)
@click.option("--part", metavar="K/N", help="Compute part K of N and stop. Without it, parts are joined.")
@click.option(
    "--norm",
    default="filter",
    show_default=True,
    help="Normalisation of random directions: filter, layer, model or none.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Number of processes or Ray workers. [default: what is fastest, or what fits]",
)
@click.option("--tune/--no-tune", default=True, help="First measure which way of computing is fastest on this machine.")
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    help="Precision of the evaluation: float32, tf32 (of a GPU) or bfloat16 (coarser, faster).",
)
@click.option("--flatness", is_flag=True, help="Also measure how flat the end of each run lies, in five measures.")
@click.option("--fresh", is_flag=True, help="Recompute what is already stored.")
@click.option("--log-to", metavar="TRACKER", help="Also log to tensorboard:FOLDER, wandb:PROJECT or mlflow:URI.")
@click.option("--quiet", is_flag=True, help="Show no progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def analyze(
    context: click.Context, runs: tuple[str, ...], quiet: bool, as_json: bool, log_to: str | None, flatness: bool,
    **options: object,
) -> None:  # fmt: skip
    """Compute the loss surface that the recorded RUN descended, and store it in the run.

    Several runs share one plane. The surface is stored in the first.

    It is computed coarse to fine, so that there is a picture soon: `landscape-hooks view RUN --follow` shows it
    meanwhile. `--quality draft` and `--budget 1m` make for a first look; what was interrupted, or ended with
    its budget, goes on when the same command is given again.
    """
    from landscape_hooks.analysis.analyze import analyze as compute

    measured: list[Flatness] = []
    try:
        given = _objects(context, options)
        surface = compute(*runs, progress=not quiet, **given)
        if flatness:
            measured = [_flatness(run, given, quiet) for run in runs]
    except KeyboardInterrupt:
        click.echo("\nInterrupted. What was computed is saved; the same command continues from there.", err=True)
        raise SystemExit(130) from None
    if log_to is not None:
        from landscape_hooks.integrations.trackers import log_surface

        log_surface(surface, log_to)
    if as_json:
        import json

        flat = {"flatness": [found.to_json() for found in measured]} if flatness else {}
        click.echo(json.dumps(summary(runs[0], surface) | flat, indent=2))
        return
    click.echo(f"Surface '{surface.name}' is in {runs[0]}.")
    for sentence in surface.attrs.get("report") or [
        f"{surface.evaluated.sum()} of {surface.loss.size} losses are there."
    ]:
        click.echo(sentence)
    for run, found in zip(runs, measured, strict=False):
        click.echo("\n".join([*([f"{run}:"] if len(runs) > 1 else []), *found.lines()]))


def _flatness(run: str, given: dict[str, Any], quiet: bool) -> Flatness:
    """The flatness of a run, with the options of its analysis that mean something for it."""
    from landscape_hooks.analysis.curvature.flatness import flatness as measure

    same = {key: given[key] for key in ("batch_norm", "objective", "data", "snapshots", "seed", "fresh")}
    samples = given["samples"] if isinstance(given["samples"], int) else None
    return measure(run, samples=samples, device=getattr(given["engine"], "device", None), progress=not quiet, **same)


def _objects(context: click.Context, flat: dict[str, Any]) -> dict[str, Any]:
    """The flat options of the command line as arguments of `landscape_hooks.analyze`, which takes option objects."""
    from landscape_hooks.analysis.frame import parse_directions
    from landscape_hooks.evaluation.effort import Effort
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
    steps, tensors = _only(flat.pop("only"))
    flat["snapshots"] = Snapshots(
        **taken("start", "stop", "last", "every", "base", "align"), only=steps, tensors=tensors
    )
    flat["effort"] = Effort(**taken("quality", "budget"))
    if flat.pop("line"):
        flat["size"] = (parse_size(flat["size"])[0], 1)
    return flat


def _only(given: Sequence[str]) -> tuple[list[int] | None, list[str]]:
    """Steps, and patterns of names: a list of whole numbers are steps."""
    parts = [part.strip() for text in given for part in text.split(",")]
    steps = [int(part) for part in parts if part.isdigit()]
    return steps or None, [part for part in parts if not part.isdigit()]


def _check_owners(context: click.Context, flat: dict[str, Any]) -> None:
    """Refuse an option that the chosen directions, or the chosen engine, would ignore."""
    from click.core import ParameterSource

    for choice, owners in OWNERS.items():
        for name, owner in owners.items():
            given = context.get_parameter_source(name) is not ParameterSource.DEFAULT
            if given and flat[choice] != owner:
                option = f"--{name.replace('_', '-')}"
                raise LandscapeError(f"Found {option} with --{choice} {flat[choice]}", mend=f"Add --{choice} {owner}")


def summary(run: str, surface: Surface) -> dict[str, Any]:
    """What `--json` prints: the attributes, and the numbers of the report."""
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
    """The number, or None for NaN and inf, which JSON does not have."""
    value = float(value)
    return value if value - value == 0 else None
