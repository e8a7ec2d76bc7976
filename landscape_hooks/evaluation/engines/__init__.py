"""Where points are evaluated: a family with one interface, `Engine`, chosen by the options `Local` or `Ray`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from landscape_hooks.device.arithmetic import PRECISIONS
from landscape_hooks.errors import LandscapeError, ObjectiveError
from landscape_hooks.machine import MOST_WORKERS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from landscape_hooks.evaluation.plane_loss import PlaneLoss, SnapshotLoss, Tile
    from landscape_hooks.evaluation.sources import Sources
    from landscape_hooks.plane.blockwise import BlockWork, Weights
    from landscape_hooks.trajectory.joined import Joined
    from landscape_hooks.trajectory.trajectory import Trajectory

    Named = str | torch.device | Sequence[str | torch.device] | None


class Engine(Protocol):
    """What computes losses at points; the value at a point does not depend on which points are computed beside it.

    Attributes
    ----------
    THREADS
        of torch in each of its workers; None where the plan decides.
    PROCESSES
        what the report calls its workers; None where the plan knows their number.
    """

    @property
    def THREADS(self) -> int | None: ...

    @property
    def PROCESSES(self) -> str | None: ...

    def device(self, name: Named) -> torch.device:
        """Where losses are computed: the device of that name, or the best one (None); the first of several."""

    def points(self, loss: PlaneLoss, points: NDArray[np.float64]) -> Iterator[Tile]:
        """Yield the losses at points (N, 2) of the plane in finished tiles: in any order, each point exactly once."""

    def snapshots(self, loss: SnapshotLoss, trajectory: Trajectory, numbers: Sequence[int]) -> Iterator[Tile]:
        """Yield the losses at the snapshots `numbers` themselves; the tile's index counts within `numbers`."""

    def partitions(self, weights: Weights, row: int, work: BlockWork) -> Iterator[tuple[slice, Any]]:
        """Yield (columns, work's result) as `blockwise.map_partitions` does, computed where the data is."""


@dataclass(frozen=True)
class Local:
    """This machine, as `analyze(engine=)` takes it.

    Parameters
    ----------
    workers
        processes; None is as many as pay, or one a device.
    device
        where the loss is computed, as torch spells it; None is the GPU where there is one. Several devices, as a list
        or as a text like "cuda:0,cuda:2", have a process each; "cuda" are all GPUs that are visible.
    precision
        "float32" (the model's own types), "tf32" (what a GPU multiplies is rounded to TF32) or "bfloat16" (autocast;
        faster, and coarser).
    tune
        try what is fastest here first (calibration.py); else the plain loop over the recorded batches.
    stream
        leave origin and directions in the run and read them again for every point: a process then holds the weights
        once, where it holds them four times otherwise. None: where the run was recorded in shards.

    Raises
    ------
    ObjectiveError
        an option of another kind.
    """

    workers: int | None = None
    device: Named = None
    precision: str = "float32"
    tune: bool = True
    stream: bool | None = None

    def __post_init__(self) -> None:
        _check(self)
        if isinstance(self.device, list):
            object.__setattr__(self, "device", tuple(self.device))

    def devices(self) -> list[torch.device]:
        """The device of each process that computes, where there are several; else the one device.

        Raises
        ------
        ObjectiveError
            torch cannot use one of them.
        """
        from landscape_hooks.machine import find_devices

        found = find_devices(self.device)
        if len(found) == 1 or self.workers is None:
            return found
        return [found[number % len(found)] for number in range(self.workers)]

    @property
    def attrs(self) -> dict[str, Any]:
        """What it is, as JSON."""
        return {"engine": "local", "precision": self.precision}


