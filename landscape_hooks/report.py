"""report: what a surface shows, what it hides and where it must not be trusted, in words.

In: a Surface. Out: sentences, stored with it, printed by `analyze` and repeated by `info`. No torch here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.surface import Path, Surface


def sentences(surface: Surface) -> list[str]:
    """The report, one sentence an entry."""
    said = [_what(surface)]
    for path in surface.paths:
        whose = f"{path.label}: " if len(surface.paths) > 1 else ""
        said += [whose + s for s in (_variance(surface, path), _gap(path), _distance(path)) if s]
    said += _holes(surface)
    return said


def _what(surface: Surface) -> str:
    attrs = surface.attrs
    policy = attrs.get("batch_norm", "none")
    norm = "" if policy == "none" else f", BatchNorm {policy}"
    rows, columns = surface.shape
    plane, samples = attrs.get("directions"), attrs.get("samples")
    return f"{rows}×{columns} losses over {samples} probe samples on the {plane} plane{norm}."


def _variance(surface: Surface, path: Path) -> str:
    ratio = surface.explained_variance_ratio
    if not np.isfinite(ratio).all() or len(path) < 3:
        return ""
    if surface.attrs.get("directions") != "pca":
        return f"The directions hold {ratio[0]:.2g} and {ratio[1]:.2g} of the trajectory's variance."
    walk = random_walk_ratio(len(path))
    return (
        f"The plane holds {ratio.sum():.1%} of the trajectory's variance ({ratio[0]:.1%} + {ratio[1]:.1%}); "
        f"a pure random walk of {len(path)} snapshots would show {walk[0] + walk[1]:.1%}."
    )


def _gap(path: Path) -> str:
    finite = np.isfinite(path.loss) & np.isfinite(path.plane_loss)
    if not finite.any():
        return "No snapshot has a finite loss both by itself and on the plane."
    gap = np.where(finite, np.abs(path.plane_loss - path.loss), -1.0)
    worst = int(np.argmax(gap))
    return (
        f"At the end the loss is {path.loss[-1]:.4g} (± {path.loss_stderr[-1]:.2g}) and the plane shows "
        f"{path.plane_loss[-1]:.4g}; they differ most at step {path.step[worst]}: {path.loss[worst]:.4g} against "
        f"{path.plane_loss[worst]:.4g} on the plane."
    )


def _distance(path: Path) -> str:
    worst = int(np.argmax(path.distance))
    length = float(np.linalg.norm(path.coordinates - path.coordinates[-1], axis=1).max())
    return (
        f"The path leaves the plane by up to {path.distance[worst]:.3g} (step {path.step[worst]}), in weight space, "
        f"and spans {length:.3g} on it."
    )


def _holes(surface: Surface) -> list[str]:
    bad = int((~np.isfinite(surface.loss) & surface.present).sum())
    return [f"{bad} of {surface.loss.size} losses are NaN or infinite; they are left as they are."] if bad else []


@lru_cache
def random_walk_ratio(length: int, components: int = 2) -> tuple[float, ...]:
    """Expected explained variance ratios of a random walk's first principal components, for D much larger than T.

    In high dimension the centred walk's scatter is J S Sᵀ J with S the summation matrix, whatever the steps
    (Antognini & Sohl-Dickstein 2018, https://arxiv.org/abs/1806.08805, section 3); its eigenvalues are computed.
    """
    walk: NDArray[np.float64] = np.tril(np.ones((length, length)))
    walk -= walk.mean(axis=0)
    variance = np.linalg.svd(walk, compute_uv=False) ** 2
    return tuple(float(v) for v in variance[:components] / variance.sum())
