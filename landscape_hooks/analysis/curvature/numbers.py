"""Numbers: the curvature at one snapshot, as a row of `Curvature`.

In: the loss, a snapshot and the next one of the run. Out: numbers by name; what is missing is NaN in the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from landscape_hooks.analysis.curvature.critical import critical_sharpness
from landscape_hooks.evaluation.plane_loss import SnapshotLoss
from landscape_hooks.plane.curve import Curve, NotFinite
from landscape_hooks.trajectory.trajectory import Snapshot

TOLERANCE = 1e-3
"""Residual, relative to the eigenvalue, at which the iteration ends; the error of the value is about its square."""


@dataclass(frozen=True)
class Measure:
    """What is computed at a snapshot: by the method "hessian" `top` eigenvalues and the trace from `probes` vectors, by
    "critical" the critical sharpness.
    """

    method: str
    top: int
    probes: int
    seed: int

    def at(self, loss: SnapshotLoss, snapshot: Snapshot, following: Snapshot | None, rate: float) -> dict[str, Any]:
        """The numbers of a snapshot; `following` is the next one of the run, `rate` the learning rate of the step.

        Of a snapshot whose weights, loss or derivatives are not finite there is the loss, or nothing.
        """
        if not np.isfinite(snapshot.weights).all():
            return {}
        evaluation = loss.of_snapshot(snapshot.weights, snapshot.buffers)
        found: dict[str, Any] = {"loss": evaluation.mean, "loss_stderr": evaluation.stderr}
        if not np.isfinite(evaluation.mean):
            return found
        buffers, statistics = loss.held_at(snapshot.weights, snapshot.buffers)
        curve = Curve(loss.objective, snapshot.weights, buffers, statistics)
        gradient = curve.gradient()
        norm = float(gradient.double().norm())
        if not np.isfinite(norm):
            return found
        step = _displacement(snapshot, following)
        if self.method == "critical":
            adjacent = following is not None and following.step - snapshot.step == 1
            return {**found, "gradient_norm": norm, **_critical(curve, gradient, step if adjacent else None, rate)}
        try:
            return {**found, **self._second(curve, gradient, step), "gradient_norm": norm}
        except NotFinite:
            return found

    def _second(self, curve: Curve, gradient: torch.Tensor, step: torch.Tensor | None) -> dict[str, Any]:
        pairs = curve.top(self.top, seed=self.seed, tolerance=TOLERANCE)
        trace, stderr = curve.trace(self.probes, seed=self.seed)
        return {
            "eigenvalues": pairs.values,
            "residuals": pairs.residuals,
            "trace": trace,
            "trace_stderr": stderr,
            "gradient_curvature": curve.along(gradient),
            "step_curvature": np.nan if step is None else curve.along(step),
        }


def _displacement(snapshot: Snapshot, following: Snapshot | None) -> torch.Tensor | None:
    """(D,) the way to the next snapshot, in float64; None where that is not there or not finite."""
    if following is None or not np.isfinite(following.weights).all():
        return None
    return torch.from_numpy(following.weights.astype(np.float64) - snapshot.weights)


def _critical(curve: Curve, gradient: torch.Tensor, step: torch.Tensor | None, rate: float) -> dict[str, float]:
    """Critical sharpness along the negative gradient, and along the update of the optimizer, which is step / rate."""
    start = rate if rate > 0 else 1.0
    rounding = float(torch.finfo(curve.dtype).eps)
    along = critical_sharpness(lambda size: curve.loss(gradient, -size), start, rounding)
    found = dict(zip(("critical_gradient", "critical_gradient_error"), along, strict=True))
    if step is not None and rate > 0 and bool(step.any()):
        way = step / rate
        own = critical_sharpness(lambda size: curve.loss(way, size), start, rounding)
        found |= dict(zip(("critical_step", "critical_step_error"), own, strict=True))
    return found
