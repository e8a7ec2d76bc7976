"""Double backward: operations of torch that can be differentiated twice, in place of fast ones that cannot.

In: nothing. Out: contexts for second derivatives of a loss, live or stored. Fast kernels of attention
and of recurrent layers have a first derivative that is itself not differentiable, and the fused weight normalisation
has one that torch differentiates wrongly. In these contexts, other operations with the same values take their places.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from landscape_hooks.errors import first_line

Arguments = tuple[Any, ...]
Options = Mapping[str, Any]

_FUSED = re.compile(r"aten::_scaled_dot_product_(flash|efficient|cudnn|fused)\w*attention\w*\Z")
"""Kernels of attention by their own names, as torch before 2.6 wrote them into an exported graph."""

_WITHOUT = re.compile(r"derivative for '?(?:aten::)?(\w+?)'? is not implemented")


@contextmanager
def fast_kernels() -> Iterator[None]:
    """All kernels but those that are known to have no second derivative, or a wrong one."""
    with sdpa_kernel(SDPBackend.MATH), _Replaced():
        yield


@contextmanager
def plain_kernels() -> Iterator[None]:
    """No kernel of cuDNN or oneDNN either: slower."""
    libraries: list[Any] = [torch.backends.mkldnn, torch.backends.cudnn]
    before = [library.enabled for library in libraries]
    for library in libraries:
        library.enabled = False  # their `flags` set other options as well, TF32 among them
    try:
        with fast_kernels():
            yield
    finally:
        for library, enabled in zip(libraries, before, strict=True):
            library.enabled = enabled


KERNELS = (fast_kernels, plain_kernels)
"""What to try, the fastest first."""


class _Replaced(TorchFunctionMode):
    """Calls of operations, live or in a stored graph, go to their replacements."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Arguments = (), kwargs: Options | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _REPLACED:
            return _REPLACED[func](*args, **kwargs)
        schema = getattr(func, "_schema", None)
        if schema is not None and _FUSED.match(schema.name):
            return _unfused(schema, args, kwargs)
        return func(*args, **kwargs)


def _attention(*args: Any, **kwargs: Any) -> Tensor:
    """Attention by products and a softmax, also where the model's code asks for another kernel."""
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(*args, **kwargs)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v / ‖v‖, whose second derivative lacks nothing: the fused one takes ‖v‖ for a constant."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


_REPLACED: dict[Any, Callable[..., Tensor]] = {
    F.scaled_dot_product_attention: _attention,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
    torch._weight_norm: _weight_norm,
    torch.ops.aten._weight_norm.default: _weight_norm,
}


def _unfused(schema: torch.FunctionSchema, args: Arguments, kwargs: Options) -> Arguments:
    """What a kernel of attention returns: the result, and nothing of what its own derivative would have needed."""
    given = {a.name: value for a, value in zip(schema.arguments, args, strict=False)} | {**kwargs}
    result = _attention(
        *(given[name] for name in ("query", "key", "value")),
        attn_mask=given.get("attn_mask", given.get("attn_bias")),
        dropout_p=given.get("dropout_p", 0.0),
        is_causal=given.get("is_causal", False),
        scale=given.get("scale"),
    )
    return (result, *[None] * (len(schema.returns) - 1))


def reason(error: RuntimeError) -> str:
    """Why torch cannot differentiate, in words: the operation where torch names it."""
    if found := _WITHOUT.search(str(error)):
        return f"torch has no derivative of '{found[1]}'"
    return first_line(error)
