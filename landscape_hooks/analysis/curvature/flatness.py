"""flatness: how flat the end of a run lies, in the measures that papers report. A run in, a table in the run out.

Each measure is a row with its error, its definition and its source, so that numbers of different papers are not taken
for one another.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.analysis.curvature.curvature import LARGE, whole_number
from landscape_hooks.analysis.curvature.numbers import TOLERANCE
from landscape_hooks.analysis.curvature.scene import Scene
from landscape_hooks.errors import RunError
from landscape_hooks.evaluation.sources import DataSource, ObjectiveLike
from landscape_hooks.objective.data.states import states_kept
from landscape_hooks.plane.curve import Curve, NotFinite, NotTwice
from landscape_hooks.plane.directions.random import gaussian
from landscape_hooks.progress import Progress
from landscape_hooks.store.checked import spell
from landscape_hooks.store.run import RunLike
from landscape_hooks.surface.measures.flatness import Flatness, Measured, put, read
from landscape_hooks.trajectory.selection import Snapshots
from landscape_hooks.version import versions

NEAR, FAR = 0.01, 10.0
"""Radii between which the loss is looked at: multiples of directions that are as long as the weights' filters."""

RATIO = math.sqrt(2)
"""Between one radius and the next."""

CLOSE = 1.01
"""Ratio of the ends of the interval at which the search for a radius ends."""

LEAST_RISE = 0.01
"""The loss is to rise by itself, or by this share of what the training brought it down, if that is more."""

SOURCES = {
    "lambda_max": "Yao et al. 2020, arXiv:1912.07145",
    "trace": "Hutchinson 1990, doi:10.1080/03610919008812866",
    "sam": "Foret et al. 2021, arXiv:2010.01412",
    "asam": "Kwon et al. 2021, arXiv:2102.11600",
    "radius": "Huang et al. 2020, arXiv:1906.03291, along directions of Li et al. 2018, arXiv:1712.09913",
}

FURTHER = 5
"""Steps of ascent by which the first one is checked."""

Weights = NDArray[np.floating]


