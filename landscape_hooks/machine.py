"""The machine: cores, threads, worker processes, devices."""

from __future__ import annotations

import os
from typing import Any

import torch

from landscape_hooks.errors import ObjectiveError, first_line

MOST_WORKERS = 1024
"""Processes, and threads in one, at most."""


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def forks() -> bool:
    """Whether worker processes can share memory with this one by forking (Linux)."""
    return os.name == "posix" and os.uname().sysname == "Linux"


class threads:
    """Torch's number of threads for a while."""

    def __init__(self, count: int) -> None:
        self._count, self._before = count, torch.get_num_threads()

    def __enter__(self) -> None:
        if self._count != self._before:
            torch.set_num_threads(self._count)

    def __exit__(self, *error: Any) -> None:
        if self._count != self._before:
            torch.set_num_threads(self._before)


def find_device(device: Any) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise ObjectiveError(
            f"The device '{device}' cannot be used ({first_line(error)})",
            expected="a device that torch sees here, like cpu or cuda",
        ) from error
