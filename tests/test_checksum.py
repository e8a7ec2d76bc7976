"""A checksum of every snapshot, on request: what was recorded verifies, whatever is damaged afterwards is named."""

import zlib

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Storage, Trajectory, record
from landscape_hooks.errors import RunError
from landscape_hooks.store.run import open_run


def train(path, first, last, size=300, model=None, storage=(), **options):
    torch.manual_seed(first)
    model = model or nn.Sequential(nn.Linear(size, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, optimizer, path, storage=Storage(checksum=True, **dict(storage)), **options) as recorder:
        for step in range(first + 1, last + 1):
            optimizer.zero_grad()
            model(torch.randn(6, size)).square().mean().backward()
            optimizer.step()
            if step % 5 == 0:
                recorder.flush()
    return model


def definition(snapshot, weights):
    """The checksum as docs/format.md defines it."""
    step = np.array([snapshot.step], "<i8").tobytes()
    return zlib.crc32(step + weights.tobytes() + snapshot.buffers.tobytes())


@pytest.mark.everyday(2)
@pytest.mark.parametrize(
    ("size", "options"),
    [
        (300, {"every": 1}),
        (300, {"keep": 5}),
        (300_000, {"every": 3, "storage": {"dtype": "float16"}}),
        (300, {"every": 1, "storage": {"dtype": "float64"}}),
        (300, {"keep": 6, "storage": {"compress": "lz4"}}),
    ],
)
def test_what_was_recorded_and_resumed_verifies(tmp_path, size, options):
    path = tmp_path / "run.zarr"
    model = train(path, 0, 13, size, **options)
    t = Trajectory.open(path)
    assert t.verify() == []
    train(path, 11, 17, size, model, if_exists="resume", step=11, **options)
    t = Trajectory.open(path)
    assert t.verify() == []
    stored = t.root["trajectory/checksum"][:]
    assert [definition(s, s.weights.astype(options.get("storage", {}).get("dtype", "float32"))) for s in t] == [
        int(stored[place]) for place in t._parts[0].commit.places
    ]


def test_one_flipped_bit_a_swapped_row_and_a_missing_file_are_named(tmp_path):
    path = tmp_path / "run.zarr"
    train(path, 0, 9, size=300_000, every=1)  # every row has a file of its own
    files = [path / f"trajectory/weights/c/{row}/0" for row in range(10)]
    content = bytearray(files[2].read_bytes())
    content[1000] ^= 16
    files[2].write_bytes(content)
    third, fourth = files[3].read_bytes(), files[4].read_bytes()
    files[3].write_bytes(fourth)
    files[4].write_bytes(third)
    files[6].unlink()
    files[7].write_bytes(files[7].read_bytes()[:-20])
    found = Trajectory.open(path).verify()
    assert [(damage.index, damage.step) for damage in found] == [(i, i) for i in (2, 3, 4, 6, 7)]
    assert all(damage.found != damage.expected and damage.rank is None for damage in found)
    assert found[-1].found is None
    assert "snapshot 7 (step 7): checksum not readable (" in str(found[-1])
    expected = int(Trajectory.open(path).root["trajectory/checksum"][2])
    assert str(found[0]).endswith(f"{found[0].found:08x}, expected {expected:08x}")


@pytest.mark.parametrize("options", [{"every": 1}, {"keep": 9}])
def test_damaged_buffers_are_found_in_files_of_many_rows(tmp_path, options):
    path = tmp_path / "run.zarr"
    train(path, 0, 9, **options)
    root = open_run(path, mode="r+")
    t = Trajectory.open(path)
    place = int(t._parts[0].commit.places[3])
    root["trajectory/buffers"][place, 1] += 1
    assert [damage.index for damage in t.verify()] == [3]


def test_a_run_without_checksums_says_so(tmp_path):
    path = tmp_path / "run.zarr"
    model = nn.Linear(3, 2)
    record(model, None, path).close()
    assert not Trajectory.open(path).has_checksums
    with pytest.raises(RunError, match=r"no checksums.*checksum=True"):
        Trajectory.open(path).verify()
    with pytest.raises(RunError, match=r"no checksums.*Leave checksum= out"):
        record(model, None, path, if_exists="resume", storage=Storage(checksum=True))
    record(model, None, path, if_exists="overwrite", storage=Storage(checksum=True)).close()
    assert Trajectory.open(path).has_checksums


def test_a_run_with_checksums_goes_on_with_them(tmp_path):
    path = tmp_path / "run.zarr"
    model = nn.Linear(3, 2)
    with record(model, None, path, storage=Storage(checksum=True), every=1) as recorder:
        recorder.step()
    with record(model, None, path, every=1, if_exists="resume") as recorder:
        recorder.step()
    assert Trajectory.open(path).steps.tolist() == [0, 1, 2]
    assert Trajectory.open(path).verify() == []
