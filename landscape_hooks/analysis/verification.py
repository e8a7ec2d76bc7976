"""Verification: whether a stored surface is still what the stored loss gives, by computing some of it anew.

In: a run of any origin. Out: for each surface, numbers beside each other: ten evaluated grid points,
the path's two ends, the snapshot at the origin; and the checksums of the snapshots, where the run has them. Nothing is
written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError, ObjectiveError, SurfaceError
from landscape_hooks.evaluation.base import BaseLike, open_base
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss, buffer_directions
from landscape_hooks.evaluation.sampling import Drawn
from landscape_hooks.evaluation.sources import DataSource, ObjectiveLike, check_fits, resolve_objective
from landscape_hooks.machine import find_device, threads
from landscape_hooks.plane.directions import pca, points
from landscape_hooks.plane.moments import project
from landscape_hooks.plane.plane import Plane
from landscape_hooks.store import checked
from landscape_hooks.store.run import RunLike, open_run
from landscape_hooks.surface import surface
from landscape_hooks.surface.definition import OF_THE_RUN
from landscape_hooks.surface.surface import Surface
from landscape_hooks.trajectory.joined import Joined
from landscape_hooks.trajectory.rows.checksum import Damage
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.version import versions

POINTS = 10
"""Grid points that are computed anew."""

SAME, OTHER, COARSE = 1e-5, 1e-4, 2e-2
"""Relative differences that are rounding: under the same versions (another processor sums in another order), under
other ones or on another device, and in bfloat16."""


@dataclass(frozen=True)
class Check:
    """A stored number beside the recomputed one; `holds` where they differ by no more than `tolerance` (absolute).

    `kind` is "loss", or "geometry" for a coordinate of the path.
    """

    what: str
    stored: float
    found: float
    tolerance: float
    kind: str = "loss"

    @property
    def holds(self) -> bool:
        """Whether the two are the same, up to the tolerance; NaN and inf are themselves only."""
        return self.exact or bool(abs(self.stored - self.found) <= self.tolerance)

    @property
    def exact(self) -> bool:
        """Whether the two are equal, bit for bit."""
        return bool(np.array_equal(self.stored, self.found, equal_nan=True))


@dataclass(frozen=True)
class SurfaceVerification:
    """What came of one surface.

    Attributes
    ----------
    name
        of the surface.
    checks
        what was compared.
    bound
        which tolerance was taken, and why, in words.
    missing
        what could not be compared, and what it takes, in words.
    """

    name: str
    checks: tuple[Check, ...]
    bound: str
    missing: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """ "holds", "differs", or "not verified" where no loss could be computed."""
        if not all(check.holds for check in self.checks):
            return "differs"
        return "holds" if any(check.kind == "loss" for check in self.checks) else "not verified"


@dataclass(frozen=True)
class Verification:
    """What came of a run: its surfaces, and the damaged snapshots (None where the run has no checksums)."""

    surfaces: tuple[SurfaceVerification, ...]
    damages: tuple[Damage, ...] | None = None

    @property
    def holds(self) -> bool:
        """Whether every surface was verified and holds, and no snapshot is damaged."""
        return not self.damages and all(found.verdict == "holds" for found in self.surfaces)

    def to_json(self) -> dict[str, Any]:
        """As plain data; a NaN or inf is a text."""
        surfaces = [
            {
                "name": found.name,
                "verdict": found.verdict,
                "bound": found.bound,
                "missing": list(found.missing),
                "checks": [
                    {
                        "what": check.what,
                        "stored": _plain(check.stored),
                        "found": _plain(check.found),
                        "tolerance": _plain(check.tolerance),
                        "holds": check.holds,
                    }
                    for check in found.checks
                ],
            }
            for found in self.surfaces
        ]
        damages = None if self.damages is None else [str(damage) for damage in self.damages]
        return {"holds": self.holds, "surfaces": surfaces, "damaged_snapshots": damages}

    def text(self) -> str:
        """For people: a line a surface, and below it what differs or could not be checked."""
        lines = []
        for found in self.surfaces:
            lines.append(f"  verified    {found.name}: {found.verdict}; {len(found.checks)} numbers, {found.bound}")
            lines += [
                f"    {c.what:<44} stored {c.stored:<14.8g} computed {c.found:<14.8g}{'' if c.holds else '  DIFFERS'}"
                for c in found.checks
            ]
            lines += [f"    not verified: {reason}" for reason in found.missing]
        if self.damages is None:
            lines.append("  snapshots   no checksums (record with storage=Storage(checksum=True))")
        else:
            lines.append(f"  snapshots   {len(self.damages)} damaged" if self.damages else "  snapshots   all sound")
            lines += [f"    {damage}" for damage in self.damages]
        return "\n".join(lines)


def verify(
    run: RunLike,
    name: str | None = None,
    *,
    objective: ObjectiveLike | None = None,
    data: DataSource | None = None,
    base: BaseLike | None = None,
    points: int = POINTS,
    seed: int = 0,
) -> Verification:
    """Compute some of a run's surfaces anew, by the same plan, policy and buffers, and compare.

    Parameters
    ----------
    run
        the run: a path, URL, Zarr store or group.
    name
        of one surface; left out, all of them.
    objective, data
        as for `analyze`, for surfaces that were computed with such.
    base
        as of `Snapshots`, for a run that has tensors by reference.
    points
        how many evaluated grid points are computed anew.
    seed
        of their choice.

    Raises
    ------
    RunError, SurfaceError
        it is no run, or has no such surface.
    """
    root = open_run(run)
    trajectory = Trajectory.open(run, None if base is None else open_base(base))
    names = [surface.resolve_name(root, name)] if name is not None else surface.names(root)
    found = tuple(_verify(root, trajectory, each, objective, data, points, seed) for each in names)
    damages = tuple(trajectory.verify()) if trajectory.has_checksums else None
    return Verification(found, damages)


def _verify(
    root: zarr.Group,
    trajectory: Trajectory,
    name: str,
    objective: ObjectiveLike | None,
    data: DataSource | None,
    count: int,
    seed: int,
) -> SurfaceVerification:
    opened = Surface.open(root, name)
    tolerance, bound = _tolerance(opened)
    checks: list[Check] = []
    missing: list[str] = []
    try:
        trajectory = opened.definition.drawn(trajectory)
        checks += _geometry(root, trajectory, opened)
        loss = _loss(root, trajectory, opened, objective, data)
        with threads(loss.plan.threads):
            checks += [*_points(loss, opened, tolerance, count, seed), *_ends(loss, trajectory, opened, tolerance)]
    except LandscapeError as error:
        missing.append(str(error))
    if len(opened.paths) > 1:
        missing.append(f"the snapshots of {len(opened.paths) - 1} further runs, which lie elsewhere")
    if checks and all(check.exact for check in checks if check.kind == "loss"):
        bound = "losses equal bit for bit"
    return SurfaceVerification(name, tuple(checks), bound, tuple(missing))


def _tolerance(opened: Surface) -> tuple[float, str]:
    """The relative difference that is rounding, and why."""
    definition = opened.definition
    if definition.precision != "float32":
        return COARSE, f"within {COARSE:g} relative, as bfloat16 rounds"
    if definition.versions != versions() or definition.device != str(find_device(None)):
        return OTHER, f"within {OTHER:g} relative: the versions or the device are not those it was computed with"
    return SAME, f"within {SAME:g} relative: the same versions; another processor may sum in another order"


# -- the loss as it was computed ---------------------------------------------------------------------------
def _loss(
    root: zarr.Group, trajectory: Trajectory, opened: Surface, objective: ObjectiveLike | None, data: DataSource | None
) -> PlaneLoss:
    """The PlaneLoss of a stored surface.

    Raises
    ------
    LandscapeError
        what it takes is not there, or is not what the surface was computed with.
    """
    attrs = opened.attrs
    for key, given in (("objective", objective), ("data", data)):
        used = attrs.get(key, OF_THE_RUN)
        if given is None and used != OF_THE_RUN and not (key == "data" and objective is not None):
            raise ObjectiveError(f"The surface was computed with --{key} {used}", mend=f"Say --{key} {used} here, too")
    samples = checked.whole(attrs.get("samples"), "The number of samples", low=1)
    seed = opened.definition.samples_seed
    target = resolve_objective(trajectory, objective, data, samples if seed is None else Drawn(samples, seed))
    check_fits(trajectory, target)
    if target.digest != attrs.get("data_digest"):
        raise ObjectiveError(
            "The probe samples are not those that the surface was computed with (their digests differ)",
            mend="Name the ones it was computed with: --data module:function, or --objective module:function",
        )
    plan = Plan.from_json(attrs.get("plan"))
    if plan is None:
        raise SurfaceError(
            f"How the surface '{opened.name}' was computed is not said, or is no way that this version has",
            mend="Analyze the run again: it is computed anew",
        )
    origin, axes, buffers = _arrays(root, trajectory, opened)
    policy = str(attrs.get("batch_norm", "none"))
    moved = _moved_buffers(trajectory, opened, buffers) if policy == "interpolate" else None
    where = find_device(None)
    return plan.apply(PlaneLoss(target.to(where), Plane(origin, axes).to(where), buffers, policy, moved))


def _arrays(root: zarr.Group, trajectory: Trajectory, opened: Surface) -> list[Any]:
    """Origin, directions and the buffers at the origin."""
    group, arrays = checked.group(root, f"surfaces/{opened.name}"), []
    size, known = trajectory.layout.size, int(checked.array(group, "origin").shape[0])
    # the surface may be older than the parameters that began to move last, and then is of what they were before
    known = known if known in trajectory.widths else size
    sizes = checked.Sizes(parameter=known, buffer=trajectory.buffer_layout.size, direction=2)
    for key in ("origin", "directions", "origin_buffers"):
        arrays.append(checked.read(group, key))
        sizes.check(f"surfaces/*/{key}", arrays[-1].shape)
    if known < size:
        origin, directions, _ = arrays
        arrays[0] = np.concatenate([origin, trajectory.before_moving(known, size).astype(origin.dtype)])
        arrays[1] = np.pad(directions, ((0, 0), (0, size - known)))
    return arrays


def _moved_buffers(trajectory: Trajectory, opened: Surface, buffers: NDArray[Any]) -> Any:
    """(2, B) the directions of the buffers under "interpolate", from the directions' combinations of snapshots."""
    if len(opened.paths) > 1:
        raise ObjectiveError(
            "Running statistics were interpolated between the snapshots of several runs, which lie elsewhere",
            mend="Analyze them together again, under another --name",
        )
    definition = opened.definition
    about, line = definition.direction_attrs, definition.line
    shown = np.flatnonzero(np.isin(trajectory.steps, opened.steps))  # some may have been left out
    joined = Joined([trajectory.select(shown)])
    if definition.directions == "points":
        given = points.Points([point["step"] for point in about["points"]])
        found = points.directions(joined, points.places_of(given, joined), line=line)
    else:
        components = tuple(about["components"])[: 1 if line else 2]
        found = pca.directions(joined, components=components, solver=about["solver"])
    assert found.coefficients is not None
    return buffer_directions(joined, found.coefficients, buffers)