def flatness(
    store: RunLike,
    *,
    rho: float = 0.05,
    adaptive_rho: float = 0.5,
    directions: int = 10,
    probes: int = 8,
    samples: int | None = None,
    batch_norm: str | None = None,
    objective: ObjectiveLike | None = None,
    data: DataSource | None = None,
    snapshots: Snapshots | None = None,
    seed: int = 0,
    device: str | int | torch.device | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> Flatness:
    """Measure how flat the end of a run lies; store it in the run and return it.

    At the last finite snapshot: the largest eigenvalue of the Hessian and its trace, SAM's sharpness and the adaptive
    one, and the radius of the basin in filter-normalised directions. Each comes with its definition and source.

    It is a function of its own, and no option of `analyze`: it is about the solution and not about a plane.

    Parameters
    ----------
    store
        the run: a path, URL, Zarr store or group.
    rho
        radius of SAM's sharpness, in weight space.
    adaptive_rho
        radius of the adaptive one, relative to the weights.
    directions
        number of random directions along which the basin is measured.
    probes
        random vectors of the estimate of the trace; at least 2.
    samples, batch_norm, objective, data, device
        as for `curvature`.
    snapshots
        `Snapshots(stop=..., base=..., tensors=...)`: the last of those that are chosen counts.
    seed
        of all random vectors.
    fresh
        compute anew what is there.
    progress
        show how far it is.

    Returns
    -------
    Flatness
        as stored; one of the same definition is read.

    Raises
    ------
    LandscapeError
        what the run, the objective or the options lack, and what mends it.
    """
    directions, probes = whole_number("directions", directions, 1), whole_number("probes", probes, 2)
    seed = whole_number("seed", seed, 0)
    for name, value in (("rho", rho), ("adaptive_rho", adaptive_rho)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise RunError(f"Found {name}={value!r}", expected="a number above 0")
    with states_kept():
        scene = Scene.open(
            store, snapshots=snapshots or Snapshots(), samples=samples, batch_norm=batch_norm, objective=objective,
            data=data, device=device,
        )  # fmt: skip
        place = scene.last
        attrs = {
            **scene.attrs, "rho": float(rho), "adaptive_rho": float(adaptive_rho), "directions": directions,
            "probes": probes, "seed": seed, "wall_time": spell(scene.trajectory.wall_times[place]),
            "at": int(scene.trajectory.steps[place]), "tolerance": TOLERANCE,
        }  # fmt: skip
        attrs["definition"] = hashlib.sha256(json.dumps(attrs, sort_keys=True).encode()).hexdigest()
        known = read(scene.root)
        if known is not None and not fresh and known.attrs.get("definition") == attrs["definition"]:
            return known
        around = _Around.of(scene, place, seed)
        with Progress(progress, 4 + directions, "flatness", "part") as tick:
            rows = [*around.second(probes)]
            tick(2)
            rows += [around.sam(float(rho)), around.asam(float(adaptive_rho))]
            tick(2)
            rows.append(around.radius(directions, tick))
        put(scene.root, attrs["at"], around.here, rows, {**attrs, "versions": versions()})
        return Flatness.open(scene.root)


@dataclass(frozen=True)
class _Around:
    """The loss around one snapshot."""

    scene: Scene
    weights: Weights
    buffers: Weights
    curve: Curve
    gradient: Weights
    here: float
    seed: int

    @classmethod
    def of(cls, scene: Scene, place: int, seed: int) -> _Around:
        found, loss = scene.trajectory[place], scene.loss
        here = loss.of_snapshot(found.weights, found.buffers).mean
        if not math.isfinite(here):
            raise RunError(f"The loss at step {found.step} is {here}", expected="a finite loss at the last snapshot")
        held, statistics = loss.held_at(found.weights, found.buffers)
        curve = Curve(scene.objective, found.weights, held, statistics)
        gradient = curve.gradient().cpu().double().numpy()
        return cls(scene, found.weights, found.buffers, curve, gradient, here, seed)

    def loss(self, away: Weights) -> float:
        """The loss at the weights plus (D,) `away`, under the BatchNorm policy."""
        moved = (self.weights.astype(np.float64) + away).astype(self.weights.dtype)
        return self.scene.loss.of_snapshot(moved, self.buffers).mean

    def second(self, probes: int) -> Iterator[Measured]:
        """The largest eigenvalue and the trace."""
        largest, trace, said = (math.nan, math.nan), (math.nan, math.nan), ""
        if self.curve.size >= LARGE:
            said = "Not computed for so many parameters."
        else:
            try:
                pairs = self.curve.top(1, seed=self.seed, tolerance=TOLERANCE)
                largest = float(pairs.values[0]), float(pairs.residuals[0])
                trace = self.curve.trace(probes, seed=self.seed)
            except (NotTwice, NotFinite) as error:
                said = f"Not computed: {error.found}."
        yield _row("lambda_max", largest, "largest eigenvalue of the Hessian, ± residual |Hv - λv|", said)
        how = f"trace of the Hessian by {probes} Rademacher vectors, ± standard error"
        yield _row("trace", trace, how if self.curve.size > 32 else "trace of the Hessian", said)

    def sam(self, rho: float) -> Measured:
        """SAM's sharpness, to first order."""
        return self._ascent("sam", rho, self.gradient, f"max over |e| ≤ {rho:g} of L(w + e) - L(w), at e = ρ g/|g|")

    def asam(self, rho: float) -> Measured:
        """The adaptive sharpness, to first order, with T = |w| for every parameter."""
        scale = np.abs(self.weights.astype(np.float64))
        words = f"max over |e/w| ≤ {rho:g} of L(w + e) - L(w), at e = ρ w² g/|w g|"
        return self._ascent("asam", rho, scale * self.gradient, words, scale)

    def _ascent(self, name: str, rho: float, scaled: Weights, words: str, scale: Weights | float = 1.0) -> Measured:
        words = f"{words}; ± what {FURTHER} further steps of ascent find beyond it"
        rises: list[float] = []
        for _ in range(1 + FURTHER):
            length = float(np.linalg.norm(scaled))
            if not 0 < length < math.inf:
                break
            away = rho * scale * scaled / length
            rises.append(self.loss(away) - self.here)
            if not math.isfinite(rises[-1]):
                break
            scaled = scale * self.curve.at(torch.from_numpy(away)).gradient().cpu().double().numpy()
        if not rises:
            return _row(name, (math.nan, math.nan), words, "The gradient is zero, or not finite.")
        return _row(name, (rises[0], max(rises) - rises[0]), words)

    def radius(self, count: int, tick: Callable[[int], object]) -> Measured:
        """The radius of the basin: median over random directions."""
        rise, words = self._rise()
        if not rise > 0:
            return _row("radius", (math.nan, math.nan), words, "The loss is 0, and there is no rise to look for.")
        generator = torch.Generator().manual_seed(self.seed)
        origin, layout = torch.from_numpy(self.weights), self.scene.trajectory.layout
        found = []
        for _ in range(count):
            direction = gaussian(origin, layout, generator, "filter").double().numpy()
            if not direction.any():
                said = "All that moves is biases and normalisation layers, which these directions leave alone."
                return _row("radius", (math.nan, math.nan), words, said)
            found.append(_first(lambda r, d=direction: not self.loss(r * d) < self.here + rise))  # type: ignore[misc]
            tick(1)
        low, middle, high = (float(np.quantile(found, q, method="nearest")) for q in (0.25, 0.5, 0.75))
        words = f"{words}; median of {count} directions, ± half the distance of the quartiles"
        beyond = sum(math.isinf(r) for r in found)
        said = f"Along {beyond} of {count} directions it does not rise so far up to r = {FAR:g}." if beyond else ""
        return _row("radius", (middle, (high - low) / 2 if math.isfinite(high) else math.nan), words, said)

    def _rise(self) -> tuple[float, str]:
        """By how much the loss is to rise, and in words."""
        first, start = self.scene.trajectory[0], math.nan
        if np.isfinite(first.weights).all():
            start = self.scene.loss.of_snapshot(first.weights, first.buffers).mean
        fallen, when = LEAST_RISE * (start - self.here) if math.isfinite(start) else 0.0, "r at which L(w + r d) has"
        if fallen > abs(self.here):
            return fallen, f"{when} risen by {LEAST_RISE:.0%} of the training's whole fall (L is near 0)"
        return abs(self.here), f"{when} doubled" if self.here > 0 else f"{when} risen by |L|"


def _row(name: str, both: tuple[float, float], definition: str, said: str = "") -> Measured:
    return Measured(name, both[0], both[1], definition, SOURCES[name], said)


def _first(beyond: Callable[[float], bool]) -> float:
    """The first radius that lies beyond the basin; inf where none does up to `FAR`."""
    low, high = 0.0, NEAR
    if beyond(high):
        while high > 1e-9 and beyond(high / RATIO):
            high /= RATIO
        low = high / RATIO
    else:
        while not beyond(high):
            if high >= FAR:
                return math.inf
            low, high = high, min(high * RATIO, FAR)
    while high / low > CLOSE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return math.sqrt(low * high)
