"""Bits: numbers of types that NumPy and Zarr lack, stored as the unsigned integers that their bits are.

In: arrays of bits, with the name of the type in the attribute `torch_dtype`. Out: the numbers as float32, every one of
them exactly. The upper half of a float32 is a bfloat16 (NaNs and infinities included), which makes the way back a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.store import checked

KEY = "torch_dtype"
BFLOAT16 = "bfloat16"
STORED = np.dtype(np.uint16)


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


def read(array: zarr.Array[Any], selection: Sequence[slice | int], path: str) -> NDArray[Any]:
    """Part of an array of rows that `checked.array` gave, as numbers."""
    return numbers_of(checked.select(array, selection, path))
