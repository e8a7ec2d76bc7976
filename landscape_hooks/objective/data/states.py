"""States: the random states of the process, put back as they were.

In: nothing, or generators beside the global ones. Out: a context after which torch (CPU, CUDA, MPS), numpy and Python
draw what they would have drawn without it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

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


def seed_all(generators: Iterable[torch.Generator] = ()) -> None:
    """Seed the global generators of the CPU and of the GPUs in use, and `generators`; called where states are kept."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    for generator in [torch.default_generator, *generators]:
        generator.manual_seed(SEED)
    if torch.cuda.is_initialized():  # not in a forked process, which cannot use them
        torch.cuda.manual_seed_all(SEED)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(SEED)
