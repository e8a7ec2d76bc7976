"""Child: work that may change anything, done in a forked process, one result after the other.

In: a function that returns an iterator. Out: what it gives, in this process. Everything that it changes on its way
(datasets that count, caches, generators, random states, open files) is changed in a copy, which takes no memory but
for what is written.
"""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import pickle
import signal
import sys
import types
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SILENCE = 60.0
"""Seconds without a word after which the child is given up: it waits for a lock or a thread that is not there."""


class ChildError(Exception):
    """The work in the child raised, or the child is gone. `kind` is the name of what was raised."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind, self.message = kind, message


def in_child(work: Callable[[], Iterator[Any]]) -> Generator[Any]:
    """What `work()` yields, computed in a forked process; the process ends with the iterator.

    Raises
    ------
    ChildError
        the work raised, the process died, or nothing came for `SILENCE` seconds.
    """
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(work, mine, theirs), name="landscape-hooks samples")
    with _offsets_kept():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads: none of their locks is taken there
            try:
                process.start()
            except OSError as error:
                raise ChildError(type(error).__name__, str(error)) from error
        theirs.close()
        try:
            while True:
                if not mine.poll(SILENCE):
                    raise ChildError("TimeoutError", f"no batch within {SILENCE:.0f} seconds")
                try:
                    tag, value = _receive(mine)
                except (EOFError, OSError):
                    raise ChildError("ChildProcessError", "the process that read the data ended") from None
                if tag == "end":
                    return
                if tag == "error":
                    raise ChildError(*value)
                yield value
        finally:
            mine.close()
            process.kill()
            process.join()


def _serve(work: Callable[[], Iterator[Any]], unused: Connection, connection: Connection) -> None:
    """Run in the child: send what the work gives."""
    unused.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)  # more would wait for ever for threads that only the parent has
    gc.disable()  # no finalizer of the parent's objects runs here
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (what the parent has not flushed stays its own)
    warnings.simplefilter("ignore")
    try:
        for value in work():
            _send(connection, ("batch", value))
        _send(connection, ("end", None))
    except BrokenPipeError:
        pass  # the parent has enough
    except BaseException as error:
        with suppress(Exception):
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            _send(connection, ("error", (type(error).__name__, first[:300])))
    os._exit(0)


# -- objects of classes that only the caller knows -----------------------------------------------------------------
class _Pickler(pickle.Pickler):
    """Classes and functions go by their place in memory, which both processes have in common."""

    def reducer_override(self, value: object) -> Any:
        if type(value) is not Tensor or value.layout is not torch.strided or value.is_quantized:
            return NotImplemented
        bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return _tensor, (bits, value.dtype, tuple(value.shape))

    def persistent_id(self, value: object) -> Any:
        if isinstance(value, type | types.FunctionType) and not _importable(value):
            return id(value), value.__module__, value.__qualname__
        return None


def _tensor(bits: NDArray[np.uint8], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(bits).view(dtype).reshape(shape) if bits.size else torch.empty(shape, dtype=dtype)


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, where: tuple[int, str, str]) -> Any:
        address, module, name = where
        for value in gc.get_objects():
            known = id(value) == address and isinstance(value, type | types.FunctionType)
            if known and (value.__module__, value.__qualname__) == (module, name):
                return value
        raise pickle.UnpicklingError(f"{module}.{name} is known to the process that read the data only")


def _importable(value: type | types.FunctionType) -> bool:
    found: Any = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def portable(value: object) -> bool:
    """Whether the value can be sent to the parent."""
    try:
        _Pickler(io.BytesIO(), protocol=5).dump(value)
    except Exception:
        return False
    return True


def _send(connection: Connection, value: object) -> None:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    connection.send_bytes(buffer.getbuffer())


def _receive(connection: Connection) -> Any:
    return _Unpickler(io.BytesIO(connection.recv_bytes())).load()


# -- open files ------------------------------------------------------------------------------------------------------
@contextmanager
def _offsets_kept() -> Iterator[None]:
    """Parent and child share the place in every open file: put it back in those that are open for reading."""
    import fcntl  # there is none on Windows, where nothing is forked

    before = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                before[int(name)] = os.lseek(int(name), 0, os.SEEK_CUR), os.readlink(f"/proc/self/fd/{name}")
    try:
        yield
    finally:
        for number, (offset, path) in before.items():
            with suppress(OSError):
                if os.readlink(f"/proc/self/fd/{number}") == path and os.lseek(number, 0, os.SEEK_CUR) != offset:
                    os.lseek(number, offset, os.SEEK_SET)
