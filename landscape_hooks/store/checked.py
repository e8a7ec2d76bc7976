"""Checked: groups, arrays and attributes of a run, checked against the table of the format (schema.py).

In: an opened run of any origin. Out: its content, with the types and dimensions of the format, in no more memory than
its files account for; otherwise an error. Only this module checks what a store says about itself; the code that uses
it relies on that. Imports no torch.
"""

from __future__ import annotations

import errno
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from landscape_hooks.errors import DamagedRunError, LandscapeError, first_line
from landscape_hooks.store import schema

Result = TypeVar("Result")

FREE = 2**28
"""Bytes that an array may take whatever the size of its files. For more, its files have to be large enough."""

EXPANSION = 64
"""Largest ratio of a compressed array (beyond `FREE`) to its files. For an uncompressed array the ratio is 2."""

FREE_CHUNKS = 4096
"""Number of chunks that are visited whatever the size of the files. For more, the files have to be large enough."""

CODECS = frozenset({"bytes", "transpose", "crc32c", "sharding_indexed", "blosc", "zstd"})
"""The codecs of the format. Others may be installed, but need not be safe with hostile data."""

COMPRESSORS = frozenset({"blosc", "zstd"})

SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Numbers that JSON lacks, as attributes spell them (and as Zarr itself does)."""

NUMBERS = "biufc"
"""Kinds of data types (as NumPy has them) that an array "as recorded" may have."""


# -- groups and attributes -----------------------------------------------------------------------------------
def group(root: zarr.Group, path: str) -> Any:
    """The group at `path` below `root`; None if nothing is there.

    Raises
    ------
    DamagedRunError
        something else is there, or its metadata cannot be read.
    """
    found = _member(root, path)
    if found is not None and not isinstance(found, zarr.Group):
        raise damaged(f"'{path}' is an array", expected="a group")
    return found


def fresh(known: zarr.Group) -> zarr.Group:
    """A group as the store has it now, read again."""
    return _guarded(lambda: zarr.open_group(known.store, path=known.path, mode="r", zarr_format=3), known.path)


def has(root: zarr.Group, path: str) -> bool:
    """Whether something is at `path` below `root`."""
    return _member(root, path) is not None


def attribute(
    owner: zarr.Group | zarr.Array[Any], key: str, kind: type[Result] | tuple[type, ...], where: str
) -> Result:
    """An attribute that must exist and have the type `kind`; `where` names its owner in an error.

    A boolean does not count as an integer.
    """
    value = owner.attrs.get(key)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(k.__name__ for k in kinds)
        found = "is missing" if value is None else f"is {_short(value)}"
        raise damaged(f"The attribute '{key}' of {where} {found}", expected=f"a value of type {names}")
    return value  # type: ignore[return-value]


def whole(value: object, what: str, *, low: int = 0, high: int = 2**63 - 1) -> int:
    """An integer of a range, as JSON gives it."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise damaged(f"{what} is {_short(value)}", expected=f"a whole number from {low} on")
    return value


def spell(value: float) -> float | str:
    """A number as an attribute holds it: JSON has no NaN and no infinities. The inverse of `number`."""
    value = float(value)
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def number(value: object, what: str) -> float:
    """A number of an attribute, as `spell` gave it."""
    if isinstance(value, str) and value in SPELLED:
        return SPELLED[value]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise damaged(f"{what} is {_short(value)}", expected="a number, 'NaN', 'Infinity' or '-Infinity'")
    return float(value)


def names_of(root: zarr.Group, path: str, *, arrays: bool = False) -> list[str]:
    """Sorted names of the groups (or arrays) directly below `path`, without names that the writers never give."""
    parent = group(root, path)
    if parent is None:
        return []
    with warnings.catch_warnings():
        # a folder without metadata belongs to a group that is being created
        warnings.filterwarnings("ignore", message="Object at .* is not recognized")
        found = _guarded(lambda: list(parent.array_keys() if arrays else parent.group_keys()), path)
    return sorted(name for name in found if is_name(name))


def is_name(name: str) -> bool:
    """Whether a name is one path component of letters, digits and . _ - that starts with a letter or digit."""
    return bool(name) and name[0].isalnum() and all(c.isalnum() or c in "._-" for c in name)


