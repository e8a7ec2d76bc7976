"""The machine: its cores and devices, and the number of threads and processes to use."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from landscape_hooks.errors import ObjectiveError, first_line

MOST_WORKERS = 1024
"""Upper limit for the number of processes, and for the threads in a process."""


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def forks() -> bool:
    """Whether worker processes can be forked and so share memory with this process (Linux)."""
    return os.name == "posix" and os.uname().sysname == "Linux"


class threads:
    """Context manager that sets torch's number of threads and restores it afterwards."""

    def __init__(self, count: int) -> None:
        self._count, self._before = count, torch.get_num_threads()

    def __enter__(self) -> None:
        if self._count != self._before:
            torch.set_num_threads(self._count)

    def __exit__(self, *error: object) -> None:
        if self._count != self._before:
            torch.set_num_threads(self._before)


def find_device(device: str | int | torch.device | None) -> torch.device:
    """The device of that name; None is the GPU if there is one, else the CPU.

    Raises
    ------
    ObjectiveError
        torch cannot use the device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise ObjectiveError(
            f"The device '{device}' cannot be used ({first_line(error)})",
            expected="a device that torch sees here, like cpu or cuda",
        ) from error


Device = str | int | torch.device
"""A device as torch names it."""


def find_devices(given: Device | Sequence[Device] | None) -> list[torch.device]:
    """The devices of these names, in order; "cuda" are all GPUs that are visible, None is the first of them or the CPU.

    A text may name several: "cuda:0,cuda:2".

    Raises
    ------
    ObjectiveError
        torch cannot use one of them, or there is none.
    """
    if isinstance(given, str) and "," in given:
        given = [name.strip() for name in given.split(",")]
    if isinstance(given, Sequence) and not isinstance(given, str):
        if not given:
            raise ObjectiveError("Found no device", expected="one at least, like cpu or cuda:0")
        return [find_device(name) for name in given]
    if str(given) == "cuda" and torch.cuda.device_count() > 1:
        return [find_device(f"cuda:{number}") for number in range(torch.cuda.device_count())]
    return [find_device(given)]


def first_device(given: Device | Sequence[Device] | None) -> torch.device:
    """The first of the devices of these names; "cuda" is the current GPU."""
    return find_device("cuda") if str(given) == "cuda" else find_devices(given)[0]
