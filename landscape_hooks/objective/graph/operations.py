"""Operations: what a stored graph may call, looked up by name.

In: the name of an operation, as a run of any origin has it. Out: the `torch.ops.aten` overload or the
arithmetic on sizes that it names. Whatever reaches outside its arguments, or trusts them instead of checking them, is
refused.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# aten operations that reach outside the tensors they are given
_FORBIDDEN = frozenset({"from_file", "save", "_save", "load", "set_", "set_data", "record_stream", "from_blob"})
# families that trust their arguments (indices into memory, packed weights) instead of checking them
_UNCHECKED = re.compile(
    r"segment_reduce|sparse|nested|quantiz|mkldnn|_backward|unsafe_(set|masked|index|put)|_unsafe(?!_view)|storage|_reinterpret"
)
# internal operations, whose names begin with an underscore, trust their callers; these are what tracing leaves behind
_INTERNAL = re.compile(
    r"_(unsafe_view|to_copy|conj|neg_view|softmax|log_softmax|weight_norm|transformer_encoder_layer_fwd"
    r"|native_multi_head_attention|scaled_dot_product_\w+|local_scalar_dense|shape_as_tensor|reshape_alias"
    r"|pack_padded_sequence|pad_packed_sequence"
    r"|_(and|or|xor|lshift|rshift)__)\Z"  # what the operators between masks and whole numbers are called
)
# kinds of arguments that are no plain data
_REACHING = ("Storage", "Generator", "Stream", "QScheme")

_LARGEST = 2**63

ARITHMETIC: dict[str, Callable[..., Any]] = {
    **{
        f"operator.{name}": getattr(operator, name)
        for name in (
            *("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "getitem", "eq", "ne"),
            *("lt", "le", "gt", "ge", "and_", "or_", "not_"),
        )
    },
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "sqrt", "trunc")},
    **{
        f"torch.{name}": getattr(torch, name)
        for name in ("sym_max", "sym_min", "sym_int", "sym_float", "sym_not", "sym_ite", "sym_sum")
        if hasattr(torch, name)
    },
}
ARITHMETIC_NAME = {function: name for name, function in ARITHMETIC.items()}
ARITHMETIC_NAME.update({getattr(operator, n): f"operator.{n}" for n in ("and_", "or_", "not_")})

_NAME = re.compile(r"[A-Za-z0-9_]+\Z")


def resolve(op: str) -> Callable[..., Any]:
    """The operation of this name.

    Raises
    ------
    ValueError
        it is not allowed, or this torch does not have it.
    """
    if op in ARITHMETIC:
        return _Bounded(op)
    parts = op.split(".")
    if len(parts) == 3 and parts[0] == "aten" and all(_NAME.match(p) for p in parts) and _allowed(parts[1]):
        packet = getattr(torch.ops.aten, parts[1], None)
        if isinstance(packet, torch._ops.OpOverloadPacket) and parts[2] in packet.overloads():
            overload = getattr(packet, parts[2])
            arguments = overload._schema.arguments
            reaching = any(kind in str(a.type) for a in arguments for kind in _REACHING)
            # without a tensor it is TorchScript's own (texts, dictionaries, seeds), where 1 % 0 ends the process
            script = not any("Tensor" in str(a.type) for a in (*arguments, *overload._schema.returns))
            written = any(a.is_out for a in arguments)  # into an argument, where a result is to be returned
            if not (reaching or script or written):
                return _CheckedCtc(overload) if parts[1] == "ctc_loss" else overload
    raise ValueError(f"operation {op!r} is not allowed, or torch {torch.__version__} does not have it")


def _allowed(name: str) -> bool:
    if name.startswith("_") and not _INTERNAL.match(name):
        return False
    return name not in _FORBIDDEN and _UNCHECKED.search(name) is None


_Lengths = Tensor | Sequence[int]


@dataclass(frozen=True)
class _CheckedCtc:
    """CTC loss, whose labels torch takes for places in memory without looking at them."""

    overload: Callable[..., Tensor]

    def __call__(
        self,
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: _Lengths,
        target_lengths: _Lengths,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        labels = targets
        if targets.ndim == 2 and not targets.is_meta:  # what follows after a target's end may be anything
            lengths = torch.as_tensor(target_lengths, device=targets.device).reshape(-1, 1)
            labels = targets[torch.arange(targets.shape[1], device=targets.device) < lengths]
        if labels.numel() and not labels.is_meta:
            low, high, classes = int(labels.min()), int(labels.max()), log_probs.shape[-1]
            if low < 0 or high >= classes:
                raise IndexError(f"the labels of ctc_loss go from {low} to {high}, and there are {classes} classes")
        return self.overload(log_probs, targets, input_lengths, target_lengths, *args, **kwargs)


@dataclass(frozen=True)
class _Bounded:
    """Arithmetic on sizes: numbers and tensors only, and whole numbers that fit into 64 bits."""

    op: str

    def __call__(self, *args: Any) -> Any:
        if self.op == "operator.getitem":
            if not isinstance(args[0], list | tuple | Tensor) or not isinstance(args[1], int):
                raise TypeError(f"{self.op} of {type(args[0]).__name__}")
            return args[0][args[1]]
        numbers = args[0] if self.op == "torch.sym_sum" else args
        if not all(isinstance(number, int | float | Tensor) for number in numbers):
            raise TypeError(f"{self.op} of {', '.join(type(number).__name__ for number in numbers)}")
        if self.op == "operator.pow" and all(isinstance(n, int) for n in args) and abs(args[0]) > 1 and args[1] > 63:
            raise OverflowError(f"{args[0]} to the power of {args[1]}")
        value = ARITHMETIC[self.op](*args)
        if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
            raise OverflowError(f"{self.op} gives more than 64 bits")
        return value
