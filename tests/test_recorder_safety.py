"""What is committed survives: kill -9 at any moment, errors of the store, a reader beside the writer, exit and fork."""

import multiprocessing
import random
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Storage, Trajectory, record
from landscape_hooks.errors import RecordingWarning, RunError

RECORDING = """
    import random, signal, sys, time
    import torch
    from torch import nn
    from landscape_hooks import Storage, Trajectory, record
    from landscape_hooks.recording import background
    from landscape_hooks.errors import RunError

    background.GROUP_SECONDS = 0.02
    path, (size, options, end) = sys.argv[1], map(eval, sys.argv[2:])
    # every weight equals the number of steps taken, so a torn row shows
    model = nn.Linear(size, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.weight.grad = torch.full_like(model.weight, -1.0)
    start = None
    print("begun", flush=True)
    try:
        last = Trajectory.open(path)[-1]
        start = last.step
        nn.init.constant_(model.weight, last.weights[0])
    except (RunError, IndexError):
        pass
    record(model, optimizer, path, if_exists="resume", step=start, storage=Storage(on_error="raise"), **options)
    print("recording", flush=True)
    for step in range(start or 0, end):
        optimizer.step()
    time.sleep(60)
"""


def open_if_created(path):
    """The trajectory, or None where the process was killed before record() had made it a run."""
    try:
        return Trajectory.open(path)
    except RunError as error:
        if "being created" in str(error) or "nothing at" in str(error) or not any(path.glob("*.json")):
            return None
        raise


@pytest.mark.more
@pytest.mark.parametrize(
    ("size", "options", "kills"),
    [(1_000, {"every": 1}, 8), (700_000, {"every": 1}, 9), (700_000, {"keep": 8}, 9), (1_000, {"keep": 8}, 6)],
)
def test_kill_at_any_moment_leaves_every_committed_snapshot_whole(interpreters, tmp_path, size, options, kills):
    path, end = tmp_path / "run.zarr", 200_000 if size < 10_000 else 20_000
    longest, rows = 0, 0
    for number in range(kills):
        process = interpreters.start(RECORDING, path, size, repr(options), end)
        assert process.stdout.readline() == "begun\n"
        if number == kills // 2:  # once when something is committed for certain, however busy the machine
            while (t := open_if_created(path)) is None or len(t) < 2:
                time.sleep(0.01)
        elif random.random() < 0.8:  # also before the first snapshot
            assert process.stdout.readline() == "recording\n"
        time.sleep(random.random() * 0.12)
        process.kill()
        assert process.wait() == -9
        t = open_if_created(path)
        if t is not None:
            np.testing.assert_array_equal(t.block(), np.repeat(t.steps[:, None], size, axis=1).astype(np.float32))
            stride = np.diff(t.steps)
            assert (stride == stride[:1]).all()
            assert len(t) <= options.get("keep", len(t))
            assert len(t) == 0 or t.steps[-1] >= longest
            longest, rows = (int(t.steps[-1]), len(t)) if len(t) else (0, 0)
    assert rows > 1


def counter(size=1000):
    """A model whose weights all equal the number of steps its optimizer has taken."""
    model = nn.Linear(size, 1, bias=False)
    nn.init.zeros_(model.weight)
    model.weight.grad = torch.full_like(model.weight, -1.0)
    return model, torch.optim.SGD(model.parameters(), lr=1.0)


def step_twice(optimizer):
    optimizer.step()
    optimizer.step()


def assert_whole(trajectory):
    expected = np.repeat(trajectory.steps[:, None], trajectory.layout.size, axis=1)
    np.testing.assert_array_equal(trajectory.block(), expected)


def test_leftovers_of_a_kill_are_removed_when_resuming(tmp_path):
    path = tmp_path / "run.zarr"
    model, optimizer = counter()
    with record(model, optimizer, path, every=1):
        optimizer.step()
    leftover = path / "trajectory" / "weights" / "c" / "7.0123456789abcdef.partial"
    leftover.write_bytes(b"torn")
    analysis = path / "surfaces" / "pca" / "loss" / "c" / "0.0123456789abcdef.partial"
    analysis.parent.mkdir(parents=True)
    analysis.write_bytes(b"an analysis that is at work")
    with record(model, optimizer, path, every=1, if_exists="resume"):
        optimizer.step()
    assert not leftover.exists()
    assert analysis.exists()
    assert Trajectory.open(path).steps.tolist() == [0, 1, 2]


def test_leftovers_of_a_kill_before_there_was_a_run_are_removed_when_recording(tmp_path):
    """The very first file had not been renamed yet."""
    path = tmp_path / "run.zarr"
    path.mkdir()
    (path / "zarr.0123456789abcdef.partial").write_bytes(b"torn")
    model, optimizer = counter()
    with record(model, optimizer, path, every=1):
        optimizer.step()
    assert Trajectory.open(path).steps.tolist() == [0, 1]
    assert not list(path.rglob("*.partial"))


@pytest.mark.parametrize("ending", ["raise ValueError('my own mistake')", "signal.raise_signal(signal.SIGINT)"])
def test_an_exception_or_ctrl_c_flushes_and_propagates(interpreters, tmp_path, ending):
    done = interpreters.run(
        f"""
        import signal, sys, torch
        from torch import nn
        from landscape_hooks import record
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell hands it down as ignored
        model = nn.Linear(40, 30)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        record(model, optimizer, sys.argv[1], every=2)
        for step in range(20):
            model(torch.randn(4, 40)).square().mean().backward()
            optimizer.step()
            if step == 4:
                {ending}
        """,
        tmp_path / "run.zarr",
        whole=True,
    )
    assert done.returncode != 0
    assert "my own mistake" in done.stderr or "KeyboardInterrupt" in done.stderr
    assert "landscape_hooks" not in done.stderr
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 2, 4, 5]


