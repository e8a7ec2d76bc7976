"""The tensors of a model, whatever wraps it: names, parameters, buffers, and the module each belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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


def walk(model: torch.nn.Module, kind: str) -> list[tuple[str, torch.Tensor, torch.nn.Module]]:
    """(canonical name, tensor, owner) of every floating-point tensor, aliases included, in named_parameters() order."""
    found = []
    stack = [("", model, model)]
    while stack:
        prefix, module, owner = stack.pop()
        module = unwrap(module)
        if not prefix.endswith("parametrizations."):
            owner = owner if ".parametrizations." in f".{prefix}" else module
        for name, tensor in module.__dict__[kind].items():
            if tensor is not None and (tensor.is_floating_point() or tensor.is_complex()):
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


def whole(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
