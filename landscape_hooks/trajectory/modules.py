"""The tensors of a model, whatever wraps it: names, parameters, buffers, and the module each belongs to."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from landscape_hooks.errors import LayoutError

if TYPE_CHECKING:
    import torch

_INNER_UNDERSCORED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


_WRAPPERS_OF_MODULE = ("DistributedDataParallel", "DataParallel", "AveragedModel", "DeepSpeedEngine")


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The user's own module inside DDP, DataParallel, torch.compile, FSDP, checkpointing or averaging wrappers."""
    while (inner := _peel(model)) is not None:
        model = inner
    return model


def walk_parameters(model: torch.nn.Module) -> list[tuple[str, torch.Tensor, torch.nn.Module]]:
    """(canonical name, tensor, owner) of every floating-point parameter, aliases included."""
    return walk(model, "_parameters")


def walk_tensors(model: torch.nn.Module) -> list[tuple[str, torch.Tensor, torch.nn.Module]]:
    """(canonical name, tensor, owner) of every parameter and buffer of whatever type, aliases included."""
    return [each for kind in ("_parameters", "_buffers") for each in walk(model, kind, every=True)]


def copy_into(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy tensors into views of a vector; one fused call where all of them allow it."""
    import torch

    if sources:
        with torch.no_grad():
            torch._foreach_copy_(list(targets), [t if t.is_floating_point() else real_view(t) for t in sources])


def real_view(tensor: torch.Tensor) -> torch.Tensor:
    """A complex tensor as pairs of reals, any other as it is; nothing is copied."""
    import torch

    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def holding_both(stored: str, now: torch.dtype | str) -> str:
    """The type that holds what a tensor was when it was stored and what it is now (after `half()` it is narrower)."""
    import torch

    then = getattr(torch, stored)
    now = getattr(torch, now) if isinstance(now, str) else now
    try:
        both = torch.promote_types(then, now)
    except RuntimeError:  # torch knows none for 8 bits, which every other type holds
        both = max(then, now, key=lambda kind: kind.itemsize)
    return str(both).removeprefix("torch.")


def _peel(module: torch.nn.Module) -> torch.nn.Module | None:
    """What a wrapper wraps; None for the user's own modules (also those that have a child called `module`)."""
    children = module._modules
    for name in _INNER_UNDERSCORED:
        if name in children:
            return children[name]
    if "module" in children and any(base.__name__ in _WRAPPERS_OF_MODULE for base in type(module).__mro__):
        return children["module"]
    if "_original_module" in children and any(base.__name__ == "_FabricModule" for base in type(module).__mro__):
        return children["_original_module"]
    return None


def walk(model: torch.nn.Module, kind: str, *, every: bool = False) -> list[tuple[str, torch.Tensor, torch.nn.Module]]:
    """(canonical name, tensor, owner) of every floating-point tensor, aliases included, in named_parameters() order.

    With `every`, of tensors of all types. Sparse buffers (adjacency of a graph) are left alone: they are constants.
    """
    import torch

    found = []
    stack = [("", model, model)]
    while stack:
        prefix, module, owner = stack.pop()
        module = unwrap(module)
        if not prefix.endswith("parametrizations."):
            owner = owner if ".parametrizations." in f".{prefix}" else module
        for name, tensor in module.__dict__[kind].items():
            if tensor is None or (kind == "_buffers" and tensor.layout is not torch.strided):
                continue
            if every or tensor.is_floating_point() or tensor.is_complex():
                found.append((prefix + name, tensor, owner))
        children = [(f"{prefix}{name}.", child, owner) for name, child in module._modules.items() if child is not None]
        stack.extend(reversed(children))
    return found


def class_name(module: torch.nn.Module) -> str:
    import torch

    for base in type(module).__mro__:
        if getattr(torch.nn, base.__name__, None) is base:
            return base.__name__
    return "Module"


def is_lazy(tensor: torch.Tensor) -> bool:
    import torch

    return torch.nn.parameter.is_lazy(tensor)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class Layout(Protocol):
    """What a look-up goes by: a ParameterLayout."""

    @property
    def kind(self) -> str:
        """What they are: parameter or buffer."""

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical names, in order."""

    def tensors(self, model: torch.nn.Module) -> list[torch.Tensor]:
        """The model's tensors in that order, looked up by name."""


class Locator:
    """Looks up a model's tensors along the modules found the first time, after checking that they are still there.

    Where a module was replaced or a tensor has another shape, the look-up by name decides. The model itself is not
    kept alive; its tensors and the modules inside it are.
    """

    def __init__(self, layout: Layout, model: torch.nn.Module) -> None:
        self._layout, self._model = layout, weakref.ref(model)
        self._learn()

    def _learn(self) -> None:
        kind = "_parameters" if self._layout.kind == "parameter" else "_buffers"
        edges: list[tuple[dict[str, Any], str, Any]] = []
        wanted = set(self._layout.names)
        places = {}
        model = self._model()
        stack = [] if model is None else [("", model)]
        while stack:
            prefix, module = stack.pop()
            while (inner := _peel(module)) is not None:
                edges += [(module._modules, name, child) for name, child in module._modules.items()]
                module = inner
            for name, tensor in module.__dict__[kind].items():
                if prefix + name in wanted:
                    places[prefix + name] = (module.__dict__[kind], name, tensor.shape)
            for name, child in module._modules.items():
                edges.append((module._modules, name, child))
                if child is not None:
                    stack.append((f"{prefix}{name}.", child))
        found = [places[name] for name in self._layout.names] if wanted == places.keys() else []
        if not all(hasattr(owner, "get") for owner, _, _ in [*edges, *found]):
            edges, found = [], []  # the dictionaries of a TorchScript module are none: the look-up by name decides
        # as bound look-ups and lists to compare with: all of it is done again at every snapshot
        self._modules = [(owner.get, name) for owner, name, _ in edges]
        self._children = [child for _, _, child in edges]  # held, so that no other module gets one of their ids
        self._ids = [id(child) for child in self._children]
        self._tensors = [(owner.get, name) for owner, name, _ in found]
        self._shapes = [shape for _, _, shape in found]

    def __call__(self) -> list[torch.Tensor]:
        if len(self._tensors) == len(self._layout.names):
            tensors = [get(name) for get, name in self._tensors]
            shapes = [getattr(tensor, "shape", None) for tensor in tensors]
            if shapes == self._shapes and [id(get(name)) for get, name in self._modules] == self._ids:
                return tensors
        model = self._model()
        if model is None:
            raise LayoutError("The model is gone", expected="a model that lives as long as it is recorded")
        tensors = self._layout.tensors(model)
        self._learn()
        return tensors

    def as_known(self) -> list[torch.Tensor] | None:
        """The tensors in the places where they were found last, whatever has become of the model since."""
        tensors = [get(name) for get, name in self._tensors]
        shapes = [getattr(tensor, "shape", None) for tensor in tensors]
        return tensors if len(tensors) == len(self._layout.names) and shapes == self._shapes else None
