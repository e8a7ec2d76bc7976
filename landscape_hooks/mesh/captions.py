"""Captions: the caption and the axis labels of a picture of a surface. Imports no matplotlib."""

from __future__ import annotations

import numpy as np

from landscape_hooks.mesh.mesh import Height
from landscape_hooks.surface.digits import percent, text_of
from landscape_hooks.surface.surface import Surface

BETWEEN = "  ·  "
"""Separator between the parts of a caption."""


def caption(surface: Surface, height: Height, stretch: float = 1.0) -> str:
    """What defines the picture, in one line: policy, samples, divergence, share of interpolated points, height.

    `stretch` is how many times as long a unit along beta is drawn as one along alpha.
    """
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
    parts += [said] if (said := said_of_stretch(surface, stretch)) else []
    parts += in_doubt(surface)
    parts.append(said_of_height(height).replace("height:", "scale:"))
    return BETWEEN.join(parts)


def said_of_height(height: Height) -> str:
    """The height, and what its labels are above where they have an offset."""
    labels = height.labels
    return f"{height.statement}; labels: {labels.name('loss')}" if labels.offset else height.statement


def short_names(surface: Surface) -> list[str]:
    """What the two axes are called within a sentence."""
    labels = [str(label) for label in surface.attrs.get("labels", ())]
    return labels if len(labels) == 2 and all(0 < len(label) <= 24 for label in labels) else ["alpha", "beta"]


def said_of_stretch(surface: Surface, stretch: float) -> str:
    """Which axis is stretched against the other, and by how much; "" where both have the same scale."""
    if not 0 < stretch < np.inf or abs(stretch - 1) < 0.01:
        return ""
    names = short_names(surface)
    axis, factor = (1, stretch) if stretch > 1 else (0, 1 / stretch)
    return f"{names[axis]} stretched {text_of(factor)}× against {names[1 - axis]}"


def in_doubt(surface: Surface) -> list[str]:
    """What the run cannot vouch for, one short text each."""
    return [f"in doubt: {doubt[:1].lower()}{doubt[1:]}".partition(". ")[0].rstrip(".") for doubt in surface.doubts]


def axis_labels(surface: Surface) -> list[str]:
    """The two axis labels, with the share of the path's variance where it is known."""
    labels = [str(label) for label in surface.attrs.get("labels", ("alpha", "beta"))]
    shares = surface.explained_variance_ratio
    return [
        f"{label} ({percent(float(share))} of the variance)" if np.isfinite(share) and "%" not in label else label
        for label, share in zip(labels, shares, strict=False)
    ] + labels[len(shares) :]
