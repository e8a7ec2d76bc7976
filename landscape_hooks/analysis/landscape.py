"""landscape: the loss around a finished model in one call. A model and its loss in, a Surface out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from landscape_hooks.analysis.analyze import analyze
from landscape_hooks.errors import LandscapeError
from landscape_hooks.evaluation.effort import Effort
from landscape_hooks.evaluation.engines import Local, Ray
from landscape_hooks.plane.directions.hessian import Hessian
from landscape_hooks.plane.directions.random import Random
from landscape_hooks.recording.importing.checkpoints import import_checkpoints
from landscape_hooks.store.run import RunLike
from landscape_hooks.surface.surface import Surface
from landscape_hooks.trajectory.parameters import ParameterLayout

if TYPE_CHECKING:
    from landscape_hooks.objective.data.samples import DataLike


def landscape(
    model: torch.nn.Module,
    *,
    criterion: Callable[..., Any] | None = None,
    objective: Callable[..., Any] | None = None,
    data: DataLike,
    samples: int = 1024,
    directions: str | Random | Hessian = "random",
    store: RunLike | None = None,
    size: int | str | Sequence[int] = 25,
    extent: str | Sequence[float] = "auto",
    batch_norm: str | None = None,
    seed: int = 0,
    name: str | None = None,
    engine: str | Local | Ray = "local",
    metrics: Sequence[str] = (),
    adaptive: float | None = None,
    progress: bool = True,
    effort: str | Effort | None = None,
) -> Surface:
    """Draw the loss surface around a model as it is now.

    It is a run of one snapshot, the model, and an `analyze` of it. The model is left as it was.

    Parameters
    ----------
    model
        the module, wrapped or not.
    criterion, objective, data, samples
        the loss, as for `record`.
    directions
        the plane: "random" (filter-normalised) or "hessian" (top eigenvectors of the loss's Hessian), or
        `Random(norm)`, `Hessian()`. Principal components take several checkpoints: `import_checkpoints`.
    store
        where the run is kept, for `view`, `export` and further planes; left out, it is temporary.
    size, extent, batch_norm, seed, name, engine, metrics, adaptive, progress, effort
        as for `analyze`.

    Returns
    -------
    Surface
        read into memory.

    Raises
    ------
    LandscapeError
        the loss cannot be stored or computed, or the directions need more than one snapshot.
    RunError
        there is a run of another model at `store`.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> data = torch.ones(8, 2), torch.zeros(8, 1)
    >>> surface = landscape(model, criterion=torch.nn.MSELoss(), data=data, size=5, progress=False)
    >>> surface.loss.shape
    (5, 5)
    """
    if directions in ("pca", "points") or not isinstance(directions, str | Random | Hessian):
        raise LandscapeError(
            f"Found the directions {directions!r} for one model",
            expected='"random" or "hessian"',
            mend="Principal components and points take several checkpoints: import_checkpoints, then analyze",
        )
    if criterion is None and objective is None:
        raise LandscapeError("Found no loss", expected="criterion(output, target), or objective(model, batch)")
    with _place(store) as place:
        import_checkpoints(
            place, model, [_now(model)], steps=[0],
            criterion=criterion, objective=objective, data=data, samples=samples, progress=False,
        )  # fmt: skip
        return analyze(
            place, directions=directions, size=size, extent=extent, batch_norm=batch_norm, seed=seed, name=name,
            engine=engine, metrics=metrics, adaptive=adaptive, progress=progress, effort=effort,
        )  # fmt: skip


def _now(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's tensors by their names; nothing is copied."""
    layouts = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    return {name: t for layout in layouts for name, t in zip(layout.names, layout.tensors(model), strict=True)}


@contextmanager
def _place(store: RunLike | None) -> Iterator[RunLike]:
    if store is not None:
        yield store
        return
    with tempfile.TemporaryDirectory(prefix="landscape-") as folder:
        yield Path(folder, "landscape.zarr")
