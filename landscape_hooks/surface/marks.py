"""Marks on a surface: the named snapshots of its runs, as points beside the paths.

In: the groups `surfaces/NAME/marks` of a run. Out: a MarkedPoint for each mark. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import printable
from landscape_hooks.store import checked

Floats = NDArray[np.float64]

NUMBERS = ("epoch", "loss", "loss_stderr", "plane_loss", "distance", "wall_time")
"""The attributes that are numbers."""


@dataclass(frozen=True)
class MarkedPoint:
    """A mark of a run, on the plane of a surface.

    Attributes
    ----------
    name
        what the training loop called it.
    coordinates
        (2,) alpha and beta of its projection; NaN where its weights are not finite, and the losses then, too.
    step, epoch
        as recorded (epoch is NaN where unknown).
    loss, loss_stderr
        probe loss at the mark itself, and its standard error.
    plane_loss
        probe loss at its projection, which is the loss of the surface there.
    distance
        Euclidean distance in weight space between the mark and its projection.
    wall_time
        seconds since 1970 when it was made.
    run
        number of the path that it belongs to.
    """

    name: str
    coordinates: Floats
    step: int
    loss: float
    plane_loss: float
    distance: float
    epoch: float = np.nan
    loss_stderr: float = np.nan
    wall_time: float = np.nan
    run: int = 0

    @property
    def finite(self) -> bool:
        """Whether its weights are finite, so that it has a place."""
        return bool(np.isfinite(self.coordinates).all())


def read_points(surface: zarr.Group, runs: int) -> tuple[MarkedPoint, ...]:
    """The marks in the group of a surface of so many runs: run after run, by name. Older surfaces have none.

    Raises
    ------
    DamagedRunError
        one of them is not what the format says.
    """
    found = []
    for run in range(runs):
        for name in checked.names_of(surface, f"marks/{run}"):
            group = checked.group(surface, f"marks/{run}/{name}")
            if group is not None and group.attrs.get("complete") is True:
                found.append(_read(group, run, name))
    return tuple(found)


def _read(group: zarr.Group, run: int, name: str) -> MarkedPoint:
    coordinates = checked.read(group, "coordinates")
    checked.Sizes(direction=2).check("surfaces/*/marks/*/*/coordinates", coordinates.shape)
    what = f"of the mark '{name}' on the surface"
    return MarkedPoint(
        name=printable(name),
        run=run,
        coordinates=coordinates,
        step=checked.whole(group.attrs.get("step"), f"The step {what}"),
        **{key: checked.number(group.attrs.get(key), f"'{key}' {what}") for key in NUMBERS},
    )


def attributes_of(mark: MarkedPoint) -> dict[str, Any]:
    """What is stored of a mark beside its coordinates."""
    return {"step": mark.step, **{key: checked.spell(getattr(mark, key)) for key in NUMBERS}, "complete": True}


def columns_of(marks: Sequence[MarkedPoint], labels: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Columns (M,) of the marks; `labels` are those of the runs."""
    places = np.array([mark.coordinates for mark in marks], dtype=float).reshape(-1, 2)
    return {
        "run": np.array([mark.run for mark in marks], dtype=int),
        "label": np.array([labels[mark.run] for mark in marks], dtype=object),
        "mark": np.array([mark.name for mark in marks], dtype=object),
        "alpha": places[:, 0],
        "beta": places[:, 1],
        "step": np.array([mark.step for mark in marks], dtype=int),
        **{key: np.array([getattr(mark, key) for mark in marks], dtype=float) for key in NUMBERS},
    }
