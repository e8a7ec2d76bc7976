"""Files written straight from memory are byte for byte what zarr itself writes, and read back through it."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape_hooks.store.folder import put_files
from landscape_hooks.store.rowfiles import RowFiles, read_rows


def make(where, rows=6, numbers=10, chunk=5, per_file=1, dtype="float32", **options):
    root = zarr.create_group(str(where), zarr_format=3)
    pieces = -(-numbers // chunk)
    return root.create_array(
        "weights",
        shape=(rows, numbers),
        chunks=(1, chunk),
        shards=(per_file, pieces * chunk),
        dtype=dtype,
        fill_value=np.nan,
        compressors=None,
        config={"write_empty_chunks": True},
        **options,
    )


def content(where):
    return {str(p.relative_to(where)): p.read_bytes() for p in Path(where, "weights", "c").rglob("*") if p.is_file()}


def values(places, numbers, dtype="float32"):
    return (np.asarray(places)[:, None] * 100 + np.arange(numbers)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("numbers", "chunk", "per_file"), [(10, 5, 1), (11, 4, 1), (7, 7, 1), (7, 7, 3)])
def test_files_are_byte_for_byte_those_of_zarr(tmp_path, dtype, numbers, chunk, per_file):
    theirs = make(tmp_path / "theirs", numbers=numbers, chunk=chunk, per_file=per_file, dtype=dtype)
    ours = make(tmp_path / "ours", numbers=numbers, chunk=chunk, per_file=per_file, dtype=dtype)
    places = [0, 1, 2, 3, 4] if per_file > 1 else [0, 3, 4]
    matrix = values(places, numbers, dtype)
    if per_file > 1:
        theirs[:3], theirs[3:5] = matrix[:3], matrix[3:]
    else:
        for place, row in zip(places, matrix, strict=True):
            theirs[place] = row
    files = RowFiles(ours)
    for part in (slice(0, 1), slice(1, None)):
        put_files(ours.store, files.put(places[part], matrix[part]))
    assert content(tmp_path / "ours") == content(tmp_path / "theirs")
    np.testing.assert_array_equal(ours.oindex[places], matrix)


def test_staging_memory_is_the_file(tmp_path):
    array = make(tmp_path, numbers=11, chunk=4)
    files = RowFiles(array)
    memory, rows = files.staging(3)
    assert np.shares_memory(memory, rows)
    rows[...] = values([0, 1, 2], 11)
    puts = files.put([4, 0, 2], rows, memory)
    assert all(np.shares_memory(memory, put.data) for put in puts)
    put_files(array.store, puts)
    np.testing.assert_array_equal(array.oindex[[4, 0, 2]], values([0, 1, 2], 11))
    assert np.isnan(array[1]).all()


@settings(max_examples=25, deadline=None)
@given(batches=st.lists(st.integers(1, 9), max_size=8), per_file=st.integers(1, 5), reopen=st.integers(0, 8))
def test_any_batches_across_files_read_back(batches, per_file, reopen):
    root = zarr.group(zarr.storage.MemoryStore())
    array = root.create_array(
        "weights", shape=(80, 6), chunks=(1, 6), shards=(per_file, 6) if per_file > 1 else None, dtype="f4",
        fill_value=np.nan, compressors=None,
    )  # fmt: skip
    files, done = RowFiles(array), 0
    for i, count in enumerate(batches):
        if i == reopen:
            files = RowFiles(array, list(range(done)))
        places = list(range(done, done + count))
        put_files(array.store, files.put(places, values(places, 6)))
        done += count
    np.testing.assert_array_equal(array[:done], values(range(done), 6))
    assert np.isnan(array[done:]).all()


def test_a_reopened_file_forgets_what_was_not_committed():
    root = zarr.group(zarr.storage.MemoryStore())
    array = root.create_array(
        "weights", shape=(8, 2), chunks=(1, 2), shards=(8, 2), dtype="f4", fill_value=np.nan, compressors=None
    )
    put_files(array.store, RowFiles(array).put([0, 1, 2, 3], values(range(4), 2)))
    again = RowFiles(array, [0, 1])
    put_files(array.store, again.put([2], values([7], 2)))
    np.testing.assert_array_equal(array[:3], values([0, 1, 7], 2))
    assert np.isnan(array[3:]).all()


def test_compressed_arrays_go_through_zarr(tmp_path):
    root = zarr.create_group(str(tmp_path), zarr_format=3)
    array = root.create_array(
        "weights", shape=(3, 1000), chunks=(1, 1000), dtype="f4", compressors=zarr.codecs.BloscCodec(cname="lz4")
    )
    files = RowFiles(array)
    assert not files.direct
    assert files.put([1], np.ones((1, 1000), "f4")) == []
    assert array[1].tolist() == [1.0] * 1000


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_part_of_rows_is_read_from_the_files_as_zarr_reads_it(tmp_path_factory, data):
    numbers, per_file = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 4))
    chunk = numbers if per_file > 1 else data.draw(st.integers(1, numbers))
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64"]))
    array = make(tmp_path_factory.mktemp("rows"), numbers=numbers, chunk=chunk, per_file=per_file, dtype=dtype)
    put_files(array.store, RowFiles(array).put(range(5), values(range(5), numbers, dtype)))
    places = np.array(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=6)))
    start = data.draw(st.integers(0, numbers - 1))
    stop = data.draw(st.integers(start, numbers))
    found = read_rows(array, places, start, stop)
    assert found is not None
    np.testing.assert_array_equal(found, array[:][places, start:stop])


def test_what_is_not_as_it_should_be_is_left_to_zarr(tmp_path):
    array = make(tmp_path, numbers=11, chunk=4)
    put_files(array.store, RowFiles(array).put([0, 1, 2], values([0, 1, 2], 11)))
    one, absent = np.array([1]), np.array([5])
    np.testing.assert_array_equal(read_rows(array, one, 3, 9), values([1], 11)[:, 3:9])
    assert read_rows(array, absent, 0, 11) is None  # zarr's answer is the fill value
    file = Path(tmp_path, "weights", "c", "1", "0")
    whole = file.read_bytes()
    for broken in (whole[:20], whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], b""):
        file.write_bytes(broken)
        assert read_rows(array, one, 0, 11) is None
    memory = zarr.group(zarr.storage.MemoryStore()).create_array("w", shape=(2, 3), chunks=(1, 3), dtype="f4")
    assert read_rows(memory, np.array([0]), 0, 3) is None

    swapped = zarr.create_group(str(tmp_path / "big"), zarr_format=3).create_array(
        "weights",
        shape=(2, 3),
        chunks=(1, 3),
        dtype="f4",
        compressors=None,
        serializer=zarr.codecs.BytesCodec(endian="big"),
    )
    swapped[...] = 1.5
    assert read_rows(swapped, np.array([0]), 0, 3) is None

    class Watching(zarr.storage.LocalStore):
        """A store that has a reason to see every reading."""

    watched = zarr.open_group(Watching(tmp_path), mode="r")["weights"]
    assert read_rows(watched, np.array([0]), 0, 11) is None


@pytest.mark.parametrize("shape", [(8,), (8, 2)])
def test_rows_written_where_they_lie_leave_the_file_that_zarr_would_write(tmp_path, shape):
    arrays = []
    for name in ("ours", "theirs"):
        root = zarr.create_group(str(tmp_path / name), zarr_format=3)
        arrays.append(
            root.create_array("weights", shape=shape, chunks=shape, dtype="f8", fill_value=-1, compressors=None)
        )
    ours, theirs = arrays
    files = RowFiles(ours)
    file = next((tmp_path / "ours/weights").glob("zarr.json")).parent / "c" / "/".join("0" * len(shape))
    inodes = set()
    for number, places in enumerate([[0, 1], [2], [5, 7], [3, 4]]):
        rows = np.full((len(places), *shape[1:]), number + 0.5)
        put_files(ours.store, files.put(places, rows))
        inodes.add(file.stat().st_ino)
        for place, row in zip(places, rows, strict=True):
            theirs[place] = row
        assert content(tmp_path / "ours") == content(tmp_path / "theirs")
    assert len(inodes) == 1
    put_files(ours.store, files.put([1], np.full((1, *shape[1:]), 9.0), counted=True))
    assert file.stat().st_ino not in inodes  # a committed row is seen whole: the old file or the new one
    theirs[1] = 9.0
    file.write_bytes(b"short")  # what has another length is not written into
    put_files(ours.store, files.put([6], np.full((1, *shape[1:]), 6.0)))
    theirs[6] = 6.0
    assert content(tmp_path / "ours") == content(tmp_path / "theirs")
