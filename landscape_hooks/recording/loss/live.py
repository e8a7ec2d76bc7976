"""LiveLoss: the loss as the training has it, and its comparison with the one that the run stores.

In: the run, all of it committed, and the live model and loss. Out: a doubt where the two differ. Both are computed at
the weights of the end and of the beginning, on the samples that the run keeps. The live one is computed by private
copies in evaluation mode, random states are put back, and nothing of the user's is touched.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from landscape_hooks.objective.data.states import states_kept
from landscape_hooks.recording.watch.fixed import base_of
from landscape_hooks.store import checked
from landscape_hooks.trajectory.doubts import Doubt
from landscape_hooks.trajectory.trajectory import Trajectory

if TYPE_CHECKING:
    from landscape_hooks.objective.loss_module import LossModule
    from landscape_hooks.objective.objective import Objective

MOST_SECONDS, SHARE = 10.0, 0.05
"""The comparison takes so long at most, or this share of the recorded time if that is less."""

LEAST_SECONDS = 1.0
"""One batch at the end and one at the beginning are compared however short the recording was, if a batch is likely to
take less than this."""

TOLERANCE = {"float64": 1e-4, "float32": 1e-3}
"""Relative difference of two losses that arithmetic explains, by the type of the weights; others have 3e-2."""


@dataclass(frozen=True)
class LiveLoss:
    """The loss as the training has it, kept until the recording ends.

    Attributes
    ----------
    criterion, objective
        as `record` was given them.
    rebuild
        puts the tensors of a stored batch back into the shape of a batch.
    seconds
        what computing the loss of one batch took when it was stored, some times over.
    within
        a context in which the model may be copied and the loss called (some trainers need one).
    """

    criterion: Callable[..., Any] | None
    objective: Callable[..., Any] | None
    rebuild: Callable[..., Any]
    seconds: float = 0.0
    within: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)


@dataclass(frozen=True)
class Comparison:
    """What came of comparing the losses: doubts, or why they could not be compared."""

    doubts: Sequence[Doubt] = ()
    unchecked: str = ""


def compare_loss(root: zarr.Group, model: torch.nn.Module | None, live: LiveLoss, recorded: float) -> Comparison:
    """Compare the loss that a run stores with the live one; `recorded` is how long the recording took, in seconds."""
    budget = min(MOST_SECONDS, SHARE * recorded)
    if model is None:
        return Comparison(unchecked="The model was gone when the recording ended, so the stored loss was not compared")
    if live.seconds > max(budget, LEAST_SECONDS):
        return Comparison(
            unchecked="Comparing the stored loss with the training's own would have taken more than "
            f"{max(budget, LEAST_SECONDS):.1f} s, so it was not compared"
        )
    try:
        with states_kept(), live.within():
            return _compare(root, model, live, time.monotonic() + budget)
    except Exception as error:
        return Comparison(
            unchecked="The stored loss could not be compared with the training's own "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        )


def _compare(root: zarr.Group, model: torch.nn.Module, live: LiveLoss, deadline: float) -> Comparison:
    from landscape_hooks.objective import loss_module, objective

    root = checked.fresh(root)
    trajectory = Trajectory(root, base=base_of(model))
    stored = objective.Objective.load(root, trajectory)
    module, _ = loss_module.LossModule.of(model, live.criterion, live.objective, live.rebuild)
    module.needs_grad = getattr(live.rebuild, "needs_grad", False)
    for layout in (stored.layout, stored.buffer_layout):  # as it was recorded, whatever was made of it since
        for entry, tensor in zip(layout, layout.tensors(module.model), strict=True):
            tensor.data = tensor.data.to(getattr(torch, entry.dtype))
    ties = stored.layout.untied(module.model)
    ends = [trajectory[-1], trajectory[0]] if len(trajectory) > 1 else [trajectory[-1]]
    pairs = [_losses(stored, module, ties, end.weights, end.buffers) for end in ends]
    sums, weights, batches = np.zeros((len(ends), 2)), np.zeros((len(ends), 1)), 0
    while all(found := [next(pair, None) for pair in pairs]):
        for place, one in enumerate(found):
            assert one is not None
            sums[place] += np.array(one[:2]) * one[2]
            weights[place] += one[2]
        batches += 1
        if time.monotonic() > deadline:
            break
    losses = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 0)
    tolerance = TOLERANCE.get(_coarsest(trajectory), 3e-2)
    apart = [not _agree(stored_loss, own, tolerance) for stored_loss, own in losses.tolist()]
    if not any(apart):
        return Comparison()
    names = ("end", "beginning")[: len(ends)]
    numbers = {f"{kind}_{n}": float(v) for n, pair in zip(names, losses, strict=True)
               for kind, v in zip(("stored", "own"), pair, strict=True)}  # fmt: skip
    place = 0 if apart[0] else 1
    shown, own = _apart(*losses[place].tolist())
    said = f"The stored loss is {shown} at the {names[place]}, the training's own {own}."
    return Comparison((Doubt("loss", said, {**numbers, "batches": batches}),))


def _losses(
    stored: Objective,
    module: LossModule,
    ties: Sequence[tuple[torch.Tensor, torch.Tensor]],
    weights: NDArray[Any],
    buffers: NDArray[Any],
) -> Iterator[tuple[float, float, float]]:
    """(stored loss, the training's own, weight) of one batch after the other, at one snapshot."""
    theta, beside = torch.from_numpy(np.array(weights)), torch.from_numpy(np.array(buffers))
    batches = stored.by_batch(theta, beside, "running", whole_batches=True)
    for leaves, _ in stored.probe.batches():
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            value, samples, weights_of = next(batches)
            # both ends share one copy of the model
            stored.layout.assign(module.model, theta)
            stored.buffer_layout.assign(module.model, beside)
            for tensor, alias in ties:
                alias.copy_(tensor)
            with torch.set_grad_enabled(module.needs_grad):
                own = module(*[t.clone() for t in leaves]).detach()
        weight = float(weights_of[0].sum()) if weights_of else float(samples)
        yield float(value.double().mean()), float(own.double().mean()), weight


def _coarsest(trajectory: Trajectory) -> str:
    kinds = {entry.dtype for entry in trajectory.layout}
    return next((kind for kind in ("float16", "bfloat16") if kind in kinds), str(trajectory.dtype))


def _agree(stored: float, own: float, tolerance: float) -> bool:
    if not math.isfinite(stored) or not math.isfinite(own):
        return math.isfinite(stored) == math.isfinite(own)
    return abs(stored - own) <= 1e-6 + tolerance * max(abs(stored), abs(own))


def _apart(stored: float, own: float) -> tuple[str, str]:
    """Two numbers with as many digits as tell them apart."""
    for digits in range(2, 17):
        shown = f"{stored:.{digits}g}", f"{own:.{digits}g}"
        if shown[0] != shown[1]:
            return shown
    return f"{stored!r}", f"{own!r}"
