"""curvature: second derivatives of the loss along the path. A run in, a Curvature in the run out.

open (scene.py) -> thresholds (threshold.py) -> numbers of one snapshot after the other (numbers.py), each committed
when it is there.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, SupportsIndex

import numpy as np
import torch
import zarr

from landscape_hooks.analysis.curvature.numbers import TOLERANCE, Measure
from landscape_hooks.analysis.curvature.scene import Scene
from landscape_hooks.analysis.curvature.threshold import Rule, rule_of, thresholds
from landscape_hooks.errors import RunError
from landscape_hooks.evaluation.sources import DataSource, ObjectiveLike
from landscape_hooks.objective.data.states import states_kept
from landscape_hooks.progress import Progress
from landscape_hooks.store.checked import spell
from landscape_hooks.store.run import RunLike, remove_group
from landscape_hooks.surface.measures.curvature import GROUP, Curvature
from landscape_hooks.surface.measures.writer import CurvatureWriter
from landscape_hooks.trajectory.selection import Snapshots
from landscape_hooks.version import versions

METHODS = ("auto", "hessian", "critical")

LARGE = 20_000_000
"""From so many parameters on "auto" takes forward passes alone: the basis of the Lanczos iteration has 20 vectors of
them in float64, here 3.2 GB."""


def curvature(
    store: RunLike,
    *,
    snapshots: int | Snapshots | None = None,
    top: int = 1,
    method: Literal["auto", "hessian", "critical"] = "auto",
    probes: int = 8,
    samples: int | None = None,
    batch_norm: str | None = None,
    objective: ObjectiveLike | None = None,
    data: DataSource | None = None,
    optimizer: Literal["sgd"] | None = None,
    seed: int = 0,
    name: str | None = None,
    device: str | int | torch.device | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> Curvature:
    """Compute the curvature of the loss at snapshots of a run; store it in the run and return it.

    At each snapshot: the largest eigenvalues of the Hessian on the probe samples, its trace, the curvature along the
    step that was taken and along the gradient, and the threshold above which that step is unstable (the edge of
    stability: Cohen et al. 2021, https://arxiv.org/abs/2103.00065). docs/curvature.md has the definitions.

    Parameters
    ----------
    store
        the run: a path, URL, Zarr store or group.
    snapshots
        how many, evenly spread over the run (left out, 20); or `Snapshots(start, stop, last, every, only, ...)`.
    top
        number K of eigenvalues.
    method
        "hessian": Hessian-vector products. "critical": the critical sharpness, from one gradient and some ten
        evaluations of the loss (Kalra et al. 2026, https://arxiv.org/abs/2601.16979). "auto": "hessian", from 20
        million parameters on "critical".
    probes
        random vectors of the estimate of the trace; at least 2.
    samples
        use only the first so many probe samples.
    batch_norm, objective, data
        as for `analyze`. Under "recalibrate" the statistics are measured at the snapshot and then held.
    optimizer
        "sgd" where the steps were those of gradient descent (with the recorded momentum, if there is any) and the run
        does not say so: for it alone 2/η is a threshold.
    seed
        of the first vector of the Lanczos iteration, and of the vectors of the trace.
    name
        in the run; left out, the method's.
    device
        on which the loss is computed; left out, a GPU if there is one.
    fresh
        compute anew what is there.
    progress
        show how far it is.

    Returns
    -------
    Curvature
        as stored. What was interrupted goes on when it is asked for again; what is there is read. A complete one of
        another definition is replaced, an unfinished one is not.

    Raises
    ------
    LandscapeError
        what the run, the objective or the options lack, and what mends it.

    Examples
    --------
    A quadratic loss has the same curvature everywhere:

    >>> import tempfile, torch, landscape_hooks
    >>> model, data = torch.nn.Linear(1, 1, bias=False), (torch.ones(1, 1), torch.zeros(1, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> loss = torch.nn.MSELoss()  # of a weight w: w², whose second derivative is 2
    >>> folder = tempfile.TemporaryDirectory()
    >>> with landscape_hooks.record(model, optimizer, folder.name + "/run.zarr", criterion=loss, data=data):
    ...     _ = loss(model(data[0]), data[1]).backward()
    ...     _ = optimizer.step()
    >>> found = curvature(folder.name + "/run.zarr", top=1, progress=False)
    >>> found.sharpness.tolist(), found.threshold.tolist()
    ([2.0, 2.0], [4.0, 4.0])
    """
    top, probes, seed = whole_number("top", top, 1), whole_number("probes", probes, 2), whole_number("seed", seed, 0)
    if method not in METHODS:
        raise RunError(f"Found the method {method!r}", expected=f"one of {', '.join(METHODS)}")
    with states_kept():
        scene = Scene.open(
            store, snapshots=snapshots, samples=samples, batch_norm=batch_norm, objective=objective, data=data,
            device=device,
        )  # fmt: skip
        if method == "auto":
            method = "critical" if scene.trajectory.layout.size >= LARGE else "hessian"
        measure = Measure(method, top if method == "hessian" else 0, probes, seed)
        writer = _begin(scene, measure, rule_of(scene.root, optimizer), name or method, fresh=fresh)
        if not writer.evaluated.all():
            _fill(scene, measure, writer, progress=progress)
        return writer.finish()


def _begin(scene: Scene, measure: Measure, rule: Rule, name: str, *, fresh: bool) -> CurvatureWriter:
    """The curvature in the run, with what is known before any derivative."""
    run, places = scene.trajectory, scene.places
    rates, limits, said = thresholds(rule, run, places.tolist())
    columns = {"step": run.steps[places], "epoch": np.asarray(run.epochs, dtype=float)[places]}
    defining: dict[str, Any] = {
        **scene.attrs, "method": measure.method, "top": measure.top, "probes": measure.probes, "seed": measure.seed,
        "tolerance": TOLERANCE, "optimizer": rule.attrs, "trajectory_digest": _digest_of(scene),
    }  # fmt: skip
    numbers = [[spell(value) for value in values] for values in (rates, limits)]
    digest = hashlib.sha256(json.dumps([defining, numbers], sort_keys=True).encode()).hexdigest()
    attrs = {
        **defining, "definition": digest, "threshold_said": said, "device": str(scene.objective.device),
        "versions": versions(), "complete": False,
    }  # fmt: skip
    return CurvatureWriter.begin(
        scene.root, name, {**columns, "learning_rate": rates, "threshold": limits}, measure.top, attrs, fresh=fresh
    )


def _digest_of(scene: Scene) -> str:
    """SHA-256 of which snapshots count, and of those after them: their steps and times."""
    run = scene.trajectory
    rows = np.unique(np.concatenate([scene.places, np.minimum(scene.places + 1, len(run) - 1), [scene.last]]))
    total = hashlib.sha256(np.ascontiguousarray(scene.places, dtype=np.int64).data)
    total.update(np.ascontiguousarray(run.steps[rows], dtype=np.int64).data)
    total.update(np.ascontiguousarray(run.wall_times[rows], dtype=np.float64).data)
    return total.hexdigest()


def _fill(scene: Scene, measure: Measure, writer: CurvatureWriter, *, progress: bool) -> None:
    rates = Curvature.open(scene.root, writer.name).learning_rate
    done = int(writer.evaluated.sum())
    with (
        _nothing_left_behind(scene.root, writer),
        Progress(progress, len(scene.places), "curvature", "snapshot", done) as tick,
    ):
        for row in np.flatnonzero(~writer.evaluated):
            snapshot, following = scene.neighbours(int(scene.places[row]))
            writer.write(int(row), measure.at(scene.loss, snapshot, following, float(rates[row])))
            tick(1)


@contextmanager
def _nothing_left_behind(root: zarr.Group, writer: CurvatureWriter) -> Iterator[None]:
    """What fails before any snapshot is done leaves nothing in the run."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the disk that refused may refuse this as well; the first trouble is the cause
            if not writer.evaluated.any():
                remove_group(root, f"{GROUP}/{writer.name}")
        raise


def whole_number(name: str, value: SupportsIndex, least: int) -> int:
    """An option that is a whole number from `least` on.

    Raises
    ------
    RunError
        it is not.
    """
    try:
        number = operator.index(value)
        if isinstance(value, bool) or not least <= number < 2**63:
            raise TypeError
    except TypeError as error:
        raise RunError(f"Found {name}={value!r}", expected=f"a whole number from {least} on") from error
    return number
