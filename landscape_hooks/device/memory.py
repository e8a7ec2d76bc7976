"""Memory of a device: when there is too little of it, and what then helps."""

from __future__ import annotations

import gc

import torch

from landscape_hooks.errors import ObjectiveError, first_line

_SAID = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""Parts of what is said where no `OutOfMemoryError` is raised: on a CPU, on MPS, and by cuBLAS or cuDNN."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, which is no property of the loss."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def release(device: torch.device) -> None:
    """Give back what torch keeps for later.

    Called when the error has been handled: while it is, its traceback holds the tensors that did not fit.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


class TooLittleMemory(ObjectiveError):
    """The loss of some samples does not fit into the memory of a device."""


def too_little(error: BaseException, device: torch.device, samples: int, *, whole: bool) -> TooLittleMemory:
    """The error of a loss of `samples` samples at a time; `whole` says that a batch cannot be cut."""
    cut = "the batches that were recorded, which cannot be cut: the loss of a sample depends on its batch"
    return TooLittleMemory(
        f"The loss of {samples} samples at a time does not fit into the memory of {device} ({first_line(error)})",
        expected=cut if whole else "room for the weights, four times over, and for what the network makes of a sample",
        mend="Take --device cpu, or end what else uses the device. The same command goes on where it stopped"
        + (", or record smaller batches" if whole else ""),
    )
