"""Checked: groups, arrays and attributes of a run, as the table (schema.py) describes them, or an error.

In: an opened run that a stranger may have written. Out: what it holds, with the types and dimensions that the format
gives it, in no more memory than its files account for. The one place that doubts what a store says about itself;
behind it, the code may rely on it. No torch here.
"""

from __future__ import annotations

import errno
import math
import sys
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
"""Bytes that are set aside on an array's word alone. What it asks for beyond them its files have to account for."""

EXPANSION = 64
"""How many times larger than its files a compressed array may be (beyond `FREE`); one that is not, twice."""

FREE_CHUNKS = 4096
"""Chunks that are gone through on an array's word alone; beyond them, its files account for each."""

CODECS = frozenset({"bytes", "transpose", "crc32c", "sharding_indexed", "blosc", "zstd"})
"""The codecs of the format. Others may be installed, and need not care what they are given."""

COMPRESSORS = frozenset({"blosc", "zstd"})

SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Numbers that JSON lacks, as attributes spell them (and as Zarr itself does)."""

NUMBERS = "biufc"
"""Kinds of data types (as NumPy has them) that an array "as recorded" may have."""


# -- groups and attributes -----------------------------------------------------------------------------------
def group(root: Any, path: str) -> Any:
    """The group at `path` below `root`; None where nothing is there.

    Raises
    ------
    DamagedRunError
        something else is there, or its metadata cannot be read.
    """
    found = _member(root, path)
    if found is not None and not isinstance(found, zarr.Group):
        raise damaged(f"'{path}' is an array", expected="a group")
    return found


def fresh(known: Any) -> Any:
    """A group as the store has it now, whatever was read of it before."""
    return _guarded(lambda: zarr.open_group(known.store, path=known.path, mode="r", zarr_format=3), known.path)


def has(root: Any, path: str) -> bool:
    """Whether something is at `path` below `root`."""
    return _member(root, path) is not None


def attribute(owner: Any, key: str, kind: type[Result] | tuple[type, ...], where: str) -> Result:
    """An attribute that has to be there and of a type; `where` is what an error calls its owner.

    A boolean is no integer.
    """
    value = owner.attrs.get(key)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(k.__name__ for k in kinds)
        found = "is missing" if value is None else f"is {_short(value)}"
        raise damaged(f"The attribute '{key}' of {where} {found}", expected=f"a value of type {names}")
    return value  # type: ignore[return-value]


def whole(value: Any, what: str, *, low: int = 0, high: int = 2**63 - 1) -> int:
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


def names_of(root: Any, path: str, *, arrays: bool = False) -> list[str]:
    """Sorted names of the groups (or arrays) directly below `path`; those that no writer of ours gives are left out."""
    parent = group(root, path)
    if parent is None:
        return []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at .* is not recognized")  # a folder that is only begun
        found = _guarded(lambda: list(parent.array_keys() if arrays else parent.group_keys()), path)
    return sorted(name for name in found if is_name(name))


def is_name(name: str) -> bool:
    """Whether a name is one path component of letters, digits and . _ - that starts with a letter or digit."""
    return bool(name) and name[0].isalnum() and all(c.isalnum() or c in "._-" for c in name)


# -- arrays --------------------------------------------------------------------------------------------------
def array(root: Any, path: str) -> Any:
    """The Zarr array at `path` below `root`, which has the dimensions and the type that the table gives it.

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


def read(root: Any, path: str) -> NDArray[Any]:
    """All of the array at `path`."""
    found = array(root, path)
    return select(found, (slice(None),) * len(found.shape), path)


