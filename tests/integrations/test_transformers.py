"""transformers for real: tiny models from a configuration, trained, interrupted, resumed, averaged over tokens."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from landscape_hooks import Local, Trajectory, analyze, record
from landscape_hooks.store.run import open_run

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from landscape_hooks.integrations.transformers import LandscapeCallback  # noqa: E402

ORIGIN = {"size": 3, "extent": (-1, 1, -1, 1), "batch_norm": "fixed", "progress": False}


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3,
        max_position_embeddings=16,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    return transformers.GPT2LMHeadModel(config)


def rows(count, seed=1, causal=False):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        tokens = torch.randint(0, 20, (8,), generator=generator)
        labels = tokens.clone() if causal else tokens[0] % 3
        if causal:
            labels[: int(tokens[0]) % 5] = -100
        found.append({"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels})
    return found


def make_trainer(path, model, *callbacks, causal=False, **options):
    options = {
        "num_train_epochs": 2, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 8, "use_cpu": True,
        "report_to": "none", "save_strategy": "no", "eval_strategy": "epoch", "logging_steps": 1, "learning_rate": 0.01,
        "disable_tqdm": True, "logging_nan_inf_filter": False, **options,
    }  # fmt: skip
    return transformers.Trainer(
        model,
        transformers.TrainingArguments(path / "out", **options),
        train_dataset=rows(26, causal=causal),
        eval_dataset=rows(20, seed=2, causal=causal),
        callbacks=list(callbacks),
    )


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize(("make", "causal"), [(bert, False), (gpt2, True)], ids=["classifier", "language-model"])
def test_one_line_records_a_training_and_finds_the_loss(make, causal, tmp_path):
    trainer = make_trainer(tmp_path, make(), LandscapeCallback(str(tmp_path / "run.zarr")), causal=causal)
    trainer.train()
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(15))
    np.testing.assert_allclose(trajectory.epochs, np.arange(15) / 7)
    np.testing.assert_allclose(trajectory.losses[1:], logged(trainer, "loss"), rtol=1e-3)
    np.testing.assert_allclose(trajectory.learning_rates[1:, 0], logged(trainer, "learning_rate"), rtol=1e-6)
    surface = analyze(tmp_path / "run.zarr", **ORIGIN)
    own = trainer.evaluate()["eval_loss"]
    # the trainer weighs the batches of a language model by their samples, the stored loss by the tokens that count
    assert surface.loss[1, 1] == pytest.approx(own, rel=5e-3 if causal else 1e-4)
    assert surface.path_loss[-1] == pytest.approx(own, rel=5e-3 if causal else 1e-4)


@pytest.mark.parametrize(("make", "causal"), [(bert, False), (gpt2, True)], ids=["classifier", "language-model"])
def test_accumulation_records_optimizer_steps_with_the_last_partial_one(make, causal, tmp_path):
    trainer = make_trainer(
        tmp_path, make(), LandscapeCallback(str(tmp_path / "run.zarr")), causal=causal, gradient_accumulation_steps=3
    )
    trainer.train()
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trainer.state.global_step == 6  # 7 batches an epoch: 3 + 3 + 1
    assert trajectory.steps.tolist() == list(range(7))
    np.testing.assert_allclose(trajectory.losses[1:], logged(trainer, "loss"), rtol=1e-3)


def test_without_evaluation_the_training_data_is_drawn(tmp_path):
    trainer = make_trainer(tmp_path, bert(), LandscapeCallback(tmp_path / "run.zarr"), eval_strategy="no")
    trainer.train()
    own = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    assert analyze(tmp_path / "run.zarr", **ORIGIN).loss[1, 1] == pytest.approx(own, rel=1e-4)


def test_label_smoothing_is_part_of_the_loss(tmp_path):
    trainer = make_trainer(tmp_path, bert(), LandscapeCallback(tmp_path / "run.zarr"), label_smoothing_factor=0.2)
    trainer.train()
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    np.testing.assert_allclose(trajectory.losses[1:], logged(trainer, "loss"), rtol=1e-3)
    assert analyze(tmp_path / "run.zarr", **ORIGIN).loss[1, 1] == pytest.approx(
        trainer.evaluate()["eval_loss"], rel=1e-4
    )


@pytest.mark.parametrize("restored", [False, True], ids=["by the step", "by the callback's state"])
def test_resuming_from_a_checkpoint_has_no_duplicates_and_no_gaps(restored, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 5, "restore_callback_states_from_checkpoint": restored}
    store = str(tmp_path / "run.zarr")
    make_trainer(tmp_path, bert(), LandscapeCallback(store, every=2), **options).train()
    before = Trajectory.open(store)
    again = make_trainer(tmp_path, bert(), LandscapeCallback(store, every=2), **options | {"num_train_epochs": 3})
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-10"))
    trajectory = Trajectory.open(store)
    assert trajectory.steps.tolist() == [*range(0, 21, 2), 21]
    np.testing.assert_array_equal(trajectory.block(slice(0, 6)), before.block(slice(0, 6)))
    final = torch.cat([p.detach().flatten() for p in again.model.parameters()]).numpy()
    np.testing.assert_array_equal(trajectory[-1].weights, final)


def test_the_best_model_is_not_taken_for_the_last_iterate(tmp_path):
    iterates = []

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            iterates.append(torch.cat([p.detach().flatten() for p in model.parameters()]).numpy())

    options = {"save_strategy": "epoch", "load_best_model_at_end": True, "learning_rate": 0.5}
    trainer = make_trainer(tmp_path, bert(), LandscapeCallback(tmp_path / "run.zarr", every=100), Watch(), **options)
    trainer.train()
    np.testing.assert_array_equal(Trajectory.open(tmp_path / "run.zarr")[-1].weights, iterates[-1])


def classes(labels):
    return len(labels)


def next_tokens(labels):
    return int((labels[:, 1:] != -100).sum())


@pytest.mark.parametrize(
    ("make", "causal", "counted"),
    [(bert, False, classes), (gpt2, True, next_tokens)],
    ids=["classifier", "language-model"],
)
def test_labels_in_and_loss_out_without_a_trainer(make, causal, counted, tmp_path):
    """A plain loop over a model that computes its own loss; every point is the mean over what its loss counts."""
    model = make()
    batches = [
        {k: torch.stack([row[k] for row in part]) for k in part[0]} for part in _parts(rows(20, causal=causal), 8)
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective, where = (lambda m, batch: m(**batch).loss), tmp_path / "run.zarr"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    recorder = record(model, optimizer, where, every=1, objective=objective, data=batches)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    for batch in batches:
        optimizer.zero_grad()
        objective(model, batch).backward()
        optimizer.step()
    recorder.close()
    surface = analyze(where, size=(3, 2), progress=False, engine=Local(tune=False))
    group, trajectory = open_run(where)[f"surfaces/{surface.name}"], Trajectory.open(where)
    weigh = np.array([counted(batch["labels"]) for batch in batches])

    def by_the_model(weights):
        trajectory.layout.assign(model, torch.from_numpy(np.asarray(weights, dtype=np.float32)))
        with torch.no_grad():
            return np.average([objective(model.eval(), batch).item() for batch in batches], weights=weigh)

    for i, alpha in enumerate(surface.alpha):
        for j, beta in enumerate(surface.beta):
            weights = group["origin"][...] + alpha * group["directions"][0] + beta * group["directions"][1]
            assert surface.loss[i, j] == pytest.approx(by_the_model(weights), rel=1e-4)
    np.testing.assert_allclose(surface.path_loss, [by_the_model(s.weights) for s in trajectory], rtol=1e-4)


def _parts(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]


class Stop(Exception):
    pass


class StopAt(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 9:
            raise Stop


def test_what_was_recorded_survives_an_exception(tmp_path):
    callback = LandscapeCallback(tmp_path / "run.zarr", every=4)
    trainer = make_trainer(tmp_path, bert(), callback, StopAt())
    with pytest.raises(Stop):
        trainer.train()
    deadline = time.monotonic() + 20
    while len(Trajectory.open(tmp_path / "run.zarr")) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)  # the trainer tells nobody; the rows come in all the same
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8]
    callback.close()
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8, 9]


def test_what_was_recorded_survives_control_c(tmp_path):
    script = f"""
