"""`landscape-hooks curvature RUN...`: the options of `landscape_hooks.curvature`; prints a table and what it shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from landscape_hooks.surface.measures.curvature import Curvature


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--snapshots", type=click.IntRange(min=1), metavar="N",
              help="How many snapshots, evenly spread over the run. [default: 20]")  # fmt: skip
@click.option("--from", "start", type=click.IntRange(min=0), help="First step of the snapshots to use.")
@click.option("--to", "stop", type=click.IntRange(min=0), help="Last step of the snapshots to use.")
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, metavar="K",
              help="How many eigenvalues, the largest first.")  # fmt: skip
@click.option("--method", type=click.Choice(["auto", "hessian", "critical"]), default="auto", show_default=True,
              help="hessian: eigenvalues, by Hessian-vector products. critical: how large a step may be before the "
              "loss rises, by evaluations of the loss. auto: hessian, but critical from 20 million parameters "
              "on.")  # fmt: skip
@click.option("--probes", type=click.IntRange(min=2), default=8, show_default=True,
              help="Random vectors for the estimate of the trace.")  # fmt: skip
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Use only the first N probe samples.")
@click.option("--batch-norm", help="BatchNorm policy: batch, fixed, interpolate or recalibrate, as for analyze.")
@click.option("--objective", metavar="MODULE:FUNCTION", help="A function that returns an Objective.")
@click.option("--data", metavar="MODULE:FUNCTION", help="A function that returns other probe data.")
@click.option("--base", metavar="BASE", help="Tensors recorded by reference: a FILE, a FOLDER or MODULE:FUNCTION.")
@click.option("--optimizer", type=click.Choice(["sgd"]),
              help="The steps were those of gradient descent; for runs that do not say so themselves.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random vectors.")
@click.option("--name", help="Name of the curvature in the run. [default: the method's]")
@click.option("--device", help="Device on which the loss is computed. [default: a GPU if there is one]")
@click.option("--png", type=click.Path(path_type=Path),
              help="Also write a figure; the name decides: PNG, SVG, PDF, PS, EPS or PGF.")  # fmt: skip
@click.option("--fresh", is_flag=True, help="Recompute what is already stored.")
@click.option("--quiet", is_flag=True, help="Show no progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def curvature(
    runs: tuple[str, ...], snapshots: int | None, start: int | None, stop: int | None, base: str | None,
    png: Path | None, quiet: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Compute how sharply the loss curves along the path of each RUN, and store it in the run.

    For each snapshot: the largest eigenvalues of the Hessian on the probe samples (the first is the sharpness), each
    with its residual as error; the trace; the curvature along the step that was taken; and the threshold 2/η (with
    momentum β: 2(1+β)/η), above which a step of gradient descent with the learning rate η is unstable. Full-batch
    gradient descent drives the sharpness up to that threshold and holds it there: the edge of stability (Cohen et al.
    2021).

    A snapshot costs some 30 Hessian-vector products, each about six evaluations of the loss. What was interrupted
    goes on when the same command is given again.

    \b
    Examples:
      landscape-hooks curvature runs/sgd.zarr
      landscape-hooks curvature runs/sgd.zarr --snapshots 50 --top 1 --png sharpness.png
      landscape-hooks curvature runs/llm.zarr --method critical --samples 64
      landscape-hooks curvature runs/small_rate.zarr runs/large_rate.zarr --png both.png
    """
    from landscape_hooks.analysis.curvature.curvature import curvature as compute
    from landscape_hooks.cli.export import FIGURES

    if png is not None and png.suffix.lower() not in FIGURES:
        raise click.UsageError(f"Found --png {png}; expected a name that ends in {' or '.join(FIGURES)}.")
    chosen = _chosen(snapshots, start, stop, base)
    try:
        found = [compute(run, snapshots=chosen, progress=not quiet, **options) for run in runs]
    except KeyboardInterrupt:
        click.echo("\nInterrupted. What was computed is saved; the same command continues from there.", err=True)
        raise SystemExit(130) from None
    if png is not None:
        _draw(runs, found, png)
    if as_json:
        told = [summary(run, each) for run, each in zip(runs, found, strict=True)]
        click.echo(json.dumps(told if len(told) > 1 else told[0], indent=2, allow_nan=False))
        return
    for run, each in zip(runs, found, strict=True):
        click.echo("\n".join([table(each), *each.sentences(), f"Curvature '{each.name}' is in {run}."]))
    if png is not None:
        click.echo(f"wrote {png}")


def _draw(runs: Sequence[str], found: Sequence[Curvature], png: Path) -> None:
    from landscape_hooks.export.curves.curvature import curvature_figure
    from landscape_hooks.export.outfile import whole_file
    from landscape_hooks.store.run import label_of

    figure = curvature_figure(found[0] if len(found) == 1 else found, names=[label_of(run) for run in runs])
    with whole_file(png) as file:
        figure.savefig(file)


def _chosen(count: int | None, start: int | None, stop: int | None, base: str | None) -> Any:
    """The snapshots as `landscape_hooks.curvature` takes them: a selection."""
    from landscape_hooks.analysis.curvature.scene import USUAL
    from landscape_hooks.trajectory.selection import Snapshots

    return Snapshots(start=start, stop=stop, base=base, count=count or USUAL)


def table(found: Curvature) -> str:
    """The numbers as lines, a snapshot each."""
    rows = [_head(found)]
    for row in range(len(found)):
        if found.evaluated[row]:
            rows.append([str(found.step[row]), *_cells(found, row)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(cells, widths, strict=True)).rstrip() for cells in rows)


def _head(found: Curvature) -> list[str]:
    if found.method == "critical":
        return ["step", "loss", "critical (gradient)", "critical (step)", "threshold"]
    return [
        "step",
        "loss",
        *(f"λ{n + 1}" for n in range(found.eigenvalues.shape[1])),
        "trace",
        "along step",
        "threshold",
    ]


def _cells(found: Curvature, row: int) -> list[str]:
    from landscape_hooks.surface.digits import with_error

    loss = with_error(found.loss[row], found.loss_stderr[row])
    if found.method == "critical":
        middle = [
            with_error(found.critical_gradient[row], found.critical_gradient_error[row]),
            with_error(found.critical_step[row], found.critical_step_error[row]),
        ]
    else:
        middle = [with_error(*both) for both in zip(found.eigenvalues[row], found.residuals[row], strict=True)]
        middle.append(with_error(found.trace[row], found.trace_stderr[row]))
        middle.append(with_error(found.step_curvature[row], 0.0))
    return [loss, *middle, with_error(found.threshold[row], 0.0)]


def summary(run: str, found: Curvature) -> dict[str, Any]:
    """What `--json` prints: the columns, the definition and the report; NaN and inf are null."""
    from landscape_hooks.cli.description import plain

    columns = {key: values.tolist() for key, values in found.columns().items()}
    told: dict[str, Any] = plain({
        "run": run, "name": found.name, "columns": columns, "report": found.sentences(), "attrs": dict(found.attrs),
    })  # fmt: skip
    return told
