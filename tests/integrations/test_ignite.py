"""ignite for real: a supervised trainer, accumulation, checkpoints, exceptions, Ctrl-C."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_hooks import Trajectory, analyze

ignite = pytest.importorskip("ignite")

from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer  # noqa: E402
from ignite.handlers import Checkpoint, DiskSaver  # noqa: E402
from ignite.metrics import Loss  # noqa: E402

from landscape_hooks.integrations.ignite import LandscapeHandler  # noqa: E402

ORIGIN = {"size": 3, "extent": (-1, 1, -1, 1), "batch_norm": "fixed", "progress": False}
CRITERION = nn.CrossEntropyLoss()


class Case:
    def __init__(self, store, *, shuffle=True, accumulate=1, **options):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(70, 8, generator=generator)
        data = TensorDataset(inputs, inputs[:, :3].argmax(dim=1))
        self.train, self.val = DataLoader(data, 10, shuffle=shuffle), DataLoader(data, 16)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.trainer = create_supervised_trainer(
            self.model, self.optimizer, CRITERION, gradient_accumulation_steps=accumulate
        )
        self.losses = []
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: self.losses.append(e.state.output))
        if store is not None:
            options = {"criterion": CRITERION, "data": self.val, **options}
            self.handler = LandscapeHandler(self.model, self.optimizer, store, **options).attach(self.trainer)

    def evaluate(self):
        evaluator = create_supervised_evaluator(self.model, {"loss": Loss(CRITERION)})
        return evaluator.run(self.val).metrics["loss"]


def test_one_line_records_an_engine(tmp_path):
    case = Case(tmp_path / "run.zarr")
    case.trainer.run(case.train, max_epochs=2)
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(15))
    assert trajectory.epochs.tolist() == [0] + [1] * 7 + [2] * 7
    np.testing.assert_allclose(trajectory.losses[1:], case.losses, rtol=1e-6)
    np.testing.assert_array_equal(trajectory.learning_rates, [[0.1]] * 15)
    surface = analyze(tmp_path / "run.zarr", **ORIGIN)
    assert surface.loss[1, 1] == pytest.approx(case.evaluate(), rel=1e-5)
    assert surface.path_loss[-1] == pytest.approx(case.evaluate(), rel=1e-5)


def test_accumulation_records_optimizer_steps(tmp_path):
    case = Case(tmp_path / "run.zarr", accumulate=3)
    case.trainer.run(case.train, max_epochs=2)
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(5))  # 14 iterations; ignite steps every third, across epochs
    means = np.array(case.losses[:12]).reshape(4, 3).mean(axis=1)
    np.testing.assert_allclose(trajectory.losses[1:], means, rtol=1e-5)


def test_resuming_from_a_checkpoint_equals_not_stopping(tmp_path):
    def make(name):
        case = Case(tmp_path / f"{name}.zarr", shuffle=False, every=3)
        parts = {"trainer": case.trainer, "model": case.model, "optimizer": case.optimizer, "landscape": case.handler}
        saver = DiskSaver(str(tmp_path / name), create_dir=True, require_empty=False)
        case.trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), Checkpoint(parts, saver, n_saved=None))
        return case, parts

    whole, _ = make("whole")
    whole.trainer.run(whole.train, max_epochs=4)
    first, _ = make("parts")
    first.trainer.run(first.train, max_epochs=3)
    second, parts = make("parts")
    checkpoint = torch.load(tmp_path / "parts" / "checkpoint_14.pt", weights_only=True)
    Checkpoint.load_objects(parts, checkpoint)
    second.trainer.run(second.train, max_epochs=4)
    runs = [Trajectory.open(tmp_path / f"{name}.zarr") for name in ("whole", "parts")]
    assert runs[0].steps.tolist() == runs[1].steps.tolist() == [*range(0, 28, 3), 28]
    np.testing.assert_array_equal(runs[0].block(), runs[1].block())
    np.testing.assert_array_equal(runs[0].losses, runs[1].losses)


def test_an_engine_that_runs_again_goes_on(tmp_path):
    case = Case(tmp_path / "run.zarr")
    case.trainer.run(case.train, max_epochs=1)
    case.trainer.run(case.train, max_epochs=2)
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == list(range(15))


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_what_was_recorded_survives_an_exception(error, tmp_path):
    case = Case(tmp_path / "run.zarr", every=4)

    @case.trainer.on(Events.ITERATION_COMPLETED(once=9))
    def stop(engine):
        raise error

    with pytest.raises(error):
        case.trainer.run(case.train, max_epochs=2)
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8, 9]


def test_an_exception_that_the_user_handles_stays_handled(tmp_path):
    case, handled = Case(tmp_path / "run.zarr", every=4), []
    case.trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: handled.append(error))

    @case.trainer.on(Events.ITERATION_COMPLETED(once=9))
    def stop(engine):
        raise Stop

    case.trainer.run(case.train, max_epochs=2)
    assert handled
    assert Trajectory.open(tmp_path / "run.zarr").steps[-1] >= 9


def test_a_terminated_engine_is_complete(tmp_path):
    case = Case(tmp_path / "run.zarr", every=4)
    case.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=9), lambda engine: engine.terminate())
    case.trainer.run(case.train, max_epochs=2)
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8, 9]


def test_training_is_bit_identical_with_and_without(tmp_path):
    finals = []
    for store in (None, tmp_path / "run.zarr"):
        case = Case(store)
        case.trainer.run(case.train, max_epochs=2)
        finals.append(torch.cat([t.flatten().float() for t in case.model.state_dict().values()]))
    assert torch.equal(*finals)


def test_the_example_of_the_docstring_runs(run_example, tmp_path):
    case = Case(None)
    run_example(
        LandscapeHandler,
        create_supervised_trainer=create_supervised_trainer,
        LandscapeHandler=LandscapeHandler,
        Checkpoint=Checkpoint,
        model=case.model,
        optimizer=case.optimizer,
        criterion=CRITERION,
        loader=case.train,
    )
    assert len(Trajectory.open("runs/ignite.zarr")) == 15
