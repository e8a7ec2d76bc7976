"""Frame: the plane of a surface, the paths projected onto it, and the grid that covers them.

In: a Subject and the directions that were asked for. Out: origin and directions, coordinates, a Grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.analysis.alignment.align import in_words
from landscape_hooks.analysis.subject import Subject
from landscape_hooks.errors import DivergedError, PlaneError
from landscape_hooks.evaluation.engines import Engine
from landscape_hooks.evaluation.plane_loss import PlaneLoss, buffer_directions, moving_buffers, no_combinations
from landscape_hooks.objective.objective import Statistics
from landscape_hooks.plane import gram
from landscape_hooks.plane.directions import Directions, hessian, pca, points, random
from landscape_hooks.plane.directions.hessian import Hessian
from landscape_hooks.plane.directions.pca import PCA
from landscape_hooks.plane.directions.points import Points
from landscape_hooks.plane.directions.random import Random
from landscape_hooks.plane.grid import Grid
from landscape_hooks.plane.moments import Moments, Projection
from landscape_hooks.plane.plane import Plane
from landscape_hooks.plane.stored_plane import stored_plane
from landscape_hooks.store.blocks import Blocks
from landscape_hooks.surface.definition import Definition
from landscape_hooks.trajectory.joined import Joined, digest_of, origin_row
from landscape_hooks.version import versions

Floats = NDArray[np.float64]

Choice = PCA | Random | Hessian | Points
"""What chooses the directions."""

NAMES: dict[str, type[Choice]] = {"pca": PCA, "random": Random, "hessian": Hessian, "points": Points}


def parse_directions(directions: str | Choice) -> Choice:
    """The directions' options; a name means the defaults.

    Raises
    ------
    PlaneError
        there are none of that name.
    """
    if isinstance(directions, Choice):
        return directions
    if not isinstance(directions, str) or directions not in NAMES:
        raise PlaneError(
            f"Found the directions {directions!r}",
            expected=f"one of {', '.join(NAMES)}, or a PCA(...), Random(...), Hessian() or Points(...)",
        )
    return NAMES[directions]()


@dataclass
class Frame:
    """The plane of a surface, and where the paths lie on it.

    Attributes
    ----------
    subject
        what is drawn: of a diverged run, the snapshots that are finite.
    directions
        the plane; once it is stored, `release` lets go of its vectors.
    origin
        the row of the snapshot at alpha = beta = 0.
    coordinates, distance
        (T, 2) and (T,) of the snapshots' projections.
    explained_variance_ratio
        (2,) share of the snapshots' variance along each direction.
    grid
        the coordinates at which the surface is computed.
    extent_given
        whether the grid's extent was asked for.
    buffers, buffer_directions
        (B,) at the origin, and (2, B) how they move under the policy "interpolate" (else None).
    """

    subject: Subject
    directions: Directions
    origin: int
    coordinates: Floats
    distance: Floats
    explained_variance_ratio: Floats
    grid: Grid
    extent_given: bool
    buffers: NDArray[Any]
    buffer_directions: Floats | None

    @classmethod
    def of(
        cls,
        subject: Subject,
        engine: Engine,
        chosen: Choice,
        *,
        seed: int,
        shape: tuple[int, int],
        extent: tuple[float, ...] | None,
        keep: bool,
    ) -> Frame:
        """The frame of a subject; options as of `_frame`.

        Raises
        ------
        LandscapeError
            the directions cannot be had of these snapshots, or make no plane.
        """
        framed = partial(_frame, engine=engine, chosen=chosen, seed=seed, shape=shape, extent=extent, keep=keep)

        def about_origin(whole: Subject) -> Frame:
            return framed(whole.part(_origin_of(chosen, whole.joined)))

        try:
            return about_origin(subject)
        except DivergedError:  # a snapshot on the way; the ends are finite
            return about_origin(subject.finite(engine, scan=True))

    @property
    def shape(self) -> tuple[int, int]:
        """(A, B)."""
        return self.grid.shape

    def definition(self, engine: str, precision: str, seed: int, adaptive: float | None) -> Definition:
        """What defines the surface."""
        subject, directions, first = self.subject, self.directions, self.subject.joined.runs[0]
        return Definition(
            directions=directions.kind,
            direction_attrs=directions.attrs,
            labels=directions.labels,
            normalization=directions.normalization,
            centring=directions.centring,
            solver=directions.attrs.get("solver", ""),
            line=self.shape[1] == 1,
            origin=self._origin_in_words(),
            origin_step=int(subject.joined.steps[self.origin]),
            snapshots=subject.snapshots.attrs,
            only=tuple(subject.snapshots.tensors),
            parameters=() if first.whole is first else first.layout.names,
            divergence=subject.divergence,
            last_step=subject.last_step,
            trajectory_digest=digest_of(subject.joined),
            extent=tuple(self.grid.extent),
            extent_rule="given" if self.extent_given else "covers the path",
            alignment=in_words(subject.alignments),
            batch_norm=subject.policy,
            moving_buffers=moving_buffers(subject.objective, subject.joined.runs),
            objective=subject.objective_source,
            data=subject.data_source,
            samples=int(subject.objective.samples),
            data_digest=subject.objective.digest,
            samples_of=subject.every_sample,
            samples_seed=subject.drawn.seed if subject.drawn is not None else None,
            samples_said=subject.samples_said,
            seed=int(seed),
            adaptive=adaptive,
            engine=engine,
            device=str(subject.device),
            precision=precision,
            versions=versions(),
        )

    def _origin_in_words(self) -> str:
        run, place = self.subject.joined.place(self.origin)
        trajectory = self.subject.joined.runs[run]
        name, step = trajectory.label or f"run {run}", int(trajectory.steps[place])
        if place < len(trajectory) - 1:
            return f"snapshot {int(trajectory.places[place])} of {name}"
        if any(found.run == name and found.left_out for found in self.subject.divergence):
            return f"last finite snapshot (step {step}) of {name}"
        return (
            f"last chosen snapshot (step {step}) of {name}"
            if self.subject.snapshots.attrs
            else f"final snapshot of {name}"
        )

    def arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What is stored of the frame beside the grid: all arrays, and those that define the surface.

        Combinations of snapshots are defined by their coefficients: the last bits of the vectors depend on the
        processor that computed them, and those that are stored count.
        """
        vectors = {"origin": self.directions.origin, "directions": self.directions.vectors}
        others = {
            "origin_buffers": np.asarray(self.buffers),
            "explained_variance_ratio": self.explained_variance_ratio,
            "spectrum": self.directions.spectrum,
        }
        coefficients = self.directions.coefficients
        return {**vectors, **others}, {
            **others,
            **(vectors if coefficients is None else {"coefficients": coefficients}),
        }

    def release(self) -> None:
        """Let go of the vectors, which are in the run by now."""
        self.directions = replace(self.directions, origin=None, vectors=None)

    def loss(self, surface: str) -> PlaneLoss:
        """The loss on the plane that `surface` of the run stores."""
        subject = self.subject
        plane = stored_plane(subject.root, surface, subject.streamed).to(subject.objective.device)
        loss = PlaneLoss(
            subject.objective, plane, self.buffers, subject.policy, self.buffer_directions, surface=surface
        )
        loss.part = subject.joined.part
        return loss