# -- arrays --------------------------------------------------------------------------------------------------
def array(root: zarr.Group, path: str) -> zarr.Array[Any]:
    """The Zarr array at `path` below `root`, checked to have the dimensions and the type of the table.

    Raises
    ------
    DamagedRunError
        it is not there, or is not such an array.
    """
    found = _member(root, path)
    if not isinstance(found, zarr.Array):
        raise damaged(f"The array '{path}' is missing" if found is None else f"'{path}' is a group",
                      expected="an array")  # fmt: skip
    full = f"{root.path}/{path}" if root.path else path
    field = _field(full)
    if "..." not in field.dims and len(found.shape) != len(field.dims):
        raise damaged(f"The array '{path}' has the shape {found.shape}", expected=f"({', '.join(field.dims)})")
    dtype = np.dtype(found.dtype)
    if not _fits(dtype, field.dtype) and not (field.bits and _holds_bits(found)):
        raise damaged(f"The array '{path}' has the type {dtype}", expected=field.dtype)
    codecs = _codecs(found)
    if not CODECS.issuperset(codecs) or sum(name in COMPRESSORS for name in codecs) > 1:
        raise damaged(f"The array '{path}' is encoded by {', '.join(codecs)}",
                      expected=f"{', '.join(sorted(CODECS))}, and compressed once at most")  # fmt: skip
    if 0 in found.chunks:
        raise damaged(f"The array '{path}' is cut into chunks of no size")
    afford(found, math.prod(found.chunks) * dtype.itemsize, path)
    return found


def read(root: zarr.Group, path: str) -> NDArray[Any]:
    """All of the array at `path`."""
    found = array(root, path)
    return select(found, (slice(None),) * len(found.shape), path)


