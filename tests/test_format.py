"""docs/format.md is the table that the code reads, and enough to read a run without this library and without zarr."""

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, analyze, record
from landscape_hooks.errors import RunError
from landscape_hooks.store import schema
from landscape_hooks.store.run import open_run

PAGE = Path(__file__).parents[1] / "docs" / "format.md"
BEGIN, END = "<!-- table: begin", "<!-- table: end -->"


def test_the_page_shows_the_table():
    shown = PAGE.read_text().partition(BEGIN)[2].partition("-->\n")[2].partition(END)[0]
    assert shown.strip() == schema.table_markdown().strip()


def train(path, steps=9, size=300, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(size, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = {0: nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy()}
    with record(model, optimizer, path, **options) as recorder:
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            loss = model(torch.randn(6, size)).square().mean()
            loss.backward()
            recorder.log(loss=loss, epoch=0)
            optimizer.step()
            rows[step] = nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy()
    return rows


def test_every_array_of_a_run_is_in_the_table(tmp_path):
    data = [(torch.randn(12, 300), torch.randint(0, 2, (12,)))]
    train(tmp_path / "run.zarr", criterion=nn.CrossEntropyLoss(), data=data)
    analyze(tmp_path / "run.zarr", size=3, progress=False)
    root = open_run(tmp_path / "run.zarr")
    arrays = {path: array for path, array in root.members(max_depth=None) if hasattr(array, "dtype")}
    assert len(arrays) > 20
    for path, array in arrays.items():
        row = schema.field(path)
        if "..." not in row.dims:
            assert array.metadata.dimension_names == row.dims, path
        assert array.attrs["units"] == row.units
        if row.dtype != "as recorded":
            assert array.dtype == row.dtype, path
    assert {"format", "version"} == set(root.attrs["landscape_hooks"])


# -- a reader from the document: json, struct and the bytes of files, nothing else ------------------------------
def metadata(folder):
    return json.loads((folder / "zarr.json").read_text())


def chunk_of(folder, meta, index):
    """The numbers of one inner chunk, from the shard or chunk file that it lies in."""
    (codec, *_) = meta["codecs"]
    outer = meta["chunk_grid"]["configuration"]["chunk_shape"]
    dtype = np.dtype(meta["data_type"]).newbyteorder("<")
    if codec["name"] == "bytes":
        raw = (folder / "c").joinpath(*map(str, index)).read_bytes()
        return np.frombuffer(raw, dtype).reshape(outer)
    inner = codec["configuration"]["chunk_shape"]
    per_file = [o // i for o, i in zip(outer, inner, strict=True)]
    file = (folder / "c").joinpath(*(str(i // n) for i, n in zip(index, per_file, strict=True)))
    raw = file.read_bytes()
    at = 0
    for i, n in zip(index, per_file, strict=True):
        at = at * n + i % n
    table = raw[-(16 * math.prod(per_file) + 4) :]
    offset, length = struct.unpack_from("<QQ", table, 16 * at)
    return np.frombuffer(raw[offset : offset + length], dtype).reshape(inner)


def inner_shape(meta):
    (codec, *_) = meta["codecs"]
    configuration = (
        codec["configuration"] if codec["name"] == "sharding_indexed" else meta["chunk_grid"]["configuration"]
    )
    return configuration["chunk_shape"]


def row_of(folder, place):
    meta = metadata(folder)
    rows, *rest = inner_shape(meta)
    if not rest:
        return chunk_of(folder, meta, (place // rows,))[place % rows]
    pieces = -(-meta["shape"][1] // rest[0])
    parts = [chunk_of(folder, meta, (place // rows, column))[place % rows] for column in range(pieces)]
    return np.concatenate(parts)[: meta["shape"][1]]


@pytest.mark.everyday(1)
@pytest.mark.parametrize(("size", "options"), [(300, {"every": 2}), (300, {"keep": 4}), (600_000, {"every": 3})])
def test_a_run_is_read_by_the_document_alone(tmp_path, size, options):
    rows = train(tmp_path / "run.zarr", size=size, **options)
    root = tmp_path / "run.zarr"
    attributes = metadata(root)["attributes"]
    assert attributes["landscape_hooks"]["format"] == schema.FORMAT
    committed = metadata(root / "trajectory")["attributes"]["committed"]
    order = committed["order"] or range(committed["rows"])
    layout = attributes["layout"]
    assert [e["name"] for e in layout] == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
    assert sum(e["size"] for e in layout) == len(rows[0])
    steps = [int(row_of(root / "trajectory" / "step", place)) for place in order]
    assert steps == Trajectory.open(root).steps.tolist()
    assert steps[-1] == 9
    assert committed["tail"] == (steps[-1] % 3 != 0 if options == {"every": 3} else True)
    for step, place in zip(steps, order, strict=True):
        np.testing.assert_array_equal(row_of(root / "trajectory" / "weights", place), rows[step])
    buffers = row_of(root / "trajectory" / "buffers", order[-1])
    np.testing.assert_array_equal(buffers, Trajectory.open(root)[-1].buffers)


def write_array(folder, values, dims):
    """A one-chunk array of Zarr v3, by hand."""
    folder.mkdir(parents=True)
    grid = {"name": "regular", "configuration": {"chunk_shape": [max(1, n) for n in values.shape]}}
    array = {
        "zarr_format": 3, "node_type": "array", "shape": list(values.shape), "data_type": values.dtype.name,
        "chunk_grid": grid, "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN" if values.dtype.kind == "f" else 0, "dimension_names": dims,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }  # fmt: skip
    (folder / "zarr.json").write_text(json.dumps(array))
    file = (folder / "c").joinpath(*("0" for _ in values.shape))
    if values.size:
        file.parent.mkdir(parents=True)
        file.write_bytes(values.tobytes())


def write_group(folder, **attributes):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (folder / "zarr.json").write_text(json.dumps(content))


def test_a_run_written_by_the_document_alone_is_read_and_gone_on_with(tmp_path):
    run = tmp_path / "run.zarr"
    entry = {"dtype": "float32", "aliases": [], "module": "Linear", "groups": 1, "trainable": True}
    layout = [
        {"name": "weight", "shape": [2, 3], "offset": 0, "size": 6, **entry},
        {"name": "bias", "shape": [2], "offset": 6, "size": 2, **entry},
    ]
    write_group(run, landscape_hooks={"format": 1, "version": "0"}, layout=layout, buffer_layout=[])
    committed = {"rows": 3, "order": [2, 0, 3], "generation": 4, "stride": 5, "tail": True}
    write_group(run / "trajectory", committed=committed, slots=4)
    rows = np.arange(32, dtype="float32").reshape(4, 8)
    write_array(run / "trajectory/weights", rows, ["row", "parameter"])
    write_array(run / "trajectory/buffers", np.zeros((4, 0), "float32"), ["row", "buffer"])
    write_array(run / "trajectory/step", np.array([5, 99, 0, 7]), ["row"])
    for name in ("epoch", "loss", "wall_time"):
        write_array(run / "trajectory" / name, np.array([0.5, 99, 0.25, 0.75]), ["row"])
    write_array(run / "trajectory/learning_rate", np.full((4, 1), 0.1), ["row", "group"])
    t = Trajectory.open(run)
    assert t.steps.tolist() == [0, 5, 7]
    assert t.losses.tolist() == [0.25, 0.5, 0.75]
    np.testing.assert_array_equal(t.block(), rows[[2, 0, 3]])
    assert t.layout["bias"].shape == (2,)
    model = nn.Linear(3, 2)
    with record(model, None, run, keep=4, if_exists="resume", step=7) as recorder:
        for _ in range(4):
            recorder.step()
    assert Trajectory.open(run).steps.tolist() == [0, 5, 10, 11]
    np.testing.assert_array_equal(Trajectory.open(run).block(slice(2)), rows[[2, 0]])


def test_a_newer_format_is_refused_and_unknown_attributes_are_ignored(tmp_path):
    rows = train(tmp_path / "run.zarr", every=3)
    root = open_run(tmp_path / "run.zarr", mode="r+")
    root.attrs["something_new"] = {"a": 1}
    root["trajectory"].attrs["committed"] = {**root["trajectory"].attrs["committed"], "colour": "blue"}
    np.testing.assert_array_equal(Trajectory.open(tmp_path / "run.zarr")[0].weights, rows[0])
    root.attrs["landscape_hooks"] = {"format": schema.FORMAT + 1}
    with pytest.raises(RunError, match="Upgrade"):
        Trajectory.open(tmp_path / "run.zarr")