def _origin_of(chosen: Choice, joined: Joined) -> int:
    """The row of the snapshot that a plane of these directions is about."""
    return points.places_of(chosen, joined)[0].row if isinstance(chosen, Points) else origin_row(joined)


def _frame(
    subject: Subject,
    engine: Engine,
    chosen: Choice,
    *,
    seed: int,
    shape: tuple[int, int],
    extent: tuple[float, ...] | None,
    keep: bool,
) -> Frame:
    """Directions, projected paths and grid; `keep` stores a Gram matrix that was computed."""
    joined = subject.joined
    directions, known = _directions(subject, engine, chosen, seed=seed, line=shape[1] == 1, keep=keep)
    origin = origin_row(joined) if directions.origin_row is None else directions.origin_row
    if not isinstance(directions.vectors, Blocks):
        Plane(directions.origin, directions.vectors)  # checks them
    moments = _moments(joined, directions, known, origin, engine.partitions)
    coordinates, distance = moments.solve()
    if extent is not None:
        grid = Grid.spanning(extent, shape)
    else:
        scale = np.sqrt(np.maximum(np.diag(moments.gram), 0.0))
        covered = np.concatenate([coordinates, directions.marks])
        grid = Grid.covering(covered, shape, scale=scale, least=directions.least)
    run, place = joined.place(origin)
    buffers = joined.runs[run].buffers(slice(place, place + 1))[0]
    moved = None
    if subject.policy == "interpolate":
        if directions.coefficients is None:
            raise no_combinations()
        moved = buffer_directions(joined, directions.coefficients, buffers)
    return Frame(
        subject=subject,
        directions=directions,
        origin=origin,
        coordinates=coordinates,
        distance=distance,
        explained_variance_ratio=moments.explained_variance_ratio(),
        grid=grid,
        extent_given=extent is not None,
        buffers=buffers,
        buffer_directions=moved,
    )