def test_a_full_disk_is_one_warning_and_training_goes_on(interpreters, tmp_path):
    # the kernel refuses files beyond a size, as it would on a full disk
    done = interpreters.run(
        r"""
        import resource, sys, warnings, torch
        from torch import nn
        from landscape_hooks import record
        model = nn.Linear(800_000, 1, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.weight.grad = torch.ones_like(model.weight)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            recorder = record(model, optimizer, sys.argv[1], every=1, verbose=False)
            for step in range(10):
                if step == 3:
                    recorder.flush()
                    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
                optimizer.step()
            during = len(caught)
            recorder.close()
        print(during, *[w.category.__name__ + ": " + str(w.message) for w in caught], sep="\n")
        """,
        tmp_path / "run.zarr",
    )
    assert (done.returncode, done.stderr) == (0, "")
    during, *messages = done.stdout.splitlines()
    assert during == "1"
    assert len(messages) == 2
    assert messages[0].startswith("RecordingWarning: Recording stopped at step")
    assert "File too large" in messages[0]
    assert "4 are committed" in messages[1]
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.steps.tolist() == [0, 1, 2, 3]
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_store_that_vanishes(tmp_path, on_error):
    path = tmp_path / "run.zarr"
    model, optimizer = counter(700_000)
    recorder = record(model, optimizer, path, every=1, storage=Storage(on_error=on_error))
    optimizer.step()
    recorder.flush()
    shutil.rmtree(path)
    with pytest.warns(RecordingWarning) if on_error == "warn" else pytest.raises(RunError) as caught:
        for _ in range(5):
            optimizer.step()
            time.sleep(0.05)
    message = str(caught[0].message if on_error == "warn" else caught.value)
    assert "is gone" in message
    assert on_error == "raise" or len(caught) == 1
    before = model.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, model.weight)
    with pytest.warns(RecordingWarning) if on_error == "warn" else pytest.raises(RunError):
        recorder.close()
    assert not path.exists()


def test_trouble_in_the_hook_itself_does_not_stop_training(tmp_path):
    model, optimizer = counter()
    recorder = record(model, optimizer, tmp_path / "run.zarr", every=1)
    optimizer.step()
    model.weight = nn.Parameter(torch.zeros(1, 3))
    with pytest.warns(RecordingWarning, match=r"'weight' has shape \[1, 3\]") as caught:
        step_twice(optimizer)
    assert len(caught) == 1
    recorder.close()
    assert_whole(Trajectory.open(tmp_path / "run.zarr"))


def test_an_exception_inside_a_with_block_is_the_users(tmp_path):
    model, optimizer = counter()

    def training():
        with record(model, optimizer, tmp_path / "run.zarr", every=1):
            optimizer.step()
            return 1 / 0

    with pytest.raises(ZeroDivisionError):
        training()
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 1]


@pytest.mark.more
@pytest.mark.parametrize("options", [{"every": 1}, {"keep": 6}])
def test_a_reader_beside_the_writer_sees_whole_snapshots_only(tmp_path, options):
    path = tmp_path / "run.zarr"
    model, optimizer = counter(600_000)
    stop = threading.Event()
    trouble, seen = [], 0

    def read():
        nonlocal seen
        while not stop.is_set():
            t = Trajectory.open(path)
            for i in range(len(t)):
                try:
                    row = t.block(slice(i, i + 1))[0]
                except RunError as error:
                    if "replaced the snapshot" not in str(error):
                        trouble.append(error)
                    continue
                seen += 1
                if not (row == t.steps[i]).all():
                    trouble.append((t.steps[i], np.unique(row)))

    with record(model, optimizer, path, **options):
        reader = threading.Thread(target=read)
        reader.start()
        deadline = time.monotonic() + 30
        steps = 0
        while steps < 60 or (seen < 15 and time.monotonic() < deadline):
            optimizer.step()
            steps += 1
    stop.set()
    reader.join()
    assert not trouble
    assert seen >= 15
    assert_whole(Trajectory.open(path))


def test_forked_workers_neither_record_nor_close(tmp_path):
    path = tmp_path / "run.zarr"
    model, optimizer = counter()
    recorder = record(model, optimizer, path, every=1)
    data = torch.utils.data.TensorDataset(torch.arange(8.0))
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        for _ in loader:
            optimizer.step()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: (optimizer.step(), recorder.flush(), recorder.close()))
    child.start()  # a child that trains on its own does not write into the parent's run, and does not hang at exit
    child.join(20)
    assert child.exitcode == 0
    recorder.close()
    t = Trajectory.open(path)
    assert t.steps.tolist() == list(range(9))
    assert_whole(t)


def test_a_full_queue_drops_on_request_and_counts(tmp_path):
    model, optimizer = counter(700_000)
    recorder = record(model, optimizer, tmp_path / "run.zarr", every=1, storage=Storage(queue="drop"))
    for _ in range(60):
        optimizer.step()
    dropped = recorder.dropped
    if dropped:
        with pytest.warns(RecordingWarning, match="dropped because"):
            recorder.close()
    else:
        recorder.close()
    t = Trajectory.open(tmp_path / "run.zarr")
    assert len(t) - (61 - dropped) in (0, 1)  # 1 where step 60 was dropped, too, and taken again at the end
    assert t.steps[-1] == 60
    assert_whole(t)


def test_going_on_with_a_run_closes_the_recorder_that_an_interrupted_fit_left_open(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = record(model, optimizer, tmp_path / "run.zarr", every=1)
    for _ in range(4):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    second = record(model, optimizer, str(tmp_path / "run.zarr"), every=1, if_exists="resume")
    assert second.current_step == first.current_step == 4
    optimizer.step()
    second.close()
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 1, 2, 3, 4, 5]
