"""Recording, analyzing and drawing on a real GPU: `pytest -m cuda`. Without one, all of it is skipped with a reason.

What a CPU can show is in tests/test_gpu_copies.py, test_arithmetic.py, test_device_memory.py and
test_engine_devices.py. All of this file takes less than four minutes on one large card, and nothing of the network.
"""

import os
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Hessian, Local, Objective, Trajectory, analyze, record
from landscape_hooks.device.memory import TooLittleMemory, release
from landscape_hooks.evaluation import calibration
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.objective.capture import capture
from landscape_hooks.plane.plane import Plane
from landscape_hooks.trajectory.parameters import ParameterLayout

pytestmark = pytest.mark.cuda

HAS = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
CARDS = torch.cuda.device_count() if HAS["cuda"] else 0

on_cuda = pytest.mark.skipif(not HAS["cuda"], reason="torch sees no CUDA device here")
on_two = pytest.mark.skipif(CARDS < 2, reason=f"torch sees {CARDS} CUDA devices here, and not two")
everywhere = [
    pytest.param(kind, marks=pytest.mark.skipif(not here, reason=f"torch sees no {kind} device here"))
    for kind, here in HAS.items()
]

OTHER_DEVICE = 1e-4
"""Relative difference of a loss between devices that docs/trust.md calls rounding."""


@pytest.fixture(params=everywhere)
def device(request):
    return torch.device(request.param)


@pytest.fixture
def all_memory():
    """The process may take all of the card's memory again when the test is over."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    release(torch.device("cuda"))


class Net(nn.Module):
    """Convolutions, running statistics, an embedding and a product."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.words, self.head = nn.Embedding(20, 16), nn.Linear(16 * 16, 5)

    def forward(self, x, word):
        x = torch.relu(self.norm(self.conv(x))) + self.words(word)[:, :, None, None]
        return self.head(nn.functional.avg_pool2d(x, 2).flatten(1))


def batch(count=192, device="cpu"):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 8, 8, generator=generator)
    word, y = (torch.randint(0, n, (count,), generator=generator) for n in (20, 5))
    return (x.to(device), word.to(device)), y.to(device)


def made(device):
    torch.manual_seed(0)
    return Net().to(device)


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).cpu().numpy()


def train(model, optimizer, steps, device, after=lambda step, loss: None):
    (x, word), y = batch(64, device)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x, word), y)
        loss.backward()
        optimizer.step()
        after(step, loss)


def assert_rows(path, iterates):
    t = Trajectory.open(path)
    for snapshot in t:
        np.testing.assert_array_equal(snapshot.weights, iterates[snapshot.step])
    return t


