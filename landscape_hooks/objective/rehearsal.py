"""Rehearsal: a loss graph run on shapes alone, before it is run on numbers.

In: an Objective that was read from a run. Out: nothing, or an error where the loss asks for a tensor that this machine
cannot hold. torch's `meta` device computes shapes without memory; what depends on values it cannot foresee.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from landscape_hooks.errors import LandscapeError, ObjectiveError
from landscape_hooks.objective.graph.arguments import memory
from landscape_hooks.objective.kernels import Kernel
from landscape_hooks.objective.probe import Probe
from landscape_hooks.trajectory.parameters import ParameterLayout


def rehearse(
    kernel: Kernel, probe: Probe, layouts: Iterable[ParameterLayout], constants: Mapping[str, torch.Tensor]
) -> None:
    """Run the loss of the first batch on shapes.

    Raises
    ------
    ObjectiveError
        one of its tensors would be larger than this machine's memory.
    """
    leaves, _ = next(probe.batches())
    meta = torch.device("meta")
    state = {e.name: torch.empty(e.shape, dtype=getattr(torch, e.dtype), device=meta) for lay in layouts for e in lay}
    state |= {name: tensor.to(meta) for name, tensor in constants.items()}
    shadow = kernel.to(meta)
    try:
        with torch.no_grad(), _Allocations(memory()):
            shadow(state, [leaf.to(meta) for leaf in leaves], statistics="running")
    except _TooLarge as error:
        raise ObjectiveError(
            f"The stored loss asks for a tensor of {error.size:.3g} bytes",
            expected="tensors that fit into this machine's memory",
            mend="Analyze it on a larger machine, or with fewer samples; do not run it if you do not know its author",
        ) from None
    except LandscapeError:
        return  # what shapes alone do not tell; the numbers will


class _TooLarge(LandscapeError):
    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes")
        self.size = size


class _Allocations(TorchDispatchMode):
    """Looks at the memory of every result."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() > self._most:
                raise _TooLarge(value.untyped_storage().nbytes())
        return out