@dataclass(frozen=True)
class Ray:
    """A Ray cluster, as `analyze(engine=)` takes it (docs/scaling.md).

    Parameters
    ----------
    address
        "HOST:PORT", "auto" (the cluster that this machine belongs to), or "local" (one that is started here and ends
        with the analysis); None is RAY_ADDRESS where that is set, else "local".
    workers
        how many; None is as many as the cluster has room for.
    cpus, gpus
        of each worker; a share of a GPU is allowed.
    device, precision, stream, tune
        as of `Local`; on the device "cuda" where workers have GPUs.

    Raises
    ------
    ObjectiveError
        an option of another kind.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    device: str | torch.device | None = None
    precision: str = "float32"
    stream: bool | None = None
    tune: bool = True

    def __post_init__(self) -> None:
        _check(self)
        whole = isinstance(self.cpus, int) and not isinstance(self.cpus, bool)
        if not whole or self.cpus < 1 or not isinstance(self.gpus, int | float) or not 0 <= self.gpus < float("inf"):
            raise ObjectiveError(
                f"Found {self.cpus!r} CPUs and {self.gpus!r} GPUs per worker", expected="at least 1 CPU, and 0 GPUs"
            )
        if self.address is not None and not isinstance(self.address, str):
            raise ObjectiveError(f"Found the address {self.address!r}", expected="HOST:PORT, auto or local")

    @property
    def attrs(self) -> dict[str, Any]:
        """What it is, as JSON."""
        return {"engine": "ray", "precision": self.precision}


def _check(options: Local | Ray) -> None:
    """What engines have in common."""
    if options.precision not in PRECISIONS:
        raise ObjectiveError(f"Found the precision '{options.precision}'", expected=", ".join(PRECISIONS))
    workers = options.workers
    whole = isinstance(workers, int) and not isinstance(workers, bool)
    if workers is not None and not (whole and 1 <= workers <= MOST_WORKERS):
        raise ObjectiveError(f"Found workers={workers!r}", expected=f"1 to {MOST_WORKERS}")
    for name, value, known in (("tune", options.tune, (True, False)), ("stream", options.stream, (None, True, False))):
        if value not in known:
            raise ObjectiveError(f"Found {name}={value!r}", expected=", ".join(map(str, known)))


OPTIONS: dict[str, type[Local] | type[Ray]] = {"local": Local, "ray": Ray}


def parse_engine(engine: str | Local | Ray) -> Local | Ray:
    """The engine's options; a name means the defaults.

    Raises
    ------
    ObjectiveError
        there is none of that name.
    """
    if isinstance(engine, Local | Ray):
        return engine
    if not isinstance(engine, str) or engine not in OPTIONS:
        raise ObjectiveError(
            f"Found the engine {engine!r}", expected=f"one of {', '.join(OPTIONS)}, or a Local(...) or Ray(...)"
        )
    return OPTIONS[engine]()


def start(options: Local | Ray, sources: Callable[[], Sources], joined: Joined) -> AbstractContextManager[Engine]:
    """The engine of these options, for the time of a `with`.

    Raises
    ------
    ObjectiveError
        what it needs is not installed, or its cluster does not answer.
    """
    if isinstance(options, Local):
        from landscape_hooks.evaluation.engines import local

        return _several(options, sources, joined) or nullcontext(local)
    try:
        module = import_module("landscape_hooks.evaluation.engines.ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ObjectiveError(
            "The engine 'ray' is not installed", mend='Install it: pip install "landscape-hooks[ray]"'
        ) from error
    return module.Engine(options, sources(), joined)


def _several(options: Local, sources: Callable[[], Sources], joined: Joined) -> AbstractContextManager[Engine] | None:
    """The engine of several devices; None where there is one, or where their processes could not make the loss.

    Raises
    ------
    LandscapeError
        they could not, and the devices were named one by one.
    """
    found = options.devices()
    if len(found) == 1:
        return None
    try:
        told = sources()
        if os.name != "posix":
            raise ObjectiveError("Several devices are used on Linux and macOS only", mend="Name one (--device cuda:0)")
        if not all(
            given is None or isinstance(given, str | os.PathLike) for given in (told.objective, told.data, told.base)
        ):
            raise ObjectiveError(
                "The processes of several devices cannot be given an objective, data or a base that lives in this one",
                expected='names, as in objective="module:function"',
                mend="Give such a name, or take one device (cuda:0)",
            )
    except LandscapeError:
        if str(options.device) == "cuda":  # all there are: here, of those that can be used
            return None
        raise
    from landscape_hooks.evaluation.engines.devices import Devices

    return Devices(found, told, joined)