# -- recording -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("every", [1, 3])
def test_rows_are_the_iterates(device, tmp_path, every):
    model = made(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    iterates, losses = {0: flat(model)}, {}
    with record(model, optimizer, tmp_path / "run.zarr", every=every) as recorder:

        def after(step, loss):
            iterates[step], losses[step] = flat(model), loss.item()

        def said(step, loss):
            after(step, loss)
            recorder.log(loss=loss)

        train(model, optimizer, 12, device, said)
    t = assert_rows(tmp_path / "run.zarr", iterates)
    assert t.steps.tolist() == list(range(0, 13, every))
    found = {int(s): float(v) for s, v in zip(t.steps, t.losses, strict=True) if v == v}
    for step, value in found.items():  # what was logged after the step before
        assert value == pytest.approx(losses[step - 1], rel=1e-6)
    np.testing.assert_array_equal(t[-1].buffers, ParameterLayout.of_buffers(model).flatten(model).cpu().numpy())


def test_training_is_the_same_bit_for_bit(device, tmp_path):
    def trained(recorded):
        model = made(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        if recorded:
            record(model, optimizer, tmp_path / "run.zarr", every=1)
        torch.manual_seed(5)
        train(model, optimizer, 8, device)
        return flat(model), torch.rand(3, device=device).cpu().numpy()

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one, two = trained(False), trained(True)
    finally:
        torch.use_deterministic_algorithms(False)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


class Counting(torch.optim.Optimizer):
    """Adds one to every parameter, some time after it was asked to: the stream is busy before."""

    def __init__(self, parameters, cycles=0):
        super().__init__(parameters, {"lr": 1.0})
        self.cycles = cycles

    @torch.no_grad()
    def step(self, closure=None):
        if self.cycles:
            torch.cuda._sleep(self.cycles)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter += 1


@on_cuda
def test_the_host_does_not_wait_and_a_snapshot_is_of_its_own_step(tmp_path):
    """Each step is queued behind a tenth of a second of the GPU: whoever waits for it is seen by the clock."""
    model = nn.Linear(2048, 2048, device="cuda")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    optimizer = Counting(model.parameters())
    loss = torch.ones((), device="cuda")
    with record(model, optimizer, tmp_path / "run.zarr", every=1) as recorder:
        optimizer.step()  # streams and memory are there from now on
        recorder.flush()
        assert torch.from_numpy(recorder._background._staging.weights).is_pinned()
        torch.cuda.synchronize()
        begun = time.perf_counter()
        torch.cuda._sleep(1_000_000)
        torch.cuda.synchronize()
        optimizer.cycles = int(1_000_000 * 0.1 / (time.perf_counter() - begun))
        begun = time.perf_counter()
        recorder.log(loss=loss)
        optimizer.step()
        recorder.log(loss=loss)
        optimizer.step()
        assert time.perf_counter() - begun < 0.1
        torch.cuda.synchronize()
        assert time.perf_counter() - begun > 0.1
    for row, snapshot in enumerate(Trajectory.open(tmp_path / "run.zarr")):
        assert np.unique(snapshot.weights).tolist() == [row]


@on_cuda
def test_many_snapshots_hold_their_own_step(tmp_path):
    model = nn.Linear(1024, 1024, device="cuda")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    optimizer = Counting(model.parameters())
    with record(model, optimizer, tmp_path / "run.zarr", every=1):
        for _ in range(60):
            optimizer.step()
    t = Trajectory.open(tmp_path / "run.zarr")
    assert [np.unique(snapshot.weights).tolist() for snapshot in t] == [[float(row)] for row in range(61)]


@on_cuda
@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_the_scaler_skips_are_none(tmp_path, fused):
    model = made("cuda")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    (x, word), y = batch(64, "cuda")
    iterates = [flat(model)]
    with record(model, optimizer, tmp_path / "run.zarr", every=1):
        for attempt in range(7):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype=torch.float16):
                loss = nn.functional.cross_entropy(model(x, word), y)
            scaler.scale(loss).backward()
            if attempt in (0, 3, 4):
                model.head.weight.grad[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            if attempt not in (0, 3, 4):
                iterates.append(flat(model))
    assert len(assert_rows(tmp_path / "run.zarr", dict(enumerate(iterates)))) == 5


@on_cuda
@pytest.mark.parametrize("told", [True, False])
def test_a_training_in_a_graph(tmp_path, told):
    """Capturing goes well while snapshots are on their way; replays that are told are recorded, others are a doubt."""
    model = made("cuda")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, capturable=True)
    (x, word), y = batch(64, "cuda")
    iterates = [flat(model)]

    def step():
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x, word), y).backward()
        optimizer.step()

    recorder = record(model, None if told else optimizer, tmp_path / "run.zarr", every=1)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
            if told:
                recorder.step()
            iterates.append(flat(model))
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(5):
        graph.replay()
        if told:
            recorder.step()
        iterates.append(flat(model))
    if told:
        recorder.close()
        assert len(assert_rows(tmp_path / "run.zarr", dict(enumerate(iterates)))) == 9
        return
    with pytest.warns(match="captured into a CUDA graph"):
        recorder.close()
    t = Trajectory.open(tmp_path / "run.zarr")
    for row in range(3):
        np.testing.assert_array_equal(t[row].weights, iterates[row])


