"""Live: new snapshots of a training that is still running, on the plane of the latest analysis.

In: a run. Out: the Landscape with a longer path. It only reads the run, so it does not disturb the training. The losses
at a new snapshot and at its projection are unknown (NaN) until an analysis evaluates them.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import SurfaceError
from landscape_hooks.plane.moments import project
from landscape_hooks.store import checked
from landscape_hooks.store.run import RunLike, open_run
from landscape_hooks.surface import surface
from landscape_hooks.surface.surface import Path, Surface
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.viewer.replay.landscape import Landscape

Floats = NDArray[np.float64]

INTERVAL = 0.5
"""Seconds between two readings of the run."""


class Follower:
    """Reads a run every `INTERVAL` seconds in a thread of its own; `latest` returns what is new."""

    def __init__(self, run: RunLike, landscape: Landscape) -> None:
        if landscape.surface is None:
            raise SurfaceError(f"{run} is not a run", expected="a run with a surface, to follow its training")
        open_run(run)
        self._run, self._seen = run, landscape
        self._name = landscape.surface.name
        self._height = landscape.height
        self._found: Landscape | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.error = ""
        self._thread = threading.Thread(target=self._watch, name="landscape-follower", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait until it has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def latest(self) -> Landscape | None:
        """The landscape with the snapshots that came since the last call, or None."""
        with self._lock:
            found, self._found = self._found, None
        return found

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                found = self.look()
            except Exception as error:
                # A snapshot was removed while it was read, a surface is being replaced, or the run is gone. Whatever it
                # is, the thread lives on: the picture stays, and the window shows the error.
                self.error = str(error) or type(error).__name__
                continue
            self.error = ""
            if found is not None:
                with self._lock:
                    self._found = found

    def look(self) -> Landscape | None:
        """Read the run once: the landscape with the new snapshots, or None if there are none."""
        root = open_run(self._run)
        assert self._seen.surface is not None
        latest = surface.resolve_name(root, None)
        base = self._seen.surface
        unfinished = "so_far" in base.attrs or not base.paths
        if latest != self._name or unfinished or _digest(root, latest) != base.attrs.get("trajectory_digest"):
            base = Surface.open(root).so_far()  # a newer analysis has replaced the old one, or has continued
            self._name = base.name
            self._seen = replace(self._seen.of_surface(base), title=self._seen.title)
            extended = extend(root, base) or base
        else:
            found = extend(root, base)
            if found is None:
                return None
            extended = found
        self._seen = self._seen.of_surface(extended)
        return self._seen


def _digest(root: zarr.Group, name: str) -> Any:
    group = checked.group(root, f"surfaces/{name}")
    return None if group is None else group.attrs.get("trajectory_digest")  # it may have been removed just now


def extend(root: zarr.Group, base: Surface) -> Surface | None:
    """`base` with the snapshots of the run that came after its analysis; None if there are none.

    Those that the analysis left out stay out, and so do those whose weights are not finite.
    """
    trajectory = Trajectory.open(root)
    if not base.paths:
        return None
    path, seen = base.paths[0], base.definition.last_step
    new = ~np.isin(trajectory.steps, path.step)
    rows = np.flatnonzero(new if seen is None else new & (trajectory.steps > seen))
    if not len(rows):
        return None
    trajectory = base.definition.drawn(trajectory)
    coordinates, distance = project(checked.group(root, f"surfaces/{base.name}"), trajectory, rows)
    finite = np.isfinite(coordinates).all(axis=1) & np.isfinite(distance)
    rows, coordinates, distance = rows[finite], coordinates[finite], distance[finite]
    if not len(rows):
        return None
    unknown = np.full(len(rows), np.nan)
    rates = np.asarray(trajectory.learning_rates)
    added = {
        "coordinates": coordinates,
        "step": np.asarray(trajectory.steps)[rows],
        "epoch": np.asarray(trajectory.epochs)[rows],
        "learning_rate": rates[rows, 0] if rates.shape[1] else unknown,
        "distance": distance,
        "loss": unknown,
        "plane_loss": unknown,
        "loss_stderr": unknown,
    }
    order = np.argsort(np.concatenate([path.step, added["step"]]), kind="stable")
    arrays = {name: np.concatenate([getattr(path, name), added[name]])[order] for name in Path.ARRAYS}
    return replace(base, paths=(Path(**arrays, label=path.label), *base.paths[1:]))
