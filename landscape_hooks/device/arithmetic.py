"""Arithmetic: the same numbers on every device, whatever the program around has set for its own speed.

In: a device and a precision. Out: a context for computing a loss. In it, float32 is float32: no TF32, which keeps 10 of
23 bits and is torch's default for convolutions on a GPU, and no autocast of a caller's. On a GPU, operations are the
ones that give the same bits again. Everything is as before when the context ends.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from landscape_hooks.device.copies import current

PRECISIONS = ("float32", "tf32", "bfloat16")
"""float32: as the model is written. tf32: products and convolutions of a GPU in TF32. bfloat16: under autocast."""

NO_FLOAT64 = ("mps",)
"""Kinds of devices without float64."""

_BY_OPERATION = hasattr(torch.backends.mkldnn, "matmul")
"""Whether torch has a setting for each operation (from 2.9 on); reading the older ones raises where these differ."""


@contextmanager
def arithmetic(device: torch.device, precision: str = "float32") -> Iterator[None]:
    """A context in which losses are computed on a device, in a precision of `PRECISIONS`."""
    with ExitStack() as stack:
        stack.enter_context(current(device))
        stack.enter_context(_products("tf32" if precision == "tf32" else "ieee"))
        if torch.amp.is_autocast_available(device.type):
            kind = torch.bfloat16 if precision == "bfloat16" else None
            stack.enter_context(torch.autocast(device.type, dtype=kind, enabled=kind is not None))
        if device.type != "cpu":
            stack.enter_context(_repeatable())
        yield


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float64: where it is, or on the CPU where its device has no such numbers."""
    return (tensor.cpu() if tensor.device.type in NO_FLOAT64 else tensor).double()


@contextmanager
def _products(wanted: str) -> Iterator[None]:
    """Products, convolutions and recurrent layers in "ieee" or "tf32"; the CPU's always in "ieee"."""
    if not _BY_OPERATION:
        before: Any = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        try:
            torch.set_float32_matmul_precision("high" if wanted == "tf32" else "highest")
            torch.backends.cudnn.allow_tf32 = wanted == "tf32"
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]
        return
    backends: Any = torch.backends
    cuda = [(part, wanted) for part in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)]
    cpu = [(part, "ieee") for part in (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn)]
    changed = []
    try:
        for part, value in [*cuda, *cpu]:
            found = part.fp32_precision
            if found != value and not (value == "ieee" and found == "none"):
                changed.append((part, found))
                part.fp32_precision = value
        yield
    finally:
        for part, found in changed:
            part.fp32_precision = found


@contextmanager
def _repeatable() -> Iterator[None]:
    """Operations that give the same bits again, as far as torch has them; no algorithm is chosen by the clock."""
    cudnn: Any = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    before = cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory
    mode, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = True, False, False
        torch.use_deterministic_algorithms(True, warn_only=True)
        with warnings.catch_warnings():  # a loss that then differs from one time to the next is told as such
            warnings.filterwarnings("ignore", ".*deterministic", UserWarning)
            yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warns)
        cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = before
