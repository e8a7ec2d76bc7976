"""Reach: the objects that a loader holds, looked for what a copy of the process would share with the training.

In: any object. Out: the loaders within it, its tensors and arrays, and a sentence where it reads from something that
cannot be copied: worker processes that run already, pipes, sockets, queues, threads.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import io
import logging
import mmap
import multiprocessing.connection
import multiprocessing.queues
import queue
import socket
import subprocess
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

MOST = 20_000
"""Objects that are looked at."""
MOST_OF_A_LIST = 200
"""Entries of a long list that are looked at: they are of one kind."""

_PLAIN = (str, bytes, bytearray, int, float, complex, bool, type(None), type, types.ModuleType, torch.dtype,
          torch.device, np.dtype, np.generic, nn.Module, logging.Logger)  # fmt: skip
_STREAMS: tuple[tuple[Any, str], ...] = (
    (_MultiProcessingDataLoaderIter, "worker processes that run already"),
    (socket.socket, "a socket"),
    (multiprocessing.connection.Connection, "a pipe"),
    (multiprocessing.queues.Queue, "a queue between processes"),
    (multiprocessing.queues.SimpleQueue, "a queue between processes"),
    (queue.Queue, "a queue between threads"),
    (queue.SimpleQueue, "a queue between threads"),
    (subprocess.Popen, "another program"),
)


@dataclass
class Reach:
    """What was found.

    Attributes
    ----------
    stream
        what cannot be copied, in words; empty where there is no such thing.
    loaders
        DataLoaders.
    arrays
        tensors and numpy arrays.
    generators
        torch generators.
    shared
        memory that a forked process has in common with this one, as flat arrays of bytes over it.
    """

    stream: str = ""
    loaders: list[Any] = field(default_factory=list)
    arrays: list[Any] = field(default_factory=list)
    generators: list[torch.Generator] = field(default_factory=list)
    shared: list[NDArray[np.uint8]] = field(default_factory=list)


def reach(*roots: object) -> Reach:
    """Look through the objects that `roots` hold, breadth first, at most `MOST` of them."""
    found = Reach()
    waiting, seen = deque(roots), {id(root) for root in roots}
    while waiting and len(seen) < MOST:
        value = waiting.popleft()
        if isinstance(value, Tensor | np.ndarray):
            found.arrays.append(value)
            found.shared += _shared(value)
            continue
        if isinstance(value, ctypes._SimpleCData | ctypes.Array | ctypes.Structure):
            found.shared.append(np.frombuffer(memoryview(value), np.uint8))
            continue
        if isinstance(value, torch.Generator):
            found.generators.append(value)
            continue
        if isinstance(value, DataLoader):
            found.loaders.append(value)
        found.stream = found.stream or _stream(value)
        for child in _children(value):
            if not isinstance(child, _PLAIN) and id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)
    return found


def _shared(value: Tensor | NDArray[Any]) -> list[NDArray[np.uint8]]:
    """The bytes of a tensor or an array that other processes may write to; none where its memory is this process's."""
    if isinstance(value, Tensor):
        shared = value.device.type == "cpu" and value.layout is torch.strided and value.is_shared()
        if not shared or not value.numel():
            return []
        return [torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage()).numpy()]
    base: Any = value
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    if not isinstance(base, mmap.mmap | memoryview) or not value.flags.writeable or getattr(value, "mode", "") == "c":
        return []
    return [np.frombuffer(base, np.uint8)]


def _stream(value: object) -> str:
    """What a copy of the process would take from the training by reading this, in words."""
    for kind, words in _STREAMS:
        if isinstance(value, kind):
            return words
    if isinstance(value, threading.Thread) and value.is_alive() and value is not threading.main_thread():
        return "a thread"
    if isinstance(value, io.IOBase):
        try:
            return "" if value.closed or not value.readable() or value.seekable() else "a stream"
        except Exception:  # whatever a file-like object of somebody's makes of the question
            return "a stream"
    return "an actor of Ray" if type(value).__module__.startswith("ray.") else ""


def _children(value: object) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from _some(value.values(), len(value))
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from _some(value, len(value))
    elif isinstance(value, types.FunctionType):
        yield from _cells(value)
        yield from value.__defaults__ or ()
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, types.GeneratorType):
        yield from (value.gi_frame.f_locals.values() if value.gi_frame is not None else ())
        yield value.gi_yieldfrom
    elif isinstance(value, io.IOBase):
        return
    elif not hasattr(type(value), "__dict__") or type(value).__module__ in ("builtins", "itertools"):
        yield from _some(gc.get_referents(value), MOST)
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(value, types.FunctionType):
        # the workers of a loader are its own: another loader over the same data does without them
        yield from (
            item for name, item in attributes.items() if not (isinstance(value, DataLoader) and name == "_iterator")
        )
    for name in _slots(type(value)):
        yield getattr(value, name, None)


def _cells(function: Callable[..., Any]) -> Iterator[Any]:
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _some(values: Iterable[Any], count: int) -> Iterator[Any]:
    for number, value in enumerate(values):
        if count > 10 * MOST_OF_A_LIST and number >= MOST_OF_A_LIST:
            return
        yield value


def _slots(kind: type) -> list[str]:
    found: list[str] = []
    for base in kind.__mro__:
        names = base.__dict__.get("__slots__", ())
        found += [names] if isinstance(names, str) else list(names)
    return [name for name in found if name not in ("__dict__", "__weakref__")]