def select(found: Any, selection: Sequence[slice | int], path: str) -> NDArray[Any]:
    """Part of an array that `array` gave.

    Raises
    ------
    DamagedRunError
        it is larger than its files account for, or they are damaged.
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


def afford(found: Any, size: int, path: str, *, free: int = FREE) -> None:
    """Refuse to set `size` bytes aside for an array whose files do not account for them.

    Raises
    ------
    DamagedRunError
        they do not.
    """
    if size <= free:
        return
    times = EXPANSION if COMPRESSORS.intersection(_codecs(found)) else 2
    stored = _stored(found, path)
    if size > free + times * stored:
        raise damaged(f"The array '{path}' of shape {found.shape} would take {size:.3g} bytes, "
                      f"its files hold {stored}")  # fmt: skip


class Sizes:
    """Dimensions that arrays share by name: all of them have to be of one size."""

    def __init__(self, **known: int) -> None:
        self._known = {name: (size, "the manifest") for name, size in known.items()}

    def check(self, path: str, shape: Sequence[int]) -> None:
        """Take the sizes of one more array, a path of the table.

        Raises
        ------
        DamagedRunError
            one of them is another than before.
        """
        for name, size in zip(schema.field(path).dims, shape, strict=False):
            expected, by = self._known.setdefault(name.rstrip("_"), (size, f"'{path}'"))
            if size != expected:
                raise damaged(f"The array '{path}' has the shape {tuple(shape)}",
                              expected=f"{name} = {expected}, as {by} has it")  # fmt: skip


def damaged(found: str, *, expected: str = "") -> DamagedRunError:
    """The error of a run that is not what the format says."""
    return DamagedRunError(
        found,
        expected=expected,
        mend="The run is damaged, or was not written by landscape-hooks: restore it from a copy",
    )


# -- helpers -------------------------------------------------------------------------------------------------
def _member(root: Any, path: str) -> Any:
    return _guarded(lambda: root.get(path), path)


def _guarded(action: Callable[[], Result], path: str) -> Result:
    with guard(path):
        return action()


@contextmanager
def guard(path: str) -> Iterator[None]:
    """Whatever zarr and its codecs make of bytes that a stranger wrote is an error of the run.

    A context, or the decorator of a function that writes into what somebody else may have begun.
    """
    try:
        yield
    except (LandscapeError, PermissionError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise  # trouble of the disk
        said = f"{type(error).__name__}: {first_line(error)}"
        raise damaged(f"'{path}' of the run cannot be read or written ({said})") from error


def _field(path: str) -> schema.Field:
    """The row of the table for an array of a run that may itself lie somewhere inside of a store, or of a rank."""
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
    if wanted == "float32":  # the table says for which of these arrays other widths occur
        return dtype.kind == "f" and dtype.itemsize <= 8
    return dtype == np.dtype(wanted)


def _holds_bits(found: Any) -> bool:
    """Whether an array holds the 16 bits of bfloat16 numbers."""
    return bool(found.dtype == np.uint16 and found.attrs.get("torch_dtype") == "bfloat16")


def _codecs(found: Any) -> list[str]:
    """Names of all codecs of an array, those inside of shards, too."""

    def names(codecs: Iterable[Any]) -> list[str]:
        listed = []
        for codec in codecs:
            inner = codec.get("configuration", {})
            listed += [str(codec["name"]), *names(inner.get("codecs", ())), *names(inner.get("index_codecs", ()))]
        return listed

    return names(found.metadata.to_dict().get("codecs", ()))


def _stored(found: Any, path: str) -> int:
    """Bytes that the files of an array hold."""
    return int(_guarded(lambda: found.nbytes_stored(), path))


def _check_frames(found: Any, path: str) -> None:
    """Refuse compressed chunks of a local run that say they unfold to something larger than a chunk.

    Shards are not looked into: their chunks are unfolded one by one.
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
    """Bytes that a Zstandard frame (RFC 8878, section 3.1.1) or a Blosc frame says it unfolds to.

    Both codecs set aside what the frame says, before they look at the data; a Zstandard frame that does not say it may
    unfold to anything.
    """
    if head[:4] != b"\x28\xb5\x2f\xfd":
        return int.from_bytes(head[4:8], "little")
    descriptor = head[4] if len(head) > 4 else 0
    single = bool(descriptor & 0x20)
    width = (int(single), 2, 4, 8)[descriptor >> 6]
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    size = int.from_bytes(head[start : start + width], "little") + 256 * (width == 2)
    return size if width else 2**63


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
