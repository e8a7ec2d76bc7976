"""The table of the format is what the code creates and what the documentation shows."""

import numpy as np
import pytest
import zarr

from landscape_hooks.store import schema


def test_create_follows_the_table():
    root = zarr.group(zarr.storage.MemoryStore())
    loss = schema.create(root, "surfaces/first/loss", (3, 4), chunks=(3, 4))
    assert loss.metadata.dimension_names == ("alpha", "beta")
    assert loss.dtype == np.float64
    assert np.isnan(loss[...]).all()
    assert loss.attrs["units"] == "loss"


def test_paths_have_one_row_each():
    paths = [row.path for row in schema.TABLE]
    assert len(paths) == len(set(paths))


def test_the_closest_row_describes_an_array():
    assert schema.field("surfaces/first/loss").dims == ("alpha", "beta")
    assert schema.field("surfaces/first/paths/0/loss").dims == ("snapshot",)


def test_unknown_array_and_wrong_rank_are_refused():
    root = zarr.group(zarr.storage.MemoryStore())
    with pytest.raises(KeyError):
        schema.create(root, "surfaces/first/lost", (3, 4))
    with pytest.raises(ValueError, match="dimensions"):
        schema.create(root, "surfaces/first/loss", (3,))