@on_cuda
def test_a_compiled_training(tmp_path):
    pytest.importorskip("triton")
    model = made("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    iterates = {0: flat(model)}
    compiled = torch.compile(model)
    with record(compiled, optimizer, tmp_path / "run.zarr", every=1):
        train(compiled, optimizer, 4, "cuda", lambda step, loss: iterates.update({step: flat(model)}))
    assert len(assert_rows(tmp_path / "run.zarr", iterates)) == 5


@on_cuda
def test_without_memory_for_a_duplicate_recording_goes_on(tmp_path, all_memory):
    model = nn.Linear(8192, 8192, device="cuda")  # 268 MB
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    optimizer = Counting(model.parameters())
    release(torch.device("cuda"))
    room = torch.cuda.memory_reserved() + 2**26
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    with record(model, optimizer, tmp_path / "run.zarr", every=1) as recorder:
        for _ in range(3):
            optimizer.step()
        assert recorder._background._copies.waits
    t = Trajectory.open(tmp_path / "run.zarr")
    assert [np.unique(snapshot.weights).tolist() for snapshot in t] == [[0.0], [1.0], [2.0], [3.0]]


@on_cuda
def test_the_loss_of_a_model_on_the_gpu_is_stored_and_agrees(tmp_path):
    """Its samples come from a loader with workers; closing compares the stored loss with the live one."""
    model = made("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    (x, word), y = batch()
    data = torch.utils.data.TensorDataset(x, word, y)
    loader = torch.utils.data.DataLoader(data, batch_size=64, num_workers=2, pin_memory=True)

    def objective(live, given):
        where = next(live.parameters()).device
        x, word, y = (part.to(where) for part in given)
        return nn.functional.cross_entropy(live(x, word), y, reduction="none")

    with record(model, optimizer, tmp_path / "run.zarr", every=2, objective=objective, data=loader):
        train(model, optimizer, 6, "cuda")
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.doubts == ()


# -- several ranks -------------------------------------------------------------------------------------------
def ranked(rank, port, folder, kind):
    """A rank of a training with NCCL; with DDP, the current device is the first one on both."""
    import torch.distributed as dist

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    where = torch.device("cuda", rank)
    dist.init_process_group("nccl", rank=rank, world_size=2)
    model = made(where)
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model, device_ids=[rank])
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        torch.cuda.set_device(where)
        fully_shard(model, mesh=init_device_mesh("cuda", (2,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    whole = []

    def kept(*_):
        parts = [p.full_tensor() if hasattr(p, "full_tensor") else p.detach() for p in model.parameters()]
        whole.append(torch.cat([part.reshape(-1) for part in parts]).cpu().numpy())

    kept()
    with record(model, optimizer, Path(folder) / "run.zarr", every=1):
        train(model, optimizer, 5, where, kept)
    if rank == 0:
        np.save(Path(folder) / "whole.npy", np.stack(whole))
    dist.destroy_process_group()


@on_two
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_ranks_with_nccl(tmp_path, kind):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys; from tests.test_cuda import ranked; ranked(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])"
    command = [sys.executable, "-c", code]
    ranks = [subprocess.Popen([*command, str(rank), str(port), str(tmp_path), kind]) for rank in (0, 1)]
    try:
        assert [rank.wait(timeout=90) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    expected = np.load(tmp_path / "whole.npy")
    t = Trajectory.open(tmp_path / "run.zarr")
    np.testing.assert_array_equal(np.stack([snapshot.weights for snapshot in t]), expected)


# -- analyzing -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training on the CPU, whose losses are computed wherever a test says."""
    path = tmp_path_factory.mktemp("cuda") / "run.zarr"
    model = made("cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = [batch()]
    with record(model, optimizer, path, every=4, criterion=nn.CrossEntropyLoss(), data=data):
        train(model, optimizer, 24, "cpu")
    return path


def surface(run, name, where, *, precision="float32", tune=True, **options):
    engine = Local(device=where, precision=precision, tune=tune)
    return analyze(run, engine=engine, name=name, **{"size": (5, 6), "progress": False, **options})


def apart(one, other):
    return np.abs(one / other - 1).max()


@pytest.mark.parametrize("policy", ["batch", "fixed", "interpolate", "recalibrate"])
def test_losses_are_those_of_the_cpu(run, device, policy):
    """TF32 is allowed by the program around, and off while losses are computed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    try:
        found = surface(run, f"{device.type}-{policy}", device.type, batch_norm=policy)
        expected = surface(run, f"cpu-{policy}", "cpu", batch_norm=policy, tune=False)
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.benchmark
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.benchmark = False
    assert apart(found.loss, expected.loss) < OTHER_DEVICE
    assert apart(found.path_loss, expected.path_loss) < OTHER_DEVICE
    assert str(found.attrs["device"]).startswith(device.type)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_coarser_precisions_are_asked_for_and_told(run, device, precision):
    found = surface(run, f"{device.type}-{precision}", device.type, precision=precision)
    exact = surface(run, "cpu-exact", "cpu", tune=False)
    assert apart(found.loss, exact.loss) < 2e-2
    assert any(f"{precision} changes the loss by up to" in sentence for sentence in found.attrs["report"])


def test_the_same_analysis_gives_the_same_bits(run, device):
    one, two = (surface(run, f"again-{n}", device.type, tune=False) for n in range(2))
    np.testing.assert_array_equal(one.loss, two.loss)
    np.testing.assert_array_equal(one.loss_stderr, two.loss_stderr)


@on_cuda
def test_a_loss_that_adds_in_any_order_is_repeatable():
    """`index_add` by atomic additions has other last bits at every call, unless determinism is asked for."""

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64))

        def forward(self, x, to):
            return torch.zeros(4, 64, device=x.device).index_add(0, to, x * self.weight).tanh().mean()

    x, to = torch.randn(200_000, 64), torch.randint(0, 4, (200_000,))
    objective = Objective.of(Graph(), objective=lambda m, b: m(*b), data=[(x, to)], samples=200_000).to("cuda")
    theta = torch.randn(64, device="cuda")
    found = {objective.evaluate(theta, torch.zeros(0, device="cuda")).mean for _ in range(10)}
    assert len(found) == 1


def test_a_live_loss_that_draws_noise_is_repeatable(device):
    def noisy(model, given):
        x, y = given
        return (model(x + torch.randn_like(x)) - y).square().mean()

    model = nn.Linear(4, 1)
    objective = Objective(model, objective=noisy, data=[(torch.randn(32, 4), torch.zeros(32, 1))]).to(device)
    theta, buffers = torch.randn(5, device=device), torch.zeros(0, device=device)
    before = torch.rand(1, device=device)
    assert len({objective.evaluate(theta, buffers).mean for _ in range(3)}) == 1
    assert not torch.equal(before, torch.rand(1, device=device))


def test_the_plane_of_steepest_curvature(run, device):
    found = surface(run, f"hessian-{device.type}", device.type, directions=Hessian())
    expected = surface(run, "hessian-cpu", "cpu", directions=Hessian(), tune=False)
    values = [np.array(each.attrs["direction_attrs"]["eigenvalues"]) for each in (found, expected)]
    np.testing.assert_allclose(*values, rtol=1e-2)


@on_cuda
@pytest.mark.parametrize("devices", [["cuda:0", "cuda:0"], pytest.param("cuda", marks=on_two)])
def test_several_devices_give_the_bits_of_one(run, devices):
    one = surface(run, "on-one", "cuda:0", tune=False)
    several = surface(run, "on-several", devices, tune=False)
    np.testing.assert_array_equal(one.loss, several.loss)
    np.testing.assert_array_equal(one.path_loss, several.path_loss)


@on_two
def test_another_card_than_the_current_one(run):
    found = surface(run, "second", "cuda:1", tune=False)
    np.testing.assert_array_equal(found.loss, surface(run, "first", "cuda:0", tune=False).loss)
    assert torch.cuda.current_device() == 0


class Wide(nn.Module):
    """What it makes of a sample takes 1 MB."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2**18)

    def forward(self, x):
        return self.layer(x).view(len(x), 4, -1).mean(-1)


def wide(criterion, **options):
    torch.manual_seed(0)
    model = nn.Sequential(Wide(), *options.pop("more", ()))
    x, y = torch.randn(512, 8), torch.randint(0, 4, (512,))
    layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    import zarr

    root = zarr.group(zarr.storage.MemoryStore())
    root.attrs.put({"layout": layout.to_json(), "buffer_layout": buffers.to_json()})
    capture(root, model, criterion=criterion, data=[(x, y)])
    theta = layout.flatten(model)
    objective = Objective.load(root).to("cuda")
    plane = Plane(theta, 0.01 * torch.randn(2, len(theta))).to("cuda")
    return PlaneLoss(objective, plane, buffers.flatten(model), options.pop("policy", "none"))


def limit(more):
    release(torch.device("cuda"))
    room = torch.cuda.memory_reserved() + more
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)


@on_cuda
def test_where_memory_is_short_fewer_samples_are_taken(all_memory):
    loss = wide(nn.CrossEntropyLoss())
    expected = loss.at(0.5, 0.5).mean
    limit(200 * 2**20)
    plan = calibration.best_stack(loss, calibration.plain(loss))
    assert 1 <= plan.tuning.chunk < 512
    assert plan.apply(loss).at(0.5, 0.5).mean == pytest.approx(expected, rel=1e-5)


@on_cuda
def test_where_a_batch_cannot_be_cut_there_is_a_sentence(all_memory):
    loss = wide(nn.CrossEntropyLoss(), more=[nn.BatchNorm1d(4)], policy="batch")
    limit(200 * 2**20)
    with pytest.raises(TooLittleMemory, match=r"512 samples at a time .*cannot be cut.*--device cpu"):
        calibration.best_stack(loss, calibration.plain(loss))


# -- drawing -------------------------------------------------------------------------------------------------
@on_cuda
def test_a_picture_by_the_card_s_driver(tmp_path):
    """A process of its own: torch has loaded its libraries in this one."""
    from PIL import Image

    from tests.landscapes import surface, write_run

    asking = (
        "import ctypes; from landscape_hooks.viewer.gl import context; context.offscreen(); from pyglet import gl;"
        "print(ctypes.cast(gl.glGetString(gl.GL_RENDERER), ctypes.c_char_p).value.decode())"
    )
    driver = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, timeout=60)
    if driver.returncode:
        pytest.skip(f"no EGL here: {driver.stderr.strip().splitlines()[-1][:200]}")
    if "llvmpipe" in driver.stdout or "softpipe" in driver.stdout:
        pytest.skip(f"EGL has no driver of the card here, but {driver.stdout.strip()}")
    folder = write_run(tmp_path / "run.zarr", surface())
    command = [sys.executable, "-m", "landscape_hooks", "render", str(folder), "-o", str(tmp_path / "picture.png")]
    subprocess.run(command, check=True, timeout=60)
    pixels = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
