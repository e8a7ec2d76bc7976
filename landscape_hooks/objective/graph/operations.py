"""Operations: what a stored graph may call, looked up by name.

In: the name of an operation, as a run of any origin has it. Out: the `torch.ops.aten` overload with the check of its
arguments, or the arithmetic on sizes, that it names. What is not on the list of permitted.py is refused.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from landscape_hooks.objective.graph.permitted import EMPTY, PERMITTED, Check, permitted

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
        it is not permitted, or this torch does not have it.
    """
    if op in ARITHMETIC:
        return _Bounded(op)
    parts = op.split(".")
    if len(parts) == 3 and parts[0] == "aten" and all(_NAME.match(p) for p in parts):
        name = parts[1]
        packet = getattr(torch.ops.aten, name, None)
        if isinstance(packet, torch._ops.OpOverloadPacket) and parts[2] in packet.overloads():
            overload = getattr(packet, parts[2])
            if permitted(name, overload):
                called = packet if name not in EMPTY else getattr(torch.ops.aten, EMPTY[name])
                if name in EMPTY:
                    return _Called(called.default, ("memory_format",))
                check = PERMITTED[name]
                return overload if check is None else _Called(overload, check=check)
    raise ValueError(f"operation {op!r} is not on the list of permitted ones, or torch {torch.__version__} lacks it")


@dataclass(frozen=True)
class _Called:
    """An operation whose arguments are looked at before it is called."""

    overload: Callable[..., Any]
    left_out: tuple[str, ...] = ()
    check: Check | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.check is not None:
            names = [argument.name for argument in self.overload._schema.arguments]  # type: ignore[attr-defined]
            self.check({**dict(zip(names, args, strict=False)), **kwargs})
        return self.overload(*args, **{k: v for k, v in kwargs.items() if k not in self.left_out})


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
