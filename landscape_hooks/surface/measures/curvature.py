"""Curvature: the second derivatives of the loss along a run's path, as the run stores them.

In: the arrays of `curvature/NAME` of a run (schema.py). Out: numpy arrays, a table and sentences. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import SurfaceError, printable
from landscape_hooks.store import checked
from landscape_hooks.store.run import RunLike, open_run
from landscape_hooks.surface.digits import text_of

Floats = NDArray[np.float64]

GROUP = "curvature"

SCALARS = (
    "loss", "loss_stderr", "trace", "trace_stderr", "step_curvature", "gradient_curvature", "gradient_norm",
    "critical_step", "critical_step_error", "critical_gradient", "critical_gradient_error", "learning_rate",
    "threshold",
)  # fmt: skip
"""Arrays with one number a snapshot."""

AT_EDGE = 0.1
"""A sharpness within this share of the threshold is said to be at it."""

LASTING = 3
"""So many snapshots in a row, up to the last one, are said to stay there."""


@dataclass(frozen=True)
class Curvature:
    """Curvature at N snapshots of a run; every array has one entry, or row, for each of them.

    Attributes
    ----------
    step, epoch
        (N,) of the snapshots.
    evaluated
        (N,) True where the numbers were computed; those of a snapshot that is not finite stay NaN.
    loss, loss_stderr
        (N,) loss on the probe samples, and its standard error.
    eigenvalues, residuals
        (N, K) largest eigenvalues of the Hessian, descending, and |Hv - λv| of each: there is an eigenvalue within that
        distance. NaN where one did not converge. (N, 0) by the method "critical".
    trace, trace_stderr
        (N,) Hutchinson's estimate of the Hessian's trace, and its standard error.
    step_curvature
        (N,) d'Hd / d'd along the displacement d to the next snapshot of the run; NaN at the last one.
    gradient_curvature, gradient_norm
        (N,) g'Hg / g'g along the gradient g, and |g|.
    critical_step, critical_gradient
        (N,) 2/η of the smallest step η at which the loss rises, along the recorded step and along the gradient; the
        arrays `..._error` are half the interval in which it was found.
    learning_rate
        (N,) of the step away from the snapshot; NaN where it is unknown or parameter groups differ.
    threshold
        (N,) curvature above which that step is unstable on a quadratic (2/η, with momentum 2(1+β)/η); NaN where there
        is none, and `threshold_said` says why.
    attrs
        what defines the numbers, and `report`.
    """

    step: NDArray[np.int64]
    epoch: Floats
    evaluated: NDArray[np.bool_]
    eigenvalues: Floats
    residuals: Floats
    loss: Floats
    loss_stderr: Floats
    trace: Floats
    trace_stderr: Floats
    step_curvature: Floats
    gradient_curvature: Floats
    gradient_norm: Floats
    critical_step: Floats
    critical_step_error: Floats
    critical_gradient: Floats
    critical_gradient_error: Floats
    learning_rate: Floats
    threshold: Floats
    attrs: Mapping[str, Any]
    name: str = ""

    @classmethod
    def open(cls, store_or_path: RunLike, name: str | None = None) -> Curvature:
        """Read the curvature `name` of a run; None is the latest.

        Raises
        ------
        RunError
            the store is not a run.
        SurfaceError
            the run has none, or none of that name.
        """
        root = open_run(store_or_path)
        known = names(root)
        if name is None:
            latest = checked.group(root, GROUP).attrs.get("latest") if known else None
            name = latest if latest in known else known[-1] if known else ""
        if name not in known:
            raise SurfaceError(
                f"The run has no curvature '{printable(name)}'" if name else "The run has no curvature",
                expected=f"one of {', '.join(known)}" if known else "",
                mend="Compute it: landscape-hooks curvature RUN",
            )
        return cls._read(root, name)

    @classmethod
    def _read(cls, root: zarr.Group, name: str) -> Curvature:
        group = checked.group(root, f"{GROUP}/{name}")
        sizes, found = checked.Sizes(), {}
        for key in ("step", "epoch", "evaluated", "eigenvalues", "residuals", *SCALARS):
            found[key] = checked.read(group, key)
            sizes.check(f"{GROUP}/{name}/{key}", found[key].shape)
        return cls(**found, attrs=dict(group.attrs), name=name)

    def __len__(self) -> int:
        return len(self.step)

    @property
    def sharpness(self) -> Floats:
        """(N,) the largest eigenvalue; by the method "critical", the critical sharpness along the gradient."""
        return self.eigenvalues[:, 0] if self.eigenvalues.shape[1] else self.critical_gradient

    @property
    def sharpness_error(self) -> Floats:
        """(N,) the residual of the largest eigenvalue, or half the interval of the critical sharpness."""
        return self.residuals[:, 0] if self.residuals.shape[1] else self.critical_gradient_error

    @property
    def method(self) -> str:
        """ "hessian" (eigenvalues by Lanczos iteration) or "critical" (forward passes)."""
        return str(self.attrs.get("method", "hessian"))

    @property
    def complete(self) -> bool:
        """Whether every snapshot was computed, or found not to be finite."""
        return bool(self.evaluated.all())

    @property
    def diverged(self) -> NDArray[np.int64]:
        """Steps of the snapshots that have no curvature: their weights, loss or derivatives are not finite."""
        return self.step[self.evaluated & ~np.isfinite(self.sharpness) & np.isnan(self.gradient_norm)]

    @property
    def threshold_said(self) -> str:
        """Why snapshots have no threshold; "" where all have one."""
        return printable(self.attrs.get("threshold_said", ""))

    def columns(self) -> dict[str, NDArray[Any]]:
        """Columns (N,) by name, eigenvalues as eigenvalue_1, eigenvalue_2, ...: what a table has."""
        found: dict[str, NDArray[Any]] = {"step": self.step, "epoch": self.epoch, "evaluated": self.evaluated}
        for number in range(self.eigenvalues.shape[1]):
            found[f"eigenvalue_{number + 1}"] = self.eigenvalues[:, number]
            found[f"residual_{number + 1}"] = self.residuals[:, number]
        return found | {key: getattr(self, key) for key in SCALARS}

    def sentences(self) -> list[str]:
        """What the numbers show, in sentences."""
        known = self.evaluated & np.isfinite(self.sharpness)
        said = [] if self.complete else [f"{self.evaluated.sum()} of {len(self)} snapshots are computed so far."]
        if known.any():
            said.append(_course(self, np.flatnonzero(known)))
            said += _edge(self, np.flatnonzero(known & np.isfinite(self.threshold) & (self.threshold > 0)))
        if self.threshold_said and not np.isfinite(self.threshold).all():
            said.append(self.threshold_said)
        if lost := int((self.evaluated & np.isnan(self.sharpness) & np.isfinite(self.gradient_norm)).sum()):
            what = (
                "The largest eigenvalue did not converge"
                if self.method == "hessian"
                else "The loss does not fall along its gradient, or by no more than its rounding,"
            )
            said.append(f"{what} at {lost} of {len(self)} snapshots.")
        if len(gone := self.diverged):
            steps = ", ".join(map(str, gone[:5])) + (" ..." if len(gone) > 5 else "")
            some = f"{len(gone)} snapshots have" if len(gone) > 1 else "A snapshot has"
            said.append(f"{some} no curvature: weights, loss or derivatives are not finite there (step {steps}).")
        return said


def names(root: zarr.Group) -> list[str]:
    """Names of the curvatures of a run; one that is being begun, or deleted, has no definition."""
    groups = {name: checked.group(root, f"{GROUP}/{name}") for name in checked.names_of(root, GROUP)}
    return [name for name, group in groups.items() if group is not None and "definition" in group.attrs]


def _course(found: Curvature, known: NDArray[np.intp]) -> str:
    """How the sharpness went from the first snapshot to the last."""
    sharpness, step = found.sharpness, found.step
    what = "The largest eigenvalue of the Hessian" if found.method == "hessian" else "The critical sharpness"
    first, last, top = known[0], known[-1], known[np.argmax(sharpness[known])]
    if len(known) == 1:
        return f"{what} is {text_of(sharpness[last])} at step {step[last]}."
    ends = [f"{text_of(sharpness[row])} (step {step[row]})" for row in (first, last)]
    said = f"{what} goes from {ends[0]} to {ends[1]}"
    if top in (first, last):
        return f"{said}."
    return f"{said}; it is largest at step {step[top]}: {text_of(sharpness[top])}."


def _edge(found: Curvature, known: NDArray[np.intp]) -> list[str]:
    """How the sharpness lies to the threshold."""
    if not len(known):
        return []
    ratio = found.sharpness[known] / found.threshold[known]
    near = np.abs(ratio - 1) <= AT_EDGE
    above, last = int((ratio > 1 + AT_EDGE).sum()), known[-1]
    limit = text_of(found.threshold[last])
    said = f"At step {found.step[last]} it is {text_of(ratio[-1])} times the threshold {limit} of that step"
    run = len(near) - int(np.flatnonzero(~near)[-1] + 1) if not near.all() else len(near)
    if run >= LASTING:
        first = found.step[known[len(known) - run]]
        return [f"{said}. From step {first} on it stays within {AT_EDGE:.0%} of the threshold: the edge of stability."]
    many = f"; {above} of {len(known)} snapshots lie more than {AT_EDGE:.0%} above it" if above else ""
    return [f"{said}{many}."]