# -- what is compared ----------------------------------------------------------------------------------------
def _points(loss: PlaneLoss, opened: Surface, tolerance: float, count: int, seed: int) -> Iterator[Check]:
    evaluated = np.flatnonzero(opened.evaluated)
    chosen = np.random.default_rng(seed).choice(evaluated, min(count, len(evaluated)), replace=False)
    for row, column in zip(*np.unravel_index(np.sort(chosen), opened.shape), strict=True):
        alpha, beta = float(opened.alpha[row]), float(opened.beta[column])
        found = float(loss.measure_at(alpha, beta)[0])
        yield _check(f"loss at ({alpha:.6g}, {beta:.6g})", opened.loss[row, column], found, tolerance)


def _ends(loss: PlaneLoss, trajectory: Trajectory, opened: Surface, tolerance: float) -> Iterator[Check]:
    """The first and last snapshot of each path on the plane, those of this run by themselves, too."""
    for number, path in enumerate(opened.so_far().paths):
        for place in sorted({0, len(path) - 1}) if len(path) else ():
            step, spot = int(path.step[place]), path.coordinates[place]
            whose = f"step {step}" if len(opened.paths) == 1 else f"step {step} of {path.label or number}"
            found = float(loss.measure_at(float(spot[0]), float(spot[1]))[0])
            yield _check(f"loss on the plane at {whose}", path.plane_loss[place], found, tolerance)
            row = np.flatnonzero(trajectory.steps == step)
            if number == 0 and len(row):
                snapshot = trajectory[int(row[0])]
                found = float(loss.measure_snapshot(snapshot.weights, snapshot.buffers)[0])
                yield _check(f"loss of the snapshot of {whose}", path.loss[place], found, tolerance)


def _geometry(root: zarr.Group, trajectory: Trajectory, opened: Surface) -> Iterator[Check]:
    """The ends of this run's path lie where the picture has them, and the plane goes through the snapshot it names."""
    group = checked.group(root, f"surfaces/{opened.name}")
    if not opened.paths or not len(opened.paths[0]):
        return
    path = opened.paths[0]
    reach = float(np.nanmax(np.abs(path.coordinates), initial=0.0)) or 1.0
    for place in sorted({0, len(path) - 1}):
        row = np.flatnonzero(trajectory.steps == path.step[place])
        if len(row):
            spots, _ = project(group, trajectory, row[:1])
            for k, axis in enumerate(("alpha", "beta")):
                what = f"{axis} of step {int(path.step[place])}"
                yield Check(what, float(path.coordinates[place, k]), float(spots[0, k]), OTHER * reach, "geometry")


def _check(what: str, stored: float, found: float, tolerance: float) -> Check:
    return Check(what, float(stored), found, tolerance * abs(float(stored)) + 1e-9)


def _plain(value: float) -> Any:
    return value if not isinstance(value, float) or np.isfinite(value) else repr(value)
