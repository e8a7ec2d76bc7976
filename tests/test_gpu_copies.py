"""Snapshots of a model on a GPU, by a double that copies late and notes the order (a real GPU: tests/test_cuda.py)."""

import threading
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from landscape_hooks import Trajectory, record
from landscape_hooks.device import copies as room
from landscape_hooks.device.copies import Copies, Cuda, neighbours, pinned
from landscape_hooks.recording import background
from tests.test_recorder import flat, make_model, train


class Late(TorchFunctionMode):
    """Copies that a stream does later."""

    def __init__(self, stream):
        super().__init__()
        self.stream = stream

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.copy_:
            assert kwargs == {"non_blocking": True}
            self.stream.todo.append(lambda: args[0].copy_(args[1]))
            return args[0]
        return function(*args, **(kwargs or {}))


class Stream:
    def __init__(self, gpu):
        self.gpu, self.todo = gpu, []

    def wait_stream(self, other):
        assert other == "training"
        self.gpu.note("wait for training")


class Event:
    """An event that has passed when it was asked `lag` times."""

    def __init__(self, gpu):
        self.gpu, self.asked, self.work = gpu, 0, None

    def record(self, stream):
        self.gpu.note("record")
        self.work = list(stream.todo)
        stream.todo.clear()

    def query(self):
        self.gpu.note("query")
        self.asked += 1
        if self.asked >= self.gpu.lag:
            self._do()
        return self.work == []

    def synchronize(self):
        self.gpu.note("synchronize")
        self._do()

    def _do(self):
        for one in self.work:
            one()
        self.work = []


class Gpu(Cuda):
    """What lies in the memory of some tensors lies on a GPU. torch's own streams and events are replaced."""

    def __init__(self, lag=2):
        self.lag, self.log = lag, []
        self.places, self.memory, self.is_capturing = set(), True, False

    def note(self, what):
        assert threading.current_thread().name != "landscape-hooks writer"
        assert not self.is_capturing, f"{what} while the training is captured"
        self.log.append(what)

    def hold(self, model):
        self.places |= {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}

    def owns(self, tensor):
        return tensor.untyped_storage().data_ptr() in self.places

    def capturing(self):
        return self.is_capturing

    def on(self, device):
        return nullcontext()

    def stream(self, device):
        return Stream(self)

    def current(self, device):
        return "training"

    def using(self, stream):
        @contextmanager
        def within():
            self.note("copy")
            with Late(stream):
                yield

        return within()

    def empty(self, count, dtype, device):
        self.note("empty")
        if not self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().empty(count, dtype, device)

    def event(self):
        return Event(self)

    def keep(self, tensor, stream):
        self.note("keep")


@pytest.fixture
def gpu(monkeypatch):
    made = Gpu()
    monkeypatch.setattr(background, "Copies", lambda: Copies(made))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: made.is_capturing)
    return made


