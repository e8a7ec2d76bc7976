"""Schema: the on-disk format as one table, from which every array of a run is created and documented.

A run is a Zarr v3 group (https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html). The table lists
each array: path inside the run, dimensions, data type, units, fill value and meaning. `create` makes an
array as the table says. `table_markdown` prints the table for docs/format.md, and a test compares the two.
`*` in a path stands for a name chosen by the user (a surface) or a running number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import zarr
    from numpy.typing import DTypeLike


FORMAT = 2
"""Version of the on-disk format written here. A reader takes every version up to its own."""


@dataclass(frozen=True)
class Field:
    """One array of a run."""

    path: str
    dims: tuple[str, ...]
    dtype: str
    units: str
    fill: float | int | bool
    meaning: str
    bits: bool = False
    """Whether it may hold the bits of bfloat16 numbers as uint16, with the attribute `torch_dtype`."""


SMALL = 1024
"""Numbers in a chunk below which an array is not compressed: its file takes a block or two of the disk either way."""

NAN = float("nan")
NAN_BITS = 0x7FC0
"""A NaN of bfloat16, as its bits."""

TABLE: tuple[Field, ...] = (
    # -- trajectory: one row a snapshot; rows are valid only as the commit record says ------------------
    Field(
        "trajectory/weights",
        ("row", "parameter"),
        "float32",
        "weight",
        NAN,
        "the flattened parameters, in the order of the manifest `layout` (float64 where the model has "
        "float64 parameters; float16, or bfloat16 as its bits in uint16, where all of them are)",
        bits=True,
    ),
    Field(
        "trajectory/buffers",
        ("row", "buffer"),
        "float32",
        "buffer",
        NAN,
        "the flattened floating-point buffers (running statistics and others) that are not stored once, in the order "
        "of `buffer_layout`",
    ),
    Field(
        "trajectory/step",
        ("row",),
        "int64",
        "optimizer step",
        -1,
        "optimizer steps taken when the snapshot was made; 0 is before any step",
    ),
    Field("trajectory/epoch", ("row",), "float64", "epoch", NAN, "epoch as logged by the training loop"),
    Field("trajectory/loss", ("row",), "float64", "loss", NAN, "training loss as logged by the training loop"),
    Field(
        "trajectory/learning_rate",
        ("row", "group"),
        "float64",
        "1",
        NAN,
        "learning rate of each parameter group, as used for this step",
    ),
    Field(
        "trajectory/momentum",
        ("row", "group"),
        "float64",
        "1",
        NAN,
        "momentum of each parameter group, as used for this step (beta 1 of Adam's kind; NaN without any)",
    ),
    Field(
        "trajectory/wall_time", ("row",), "float64", "s", NAN, "seconds since 1970-01-01 UTC when the snapshot was made"
    ),
    Field(
        "trajectory/checksum",
        ("row",),
        "uint32",
        "-",
        0,
        "CRC-32 of the step (as int64), the row of weights and the row of buffers; only where it was asked for",
    ),
    Field(
        "trajectory/late/*/weights",
        ("row", "parameter"),
        "float32",
        "weight",
        NAN,
        "parameters that began to move later, in the order of the manifest `layout` of their group; a row counts from "
        "the step `from_step` on",
        bits=True,
    ),
    Field(
        "trajectory/late/*/buffers",
        ("row", "buffer"),
        "float32",
        "buffer",
        NAN,
        "buffers that began to move later, likewise (float64 where any of them has 64-bit reals)",
    ),
    Field(
        "fixed/*",
        ("number",),
        "as recorded",
        "weight",
        0,
        "one parameter or buffer that did not move when recording began, in C order and in its own type (its bits, "
        "with `torch_dtype`, where Zarr lacks the type)",
    ),
    # -- marks: named snapshots beside the path --------------------------------------------------------
    Field(
        "marks/*/weights",
        ("parameter",),
        "float32",
        "weight",
        NAN,
        "the flattened parameters of a named snapshot (data type as `trajectory/weights`)",
        bits=True,
    ),
    Field("marks/*/buffers", ("buffer",), "float32", "buffer", NAN, "and its flattened floating-point buffers"),
    # -- objective: the loss and its probe data --------------------------------------------------------
    Field(
        "objective/data/*",
        ("sample", "..."),
        "as recorded",
        "input",
        0,
        "one tensor of the probe batch, samples along the first dimension",
    ),
    Field(
        "objective/graphs/*",
        ("byte",),
        "uint8",
        "UTF-8",
        0,
        "a loss graph as JSON: a list of ATen operations (no code, no pickle)",
    ),
    Field("objective/constants/*", ("...",), "as recorded", "-", 0, "a constant tensor of the loss graphs"),
    # -- what an analysis keeps ------------------------------------------------------------------------
    Field(
        "gram/matrix",
        ("snapshot", "snapshot_"),
        "float64",
        "weight²",
        NAN,
        "inner products of the snapshots' displacements from the first one (valid once the group is `complete`)",
    ),
    Field("gram/step", ("snapshot",), "int64", "optimizer step", -1, "the snapshots of the rows: their steps"),
    Field("gram/wall_time", ("snapshot",), "float64", "s", NAN, "and their times, which together identify them"),
    # -- curvature along the path ----------------------------------------------------------------------
    Field("curvature/*/step", ("snapshot",), "int64", "optimizer step", -1, "the snapshots: their steps"),
    Field(
        "curvature/*/evaluated",
        ("snapshot",),
        "bool",
        "-",
        False,
        "True where the numbers below were computed; of a snapshot that is not finite they stay NaN",
    ),
    Field(
        "curvature/*/eigenvalues",
        ("snapshot", "eigenvalue"),
        "float64",
        "loss/weight²",
        NAN,
        "the largest eigenvalues of the Hessian of the probe loss, descending; NaN where one did not converge",
    ),
    Field(
        "curvature/*/residuals",
        ("snapshot", "eigenvalue"),
        "float64",
        "loss/weight²",
        NAN,
        "norm of Hv - λv of each: there is an eigenvalue within this distance",
    ),
    *(
        Field(f"curvature/*/{name}", ("snapshot",), "float64", units, NAN, meaning)
        for name, units, meaning in (
            ("epoch", "epoch", "epoch as logged"),
            ("loss", "loss", "the probe loss at the snapshot"),
            ("loss_stderr", "loss", "standard error of `loss`"),
            ("trace", "loss/weight²", "the trace of the Hessian, estimated"),
            ("trace_stderr", "loss/weight²", "standard error of `trace`"),
            ("step_curvature", "loss/weight²", "d'Hd / d'd along the displacement d to the next snapshot of the run"),
            ("gradient_curvature", "loss/weight²", "g'Hg / g'g along the gradient g of the probe loss"),
            ("gradient_norm", "loss/weight", "norm of that gradient"),
            ("critical_step", "1", "2/η of the smallest η at which the loss rises along the recorded step / its rate"),
            ("critical_step_error", "1", "half the interval in which it was found"),
            ("critical_gradient", "1", "2/η of the smallest η at which the loss rises along the negative gradient"),
            ("critical_gradient_error", "1", "half the interval in which it was found"),
            ("learning_rate", "1", "learning rate of the step away from the snapshot, where all groups have the same"),
            (
                "threshold",
                "loss/weight²",
                "curvature above which that step is unstable on a quadratic; NaN without any",
            ),
        )
    ),
    # -- surfaces --------------------------------------------------------------------------------------
    Field(
        "surfaces/*/alpha",
        ("alpha",),
        "float64",
        "displacement along direction 0",
        NAN,
        "first coordinate of the grid rows: the displacement really applied, in multiples of direction 0",
    ),
    Field(
        "surfaces/*/beta",
        ("beta",),
        "float64",
        "displacement along direction 1",
        NAN,
        "second coordinate of the grid columns, in multiples of direction 1",
    ),
    Field(
        "surfaces/*/loss",
        ("alpha", "beta"),
        "float64",
        "loss",
        NAN,
        "loss[i, j] = L(origin + alpha[i]·direction 0 + beta[j]·direction 1); NaN and inf are data",
    ),
    Field(
        "surfaces/*/loss_stderr",
        ("alpha", "beta"),
        "float64",
        "loss",
        NAN,
        "standard error of that mean over the probe samples",
    ),
    Field(
        "surfaces/*/evaluated",
        ("alpha", "beta"),
        "bool",
        "-",
        False,
        "True where the loss was computed; False is 'not computed', whatever `loss` holds there",
    ),
    Field(
        "surfaces/*/interpolated",
        ("alpha", "beta"),
        "bool",
        "-",
        False,
        "True where the loss was interpolated between computed points",
    ),
    Field(
        "surfaces/*/interpolation_error",
        ("alpha", "beta"),
        "float64",
        "1",
        NAN,
        "estimated relative error of an interpolated loss",
    ),
    Field(
        "surfaces/*/metrics/*",
        ("alpha", "beta"),
        "float64",
        "as the metric",
        NAN,
        "another function of the weights at the evaluated points: `accuracy`, or a user's own",
    ),
    Field(
        "surfaces/*/origin",
        ("parameter",),
        "float32",
        "weight",
        NAN,
        "the weights at alpha = beta = 0 (data type as `trajectory/weights`, at least float32)",
    ),
    Field("surfaces/*/origin_buffers", ("buffer",), "float32", "buffer", NAN, "the buffers at alpha = beta = 0"),
    Field(
        "surfaces/*/directions",
        ("direction", "parameter"),
        "float32",
        "weight",
        NAN,
        "the two directions of the plane (data type as `origin`)",
    ),
    Field(
        "surfaces/*/explained_variance_ratio",
        ("direction",),
        "float64",
        "1",
        NAN,
        "share of the trajectory's variance along each direction of the plane",
    ),
    Field(
        "surfaces/*/spectrum",
        ("component",),
        "float64",
        "1",
        NAN,
        "share of the variance of every principal component of the trajectory, largest first",
    ),
    Field(
        "surfaces/*/paths/*/coordinates",
        ("snapshot", "direction"),
        "float64",
        "displacement",
        NAN,
        "the snapshots projected onto the plane by least squares: (alpha, beta)",
    ),
    Field("surfaces/*/paths/*/step", ("snapshot",), "int64", "optimizer step", -1, "optimizer step"),
    Field("surfaces/*/paths/*/epoch", ("snapshot",), "float64", "epoch", NAN, "epoch as logged"),
    Field(
        "surfaces/*/paths/*/learning_rate",
        ("snapshot",),
        "float64",
        "1",
        NAN,
        "learning rate of the first parameter group",
    ),
    Field(
        "surfaces/*/paths/*/loss",
        ("snapshot",),
        "float64",
        "loss",
        NAN,
        "the probe loss at the snapshot itself, under the surface's BatchNorm policy",
    ),
    Field(
        "surfaces/*/paths/*/plane_loss",
        ("snapshot",),
        "float64",
        "loss",
        NAN,
        "the probe loss at the snapshot's projection onto the plane",
    ),
    Field("surfaces/*/paths/*/loss_stderr", ("snapshot",), "float64", "loss", NAN, "standard error of `loss`"),
    Field(
        "surfaces/*/paths/*/evaluated",
        ("snapshot",),
        "bool",
        "-",
        False,
        "True where `loss` and `plane_loss` were computed; without this array they all were",
    ),
    Field(
        "surfaces/*/paths/*/distance",
        ("snapshot",),
        "float64",
        "weight",
        NAN,
        "Euclidean distance of the snapshot from the plane, in weight space",
    ),
    Field(
        "surfaces/*/marks/*/*/coordinates",
        ("direction",),
        "float64",
        "displacement",
        NAN,
        "a mark projected onto the plane by least squares: (alpha, beta); NaN where its weights are not finite",
    ),
)


@lru_cache(maxsize=1024)
def field(path: str) -> Field:
    """The row of the table that describes the array at `path` (the closest match; KeyError where there is none)."""
    matches = [row for row in TABLE if fnmatchcase(path, row.path)]
    if not matches:
        raise KeyError(path)
    return max(matches, key=lambda row: len(row.path))


def create(
    root: zarr.Group,
    path: str,
    shape: tuple[int, ...],
    *,
    dtype: DTypeLike | None = None,
    attributes: Mapping[str, Any] | None = None,
    at: str | None = None,
    **storage: Any,
) -> zarr.Array[Any]:
    """Create the array `path` below the group `root` as the table says.

    `dtype` overrides the table's only where the table allows more than one; `at` is another place to create it at;
    `storage` is passed on to `zarr.Group.create_array` (chunks, shards, compressors, config, overwrite).
    """
    row = field(path)
    dims = row.dims if "..." not in row.dims else (None,) * len(shape)
    if len(dims) != len(shape):
        raise ValueError(f"{path} has dimensions {row.dims}, not {len(shape)} of them")
    if prod(storage.get("chunks", shape)) < SMALL:
        storage.setdefault("compressors", None)
    return root.create_array(
        at or path,
        shape=shape,
        dtype=row.dtype if dtype is None else dtype,
        fill_value=NAN_BITS if row.bits and str(dtype) == "uint16" else row.fill,
        dimension_names=dims,
        attributes={"units": row.units, "meaning": row.meaning, **(attributes or {})},
        **storage,
    )


def table_markdown() -> str:
    """The table as Markdown, one row an array (what docs/format.md shows)."""
    lines = ["| array | dimensions | data type | units | fill | meaning |", "|---|---|---|---|---|---|"]
    lines += [f"| `{r.path}` | {', '.join(r.dims)} | {r.dtype} | {r.units} | {r.fill} | {r.meaning} |" for r in TABLE]
    return "\n".join(lines) + "\n"
