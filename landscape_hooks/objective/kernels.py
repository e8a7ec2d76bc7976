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

from landscape_hooks.objective.data.batches import Rebuild
from landscape_hooks.objective.graph.graph import LossGraph
from landscape_hooks.objective.loss_module import LossModule


@dataclass(frozen=True)
class Tuning:
    """A way of computing the loss of a batch; another way gives the same values up to rounding.

    Attributes
    ----------
    layout
        memory format of images and convolution weights: "contiguous" or "channels_last".
    chunk
        samples at a time, where nothing depends on the batch.
    precision
        "float32" leaves the model's own types alone; "tf32" lets a GPU round what it multiplies to TF32; "bfloat16"
        runs it under autocast.
    """

    layout: str = "contiguous"
    chunk: int = 256
    precision: str = "float32"


PLAIN = Tuning()
"""The way of torch's defaults."""


class Kernel(Protocol):
    """The loss of one batch: per sample (n,) or one number, from named state and the leaves of the batch.

    Where the loss says by what a batch is weighed it is a list: the loss, and its weights, of which the first counts.
    """

    def __call__(self, state: Mapping[str, Tensor], leaves: Sequence[Tensor], *, statistics: str) -> Any: ...

    def running_statistics(self) -> dict[str, str]: ...

    def to(self, device: torch.device) -> Kernel: ...

    def laid_out(self, layout: str) -> Kernel: ...


@dataclass(frozen=True)
class GraphKernel:
    """The loss as a stored graph."""

    graph: LossGraph
    device: torch.device | None = None

    def __call__(self, state: Mapping[str, Tensor], leaves: Sequence[Tensor], *, statistics: str) -> Any:
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

    def __call__(self, state: Mapping[str, Tensor], leaves: Sequence[Tensor], *, statistics: str) -> Any:
        if self.module.needs_grad and not torch.is_grad_enabled():
            trained = self.trained
            state = {
                name: t.detach().requires_grad_(t.is_floating_point() and name in trained) for name, t in state.items()
            }
            with torch.enable_grad():
                return self(state, leaves, statistics=statistics).detach()
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

    @property
    def trained(self) -> set[str]:
        """Canonical names of the parameters that require a gradient."""
        return {self.names[own] for own, p in self.module.named_parameters() if own in self.names and p.requires_grad}

    def rebuilding(self, rebuild: Rebuild) -> ModuleKernel:
        """The same loss of batches that are made of leaves in another way."""
        module = copy.copy(self.module)
        module._rebuild = rebuild
        return replace(self, module=module)

    def running_statistics(self) -> dict[str, str]:
        found = {}
        for name in _statistics_layers(self.module):
            for buffer in ("mean", "var"):
                found[self.names[f"{name}.running_{buffer}"]] = buffer
        return found

    def to(self, device: torch.device) -> ModuleKernel:
        # as `module.to`, which refuses parameters without memory
        return replace(self, module=self.module._apply(lambda t: t if t.is_meta else t.to(device)))

    def without_weights(self) -> ModuleKernel:
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


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Images and their filters in the memory format; anything else as it is."""
    if layout == "contiguous" or tensor.ndim not in (4, 5):
        return tensor
    memory_format = torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d
    if tensor.shape[1] > 1:
        return tensor.contiguous(memory_format=memory_format)
    # One channel is in both formats at once, and everything computed from it would be contiguous: what an operation
    # goes by are the strides.
    return torch.empty_like(tensor, memory_format=memory_format).copy_(tensor)