def _directions(
    subject: Subject, engine: Engine, chosen: Choice, *, seed: int, line: bool, keep: bool
) -> tuple[Directions, Floats | None]:
    """The directions, and the trajectory's Gram matrix where it is known."""
    joined, known = subject.joined, None
    if isinstance(chosen, PCA):
        found, known = _principal(subject, chosen, line=line, keep=keep, blocks=engine.partitions)
    elif isinstance(chosen, Points):
        found = points.directions(joined, points.places_of(chosen, joined), line=line)
    elif isinstance(chosen, Random):
        found = random.directions(gram.origin_weights(joined), joined.layout, seed=seed, norm=chosen.norm)
    else:
        found = _hessian(subject, seed)
    if line and not isinstance(chosen, PCA | Points):
        found.vectors[1] = 0
    asked = dict(chosen.attrs)
    return replace(found, kind=asked.pop("directions"), attrs={**asked, **found.attrs}), known


def _principal(
    subject: Subject, chosen: PCA, *, line: bool, keep: bool, blocks: Callable[..., Any]
) -> tuple[Directions, Floats | None]:
    joined, components = subject.joined, tuple(chosen.components)[: 1 if line else 2]
    if len(components) < 2 and not line:
        raise PlaneError(
            f"Found the component {components[0]} alone", expected="two for a plane", mend="Draw a line (--line)"
        )
    pca.check(joined, components, chosen.solver)
    known = None
    if pca.resolve_solver(chosen.solver, joined) == "gram":
        if len(joined.runs) == 1 and joined.part is None:
            known = gram.stored(subject.root, joined.runs[0], blocks=blocks, keep=keep)
        else:
            known = gram.matrix(joined, blocks=blocks)
    found = pca.directions(
        joined, components=components, solver=chosen.solver, gram=known, blocks=blocks, stream=subject.streamed
    )
    return found, known


def _hessian(subject: Subject, seed: int) -> Directions:
    objective, joined = subject.objective, subject.joined
    statistics: Statistics = "batch" if subject.statistics == "batch" else "running"
    first, last = joined[0], joined[origin_row(joined)]

    def loss(weights: NDArray[Any], buffers: NDArray[Any]) -> float:
        state = [torch.from_numpy(array).to(objective.device) for array in (weights, buffers)]
        return objective.evaluate(state[0], state[1], statistics=statistics).mean

    start, end = loss(first.weights, first.buffers), loss(last.weights, last.buffers)
    rise = start - end if np.isfinite(start) and start > end else abs(end)
    return hessian.directions(objective, last.weights, last.buffers, statistics=statistics, rise=rise, seed=seed)


def _moments(
    joined: Joined, directions: Directions, known: Floats | None, origin: int, blocks: Callable[..., Any]
) -> Moments:
    """From the Gram matrix where the directions are combinations of snapshots, else by one more look at all weights.

    Raises
    ------
    DivergedError
        a snapshot is not finite.
    """
    if known is not None and directions.coefficients is not None:
        return Moments.from_gram(known, origin, directions.coefficients)
    total = Moments(len(joined))
    for _, part in blocks(joined, origin, Projection(directions.vectors)):
        total += part
    bad = np.flatnonzero(~np.isfinite(total.squares))
    if len(bad):
        raise DivergedError(f"The snapshot of step {joined.steps[bad[0]]} holds NaN or inf", expected="finite weights")
    return total
