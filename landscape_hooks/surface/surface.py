"""Surface: the loss on a grid over a plane, with the optimizer's path on it. Read from and written into a run.

In: the arrays of `surfaces/NAME` of a run (schema.py). Out: numpy arrays for the figure, the mesh and the
viewer. Imports no torch: looking at a picture needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import DamagedRunError, SurfaceError, printable
from landscape_hooks.store import checked
from landscape_hooks.store.run import RunLike, open_run
from landscape_hooks.surface.definition import Definition
from landscape_hooks.surface.lattice import finest_whole
from landscape_hooks.surface.marks import MarkedPoint, columns_of, read_points
from landscape_hooks.surface.table import dataset, frame
from landscape_hooks.trajectory.doubts import read_doubts

if TYPE_CHECKING:
    import pandas
    import xarray

    from landscape_hooks.viewer.replay.look import Look
    from landscape_hooks.viewer.web.notebook import Cell

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """The path of one run on the plane of a surface; every array has one entry for each snapshot (T,).

    Attributes
    ----------
    coordinates
        (T, 2) alpha and beta of each snapshot's projection.
    step, epoch, learning_rate
        as recorded (epoch and learning_rate are NaN where unknown).
    loss, loss_stderr
        probe loss at the snapshot itself, and its standard error.
    plane_loss
        probe loss at the projection, which is the loss of the surface there.
    distance
        Euclidean distance in weight space between snapshot and projection.
    label
        name of the run in a legend.
    evaluated
        (T,) True where both losses were computed; None means all of them.
    """

    coordinates: Floats
    step: NDArray[np.int64]
    loss: Floats
    plane_loss: Floats
    distance: Floats
    epoch: Floats
    learning_rate: Floats
    loss_stderr: Floats
    label: str = ""
    evaluated: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.step)

    def at(self, rows: NDArray[Any]) -> Path:
        """The path of the snapshots `rows` (indices or a mask) alone."""
        return Path(**{key: getattr(self, key)[rows] for key in self.ARRAYS}, label=self.label)

    ARRAYS = ("coordinates", "step", "loss", "plane_loss", "distance", "epoch", "learning_rate", "loss_stderr")


@dataclass(frozen=True)
class Surface:
    """The loss over a plane (A rows along alpha, B columns along beta) and the paths on it.

    `loss[i, j] = L(origin + alpha[i]·direction 0 + beta[j]·direction 1)`. A point that is not `present`
    has not been computed yet. NaN and inf at a present point are the loss there.
    """

    alpha: Floats
    beta: Floats
    loss: Floats
    loss_stderr: Floats
    evaluated: NDArray[np.bool_]
    explained_variance_ratio: Floats
    paths: tuple[Path, ...]
    attrs: Mapping[str, Any]
    name: str = ""
    interpolated: NDArray[np.bool_] | None = None
    interpolation_error: Floats | None = None
    spectrum: Floats = field(default_factory=lambda: np.empty(0))
    metrics: Mapping[str, Floats] = field(default_factory=dict)
    marks: tuple[MarkedPoint, ...] = ()

    @classmethod
    def open(cls, store_or_path: RunLike, name: str | None = None) -> Surface:
        """Read the surface `name` of a run; None is the latest.

        Raises
        ------
        RunError
            the store is not a run.
        SurfaceError
            the run has no surface, or none of that name.
        """
        root = open_run(store_or_path)
        name = resolve_name(root, name)
        try:
            return cls._read(root, name)
        except DamagedRunError as error:
            group = checked.group(root, f"surfaces/{name}")
            missing = [key for key in REQUIRED if group is None or not checked.has(group, key)]
            if not missing:
                raise
            raise SurfaceError(
                f"The surface '{name}' is incomplete (it lacks {', '.join(missing)})",
                expected="all arrays of a surface",
                mend="If an analysis is writing it, wait. Else compute it again: landscape-hooks analyze RUN --fresh",
            ) from error

    @classmethod
    def _read(cls, root: zarr.Group, name: str) -> Surface:
        group = checked.group(root, f"surfaces/{name}")
        if group is None:
            raise checked.damaged(f"The surface '{name}' is not there any more")
        attrs = check_attributes(dict(group.attrs))
        if doubts := [*(doubt.said for doubt in read_doubts(root)), *attrs.get("doubts", ())]:
            attrs["doubts"] = list(dict.fromkeys(doubts))
        sizes = checked.Sizes(direction=2)
        read = partial(_read, group, sizes)
        count = checked.whole(attrs.get("path_count", 0), "The number of paths")
        return cls(
            **{key: read(key) for key in OPTIONAL if checked.has(group, key)},
            **{key: read(key) for key in REQUIRED},
            metrics={key: read(f"metrics/{key}") for key in checked.names_of(group, "metrics", arrays=True)},
            paths=tuple(_read_path(group, number) for number in range(count)),
            marks=read_points(group, count),
            attrs=attrs,
            name=name,
        )

    # -- the first run's path, under the names of the public contract ---------------------------------
    @property
    def path(self) -> Floats:
        """(T, 2) alpha and beta of the first run's snapshots."""
        return self._first.coordinates

    @property
    def path_loss(self) -> Floats:
        """(T,) loss at each snapshot itself."""
        return self._first.loss

    @property
    def path_plane_loss(self) -> Floats:
        """(T,) loss at each snapshot's projection onto the plane."""
        return self._first.plane_loss

    @property
    def path_distance(self) -> Floats:
        """(T,) distance of each snapshot from the plane, in weight space."""
        return self._first.distance

    @property
    def steps(self) -> NDArray[np.int64]:
        """(T,) optimizer step of each snapshot."""
        return self._first.step

    @cached_property
    def definition(self) -> Definition:
        """What the surface is defined by, as its attributes say."""
        return Definition.of(self.attrs)

    @property
    def shape(self) -> tuple[int, int]:
        """(A, B)."""
        return len(self.alpha), len(self.beta)

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """(A, B) True where `loss` holds a value, evaluated or interpolated."""
        return self.evaluated if self.interpolated is None else self.evaluated | self.interpolated

    @property
    def complete(self) -> bool:
        """Whether every grid point holds a value."""
        return bool(self.present.all())

    # -- as tables --------------------------------------------------------------------------------------
    def grids(self) -> dict[str, NDArray[Any]]:
        """The arrays (A, B) by name: `loss` (NaN where it is not computed), `loss_stderr`, `evaluated`, the metrics."""
        fields = {key: getattr(self, key) for key in GRIDS}
        fields["loss"] = np.where(self.present, self.loss, np.nan)
        return {**self.metrics, **{key: values for key, values in fields.items() if values is not None}}

    def path_columns(self) -> dict[str, NDArray[Any]]:
        """Columns (T,) of the snapshots, path after path; `run` counts the paths, `snapshot` within one."""
        found: dict[str, list[NDArray[Any]]] = {}
        for number, path in enumerate(self.paths):
            columns = {
                "run": np.full(len(path), number),
                "label": np.full(len(path), path.label, dtype=object),
                "snapshot": np.arange(len(path)),
                "alpha": path.coordinates[:, 0],
                "beta": path.coordinates[:, 1],
                **{name: getattr(path, name) for name in path.ARRAYS if name != "coordinates"},
            }
            for name, values in columns.items():
                found.setdefault(name, []).append(values)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def mark_columns(self) -> dict[str, NDArray[Any]]:
        """Columns (M,) of the marks, run after run; `run` counts the paths."""
        return columns_of(self.marks, [path.label for path in self.paths])

    def to_xarray(self) -> xarray.Dataset:
        """The arrays of `grids` as a dataset with the dimensions alpha (A) and beta (B).

        The axes have their names and units, the dataset has the surface's attributes. It needs the extra `data`.

        Raises
        ------
        SurfaceError
            xarray is not installed.
        """
        axes = {"alpha": self.alpha, "beta": self.beta}
        return dataset(axes, self.grids(), {"name": self.name, **self.attrs})

    def path_to_pandas(self) -> pandas.DataFrame:
        """The columns of `path_columns` as a table, a row a snapshot. It needs the extra `data`.

        Raises
        ------
        SurfaceError
            pandas is not installed.
        """
        return frame(self.path_columns())

    def so_far(self) -> Surface:
        """Of a surface that is being computed, what makes a picture: itself if it is complete.

        The grid is the finest lattice (lattice.py) that is computed as a whole, if there is one; a path has the
        snapshots whose losses are computed. `attrs["so_far"]` says how much that is.
        """
        paths = tuple(path if path.evaluated is None else path.at(path.evaluated) for path in self.paths)
        shown, known = sum(map(len, paths)), sum(map(len, self.paths))
        if self.complete and shown == known:
            return self
        found = None if self.complete else finest_whole(self.present)
        rows, columns = found or tuple(np.arange(n) for n in self.shape)
        said = []
        if not self.complete:
            have = f"{len(rows)} × {len(columns)}" if found else str(self.present.sum())
            said.append(f"{have} of {self.shape[0]} × {self.shape[1]} points")
        said += [f"{shown} of {known} snapshots"] if shown < known else []
        here = np.ix_(rows, columns)
        grids = {key: getattr(self, key) for key in GRIDS}
        return replace(
            self,
            alpha=self.alpha[rows],
            beta=self.beta[columns],
            paths=paths,
            attrs={**self.attrs, "so_far": ", ".join(said)},
            metrics={key: values[here] for key, values in self.metrics.items()},
            **{key: values[here] for key, values in grids.items() if values is not None},
        )

    def said_at(self, alpha: float, beta: float) -> str:
        """Whether the grid point nearest to (alpha, beta) was evaluated or interpolated, and its error, as text."""
        i, j = int(np.abs(self.alpha - alpha).argmin()), int(np.abs(self.beta - beta).argmin())
        if self.evaluated[i, j]:
            error = float(self.loss_stderr[i, j])
            return f"evaluated, ± {error:.2g}" if np.isfinite(error) else "evaluated"
        if self.interpolated is None or not self.interpolated[i, j]:
            return "not computed"
        error = np.nan if self.interpolation_error is None else float(self.interpolation_error[i, j])
        return f"interpolated, error about {100 * error:.1g} %" if np.isfinite(error) else "interpolated"

    @property
    def moving_buffers(self) -> list[str]:
        """Names of the buffers that are no running statistics and change along the path: the plane has the origin's."""
        return list(self.attrs.get("moving_buffers", ()))

    @property
    def doubts(self) -> list[str]:
        """What the runs cannot vouch for, in sentences: this run's as they are now, of others and
        of the mean over batches as when analyzed.
        """
        return list(self.attrs.get("doubts", ()))

    def said_of_interpolation(self) -> str:
        """The share of interpolated points and their estimated errors, as text; "" if there are none."""
        if self.interpolated is None or not self.interpolated.any():
            return ""
        said = f"{self.interpolated.mean():.1%} interpolated"
        error = np.empty(0) if self.interpolation_error is None else self.interpolation_error[self.interpolated]
        error = error[np.isfinite(error)]
        return (
            f"{said}, error about {100 * np.median(error):.1g} % (at most {100 * error.max():.1g} %)"
            if error.size
            else said
        )

    # -- in a notebook -------------------------------------------------------------------------------
    def show(self, *, height: int = 480, look: Look | None = None, theme: str = "system", view: str = "") -> Cell:
        """The replay for a cell of a notebook, `height` pixels high; options as in `write_html`."""
        from landscape_hooks.viewer.web.notebook import Cell

        return Cell(self, height, look, theme, view)

    def _repr_html_(self) -> str:
        """The replay in a frame: what Jupyter, VS Code and Colab show of a surface."""
        return self.show()._repr_html_()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str | bytes]:
        """The replay, and a picture for where scripts do not run."""
        return self.show()._repr_mimebundle_(include, exclude)

    @property
    def _first(self) -> Path:
        if not self.paths:
            raise SurfaceError(
                f"The surface '{self.name}' has no path",
                mend="Analyze a run with a trajectory, or draw the surface without its path",
            )
        return self.paths[0]


