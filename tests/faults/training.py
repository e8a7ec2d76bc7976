"""A training whose every snapshot is known beforehand, so that whatever a fault leaves can be compared to the bit."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from landscape_hooks import Trajectory, record
from landscape_hooks.errors import RecordingWarning, RunError

SIZE = 12
SEED = 5


class Model(nn.Module):
    """Twelve weights and a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(SIZE))
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, batch: Any) -> torch.Tensor:
        return ((self.theta - batch) ** 2 * torch.arange(1.0, SIZE + 1)).sum(dim=1).mean()


def states(end: int) -> np.ndarray:
    """(end + 1, SIZE) weights after every step, as an SGD of rate 0.1 takes them."""
    found = [torch.randn(SIZE, generator=torch.Generator().manual_seed(SEED))]
    for step in range(end):
        found.append(found[-1].add(gradient(step), alpha=-0.1))
    return torch.stack(found).numpy()


def gradient(step: int) -> torch.Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(100 + step))


def train(store: Any, end: int, *, start: int = 0, later: bool = False, flush: int = 2, **options: Any) -> list[int]:
    """Record steps `start` to `end`; returns the steps that `flush` confirmed. `later`: the loss is said afterwards."""
    model = Model()
    with torch.no_grad():
        model.theta.copy_(torch.from_numpy(states(start)[-1]))
        model.seen.fill_(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    confirmed: list[int] = []
    resumed = options.get("if_exists") == "resume"
    recorder = record(model, optimizer, store, step=start if resumed else None, **options)
    try:
        for step in range(start, end):
            model.theta.grad = gradient(step)
            model.seen += 1
            if not later:
                recorder.log(loss=(step + 1) / 3, epoch=step / 10)
            optimizer.step()
            if later:
                recorder.log(loss=(step + 1) / 3, epoch=step / 10, step=step + 1)
            if (step + 1) % flush == 0:
                recorder.flush()
                if recorder._guard.active:
                    confirmed = list(recorder._writer.steps)
    finally:
        recorder.close()
    assert np.array_equal(model.theta.detach().numpy(), states(end)[-1]), "the training itself was disturbed"
    return confirmed


def quietly(*arguments: Any, **options: Any) -> tuple[list[int], list[str]]:
    """`train`, and the warnings it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        confirmed = train(*arguments, **options)
    assert all(issubclass(w.category, RecordingWarning) for w in caught), [str(w.message) for w in caught]
    return confirmed, [str(w.message) for w in caught]


def trajectory(store: Any) -> Trajectory | None:
    """What is recorded; None where the store says that nothing was yet."""
    try:
        return Trajectory.open(store)
    except RunError as error:
        if not any(text in str(error) for text in ("being created", "nothing at", "is not a run")):
            raise
        return None


def check(found: Trajectory, *, later: bool = False) -> None:
    """Every snapshot that counts is that of its step, to the bit."""
    steps = found.steps
    assert (np.diff(steps) > 0).all()
    np.testing.assert_array_equal(found.block(), states(int(steps.max(initial=0)))[steps])
    np.testing.assert_array_equal(found.buffers(), np.repeat(steps[:, None], 2, axis=1))
    np.testing.assert_array_equal(found.learning_rates, np.full((len(steps), 1), 0.1))
    if not later:  # step 0 is before the first loss
        np.testing.assert_array_equal(found.losses[steps > 0], steps[steps > 0] / 3)


def same(one: Trajectory, other: Trajectory, *, later: bool = False) -> None:
    """Two trajectories that say the same."""
    for name in ("steps", "learning_rates", *(() if later else ("losses", "epochs"))):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.block(), other.block())
    np.testing.assert_array_equal(one.buffers(), other.buffers())