def recorded(gpu, path, steps=12, every=1, after=lambda step: None, **options):
    """A model that is trained on the double; the recorder, still open, and the iterates."""
    model = make_model()
    gpu.hold(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    iterates = {0: flat(model)}
    recorder = record(model, optimizer, path, every=every, **options)

    def step(number):
        iterates[number] = flat(model)
        after(number)

    train(model, optimizer, steps, step)
    return recorder, model, iterates


def assert_rows(path, iterates):
    t = Trajectory.open(path)
    for snapshot in t:
        np.testing.assert_array_equal(snapshot.weights, iterates[snapshot.step].numpy())
    return t


@pytest.mark.parametrize("lag", [1, 3, 10**9])
def test_snapshots_hold_their_own_step_however_late_they_arrive(gpu, tmp_path, lag):
    gpu.lag = lag
    recorder, _, iterates = recorded(gpu, tmp_path / "run.zarr")
    assert "synchronize" not in gpu.log  # while training nothing waits
    recorder.close()
    assert assert_rows(tmp_path / "run.zarr", iterates).steps.tolist() == list(range(13))


def test_a_copy_starts_after_the_training_and_its_memory_is_kept(gpu, tmp_path):
    recorder, model, _ = recorded(gpu, tmp_path / "run.zarr", steps=1)
    assert gpu.owns(model[0].weight)
    copying = [what for what in gpu.log if what not in ("query", "synchronize")]
    # buffers when the step ends, weights when the next begins; each in one transfer
    assert copying[:5] == ["empty", "wait for training", "copy", "keep", "record"]
    assert len(copying) % 5 == 0
    recorder.close()


def test_a_loss_on_the_gpu_is_not_waited_for(gpu, tmp_path):
    losses = torch.zeros(13)
    gpu.places.add(losses.untyped_storage().data_ptr())
    model = make_model()
    gpu.hold(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, optimizer, tmp_path / "run.zarr", every=1) as recorder:
        for step in range(1, 5):
            losses.fill_(step / 7)  # a captured loss lies in the same memory at every step
            recorder.log(loss=losses[step])
            train(model, optimizer, 1)
        assert "synchronize" not in gpu.log
    found = Trajectory.open(tmp_path / "run.zarr").losses
    np.testing.assert_allclose(np.asarray(found)[1:5], np.arange(1, 5, dtype=np.float32) / 7, rtol=1e-6)


def test_a_full_ring_waits_for_copies_and_not_for_ever(gpu, tmp_path, monkeypatch):
    gpu.lag = 10**9
    monkeypatch.setattr(background, "GROUP_ROWS", 1)  # a ring of two places
    recorder, _, iterates = recorded(gpu, tmp_path / "run.zarr")
    assert "synchronize" in gpu.log
    recorder.close()
    assert len(assert_rows(tmp_path / "run.zarr", iterates)) == 13


def test_a_model_that_leaves_the_gpu_is_copied_after_what_is_on_its_way(gpu, tmp_path):
    """Buffers of the last step are on their way when the weights come from the host."""
    gpu.lag = 10**9
    recorder, model, iterates = recorded(gpu, tmp_path / "run.zarr", steps=3)
    recorder.hold()  # weights of the last step, on their way
    gpu.places.clear()
    with torch.no_grad():
        buffers = torch.cat([b.reshape(-1) for b in model.buffers() if b.is_floating_point()])
    recorder.close()
    t = assert_rows(tmp_path / "run.zarr", iterates)
    np.testing.assert_array_equal(t[-1].buffers, buffers.numpy())


def test_what_comes_from_the_host_is_not_overwritten_by_what_is_on_its_way(gpu, tmp_path):
    gpu.lag = 10**9
    recorder, model, _ = recorded(gpu, tmp_path / "run.zarr", steps=1)
    ring, weights = recorder._background, list(model.parameters())
    place = ring.reserve()
    ring.copy(place, weights=weights)
    gpu.places.clear()
    with torch.no_grad():
        for parameter in weights:
            parameter.fill_(3.0)
    ring.copy(place, weights=weights)
    assert set(ring.content(place)[0].tolist()) == {3.0}
    ring.release(place)
    with pytest.warns(match="weights changed after the last"):
        recorder.close()


def test_a_buffer_that_is_gone_keeps_the_value_that_has_arrived(gpu, tmp_path):
    gpu.lag = 10**9
    model = nn.Linear(3, 2)
    model.register_buffer("scale", torch.full((4,), 7.0))
    gpu.hold(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = record(model, optimizer, tmp_path / "run.zarr", every=1)

    def step():
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()

    for _ in range(2):
        model.scale.add_(1.0)
        step()
    model.scale = torch.zeros(9)  # a cache that grew
    with pytest.warns(match="scale"):
        step()
    step()
    recorder.close()
    buffers = [snapshot.buffers.tolist() for snapshot in Trajectory.open(tmp_path / "run.zarr")]
    assert buffers == [[7.0] * 4, [8.0] * 4, [9.0] * 4, [9.0] * 4, [9.0] * 4]


def test_without_memory_for_a_duplicate_the_tensors_themselves_are_copied(gpu, tmp_path):
    gpu.memory = False
    recorder, _, iterates = recorded(gpu, tmp_path / "run.zarr")
    recorder.close()
    assert gpu.log.count("empty") == 1  # a second try would empty torch's cache again
    assert len(assert_rows(tmp_path / "run.zarr", iterates)) == 13


def test_a_captured_step_is_no_step_and_is_left_alone(gpu, tmp_path):
    path = tmp_path / "run.zarr"
    recorder, model, iterates = recorded(gpu, path, steps=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gpu.is_capturing = True
    model(torch.ones(4, 5)).sum().backward()
    optimizer.step()
    recorder.mark("while")
    gpu.is_capturing = False
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1  # a replay
    with pytest.warns(match=r"captured into a CUDA graph.*recorder\.step\(\)"):
        recorder.close()
    t = Trajectory.open(path)
    assert [doubt.kind for doubt in t.doubts] == ["steps"]
    assert t.steps.tolist() == [0, 1, 2, 3]
    for row in (0, 1, 2):
        np.testing.assert_array_equal(t[row].weights, iterates[row].numpy())


def test_replays_that_are_told_are_recorded(gpu, tmp_path):
    """Inside of the capture recorder.step() does nothing; after a replay it reads the weights at once."""
    model = make_model()
    gpu.hold(model)
    iterates = {0: flat(model)}
    with record(model, None, tmp_path / "run.zarr", every=1) as recorder:
        for step in range(1, 4):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(step)
            recorder.step()
            iterates[step] = flat(model)
    assert len(assert_rows(tmp_path / "run.zarr", iterates)) == 4


def test_neighbours_travel_together():
    row = torch.zeros(20)
    targets = [row[0:4].view(2, 2), row[4:4], row[4:10], row[12:15], row[15:20]]
    parts = [[target.numel() for target, _ in part] for part in neighbours([(t, t) for t in targets])]
    assert parts == [[4, 6], [3, 5]]


def test_another_type_is_cast_on_the_gpu():
    driver = Gpu(lag=1)
    row, source = torch.zeros(6), torch.arange(6, dtype=torch.bfloat16).view(2, 3)
    driver.places.add(source.untyped_storage().data_ptr())
    (arrival,) = Copies(driver).begin([row.view(2, 3)], [source])
    source.zero_()
    assert arrival.here()
    assert row.tolist() == [0, 1, 2, 3, 4, 5]


def test_pinned_memory_is_zeros_with_a_gpu_or_without():
    assert pinned(100).tolist() == [0] * 100


def test_the_driver_asks_torch_for_the_device_that_the_copy_is_on(monkeypatch):
    """Otherwise every process of a training on several GPUs would open the first of them."""
    log = []

    @contextmanager
    def device(which):
        log.append(("in", which))
        yield
        log.append(("out", which))

    class Moment:
        def __init__(self, **options):
            log.append(options)

        def query(self):
            log.append("query")
            return True

        def synchronize(self):
            log.append("synchronize")

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "Event", Moment)
    driver, where = Cuda(), torch.device("cuda:1")
    assert room.Arrival(driver.event(), where, driver).here()
    room.Arrival(driver.event(), where, driver).wait()
    asleep = {"blocking": True}  # the thread that waits leaves its core to others
    inside = [("in", where), "query", ("out", where), asleep, ("in", where), "synchronize", ("out", where)]
    assert log == [asleep, *inside]
    with room.current(where):
        assert log[-1] == ("in", where)
    with room.current(torch.device("cpu")), room.current(None):
        assert log[-1] == ("out", where)


def test_nothing_is_asked_of_cuda_before_it_is_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: pytest.fail("there may be no driver"))
    assert not room.capturing()


def test_ranks_talk_by_the_gpu_of_their_model(monkeypatch):
    """NCCL takes the current GPU, which is the first one on every rank where nobody has set it."""
    import torch.distributed as dist

    from landscape_hooks.trajectory.sharding import Ranks

    inside = []

    @contextmanager
    def device(which):
        inside.append(which)
        yield
        inside.pop()

    class Local:
        is_cuda, device = True, torch.device("cuda:1")

    def gather(values, value):
        assert inside == [torch.device("cuda:1")]
        values[:] = [value] * len(values)

    model = nn.Linear(2, 2)
    model.weight._local_tensor = Local()
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    assert Ranks(model).all("here") == ["here", "here"]
