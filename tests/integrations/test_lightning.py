"""Lightning for real: fits, accumulation, checkpoints, exceptions, precision, averaging, compilation."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_hooks import Trajectory, analyze
from landscape_hooks.errors import RecordingWarning, RunError

pytest.importorskip("lightning")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*(num_workers|does not have many workers|batch_size|LeafSpec).*"),
]

import lightning.pytorch as lightning  # noqa: E402
import pytorch_lightning  # noqa: E402
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint  # noqa: E402
from torchmetrics import Accuracy  # noqa: E402

from landscape_hooks.integrations.lightning import LandscapeCallback  # noqa: E402

ORIGIN = {"size": 3, "extent": (-1, 1, -1, 1), "batch_norm": "fixed", "progress": False}


def make_module(base=lightning.LightningModule, batch_norm=True):
    class Digits(base):
        def __init__(self):
            super().__init__()
            norm = nn.BatchNorm1d(16) if batch_norm else nn.Identity()
            self.net = nn.Sequential(nn.Linear(8, 16), norm, nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
            self.accuracy = Accuracy("multiclass", num_classes=3)
            self.seen = []

        def forward(self, inputs):
            return self.net(inputs)

        def training_step(self, batch, batch_idx):
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.seen.append((self.global_step, self.current_epoch, loss.item()))
            return loss

        def validation_step(self, batch, batch_idx):
            output = self(batch[0])
            self.accuracy(output, batch[1])
            self.log("val_acc", self.accuracy)
            self.log("val_loss", nn.functional.cross_entropy(output, batch[1]))

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3), "interval": "step"}]

    torch.manual_seed(0)
    return Digits()


def loaders(rows=70, batch=10):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(rows, 8, generator=generator)
    data = TensorDataset(inputs, inputs[:, :3].argmax(dim=1))
    return DataLoader(data, batch, shuffle=True), DataLoader(data, 16)


def make_trainer(path, *callbacks, package=lightning, **options):
    options = {"max_epochs": 2, "logger": False, "accelerator": "cpu", "devices": 1, **options}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": path}
    options.setdefault("enable_checkpointing", False)
    return package.Trainer(callbacks=list(callbacks), **options)


@pytest.mark.parametrize("package", [lightning, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
def test_one_line_records_a_fit_and_finds_the_loss(package, tmp_path):
    store = tmp_path / "run.zarr"
    module, (train, val) = make_module(package.LightningModule), loaders()
    trainer = make_trainer(tmp_path, LandscapeCallback(store), package=package)
    trainer.fit(module, train, val)
    trajectory = Trajectory.open(store)
    assert trajectory.steps.tolist() == list(range(15))
    assert trajectory.epochs.tolist() == [0] * 8 + [1] * 7
    np.testing.assert_allclose(trajectory.losses[1:], [loss for *_, loss in module.seen], rtol=1e-6)
    np.testing.assert_allclose(trajectory.learning_rates[1:, 0], [0.1 * 0.1 ** (i // 3) for i in range(14)])
    surface = analyze(store, **ORIGIN)
    own = trainer.validate(module, val, verbose=False)[0]["val_loss"]
    assert surface.loss[1, 1] == pytest.approx(own, rel=1e-5)
    assert surface.path_loss[-1] == pytest.approx(own, rel=1e-5)
    assert type(module.accuracy).__name__ == "MulticlassAccuracy"  # it was silent for a moment only


def test_accumulation_records_optimizer_steps_with_the_last_partial_one(tmp_path):
    module, (train, val) = make_module(), loaders()
    trainer = make_trainer(tmp_path, LandscapeCallback(tmp_path / "run.zarr"), accumulate_grad_batches=3)
    trainer.fit(module, train, val)
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trainer.global_step == 6  # 7 batches an epoch: 3 + 3 + 1
    assert trajectory.steps.tolist() == list(range(7))
    means = [np.mean([v for step, _, v in module.seen if step == n]) for n in range(6)]
    np.testing.assert_allclose(trajectory.losses[1:], means, rtol=1e-5)


class Stop(Exception):
    pass


def stop_at(step, error):
    class Stopper(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == step:
                raise error

    return Stopper()


@pytest.mark.parametrize(("error", "seen"), [(Stop("mine"), Stop), (KeyboardInterrupt(), SystemExit)])
def test_what_was_recorded_survives_an_exception(error, seen, tmp_path):
    trainer = make_trainer(tmp_path, LandscapeCallback(tmp_path / "run.zarr", every=4), stop_at(9, error))
    with pytest.raises(seen):
        trainer.fit(make_module(), *loaders())
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8, 9]


def test_resuming_from_a_checkpoint_equals_not_stopping(tmp_path):
    def fit(name, epochs, ckpt=None):
        torch.manual_seed(3)
        saver = ModelCheckpoint(tmp_path / name, save_last=True, every_n_train_steps=5)
        trainer = make_trainer(
            tmp_path, LandscapeCallback(tmp_path / f"{name}.zarr", keep=8), saver, max_epochs=epochs,
            enable_checkpointing=True,
        )  # fmt: skip
        _, val = loaders()
        train = DataLoader(val.dataset, 10)  # in order: what is compared is the recorder
        trainer.fit(make_module(batch_norm=False), train, val, ckpt_path=ckpt)

    import os

    fit("whole", 3)
    fit("parts", 2)
    fit("parts", 3, tmp_path / "parts" / "last.ckpt")
    whole, parts = (Trajectory.open(tmp_path / f"{name}.zarr") for name in ("whole", "parts"))
    assert os.path.exists(tmp_path / "parts" / "last.ckpt")
    assert whole.steps.tolist() == parts.steps.tolist()
    assert whole.steps[-1] == 21
    np.testing.assert_array_equal(whole.epochs, parts.epochs)


def test_the_same_script_twice_is_refused(tmp_path):
    make_trainer(tmp_path, LandscapeCallback(tmp_path / "run.zarr")).fit(make_module(), *loaders())
    with pytest.raises(RunError, match="already"):
        make_trainer(tmp_path, LandscapeCallback(tmp_path / "run.zarr")).fit(make_module(), *loaders())


def test_averaged_weights_are_not_taken_for_the_last_iterate(tmp_path):
    iterates = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            iterates.append(torch.cat([p.detach().flatten() for p in module.parameters()]).numpy())

    module = make_module()
    average = EMAWeightAveraging(decay=0.5)
    trainer = make_trainer(tmp_path, average, LandscapeCallback(tmp_path / "run.zarr", every=100), Watch())
    trainer.fit(module, *loaders())
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == [0, 14]
    np.testing.assert_array_equal(trajectory[1].weights, iterates[-1])
    final = torch.cat([p.detach().flatten() for p in module.parameters()]).numpy()
    assert not np.array_equal(final, iterates[-1])


def test_manual_optimization_counts_the_steps_of_every_optimizer(tmp_path):
    class Two(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 3)

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                loss = nn.functional.cross_entropy(self.b(self.a(batch[0])), batch[1])
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def validation_step(self, batch, batch_idx):
            return {"loss": nn.functional.cross_entropy(self.b(self.a(batch[0])), batch[1])}

        def configure_optimizers(self):
            return [torch.optim.SGD(self.a.parameters(), lr=0.1), torch.optim.Adam(self.b.parameters(), lr=0.01)]

    trainer = make_trainer(tmp_path, LandscapeCallback(tmp_path / "run.zarr"), max_epochs=1)
    trainer.fit(Two(), *loaders())
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trainer.global_step == 14
    assert trajectory.steps.tolist() == list(range(15))
    np.testing.assert_array_equal(trajectory.learning_rates, [[0.1, 0.01]] * 15)
    moved = np.diff(trajectory.block(), axis=0) != 0
    assert not moved[0, 36:].any()  # the first step is of the first optimizer, on the first layer
    assert not moved[1, :36].any()
    assert analyze(tmp_path / "run.zarr", **ORIGIN).complete


class Plain(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 3)

    def training_step(self, batch):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        return {"loss": loss}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def own_loss(module, data):
    inputs, targets = data.tensors
    return nn.functional.cross_entropy(module.net(inputs), targets).item()


def test_without_validation_the_training_step_is_drawn(tmp_path):
    module, (train, _) = Plain(), loaders()
    make_trainer(tmp_path, LandscapeCallback(tmp_path / "run.zarr"), max_epochs=1).fit(module, train)
    surface = analyze(tmp_path / "run.zarr", **ORIGIN)
    assert surface.loss[1, 1] == pytest.approx(own_loss(module, train.dataset), rel=1e-5)


def test_bfloat16_autocast(tmp_path):
    module, (train, val) = make_module(), loaders()
    trainer = make_trainer(tmp_path, LandscapeCallback(tmp_path / "run.zarr"), precision="bf16-mixed")
    trainer.fit(module, train, val)
    surface = analyze(tmp_path / "run.zarr", **ORIGIN)
    own = trainer.validate(module, val, verbose=False)[0]["val_loss"]
    assert surface.loss[1, 1] == pytest.approx(own, rel=0.02)


def test_a_compiled_module(tmp_path):
    module, (train, _) = Plain(), loaders()
    trainer = make_trainer(tmp_path, LandscapeCallback(tmp_path / "run.zarr"), max_epochs=1)
    trainer.fit(torch.compile(module, backend="eager"), train)
    assert Trajectory.open(tmp_path / "run.zarr").layout.names == ("net.weight", "net.bias")
    surface = analyze(tmp_path / "run.zarr", **ORIGIN)
    assert surface.loss[1, 1] == pytest.approx(own_loss(module, train.dataset), rel=1e-5)


def test_a_module_without_a_loss_is_recorded_with_a_warning(tmp_path):
    class Odd(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(8, 3)

        def training_step(self, batch, batch_idx):
            if self.trainer.global_step < 0:
                return None
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = make_trainer(tmp_path, LandscapeCallback(tmp_path / "run.zarr"), max_epochs=1)
    with pytest.warns(RecordingWarning, match="could not be stored"):
        trainer.fit(Odd(), loaders()[0])
    assert len(Trajectory.open(tmp_path / "run.zarr")) == 8


def test_sgd_with_momentum_is_bit_identical_with_and_without(tmp_path):
    finals = []
    for callbacks in ([], [LandscapeCallback(tmp_path / "run.zarr")]):
        torch.manual_seed(5)
        module = make_module()
        make_trainer(tmp_path, *callbacks).fit(module, *loaders())
        finals.append(torch.cat([t.flatten().float() for t in module.state_dict().values()]))
    assert torch.equal(*finals)


def test_the_example_of_the_docstring_runs(run_example, tmp_path):
    module, (train, val) = make_module(), loaders()
    names = {"LandscapeCallback": LandscapeCallback, "module": module, "train_loader": train, "val_loader": val}
    run_example(LandscapeCallback, Trainer=lambda **options: make_trainer(
        tmp_path, *options.pop("callbacks"), **options
    ), **names)  # fmt: skip
    assert len(Trajectory.open("runs/lightning.zarr")) == 22


@pytest.mark.parametrize(
    "step",
    [
        lambda self, batch, _: self.loss_of(batch),
        lambda self, batch: self.loss_of(batch),
        lambda self, batch, number, /: self.loss_of(batch),
        lambda self, *given: self.loss_of(given[0]),
        lambda self, batch, i=0, dataloader_idx=0: self.loss_of(batch),
    ],
)
def test_the_arguments_of_a_step_go_by_position(step):
    from landscape_hooks.integrations.lightning import StepLoss

    kind = type("Module", (torch.nn.Linear,), {"validation_step": step, "loss_of": lambda self, b: self(b).mean()})
    model = kind(2, 1)
    assert torch.equal(StepLoss("validation_step", 0)(model, torch.ones(3, 2)), model(torch.ones(3, 2)).mean())