def _read(group: zarr.Group, sizes: checked.Sizes, key: str) -> NDArray[Any]:
    """An array of a surface, checked to have the dimensions of the arrays read before it."""
    values = checked.read(group, key)
    sizes.check(f"surfaces/*/{key}", values.shape)
    return values


def _read_path(group: zarr.Group, number: int) -> Path:
    """A path of a surface; all of its arrays have one entry for each snapshot."""
    base = f"paths/{number}"
    read = partial(_read, group, checked.Sizes(direction=2))
    found = checked.group(group, base)
    if found is None:
        raise checked.damaged(f"The surface counts path {number}, which is not there")
    evaluated = read(f"{base}/evaluated") if checked.has(group, f"{base}/evaluated") else None
    return Path(**{key: read(f"{base}/{key}") for key in Path.ARRAYS},
                label=printable(found.attrs.get("label", "")), evaluated=evaluated)  # fmt: skip


GRIDS = ("loss", "loss_stderr", "evaluated", "interpolated", "interpolation_error")
"""The fields that are of the grid's shape (A, B)."""

OPTIONAL = ("interpolated", "interpolation_error", "spectrum")
REQUIRED = ("alpha", "beta", "evaluated", "loss", "loss_stderr", "explained_variance_ratio")
"""Arrays that every surface has. The optional ones are read before them. A mask is written after the losses that it
counts, and read before them, so a reader finds every loss that the mask counts while an analysis is writing."""

