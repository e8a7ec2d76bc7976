"""A loss that costs nothing: the trajectory and the plane are real, of as many parameters as asked for."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import torch

from landscape_hooks.store.run import create_run
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter


class Sampled:
    """A loss of the first two parameters, whatever their number: ripples in a bowl, by `landscapes.bowl`'s formula."""

    samples = batch_size = 1
    digest = "synthetic"
    per_sample = has_running_statistics = False
    running_statistics: dict[str, str] = {}  # noqa: RUF012
    device = torch.device("cpu")

    def __init__(self, size: int) -> None:
        self.layout = layout(size)
        self.buffer_layout = ParameterLayout([], kind="buffer")

    def evaluate(self, weights: torch.Tensor, buffers: Any, *, statistics: str = "running") -> Any:
        raise NotImplementedError

    def measure(self, weights: torch.Tensor, buffers: Any, *, statistics: str = "running") -> torch.Tensor:
        a, b = weights[:2].double()
        ripple = 0.5 * torch.sin(1.3 * a + 0.3) * torch.cos(1.1 * b)
        loss = 0.02 * torch.exp(0.55 * torch.hypot(0.9 * a, 1.2 * b) ** 1.1 + ripple + 0.5)
        return torch.stack([loss, torch.zeros_like(loss)])

    def to(self, device: Any) -> Sampled:
        return self

    def tuned(self, **options: Any) -> Sampled:
        return self


def layout(size: int) -> ParameterLayout:
    return ParameterLayout([ParameterEntry("w", (size,), "float32", 0, size)])


def peak() -> float:
    """The most memory this process ever had, in MB."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def resident() -> float:
    """Memory of this process now, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def append(writer: TrajectoryWriter, weights: np.ndarray, first: int) -> None:
    """Add snapshots (n, D) of the steps from `first` on."""
    count = len(weights)
    steps = range(first, first + count)
    scalars = {"step": steps, "epoch": [0.0] * count, "loss": [1.0] * count, "wall_time": [1.7e9 + s for s in steps]}
    writer.append(Rows(weights, np.empty((count, 0), np.float32), scalars, np.full((count, 1), 0.1)))


def start(path: Any, size: int, *, slots: int = 0) -> TrajectoryWriter:
    """An empty run of `size` parameters."""
    root = create_run(path)
    return TrajectoryWriter.create(root, layout(size), ParameterLayout([], kind="buffer"), groups=1, slots=slots)
