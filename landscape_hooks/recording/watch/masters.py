"""Masters: the float32 copies of half-precision parameters, which an optimizer steps in place of them.

In: the optimizers, and the model's tensors. Out: for each tensor its master, as long as that rounds to it; otherwise
the tensor itself. So a row is never of other weights than the model's, only more exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from landscape_hooks.recording.storage import Storage

WIDE = ("float32", "float64")
NAMES = ("master", "main_param", "fp32_param")
"""Parts of the names under which optimizers keep a master: in their state, or as an attribute of the parameter."""


class Masters:
    """What the optimizers hold of a model's parameters in a wider type.

    Parameters
    ----------
    optimizers
        as they were given to `record`; they are asked anew for every snapshot in which a tensor has no master yet.
    """

    def __init__(self, optimizers: Sequence[Any]) -> None:
        self._optimizers = list(optimizers)
        self._known: dict[int, torch.Tensor] = {}

    @classmethod
    def wanted(cls, storage: Storage, optimizers: Sequence[Any]) -> Masters | None:
        """Those that a run is to have: where rows are wider than the parameters, on request."""
        return cls(optimizers) if storage.dtype in WIDE and optimizers else None

    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors, or in their place what rounds to them."""
        halves = [t for t in tensors if t.dtype in (torch.bfloat16, torch.float16)]
        if any(not _rounds_to(self._known.get(id(t)), t) for t in halves):
            self._known = self._found(halves)
        return [self._known.get(id(tensor), tensor) for tensor in tensors]

    def _found(self, halves: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
        """By the number of each tensor its master; each master is of one tensor, in the order of both."""
        own = {id(tensor) for tensor in halves}
        pool = [p for p in self._stepped() if id(p) not in own and p.dtype in (torch.float32, torch.float64)]
        found: dict[int, torch.Tensor] = {}
        for tensor in halves:
            named = next((m for m in self._named(tensor) if _rounds_to(m, tensor)), None)
            if named is None:
                place = next((i for i, p in enumerate(pool) if _rounds_to(p, tensor)), None)
                named = None if place is None else pool.pop(place)
            if named is not None:
                found[id(tensor)] = named.detach()
        return found

    def _stepped(self) -> Iterator[torch.Tensor]:
        for optimizer in self._optimizers:
            for group in getattr(optimizer, "param_groups", ()):
                yield from (p for p in group["params"] if isinstance(p, torch.Tensor))

    def _named(self, tensor: torch.Tensor) -> Iterator[Any]:
        """What is called a master of the tensor."""
        places: list[Any] = [getattr(tensor, "__dict__", {})]
        for optimizer in self._optimizers:
            state = getattr(optimizer, "state", {})
            places.append(state.get(tensor, {}) if hasattr(state, "get") else {})
        for place in places:
            if isinstance(place, dict):
                yield from (value for key, value in place.items() if any(name in str(key) for name in NAMES))


def _rounds_to(master: object, tensor: torch.Tensor) -> bool:
    """Whether a tensor is what a master is in the tensor's type."""
    if not isinstance(master, torch.Tensor) or master.shape != tensor.shape or master.device != tensor.device:
        return False
    return torch.equal(master.detach().to(tensor.dtype), tensor.detach())
