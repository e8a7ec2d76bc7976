"""States: the random states of the process, put back as they were.

In: nothing, or generators beside the global ones. Out: a context after which torch (CPU, CUDA, MPS), numpy and Python
draw what they would have drawn without it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
"""Kinds of objects that draw random numbers."""

SEED = 0
"""What draws samples is seeded with this: runs with other seeds, on one picture, are over the same samples."""


@contextmanager
def states_kept(generators: Iterable[torch.Generator] = ()) -> Iterator[None]:
    """Put all random states back at the end, those of `generators` as well."""
    unique = {id(g): g for g in generators}.values()
    kept = [(g, g.get_state()) for g in unique]
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        if mps is not None:
            torch.mps.set_rng_state(mps)
        for generator, state in kept:
            generator.set_state(state)


def seed_all(generators: Iterable[Any] = ()) -> None:
    """Seed the global generators of the CPU and of the GPUs in use, and `generators` of torch, numpy or Python.

    It is called where states are kept.
    """
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    torch.default_generator.manual_seed(SEED)
    if torch.cuda.is_initialized():  # not in a forked process, which cannot use them
        torch.cuda.manual_seed_all(SEED)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(SEED)
    for generator in generators:
        if isinstance(generator, torch.Generator):
            generator.manual_seed(SEED)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(SEED).state
        else:
            generator.seed(SEED)


def states_of(generators: Iterable[Any] = ()) -> list[object]:
    """What compares equal where none of the generators, global ones included, has drawn in between."""
    found: list[object] = [torch.get_rng_state().numpy().tobytes(), _plain(np.random.get_state()), random.getstate()]  # noqa: NPY002
    for generator in generators:
        if isinstance(generator, torch.Generator):
            found.append(generator.get_state().numpy().tobytes())
        elif isinstance(generator, np.random.Generator):
            found.append(_plain(generator.bit_generator.state))
        elif isinstance(generator, np.random.RandomState):
            found.append(_plain(generator.get_state()))
        else:
            found.append(generator.getstate())
    return found


def _plain(state: Any) -> object:
    """A state of numpy as what compares with `==`."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, tuple | list):
        return [_plain(value) for value in state]
    return state.tobytes() if isinstance(state, np.ndarray) else state
