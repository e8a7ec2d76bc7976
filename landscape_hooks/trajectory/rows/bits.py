"""Bits: numbers of types that NumPy and Zarr lack, stored as the unsigned integers that their bits are.

In: arrays of bits, with the name of the type in the attribute `torch_dtype`. Out: the numbers as float32, every one of
them exactly. The upper half of a float32 is a bfloat16 (NaNs and infinities included), which makes the way back a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.store import checked

KEY = "torch_dtype"
BFLOAT16 = "bfloat16"
STORED = np.dtype(np.uint16)


def stored_dtype(name: str) -> np.dtype[Any]:
    """The type in which numbers of a type, as torch spells it, are stored."""
    return STORED if name == BFLOAT16 else np.dtype(name)


def name_of(dtype: np.dtype[Any]) -> str:
    """The inverse of `stored_dtype`."""
    return BFLOAT16 if dtype == STORED else str(np.dtype(dtype))


def attributes_for(dtype: np.dtype[Any]) -> dict[str, str]:
    """Attributes of an array of rows: uint16 are the bits of bfloat16, other types speak for themselves."""
    return {KEY: BFLOAT16} if dtype == STORED else {}


def holds_bits(array: zarr.Array[Any]) -> bool:
    """Whether an array of rows (checked) holds the bits of bfloat16 numbers."""
    return np.dtype(array.dtype) == STORED


def dtype_of(array: zarr.Array[Any]) -> np.dtype[Any]:
    """The type of the numbers that an array of rows is read as."""
    return np.dtype(np.float32) if holds_bits(array) else np.dtype(array.dtype)


def numbers_of(stored: NDArray[Any]) -> NDArray[Any]:
    """Rows as numbers: the bits of bfloat16 as float32, anything else as it is."""
    if stored.dtype != STORED:
        return stored
    wide = stored.astype("<u4")
    wide <<= 16
    return wide.view("<f4").astype(np.float32, copy=False)


def bits_of(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The inverse of `numbers_of`, of float32 numbers that bfloat16 holds exactly (others are cut off)."""
    return (np.ascontiguousarray(numbers, dtype="<f4").view("<u4") >> 16).astype(np.uint16)


# -- types of single tensors -----------------------------------------------------------------------------------
_COMPLEX = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}
_PLAIN = ("float64", "float32", "float16")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")
"""Types of tensors that are no parameters to move along: the packed weights of a quantized layer, its indices."""


def stored_type(kind: str) -> np.dtype[Any]:
    """The type in which the numbers of a tensor (its type as torch spells it) are stored: its own, or its bits."""
    if kind in _PLAIN or kind in _COMPLEX or kind in INTEGERS:
        return np.dtype(_COMPLEX.get(kind, kind))
    return STORED if kind == BFLOAT16 else np.dtype(np.uint8)


def attributes_of(kind: str) -> dict[str, str]:
    """Attributes of the array of a tensor: what the bits are, where it holds bits."""
    return {} if kind in _PLAIN or kind in _COMPLEX or kind in INTEGERS else {KEY: kind}


def widened(stored: NDArray[Any], kind: str) -> NDArray[Any]:
    """The stored numbers of a tensor as numbers; 8-bit floats as float32, types that are no numbers as they are."""
    if kind == BFLOAT16:
        return numbers_of(stored)
    return _table(kind)[stored] if kind in _FLOAT8 else stored


_FLOAT8 = {"float8_e4m3fn": (3, 7, False), "float8_e5m2": (2, 15, False), "float8_e4m3fnuz": (3, 8, True),
           "float8_e5m2fnuz": (2, 16, True), "float8_e8m0fnu": (0, 127, True)}  # fmt: skip
"""Mantissa bits, bias of the exponent, and whether one pattern alone is no number (OCP 8-bit Floating Point
Specification, https://www.opencompute.org/documents/ocp-8-bit-floating-point-specification-ofp8-revision-1-0-2023-12-01-pdf-1;
the fn and uz variants as in https://arxiv.org/abs/2206.02915)."""


@cache
def _table(kind: str) -> NDArray[np.float32]:
    """(256,) the number that each pattern of an 8-bit float is."""
    mantissa, bias, unsigned_zero = _FLOAT8[kind]
    pattern = np.arange(256)
    if kind == "float8_e8m0fnu":  # an exponent alone, without sign
        return np.where(pattern == 255, np.nan, 2.0 ** (pattern - 127.0)).astype(np.float32)
    exponent, part = (pattern & 127) >> mantissa, (pattern & (2**mantissa - 1)) / 2**mantissa
    size = np.where(exponent > 0, (1 + part) * 2.0 ** (exponent - bias), part * 2.0 ** (1 - bias))
    if unsigned_zero:
        nan = pattern == 128
    elif kind == "float8_e5m2":
        size = np.where((exponent == 31) & (part == 0), np.inf, size)
        nan = (exponent == 31) & (part > 0)
    else:
        nan = pattern & 127 == 127
    return np.where(nan, np.nan, np.where(pattern < 128, size, -size)).astype(np.float32)


def read(array: zarr.Array[Any], selection: Sequence[slice | int], path: str) -> NDArray[Any]:
    """Part of an array of rows that `checked.array` gave, as numbers."""
    return numbers_of(checked.select(array, selection, path))
