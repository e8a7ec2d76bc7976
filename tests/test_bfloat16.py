"""Weights are stored in the type in which they were trained, and come back bit for bit."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Local, Storage, Trajectory, analyze, record
from landscape_hooks.errors import RunError
from landscape_hooks.store.run import open_run
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.rows import bits

ODD = torch.tensor(
    [0, 0x8000, 1, 0x8001, 0x7F, 0x80, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF, 0x3F80],
    dtype=torch.int32,
).to(torch.int16)
"""Bits of zeros, subnormals, the largest numbers, infinities and NaNs with other payloads."""


def patterns(size):
    return ODD.repeat(-(-size // len(ODD)))[:size].clone()


def model_of(*types, size=40):
    torch.manual_seed(0)
    return nn.ModuleList(nn.Linear(size, 2).to(kind) for kind in types)


def train(model, path, steps=5, *, if_exists="error", every=1, keep=None, **storage):
    """Plain steps of -0.125; returns each step's weights as a plain log of tensors."""
    rows = {0: [p.detach().clone() for p in model.parameters()]}
    schedule = {"every": every} if keep is None else {"keep": keep}
    with record(model, None, path, **schedule, if_exists=if_exists, storage=Storage(**storage)) as recorder:
        for step in range(1, steps + 1):
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(0.125)
            recorder.step()
            rows[step] = [p.detach().clone() for p in model.parameters()]
    return rows


