"""Table: named arrays as xarray and pandas have them, two libraries of the extra `data` that are imported on use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from landscape_hooks.errors import SurfaceError

if TYPE_CHECKING:
    import pandas
    import xarray

UNITS = {"filter": "filter-normalised displacement of the weights"}
"""Units of the axes by how directions are normalised; else displacements of the weights."""

SAID = {
    "loss": "loss on the probe samples",
    "loss_stderr": "standard error of the loss",
    "evaluated": "whether the loss was computed",
    "interpolated": "whether the loss was interpolated",
    "interpolation_error": "estimated relative error of an interpolated loss",
}
"""What the arrays of a grid are."""


def dataset(
    axes: Mapping[str, NDArray[Any]], arrays: Mapping[str, NDArray[Any]], attrs: Mapping[str, Any]
) -> xarray.Dataset:
    """Arrays over the axes, in their order, as a dataset; `attrs` are those of a surface."""
    labels = [str(label) for label in attrs.get("labels", axes)]
    unit = UNITS.get(str(attrs.get("normalization")), "displacement of the weights")
    coordinates = {
        name: (name, values, {"long_name": label, "units": unit})
        for (name, values), label in zip(axes.items(), labels, strict=True)
    }
    variables = {name: (tuple(axes), values, {"long_name": SAID.get(name, name)}) for name, values in arrays.items()}
    return _needed("xarray").Dataset(variables, coords=coordinates, attrs=dict(attrs))


def frame(columns: Mapping[str, NDArray[Any]]) -> pandas.DataFrame:
    """Columns of equal length as a table."""
    return _needed("pandas").DataFrame(dict(columns))


def _needed(module: str) -> Any:
    """A library of the extra `data`.

    Raises
    ------
    SurfaceError
        it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise SurfaceError(
            f"{module} is not installed", mend='Install it: pip install "landscape-hooks[data]"'
        ) from error