TEXTS = (
    "directions",
    "normalization",
    "centring",
    "batch_norm",
    "data_digest",
    "trajectory_digest",
    "origin",
    "samples_said",
    "alignment",
)
LISTS = ("labels", "report", "moving_buffers", "doubts")


def check_attributes(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a surface, checked: those that are shown or compared have the format's types and are printable.

    Raises
    ------
    RunError
        one of them has another type.
    """
    attrs = dict(attrs)
    for key, value in attrs.items():
        texts = [value] if key in TEXTS else value if key in LISTS else []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            expected = "a text" if key in TEXTS else "a list of texts"
            raise checked.damaged(f"The attribute '{key}' of the surface is of another type", expected=expected)
        if texts:
            shown = [printable(text) for text in texts]
            attrs[key] = shown[0] if key in TEXTS else shown
    if len(attrs.get("labels", ("", ""))) != 2:
        raise checked.damaged("The surface does not have two labels", expected="one for each axis")
    Definition.of(attrs)
    return attrs


def names(root: zarr.Group) -> list[str]:
    """Sorted names of the surfaces of an opened run, without one that is being created or deleted."""
    return [name for name in checked.names_of(root, "surfaces") if _is_begun(root, name)]


def _is_begun(root: zarr.Group, name: str) -> bool:
    group = checked.group(root, f"surfaces/{name}")
    return group is not None and "path_count" in group.attrs


def resolve_name(root: zarr.Group, name: str | None) -> str:
    """`name`, if the run has that surface; None gives the name of the latest."""
    known = names(root)
    if not known:
        raise SurfaceError("The run has no surface yet", mend="Compute one: landscape-hooks analyze RUN")
    if name is None:
        latest = checked.group(root, "surfaces").attrs.get("latest")
        if isinstance(latest, str) and latest in known:
            return latest
        finished = [each for each in known if checked.group(root, f"surfaces/{each}").attrs.get("report")]
        return (finished or known)[-1]
    if name not in known:
        raise SurfaceError(
            f"The run has no surface named '{name}'",
            expected=f"one of: {', '.join(known)}",
            mend=f"Name one of these, or compute it: landscape-hooks analyze RUN --name {name}",
        )
    return name


def check_name(name: str) -> None:
    """Refuse a surface name other than letters, digits and . _ - that starts with a letter or digit."""
    if not checked.is_name(name):
        raise SurfaceError(
            f"Found the surface name '{name}'",
            expected="letters, digits, '.', '_' and '-'",
            mend="Choose another --name",
        )
