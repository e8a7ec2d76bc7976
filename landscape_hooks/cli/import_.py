"""`landscape-hooks import RUN CHECKPOINT...`: the options of `landscape_hooks.import_checkpoints`."""

from __future__ import annotations

import warnings
from typing import Any

import click


def _steps(context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    try:
        return None if value is None else [int(step) for step in value.split(",")]
    except ValueError as error:
        raise click.BadParameter("expected whole numbers like 0,100,200") from error


@click.command(name="import")
@click.argument("run")
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("--model", metavar="MODULE:FUNCTION", help="A function that returns the model, with any weights.")
@click.option("--criterion", metavar="MODULE:NAME", help="The criterion(output, target), such as torch.nn:MSELoss.")
@click.option(
    "--objective",
    metavar="MODULE:FUNCTION",
    help="objective(model, batch), in place of --criterion; without --model a function that returns an Objective.",
)
@click.option("--data", metavar="MODULE:FUNCTION", help="A function that returns the data for the loss.")
@click.option(
    "--samples", type=click.IntRange(min=1), default=1024, show_default=True, help="Number of samples that are kept."
)
@click.option(
    "--steps",
    callback=_steps,
    metavar="STEPS",
    help="Step of each checkpoint, such as 0,100,200. [default: what the checkpoints or their names say]",
)
@click.option("--quiet", is_flag=True, help="Show no progress bar.")
def import_(
    run: str,
    checkpoints: tuple[str, ...],
    model: str | None,
    criterion: str | None,
    objective: str | None,
    data: str | None,
    samples: int,
    steps: list[int] | None,
    quiet: bool,
) -> None:
    """Make the run RUN of the checkpoints of a training that is over; analyze draws it.

    A CHECKPOINT is a file of torch.save or safetensors, a folder checkpoint-N of transformers or PEFT, a .ckpt of
    Lightning, a folder of torch.distributed.checkpoint, or a folder of such. No checkpoint runs code. With the same
    command an interrupted import goes on.
    """
    from landscape_hooks.evaluation.imports import called, import_string
    from landscape_hooks.recording.importing.checkpoints import import_checkpoints

    made = None if model is None else _made(import_string(model))
    loss: dict[str, Any] = {"criterion": None if criterion is None else _criterion(import_string(criterion))}
    if objective is not None:
        found = import_string(objective)
        loss["objective"] = called(found) if made is None and callable(found) else found
    if data is not None:
        found = import_string(data)
        loss["data"] = called(found) if callable(found) and not hasattr(found, "__iter__") else found
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            trajectory = import_checkpoints(
                run, made, list(checkpoints), steps=steps, samples=samples, progress=not quiet, **loss
            )
        except KeyboardInterrupt:
            click.echo("\nInterrupted. What was imported is saved; the same command continues from there.", err=True)
            raise SystemExit(130) from None
    from landscape_hooks.errors import RecordingWarning, printable

    for warning in said:
        if issubclass(warning.category, RecordingWarning):
            click.echo(printable(warning.message), err=True)
    first, last = int(trajectory.steps[0]), int(trajectory.steps[-1])
    click.echo(
        f"{run} holds {len(trajectory)} snapshots of {trajectory.layout.size:,} parameters, steps {first} to {last}."
    )


def _made(found: Any) -> Any:
    """The model: a module, or what a function or a class without arguments makes."""
    from landscape_hooks.evaluation.imports import called

    return called(found) if isinstance(found, type) or not hasattr(found, "parameters") else found


def _criterion(found: Any) -> Any:
    """A criterion: a class is instantiated, and a function that takes nothing returns it."""
    import inspect

    from landscape_hooks.evaluation.imports import called

    if isinstance(found, type):
        return called(found)
    try:
        needed = inspect.signature(found).parameters
    except (TypeError, ValueError):
        return found
    return found if needed else called(found)
