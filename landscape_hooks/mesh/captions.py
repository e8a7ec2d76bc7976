"""Captions: the caption and the axis labels of a picture of a surface. Imports no matplotlib."""

from __future__ import annotations

import numpy as np

from landscape_hooks.mesh.mesh import Height
from landscape_hooks.surface.surface import Surface

BETWEEN = "  ·  "
"""Separator between the parts of a caption."""


def caption(surface: Surface, height: Height) -> str:
    """What defines the picture, in one line: policy, samples, divergence, share of interpolated points, height."""
    policy = surface.attrs.get("batch_norm")
    parts = [f"BatchNorm: {policy}" if policy not in (None, "", "none") else "no running statistics"]
    parts += ["other buffers: the origin's"] if surface.moving_buffers else []
    if surface.definition.only:
        parts.append(f"only {', '.join(surface.definition.only)}, the rest as at step {surface.definition.origin_step}")
    if surface.attrs.get("samples"):
        every = surface.attrs.get("samples_of")
        parts.append(f"{surface.attrs['samples']} {f'of {every} ' if every else ''}probe samples")
    ends = [str(found.last_finite_step) for found in surface.definition.divergence if found.left_out]
    parts += [f"diverged after step {', '.join(ends)}"] if ends else []
    parts += [said] if (said := surface.said_of_interpolation()) else []
    parts += [f"so far: {so_far}"] if (so_far := surface.attrs.get("so_far")) else []
    parts += in_doubt(surface)
    parts.append(height.statement.replace("height:", "scale:"))
    return BETWEEN.join(parts)


def in_doubt(surface: Surface) -> list[str]:
    """What the run cannot vouch for, one short text each."""
    return [f"in doubt: {doubt[:1].lower()}{doubt[1:]}".partition(". ")[0].rstrip(".") for doubt in surface.doubts]


def axis_labels(surface: Surface) -> list[str]:
    """The two axis labels, with the share of the path's variance where it is known."""
    labels = [str(label) for label in surface.attrs.get("labels", ("alpha", "beta"))]
    shares = surface.explained_variance_ratio
    return [
        f"{label} ({100 * share:.1f}% of the variance)" if np.isfinite(share) and "%" not in label else label
        for label, share in zip(labels, shares, strict=False)
    ] + labels[len(shares) :]
