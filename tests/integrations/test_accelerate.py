"""accelerate for real: a loop of one's own, accumulation, checkpoints, precision."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_hooks import Trajectory, analyze

accelerate = pytest.importorskip("accelerate")

from landscape_hooks.integrations.accelerate import record  # noqa: E402

ORIGIN = {"size": 3, "extent": (-1, 1, -1, 1), "batch_norm": "fixed", "progress": False}
CRITERION = nn.CrossEntropyLoss()


class Loop:
    """The loop of accelerate's own guide, with the one line in its place."""

    def __init__(self, store, *, shuffle=True, options=None, **settings):
        torch.manual_seed(0)
        self.accelerator = accelerate.Accelerator(cpu=True, **settings)
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(70, 8, generator=generator)
        data = TensorDataset(inputs, inputs[:, :3].argmax(dim=1))
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        train, val = DataLoader(data, 10, shuffle=shuffle), DataLoader(data, 16)
        self.model, self.optimizer, self.train, self.val = self.accelerator.prepare(model, optimizer, train, val)
        self.losses = []
        self.recording = None
        if store is not None:
            self.recording = record(
                self.accelerator, self.model, self.optimizer, store, criterion=CRITERION, data=self.val,
                **(options or {}),
            )  # fmt: skip

    def run(self, epochs, save=None, stop=None):
        for _ in range(epochs):
            self.model.train()
            for inputs, targets in self.train:
                with self.accelerator.accumulate(self.model):
                    loss = CRITERION(self.model(inputs), targets)
                    self.losses.append(loss.item())
                    self.accelerator.backward(loss)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                if stop is not None and len(self.losses) == stop:
                    raise RuntimeError("mine")
            if save is not None:
                self.accelerator.save_state(str(save))
        self.accelerator.end_training()

    def evaluate(self):
        self.model.eval()
        with torch.no_grad():
            parts = [(CRITERION(self.model(inputs), targets).item(), len(targets)) for inputs, targets in self.val]
        return np.average([loss for loss, _ in parts], weights=[size for _, size in parts])


@pytest.fixture(autouse=True)
def _fresh_state():
    yield
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def test_one_line_records_a_loop(tmp_path):
    loop = Loop(tmp_path / "run.zarr")
    loop.run(2)
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(15))
    assert trajectory.epochs[1:].tolist() == [0] * 7 + [1] * 7
    np.testing.assert_allclose(trajectory.losses[1:], loop.losses, rtol=1e-6)
    np.testing.assert_array_equal(trajectory.learning_rates, [[0.01]] * 15)
    surface = analyze(tmp_path / "run.zarr", **ORIGIN)
    assert surface.loss[1, 1] == pytest.approx(loop.evaluate(), rel=1e-5)
    assert surface.path_loss[-1] == pytest.approx(loop.evaluate(), rel=1e-5)


def test_accumulation_records_optimizer_steps_with_the_last_partial_one(tmp_path):
    loop = Loop(tmp_path / "run.zarr", gradient_accumulation_steps=3)
    loop.run(2)
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(7))  # 7 batches an epoch: 3 + 3 + 1
    parts = np.split(np.array(loop.losses), [3, 6, 7, 10, 13])
    np.testing.assert_allclose(trajectory.losses[1:], [part.mean() for part in parts], rtol=1e-6)


def test_resuming_from_a_checkpoint_equals_not_stopping(tmp_path):
    Loop(tmp_path / "whole.zarr", shuffle=False, options={"every": 3}).run(3)
    first = Loop(tmp_path / "parts.zarr", shuffle=False, options={"every": 3})
    with pytest.raises(RuntimeError, match="mine"):
        first.run(3, save=tmp_path / "checkpoint", stop=17)
    first.recording.close()
    second = Loop(tmp_path / "parts.zarr", shuffle=False, options={"every": 3, "if_exists": "resume"})
    second.accelerator.load_state(str(tmp_path / "checkpoint"))
    second.run(1)
    whole, parts = (Trajectory.open(tmp_path / f"{name}.zarr") for name in ("whole", "parts"))
    assert whole.steps.tolist() == parts.steps.tolist() == [0, 3, 6, 9, 12, 15, 18, 21]
    np.testing.assert_array_equal(whole.block(), parts.block())
    np.testing.assert_array_equal(whole.losses, parts.losses)


def test_bfloat16_autocast(tmp_path):
    loop = Loop(tmp_path / "run.zarr", mixed_precision="bf16")
    loop.run(2)
    surface = analyze(tmp_path / "run.zarr", **ORIGIN)
    assert surface.loss[1, 1] == pytest.approx(loop.evaluate(), rel=0.02)
    assert np.ptp(surface.loss) > 1e-3


def test_training_is_bit_identical_with_and_without(tmp_path):
    finals = []
    for store in (None, tmp_path / "run.zarr"):
        loop = Loop(store)
        loop.run(2)
        finals.append(torch.cat([t.detach().flatten().float() for t in loop.model.state_dict().values()]))
    assert torch.equal(*finals)


TWO_RANKS = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
from test_accelerate import Loop
from landscape_hooks import Trajectory
loop = Loop(pathlib.Path(sys.argv[2]))
loop.run(2)
print("rank", loop.accelerator.process_index, loop.recording.store, flush=True)
"""


def test_of_two_processes_rank_zero_writes(tmp_path):
    import os
    import subprocess
    import sys

    script = tmp_path / "train.py"
    script.write_text(TWO_RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
               str(script), os.path.dirname(__file__), str(tmp_path / "run.zarr")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(9))  # 70 rows in batches of 10 on two ranks: 4 steps an epoch
    assert trajectory.layout.names[0] == "0.weight"
    assert analyze(tmp_path / "run.zarr", **ORIGIN).complete


def test_the_example_of_the_docstring_runs(run_example):
    model = nn.Sequential(nn.Linear(8, 3))
    names = run_example(
        record,
        accelerator=accelerate.Accelerator(cpu=True),
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loader=DataLoader(TensorDataset(torch.randn(20, 8), torch.zeros(20, dtype=torch.long)), 10),
        criterion=CRITERION,
        record=record,
    )
    for inputs, targets in names["loader"]:
        names["accelerator"].backward(CRITERION(names["model"](inputs), targets))
        names["optimizer"].step()
    names["accelerator"].end_training()
    assert len(Trajectory.open("runs/accelerate.zarr")) == 3