def select(found: zarr.Array[Any], selection: Sequence[slice | int], path: str) -> NDArray[Any]:
    """A part of an array that `array` returned.

    Raises
    ------
    DamagedRunError
        it is too large for its files, or they are damaged.
    """
    sizes = [
        len(range(*part.indices(size))) if isinstance(part, slice) else 1
        for part, size in zip(selection, found.shape, strict=True)
    ]
    afford(found, math.prod(sizes) * np.dtype(found.dtype).itemsize, path)
    pieces = math.prod(-(-n // c) + 1 for n, c in zip(sizes, found.chunks, strict=True)) if math.prod(sizes) else 0
    if pieces > FREE_CHUNKS * 2 ** len(sizes) and pieces > FREE_CHUNKS + _stored(found, path) // 8:
        raise damaged(f"The array '{path}' is cut into {pieces} chunks, which its files do not hold")
    _check_frames(found, path)
    return np.asarray(_guarded(lambda: found[tuple(selection)], path))


def afford(found: zarr.Array[Any], size: int, path: str, *, free: int = FREE) -> None:
    """Refuse to allocate `size` bytes for an array whose files are too small for that.

    Raises
    ------
    DamagedRunError
        they are too small.
    """
    if size <= free:
        return
    times = EXPANSION if COMPRESSORS.intersection(_codecs(found)) else 2
    stored = _stored(found, path)
    if size > free + times * stored:
        raise damaged(f"The array '{path}' of shape {found.shape} would take {size:.3g} bytes, "
                      f"its files hold {stored}")  # fmt: skip


class Sizes:
    """Dimensions that arrays share by name. Each name must have the same size everywhere."""

    def __init__(self, **known: int) -> None:
        self._known = {name: (size, "the manifest") for name, size in known.items()}

    def check(self, path: str, shape: Sequence[int]) -> None:
        """Check the sizes of one more array, which is at `path` in the table.

        Raises
        ------
        DamagedRunError
            a size differs from the one before.
        """
        for name, size in zip(schema.field(path).dims, shape, strict=False):
            expected, by = self._known.setdefault(name.rstrip("_"), (size, f"'{path}'"))
            if size != expected:
                raise damaged(f"The array '{path}' has the shape {tuple(shape)}",
                              expected=f"{name} = {expected}, as {by} has it")  # fmt: skip


def damaged(found: str, *, expected: str = "") -> DamagedRunError:
    """The error for a run that does not match the format."""
    return DamagedRunError(
        found,
        expected=expected,
        mend="The run is damaged, or was not written by landscape-hooks: restore it from a copy",
    )


# -- helpers -------------------------------------------------------------------------------------------------
def _member(root: zarr.Group, path: str) -> zarr.Group | zarr.Array[Any] | None:
    def found() -> zarr.Group | zarr.Array[Any] | None:
        try:
            return root[path]
        except KeyError as error:
            traceback.clear_frames(error.__traceback__)  # see store/run.py
            return None

    return _guarded(found, path)


def _guarded(action: Callable[[], Result], path: str) -> Result:
    with guard(path):
        return action()


@contextmanager
def guard(path: str) -> Iterator[None]:
    """Turn every error that zarr and its codecs raise for bytes of any origin into a DamagedRunError.

    Use it as a context, or as the decorator of a function that writes into a group that another program may have begun.
    """
    try:
        yield
    except (LandscapeError, PermissionError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise  # the disk failed, not the run
        said = f"{type(error).__name__}: {first_line(error)}"
        raise damaged(f"'{path}' of the run cannot be read or written ({said})") from error


def _field(path: str) -> schema.Field:
    """The row of the table for an array; the run may itself lie in a group of a store, or of a rank."""
    steps = path.split("/")
    for start in range(len(steps)):
        try:
            return schema.field("/".join(steps[start:]))
        except KeyError:
            continue
    raise KeyError(path)


def _fits(dtype: np.dtype[Any], wanted: str) -> bool:
    if wanted == "as recorded":
        return dtype.kind in NUMBERS
    if wanted == "float32":  # the table says which of these arrays may have other widths
        return dtype.kind == "f" and dtype.itemsize <= 8
    return dtype == np.dtype(wanted)


def _holds_bits(found: zarr.Array[Any]) -> bool:
    """Whether an array holds the 16 bits of bfloat16 numbers."""
    return bool(found.dtype == np.uint16 and found.attrs.get("torch_dtype") == "bfloat16")


def _codecs(found: zarr.Array[Any]) -> list[str]:
    """Names of all codecs of an array, including those inside shards."""

    def names(codecs: Iterable[Any]) -> list[str]:
        listed = []
        for codec in codecs:
            inner = codec.get("configuration", {})
            listed += [str(codec["name"]), *names(inner.get("codecs", ())), *names(inner.get("index_codecs", ()))]
        return listed

    return names(codec.to_dict() for codec in getattr(found.metadata, "codecs", ()))  # version 2 of Zarr has none


def _stored(found: zarr.Array[Any], path: str) -> int:
    """Size of the files of an array, in bytes."""
    return int(_guarded(lambda: found.nbytes_stored(), path))


def _check_frames(found: zarr.Array[Any], path: str) -> None:
    """Refuse compressed chunks of a local run that declare to unpack to more than a chunk.

    Shards are not checked: their chunks are unpacked one by one.
    """
    store = found.store
    if found.shards is not None or not COMPRESSORS.intersection(_codecs(found)) or not isinstance(store, LocalStore):
        return
    most = math.prod(found.chunks) * np.dtype(found.dtype).itemsize
    for index in np.ndindex(*(-(-n // c) for n, c in zip(found.shape, found.chunks, strict=True))):
        key = f"{found.path}/{found.metadata.encode_chunk_key(index)}"
        head = sync(store.get(key, default_buffer_prototype(), RangeByteRequest(0, 18)))
        if head is not None and unfolded(head.to_bytes()) > most + 2**16:
            raise damaged(f"A chunk of '{path}' unfolds to more than the {most} bytes of a chunk")


def unfolded(head: bytes) -> int:
    """Bytes to which a Zstandard frame (RFC 8878, section 3.1.1) or a Blosc frame declares to unpack.

    Both codecs allocate the declared size before they read the data. A Zstandard frame without a declared size may
    unpack to any size.
    """
    if head[:4] != b"\x28\xb5\x2f\xfd":
        return int.from_bytes(head[4:8], "little")
    descriptor = head[4] if len(head) > 4 else 0
    single = bool(descriptor & 0x20)
    width = (int(single), 2, 4, 8)[descriptor >> 6]
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    size = int.from_bytes(head[start : start + width], "little") + 256 * (width == 2)
    return size if width else 2**63


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
