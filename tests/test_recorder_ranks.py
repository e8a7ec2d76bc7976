"""Several processes: a replicated training is written once, a sharded one by every rank, with nothing gathered."""

import socket
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, record
from landscape_hooks.evaluation.base import open_base
from landscape_hooks.store.run import open_run
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.sharding import Piece, Runs

COMMON = """
    import os, sys, warnings
    import numpy as np
    import torch
    import torch.distributed as dist
    from torch import nn
    from landscape_hooks import Trajectory, record
    from landscape_hooks.errors import LandscapeError

    path = sys.argv[1]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, count = dist.get_rank(), dist.get_world_size()

    def make_model():
        torch.manual_seed(0)
        # 7, 5 and 1 rows do not divide by two or three ranks; with three, one of them holds nothing of the last
        return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 5), nn.Linear(5, 1))

    def full(model):
        return torch.cat([
            (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().reshape(-1) for p in model.parameters()
        ]).numpy().copy()

    def train(model, optimizer, first, last, after):
        for step in range(first, last + 1):
            generator = torch.Generator().manual_seed(step * 10 + rank)
            optimizer.zero_grad()
            model(torch.randn(8, 5, generator=generator)).square().mean().backward()
            optimizer.step()
            after(step)
"""


@pytest.fixture
def launch(interpreters):
    def launch(count, script, *arguments, fails=False):
        """Run a script in `count` gloo processes; returns what each of them printed."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # a process that ends while its peers still talk to it, with the group's threads alive, may be aborted by torch
        ending = "" if fails else "\ndist.barrier()\ndist.destroy_process_group()\n"
        code = textwrap.dedent(COMMON) + textwrap.dedent(script) + ending
        world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = [interpreters.start(code, *arguments, env={**world, "RANK": str(rank)}) for rank in range(count)]
        outputs = [rank.communicate(timeout=200) for rank in ranks]
        if not fails:
            assert [rank.returncode for rank in ranks] == [0] * count, outputs
        return [out for out, _ in outputs]

    return launch


def test_a_replicated_training_is_written_once_by_the_first_rank(launch, tmp_path):
    launch(
        2,
        """
        model = make_model()
        wrapped = torch.compile(nn.parallel.DistributedDataParallel(model), backend="eager")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        iterates = [full(model)]
        with record(wrapped, optimizer, path, every=2) as recorder:
            train(wrapped, optimizer, 1, 5, lambda step: iterates.append(full(model)))
            assert recorder.state_dict()["step"] == 5
        if rank == 0:
            np.save(path + ".npy", np.stack(iterates)[[0, 2, 4, 5]])
        """,
        tmp_path / "run.zarr",
    )
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.steps.tolist() == [0, 2, 4, 5]
    np.testing.assert_array_equal(t.block(), np.load(tmp_path / "run.zarr.npy"))
    assert t.layout.names[0] == "0.weight"


SHARDED = """
    from torch.distributed.fsdp import fully_shard

    def sharded():
        model = make_model()
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def session(first, last, **options):
        model, optimizer = sharded()
        saved = options.pop("saved", None)
        if saved:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
        iterates = {first - 1: full(model)}
        with record(model, optimizer, path, **options) as recorder:
            def after(step):
                iterates[step] = full(model)
                if step == 6:
                    clone = lambda tree: torch.utils._pytree.tree_map(
                        lambda x: x.clone() if isinstance(x, torch.Tensor) else x, tree)
                    iterates["saved"] = clone({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
                    recorder.flush()
            train(model, optimizer, first, last, after)
        return iterates
"""


def test_a_rank_that_writes_nothing_stores_no_loss(monkeypatch, tmp_path):
    for name, value in (("is_initialized", True), ("get_rank", 1), ("get_world_size", 2)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    model = nn.Linear(3, 1)
    recorder = record(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "run")
    recorder.objective(criterion=nn.MSELoss(), data=[(torch.ones(4, 3), torch.ones(4, 1))])
    recorder.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.everyday(1)
@pytest.mark.parametrize(("count", "options"), [(2, {"every": 2, "storage": {"checksum": True}}), (3, {"keep": 5})])
def test_every_rank_writes_its_shard_and_the_reader_sees_the_whole(launch, tmp_path, count, options):
    outputs = launch(
        count,
        SHARDED
        + f"""
    options = {options!r}
    if "storage" in options:
        from landscape_hooks import Storage
        options["storage"] = Storage(**options["storage"])
    whole = session(1, 9, **options)
    saved = whole.pop("saved")
    t = Trajectory.open(path)
    first = (t.steps.tolist(), t.block())
    dist.barrier()
    # killed after step 9, gone on from the checkpoint of step 6
    again = session(7, 11, if_exists="resume", step=6, saved=saved, **options)
    again.pop("saved", None)
    whole.update(again)
    try:
        record(sharded()[0], None, path)
    except LandscapeError as error:  # found by the first rank, raised on all of them
        print("refused:", error)
    if rank == 0:
        np.savez(path + ".npz", first_steps=first[0], first_block=first[1], steps=sorted(whole),
                 whole=np.stack([whole[s] for s in sorted(whole)]))
    """,
        tmp_path / "run.zarr",
    )
    assert all("refused:" in out and "There is a run at" in out for out in outputs)
    expected = np.load(tmp_path / "run.zarr.npz")
    whole = expected["whole"]
    first = {"every": [0, 2, 4, 6, 8, 9], "keep": [0, 4, 8, 9]}[next(iter(options))]
    assert expected["first_steps"].tolist() == first
    np.testing.assert_array_equal(expected["first_block"][:3], whole[first[:3]])
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.steps.tolist() == {"every": [0, 2, 4, 6, 8, 10, 11], "keep": [0, 4, 8, 11]}[next(iter(options))]
    np.testing.assert_array_equal(t.block(), whole[t.steps])
    for columns in (slice(3, 40), slice(41, 42), slice(50, 60), slice(None, None, 7)):
        np.testing.assert_array_equal(t.block(slice(1, 3), columns), whole[t.steps][1:3, columns])
    assert t.layout.names[0] == "0.weight"
    assert t[0].buffers.shape == (t.buffer_layout.size,)
    assert np.isfinite(t.learning_rates).all()
    if "storage" in options:
        assert t.verify() == []
        root = open_run(tmp_path / "run.zarr", mode="r+")
        root["ranks/1/trajectory/weights"][2, 0] += 1
        assert [(damage.index, damage.step, damage.rank) for damage in t.verify()] == [(2, 4, 1)]
    # nothing was gathered: every rank's rows hold its own numbers only
    root = open_run(tmp_path / "run.zarr")
    widths = [root[f"ranks/{rank}/trajectory/weights"].shape[1] for rank in range(count)]
    assert sum(widths) == t.layout.size
    assert max(widths) < t.layout.size


@pytest.mark.everyday(1)
@pytest.mark.parametrize("frozen", ["stored", "reference"])
def test_what_does_not_move_is_stored_once_by_every_rank(launch, tmp_path, frozen):
    """A frozen layer, whose first half is unfrozen later; gone on with from a checkpoint; by both ranks."""
    launch(
        2,
        SHARDED
        + """
    from landscape_hooks import Parameters

    def session(first, last, model, optimizer, **options):
        log = {first - 1: full(model)}
        with record(model, optimizer, path, every=1, parameters=Parameters(frozen=sys.argv[2]), **options) as recorder:
            def after(step):
                if step == 4:
                    model[2].requires_grad_(True)
                    optimizer.add_param_group({"params": list(model[2].parameters())})
                log[step] = full(model)
            train(model, optimizer, first, last, after)
            recorder.mark("end")
        return log

    model = make_model()
    for layer in (model[0], model[2]):
        layer.requires_grad_(False)
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    warnings.simplefilter("error", UserWarning)
    log = session(1, 6, model, optimizer)
    log |= session(7, 8, model, optimizer, if_exists="resume", step=6)
    if rank == 0:
        np.save(path + ".npy", np.stack([log[step] for step in range(9)]))
    """,
        tmp_path / "run.zarr",
        frozen,
    )
    expected = np.load(tmp_path / "run.zarr.npy")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 5), nn.Linear(5, 1))
    places = ParameterLayout.of(model)
    t = Trajectory.open(tmp_path / "run.zarr", open_base(model) if frozen == "reference" else None)
    assert list(t.fixed) == ["0.weight", "0.bias"]
    assert t.layout.names == ("1.weight", "1.bias", "3.weight", "3.bias", "2.weight", "2.bias")
    columns = np.concatenate([np.arange(places.size)[places[e.name].slice] for e in t.layout])
    np.testing.assert_array_equal(t.block(), expected[t.steps][:, columns])
    np.testing.assert_array_equal(t.block(slice(3, 6), slice(7, 40)), expected[3:6][:, columns[7:40]])
    np.testing.assert_array_equal(t.marks["end"].weights, t[-1].weights)
    np.testing.assert_array_equal(t.fixed["0.weight"], expected[0][:35].reshape(7, 5))
    view = t.view(ParameterLayout.in_order([places["2.bias"], places["0.bias"]]))
    np.testing.assert_array_equal(view[5].weights, expected[5][[*range(91, 96), *range(35, 42)]])
    widths = [t.root[f"ranks/{rank}/trajectory/weights"].shape[1] for rank in range(2)]
    assert sum(widths) == 7 + 7 + 5 + 1
    assert t.doubts == ()
    assert ("0" in t.root["ranks/0/fixed"]) == (frozen == "stored")


def test_a_rank_that_dies_or_disagrees_leaves_whole_rows_and_the_disagreement_is_said(launch, tmp_path):
    outputs = launch(
        2,
        SHARDED
        + """
    model, optimizer = sharded()
    iterates = [full(model)]
    recorder = record(model, optimizer, path, schedule=lambda step: step != 3 or rank == 0)  # they do not agree on 3

    def after(step):
        iterates.append(full(model))
        if step == 6:
            recorder._background.flush()
            if rank == 0:
                np.save(path + ".npy", np.stack(iterates))
            dist.barrier()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                recorder.flush()
                recorder.flush()
            print([str(w.message) for w in caught], flush=True)
            dist.barrier()
            if rank == 1:
                os.kill(os.getpid(), 9)
    try:
        train(model, optimizer, 1, 20, after)
    except Exception as error:
        print("lost the other rank")
    """,
        tmp_path / "run.zarr",
        fails=True,
    )
    assert "lost the other rank" in outputs[0]
    for output in outputs:  # once, on either side
        assert output.count("take different snapshots: some have no step 3. Only") == 1
        assert "Let schedule= depend on the step alone" in output
    iterates = np.load(tmp_path / "run.zarr.npy")
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.steps.tolist() == [0, 1, 2, 4, 5, 6]
    np.testing.assert_array_equal(t.block(), iterates[t.steps])


@pytest.mark.parametrize(
    "boxes",
    [
        [((0, 0), (2, 4)), ((2, 0), (1, 4))],
        [((0, 0), (3, 1)), ((0, 1), (3, 3))],
        [((0, 0), (2, 2)), ((0, 2), (2, 2)), ((2, 0), (1, 2)), ((2, 2), (1, 2)), ((3, 0), (0, 4))],
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_boxes_of_any_sharding_make_the_vector(boxes, dtype):
    model = nn.Module()
    model.before = nn.Parameter(torch.randn(3))
    model.matrix = nn.Parameter(torch.randn(3, 4, dtype=dtype))
    layout = ParameterLayout.of(model)
    theta = layout.flatten(model).numpy()
    matrix = torch.view_as_real(model.matrix).detach() if dtype.is_complex else model.matrix.detach()
    for start, stop in [(0, layout.size), (2, 9), (5, 6)]:
        out = np.full((1, stop - start), np.nan, np.float32)
        out[0, : max(0, 3 - start)] = theta[start:3]
        for corner, shape in boxes:
            row = matrix[tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))].reshape(1, -1).numpy()
            Runs(layout, [Piece("matrix", corner, shape)]).scatter(out, start, stop, lambda part, row=row: row[:, part])
        np.testing.assert_array_equal(out[0], theta[start:stop])


def test_pieces_are_plain_json():
    piece = Piece("a.weight", (2, 0), (1, 4))
    assert Piece.from_json(piece.to_json()) == piece


@pytest.mark.parametrize(
    ("width", "most"),
    [pytest.param(2048, 3, marks=pytest.mark.more), pytest.param(4096, 2, marks=pytest.mark.slow)],
)
def test_a_sharded_run_is_analyzed_by_a_process_that_holds_the_weights_once(
    launch, interpreters, tmp_path, width, most
):
    """16 or 64 MB of weights, recorded by two ranks: the process that analyzes them holds them once.

    What it allocates besides is 30 MB, whatever the size of the weights.
    """
    launch(
        2,
        """
        from torch.distributed.fsdp import fully_shard
        torch.manual_seed(0)
        width = int(sys.argv[2])
        model = nn.Sequential(nn.Linear(width, width // 2, bias=False), nn.Linear(width // 2, width, bias=False))
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
        with record(model, None, path, every=1) as recorder:
            for step in range(3):
                model(torch.randn(2, width, generator=torch.Generator().manual_seed(step))).square().mean().backward()
                for parameter in model.parameters():
                    parameter.data.sub_(parameter.grad, alpha=10.0)
                    parameter.grad = None
                recorder.step()
        """,
        tmp_path / "large.zarr",
        width,
    )
    script = """
import ctypes, sys
import torch
from torch import nn
from landscape_hooks import Local, Objective, analyze, record
from landscape_hooks.plane import blockwise, stored_plane
# what is freed goes back at once: held is what counts here, not what the allocator keeps for later
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
for what in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
    assert ctypes.CDLL(None).mallopt(what, 1_000_000)
width = int(sys.argv[1])
# the trajectory is streamed in pieces; here the weights are small beside the usual ones
blockwise.SPAN_BYTES, blockwise.BLOCK_BYTES, stored_plane.BLOCK = width**2 // 4, width**2 // 2, width**2 // 16

def large():
    model = nn.Sequential(nn.Linear(width, width // 2, bias=False), nn.Linear(width // 2, width, bias=False))
    data = torch.randn(2, width, generator=torch.Generator().manual_seed(9))
    return Objective.of(model, objective=lambda m, b: m(b).square().mean(), data=data, copy=False)

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

def growth(name, stream=None):
    before = kilobytes("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
    engine = Local(tune=False, stream=stream)
    surface = analyze("large.zarr", objective=large, size=2, name=name, engine=engine, progress=False)
    return surface, (kilobytes("VmHWM") - before) * 2**10 / (4 * width**2)  # in copies of the weights

small = nn.Linear(2, 1)
with record(small, None, "small.zarr", criterion=nn.MSELoss(), data=(torch.ones(4, 2), torch.ones(4, 1))) as recorder:
    for _ in range(3):
        small.weight.data += torch.randn(1, 2)
        recorder.step()
# whatever is imported is in memory now
analyze("small.zarr", size=2, engine=Local(tune=False, stream=True), progress=False)
once, streamed = growth(name="streamed")
held, whole = growth(name="held", stream=False)
for key in ("loss", "path_loss", "path_plane_loss"):
    assert (getattr(once, key) == getattr(held, key)).all(), key
assert once.loss.std() > 0
print(streamed, whole)
"""
    done = interpreters.run(script, width, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    streamed, whole = map(float, done.stdout.split())
    assert streamed < most < 4 < whole