def test_every_bfloat16_is_read_as_its_float32():
    every = np.arange(2**16, dtype=np.uint16)
    numbers = bits.numbers_of(every)
    expected = torch.from_numpy(every.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(numbers.view(np.uint32), expected.view(np.uint32))
    np.testing.assert_array_equal(bits.bits_of(numbers), every)


@pytest.mark.parametrize(
    ("types", "stored", "read"),
    [
        ((torch.bfloat16,) * 2, "uint16", "float32"),
        ((torch.float16,) * 2, "float16", "float32"),
        ((torch.float16, torch.bfloat16), "float32", "float32"),
        ((torch.bfloat16, torch.float32), "float32", "float32"),
        ((torch.bfloat16, torch.float64), "float64", "float64"),
    ],
)
def test_rows_are_of_the_narrowest_type_that_holds_all_tensors(tmp_path, types, stored, read):
    rows = train(model_of(*types), tmp_path / "run.zarr")
    t = Trajectory.open(tmp_path / "run.zarr")
    assert (t.root["trajectory/weights"].dtype, t.dtype) == (stored, read)
    assert ("torch_dtype" in t.root["trajectory/weights"].attrs) == (stored == "uint16")
    for snapshot in t:
        logged = torch.cat([p.reshape(-1).to(getattr(torch, read)) for p in rows[snapshot.step]])
        np.testing.assert_array_equal(snapshot.weights, logged.numpy())


@pytest.mark.parametrize(("size", "options"), [(40, {}), (40, {"keep": 4}), (1_200_000, {}),
                                               (40, {"compress": "zstd"})])  # fmt: skip
def test_bits_of_a_model_come_back(tmp_path, size, options):
    model = model_of(torch.bfloat16, size=size)
    with torch.no_grad():
        for p in model.parameters():
            p.view(torch.int16).copy_(patterns(p.numel()).view(p.shape))
    rows = train(model, tmp_path / "run.zarr", steps=1, checksum=True, **options)
    t = Trajectory.open(tmp_path / "run.zarr")
    again = copy.deepcopy(model)
    for snapshot in t:
        logged = torch.cat([p.reshape(-1) for p in rows[snapshot.step]]).view(torch.int16).numpy().view(np.uint16)
        np.testing.assert_array_equal(snapshot.weights.view(np.uint32) >> 16, logged)
        np.testing.assert_array_equal(snapshot.weights.view(np.uint32) & 0xFFFF, 0)
        t.layout.assign(again, torch.from_numpy(snapshot.weights))
        for p, kept in zip(again.parameters(), rows[snapshot.step], strict=True):
            finite = ~p.isnan()
            assert torch.equal(p[finite], kept[finite])
    np.testing.assert_array_equal(t.block(slice(None), slice(3, 9)), np.stack([s.weights[3:9] for s in t]))
    np.testing.assert_array_equal(t.block(slice(None), slice(None, None, 3)), np.stack([s.weights[::3] for s in t]))
    assert t.verify() == []


def test_checksums_are_of_the_stored_bits(tmp_path):
    import zlib

    train(model_of(torch.bfloat16), tmp_path / "run.zarr", checksum=True)
    root = open_run(tmp_path / "run.zarr", mode="r+")
    weights, stored = root["trajectory/weights"], root["trajectory/checksum"]
    value = zlib.crc32(weights[2].astype("<u2").tobytes(), zlib.crc32((2).to_bytes(8, "little")))
    assert stored[2] == value
    weights[2, 7] = weights[2, 7] ^ 1
    assert [damage.step for damage in Trajectory.open(root).verify()] == [2]


def test_a_run_of_bits_is_gone_on_with_as_if_it_had_not_ended(tmp_path):
    whole, parts = tmp_path / "whole.zarr", tmp_path / "parts.zarr"
    train(model_of(torch.bfloat16), whole, steps=8)
    model = model_of(torch.bfloat16)
    train(model, parts, steps=3)
    train(model, parts, steps=5, if_exists="resume")
    a, b = Trajectory.open(whole), Trajectory.open(parts)
    np.testing.assert_array_equal(a.steps, b.steps)
    np.testing.assert_array_equal(a.block(), b.block())


def test_another_type_is_stored_on_request_and_has_to_stay(tmp_path):
    run = tmp_path / "run.zarr"
    model = model_of(torch.float32)
    rows = train(model, run, dtype="bfloat16")
    logged = torch.cat([p.reshape(-1) for p in rows[5]]).bfloat16().float()
    np.testing.assert_array_equal(Trajectory.open(run)[-1].weights, logged.numpy())
    with pytest.raises(RunError, match="stores weights as bfloat16, this recorder would as float32"):
        train(model, run, if_exists="resume")
    train(model, run, if_exists="resume", dtype="bfloat16")
    masters = tmp_path / "masters.zarr"
    rows = train(model_of(torch.bfloat16), masters, dtype="float32")
    assert open_run(masters)["trajectory/weights"].dtype == "float32"
    np.testing.assert_array_equal(
        Trajectory.open(masters)[-1].weights, torch.cat([p.reshape(-1).float() for p in rows[5]]).numpy()
    )


def test_an_array_of_integers_is_no_row_of_weights(tmp_path):
    train(model_of(torch.bfloat16), tmp_path / "run.zarr")
    root = open_run(tmp_path / "run.zarr", mode="r+")
    root["trajectory/weights"].attrs["torch_dtype"] = "float32"
    with pytest.raises(RunError, match="uint16"):
        Trajectory.open(root)[0]


def test_a_bfloat16_run_is_analyzed_like_the_same_run_in_float32(tmp_path):
    losses = []
    for name, dtype in (("bits", None), ("wide", "float32")):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).bfloat16()
        x, y = torch.randn(16, 4).bfloat16(), torch.randn(16, 1).bfloat16()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run = tmp_path / f"{name}.zarr"
        storage = Storage(dtype=dtype)
        with record(model, optimizer, run, every=1, storage=storage, criterion=nn.MSELoss(), data=(x, y)):
            for _ in range(6):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x), y).backward()
                optimizer.step()
        losses.append(analyze(run, size=3, engine=Local(tune=False), progress=False))
    np.testing.assert_array_equal(losses[0].loss, losses[1].loss)
    np.testing.assert_array_equal(losses[0].path_loss, losses[1].path_loss)


def test_row_types_of_layouts():
    def row_dtype(*kinds):
        entries, offset = [], 0
        for i, kind in enumerate(kinds):
            size = 2 if kind.startswith("complex") else 1
            entries.append({"name": str(i), "shape": [], "dtype": kind, "offset": offset, "size": size})
            offset += size
        return ParameterLayout.from_json(entries).row_dtype

    assert row_dtype() == "float32"
    assert row_dtype("float16", "complex32") == "float16"
    assert row_dtype("float16", "float8_e4m3fn") == "float16"
    assert row_dtype("bfloat16", "complex64") == "float32"
    assert row_dtype("complex128", "bfloat16") == "float64"
    assert row_dtype("float8_e8m0fnu") == "float32"
