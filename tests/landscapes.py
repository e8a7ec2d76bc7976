"""Surfaces with known values, for the tests of everything that draws them. No training, no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from landscape_hooks.store.run import create_run
from landscape_hooks.surface.marks import MarkedPoint
from landscape_hooks.surface.surface import Path, Surface
from landscape_hooks.surface.writer import SurfaceWriter


def bowl(alpha: Any, beta: Any) -> Any:
    """A loss with one valley and some ripples, 0.02 … about 5."""
    ripple = 0.5 * np.sin(1.3 * alpha + 0.3) * np.cos(1.1 * beta)
    return 0.02 * np.exp(0.55 * np.hypot(0.9 * alpha, 1.2 * beta) ** 1.1 + ripple + 0.5)


def descent(snapshots: int = 40, label: str = "sgd", turn: float = 1.0) -> Path:
    """A path from (-5, 2.4 turn) to the origin, off the plane on its way."""
    t = np.linspace(0, 1, snapshots)
    coordinates = np.stack([-5 * (1 - t) ** 1.6 + 0.25 * np.sin(9 * t) * (1 - t), 2.4 * turn * (1 - t) ** 2], axis=1)
    plane_loss = bowl(*coordinates.T)
    return Path(
        coordinates=coordinates,
        step=np.arange(snapshots) * 10,
        loss=plane_loss * (1 + 0.6 * np.sin(np.pi * t) ** 2),
        plane_loss=plane_loss,
        distance=1.2 * np.sin(np.pi * t),
        epoch=t * 8,
        learning_rate=np.full(snapshots, 0.05),
        loss_stderr=plane_loss * 0.05,
        label=label,
    )


def surface(
    rows: int = 21, columns: int = 16, *, holes: bool = False, paths: tuple[Path, ...] | None = None
) -> Surface:
    """The bowl on a non-square grid; with `holes`, some points are not computed, NaN or inf."""
    alpha, beta = np.linspace(-6, 3, rows), np.linspace(-3, 3.5, columns)
    loss = bowl(*np.meshgrid(alpha, beta, indexing="ij"))
    evaluated = np.ones(loss.shape, dtype=bool)
    if holes:
        evaluated[4:7, 3:5] = False
        loss[4:7, 3:5] = np.nan
        loss[-3:, -2:] = np.inf
        loss[1, 1] = np.nan
        loss[2, 12] = -np.inf
    return Surface(
        alpha=alpha,
        beta=beta,
        loss=loss,
        loss_stderr=0.03 * np.where(np.isfinite(loss), loss, np.nan),
        evaluated=evaluated,
        explained_variance_ratio=np.array([0.83, 0.11]),
        paths=(descent(),) if paths is None else paths,
        attrs={"directions": "pca", "labels": ["PC 1", "PC 2"], "batch_norm": "batch", "samples": 512, "report": []},
        name="pca",
    )


def marked() -> Surface:
    """The bowl with three marks: "final" is the end of the path, "best" lies beside it, "far" beyond the grid."""
    made = surface()
    path = made.paths[0]
    places = {"best": [1.2, 1.4], "far": [40.0, 0.0], "final": path.coordinates[-1]}
    losses = {name: float(bowl(*place)) for name, place in places.items()}
    losses["final"] = float(path.loss[-1])
    marks = tuple(
        MarkedPoint(name, np.array(place), 320, losses[name], losses[name] * (name != "best" or 0.9), 0.2)
        for name, place in places.items()
    )
    return replace(made, marks=marks)


def write_run(folder: FilePath, made: Surface) -> FilePath:
    """A run on disk that holds the surface."""
    root = create_run(folder)
    arrays = {"explained_variance_ratio": made.explained_variance_ratio}
    writer = SurfaceWriter.create(root, made.name, made.alpha, made.beta, made.attrs, arrays)
    index = np.flatnonzero(made.evaluated)
    writer.write(index, made.loss.ravel()[index], made.loss_stderr.ravel()[index])
    writer.write_paths(root, made.paths)
    for mark in made.marks:
        writer.write_mark(mark)
    writer.finish(root, {})
    return folder


def changed(**fields: Any) -> Surface:
    return replace(surface(7, 6), **fields)


def path_of(**fields: Any) -> Path:
    return replace(descent(12), **fields)


def lost(values: Any, *places: int) -> Any:
    out = values.astype(float).copy()
    out[list(places)] = np.nan
    return out


ODD = {
    "one snapshot": changed(paths=(descent(1),)),
    "no snapshot": changed(paths=(descent(0),)),
    "two by two": surface(2, 2),
    "constant loss": changed(loss=np.full((7, 6), 2.0)),
    "constant zero": changed(loss=np.zeros((7, 6))),
    "negative loss": changed(loss=-surface(7, 6).loss),
    "huge loss": changed(loss=surface(7, 6).loss * 1e300),
    "tiny loss": changed(loss=surface(7, 6).loss * 1e-300),
    "tiny range": changed(loss=1.0 + 1e-13 * surface(7, 6).loss),
    "one finite cell": changed(evaluated=np.arange(42).reshape(7, 6) % 6 < 2),
    "no whole cell": changed(evaluated=(np.indices((7, 6)).sum(axis=0) % 2).astype(bool)),
    "path outside": changed(paths=(path_of(coordinates=descent(12).coordinates + 50),)),
    "path stands still": changed(paths=(path_of(coordinates=np.zeros((12, 2))),)),
    "path with NaN": changed(
        paths=(path_of(coordinates=np.vstack([np.full((3, 2), np.nan), descent(9).coordinates])),)
    ),
    "losses unknown": changed(paths=(path_of(loss=np.full(12, np.nan), plane_loss=np.full(12, np.nan)),)),
    "some losses unknown": changed(paths=(path_of(loss=lost(descent(12).loss, 0, 5)),)),
    "infinite losses": changed(paths=(path_of(loss=np.full(12, np.inf), distance=np.full(12, np.inf)),)),
    "steps repeat": changed(paths=(path_of(step=np.zeros(12, dtype=np.int64)),)),
    "long names": changed(attrs={"labels": ["a" * 300, "ß → 学"], "batch_norm": "batch"}),
    "no attributes": changed(attrs={}, explained_variance_ratio=np.array([np.nan, np.nan])),
    "narrow": changed(beta=np.linspace(0, 1e-9, 6)),
    "far away": changed(alpha=np.linspace(1e8, 1e8 + 1, 7), paths=()),
    "ten runs": changed(paths=tuple(descent(5 + k, f"run {k}", 0.2 * k) for k in range(10))),
}