import pathlib, sys
sys.path.insert(0, {str(__file__.rpartition("/")[0])!r})
import test_transformers as case
class Interrupt(case.transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 9:
            raise KeyboardInterrupt
path = pathlib.Path({str(tmp_path)!r})
case.make_trainer(path, case.bert(), case.LandscapeCallback(path / "run.zarr", every=4), Interrupt()).train()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "KeyboardInterrupt" in done.stderr
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8, 9]


def test_bfloat16_autocast(tmp_path):
    trainer = make_trainer(tmp_path, bert(), LandscapeCallback(tmp_path / "run.zarr"), bf16=True)
    trainer.train()
    surface = analyze(tmp_path / "run.zarr", **ORIGIN)
    assert surface.loss[1, 1] == pytest.approx(trainer.evaluate()["eval_loss"], rel=0.02)
    assert np.ptp(surface.loss) > 1e-3  # of the recorded weights, not of those the wrapper holds


def test_a_compiled_model(tmp_path):
    trainer = make_trainer(
        tmp_path, bert(), LandscapeCallback(tmp_path / "run.zarr"), torch_compile=True, torch_compile_backend="eager",
        max_steps=3,
    )  # fmt: skip
    trainer.train()
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == [0, 1, 2, 3]
    assert trajectory.layout.names[0] == "bert.embeddings.word_embeddings.weight"
    np.testing.assert_allclose(trajectory.losses[1:], logged(trainer, "loss"), rtol=1e-3)


def test_training_is_bit_identical_with_and_without(tmp_path):
    finals = []
    for callbacks in ([], [LandscapeCallback(tmp_path / "run.zarr")]):
        trainer = make_trainer(tmp_path, bert(), *callbacks)
        trainer.train()
        finals.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.equal(*finals)


def test_the_example_of_the_docstring_runs(run_example, tmp_path):
    run_example(
        LandscapeCallback,
        Trainer=transformers.Trainer,
        LandscapeCallback=LandscapeCallback,
        model=bert(),
        arguments=transformers.TrainingArguments("out", use_cpu=True, report_to="none", max_steps=5, disable_tqdm=True),
        train=rows(20),
        val=rows(20, seed=2),
    )
    assert len(Trajectory.open("runs/transformers.zarr")) == 6
