"""Independence: whether the loss of a sample is the same whatever other samples are in its batch.

In: a loss that is known for each sample, and the probe. Out: yes or no. Where it is no (contrastive losses, statistics
of the batch, pairs), batches are evaluated as they were recorded; else in the chunks that are fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from landscape_hooks.objective.probe import Probe


def independent(
    call: Callable[[Mapping[str, Tensor], Sequence[Tensor]], Tensor], state: Mapping[str, Tensor], probe: Probe
) -> bool:
    """Whether the losses of samples are the same whatever other samples are in their batch, found by splitting.

    `call(state, leaves)` gives a loss for each sample. It is tried at the weights given and at others nearby: at
    weights that make all outputs equal (a last layer of zeros) samples that depend on one another look independent.
    """
    group = probe.groups[0]
    count = min(group.samples, max(group.sizes[0], 16))
    if count < 2:
        return False
    generator = torch.Generator().manual_seed(0)
    informative = False
    for size in (0.0, 0.1):
        moved = {name: _moved(tensor, size, generator) for name, tensor in state.items()}
        try:
            with torch.no_grad():
                whole = call(moved, [t.clone() for t in group.slice(0, count)])
                cut = max(1, count // 3)
                ranges = (
                    [(0, cut), (cut, count)] if cut > 1 or group.sizes[0] == 1 else [(0, count - 1), (count - 1, count)]
                )
                parts = [call(moved, [t.clone() for t in group.slice(a, b)]) for a, b in ranges]
                joined = torch.cat([part.reshape(-1) for part in parts])
                if joined.shape != whole.shape or not torch.allclose(
                    joined, whole, rtol=1e-3, atol=1e-6, equal_nan=True
                ):
                    return False
                informative |= bool(torch.isfinite(whole).all())
        except Exception:  # a part of a batch is none: packed sequences, offsets, graphs
            return False
    return informative


def _moved(tensor: Tensor, size: float, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point() or not size:
        return tensor
    noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    scale = float(tensor.detach().double().pow(2).mean().sqrt()) if tensor.numel() else 0.0
    return tensor.detach() + size * (scale if 0 < scale < float("inf") else 1.0) * noise
