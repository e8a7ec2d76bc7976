"""Kernels: the loss of one batch from named weights, as a stored graph or as live code.

In: parameters, buffers and constants by name, and the tensors of a batch. Out: the loss, one number a sample or one a
batch. Both kinds can be told the memory format of what they are given (`laid_out`), and what normalisation layers use
(`statistics`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from landscape_hooks.objective.graph.graph import LossGraph
from landscape_hooks.objective.loss_module import LossModule


class Kernel(Protocol):
    """The loss of one batch: per sample (n,) or one number, from named state and the leaves of the batch."""

    def __call__(self, state: Mapping[str, Tensor], leaves: Sequence[Tensor], *, statistics: str) -> Tensor: ...

    def running_statistics(self) -> dict[str, str]: ...

    def to(self, device: torch.device) -> Kernel: ...

    def laid_out(self, layout: str) -> Kernel: ...


@dataclass(frozen=True)
class GraphKernel:
    """The loss as a stored graph."""

    graph: LossGraph
    device: torch.device | None = None

    def __call__(self, state: Mapping[str, Tensor], leaves: Sequence[Tensor], *, statistics: str) -> Tensor:
        return self.graph(state, leaves, statistics=statistics, device=self.device)

    def running_statistics(self) -> dict[str, str]:
        return self.graph.running_statistics()

    def to(self, device: torch.device) -> GraphKernel:
        return replace(self, device=device)

    def laid_out(self, layout: str) -> GraphKernel:
        """For images and weights of this memory format."""
        return self if layout == "contiguous" else replace(self, graph=self.graph.without_views())


@dataclass(frozen=True)
class ModuleKernel:
    """The loss as live code; `names` gives the canonical name of each tensor of the module."""

    module: LossModule
    names: Mapping[str, str]

    def __call__(self, state: Mapping[str, Tensor], leaves: Sequence[Tensor], *, statistics: str) -> Tensor:
        tensors = {own: state[canonical] for own, canonical in self.names.items()}
        layers = _statistics_layers(self.module) if statistics != "running" else {}
        momentum = {layer: layer.momentum for layer in layers.values()}
        try:
            for layer in momentum:
                layer.train()
                if statistics == "measure":
                    layer.momentum = 1.0
            return torch.func.functional_call(self.module, tensors, tuple(leaves))
        finally:
            for layer, value in momentum.items():
                layer.eval()
                layer.momentum = value

    def running_statistics(self) -> dict[str, str]:
        found = {}
        for name in _statistics_layers(self.module):
            for buffer in ("mean", "var"):
                found[self.names[f"{name}.running_{buffer}"]] = buffer
        return found

    def to(self, device: torch.device) -> ModuleKernel:
        # as `module.to`, which refuses parameters without memory
        return replace(self, module=self.module._apply(lambda t: t if t.is_meta else t.to(device)))

    def hollow(self) -> ModuleKernel:
        """A copy whose parameters are without memory: every call is given all that `names` lists."""
        given = [t for own, t in self.module.named_parameters(remove_duplicate=False) if own in self.names]
        memo: dict[int, Any] = {id(t): nn.Parameter(torch.empty_like(t, device="meta"), t.requires_grad) for t in given}
        return replace(self, module=copy.deepcopy(self.module, memo))

    def laid_out(self, layout: str) -> ModuleKernel:
        """Live code is run as it is."""
        return self


def _statistics_layers(module: nn.Module) -> dict[str, Any]:
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.running_mean is not None
    }
