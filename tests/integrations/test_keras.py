"""Keras 3 on torch for real: fit, accumulation, averages, checkpoints, precision, Ctrl-C."""

import os
import time

import numpy as np
import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

from landscape_hooks import Trajectory, analyze  # noqa: E402
from landscape_hooks.integrations.keras import KerasVariables, LandscapeCallback  # noqa: E402
from landscape_hooks.plane.directions import random  # noqa: E402
from landscape_hooks.trajectory.parameters import ParameterLayout  # noqa: E402

ORIGIN = {"size": 3, "extent": (-1, 1, -1, 1), "batch_norm": "fixed", "progress": False}
QUIET = {"batch_size": 10, "epochs": 2, "verbose": 0}


def data():
    inputs = np.random.default_rng(1).normal(size=(70, 8)).astype("float32")
    return inputs, inputs[:, :3].argmax(axis=1)


def make_model(optimizer=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((8,)),
            keras.layers.Dense(16, kernel_regularizer=keras.regularizers.L2(1e-3)),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        optimizer=optimizer or keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class Watch(keras.callbacks.Callback):
    """The loss of every batch, from Keras's running mean of the epoch, and the weights after it."""

    def __init__(self):
        super().__init__()
        self.losses, self.weights = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.mean, self.seen = 0.0, 0

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"] * (self.seen + 1) - self.mean * self.seen)
        self.mean, self.seen = logs["loss"], self.seen + 1
        self.weights.append(np.concatenate([np.ravel(v) for v in self.weights_of(self.model)]))

    @staticmethod
    def weights_of(model):
        return [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]


def test_one_line_records_a_fit_and_finds_the_loss(tmp_path):
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.1, staircase=True)
    model, watch = make_model(keras.optimizers.SGD(rate)), Watch()
    held_out = data()[0][:30], data()[1][:30]
    model.fit(*data(), validation_data=held_out, callbacks=[LandscapeCallback(tmp_path / "run.zarr"), watch], **QUIET)
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(15))
    assert trajectory.epochs.tolist() == [0] * 8 + [1] * 7
    np.testing.assert_allclose(trajectory.losses[1:], watch.losses, rtol=1e-3)
    np.testing.assert_allclose(trajectory.learning_rates[1:, 0], [0.1 * 0.1 ** (i // 3) for i in range(14)], rtol=1e-5)
    np.testing.assert_array_equal(trajectory.block()[1:], watch.weights)
    assert any("moving_variance" in name for name in trajectory.buffer_layout.names)
    assert not any("moving" in name for name in trajectory.layout.names)
    surface = analyze(tmp_path / "run.zarr", **ORIGIN)
    own = model.evaluate(*held_out, batch_size=10, verbose=0)[0]
    assert surface.loss[1, 1] == pytest.approx(own, rel=1e-5)
    assert surface.path_loss[-1] == pytest.approx(own, rel=1e-5)


def test_without_validation_the_training_data_is_drawn(tmp_path):
    model = make_model()
    model.fit(*data(), callbacks=[LandscapeCallback(tmp_path / "run.zarr")], **QUIET)
    own = model.evaluate(*data(), verbose=0)[0]
    assert analyze(tmp_path / "run.zarr", **ORIGIN).loss[1, 1] == pytest.approx(own, rel=1e-4)


def test_accumulation_records_optimizer_steps(tmp_path):
    model, watch = make_model(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)), Watch()
    model.fit(*data(), callbacks=[LandscapeCallback(tmp_path / "run.zarr"), watch], **QUIET)
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(5))  # 14 batches; Keras steps every third, across epochs
    np.testing.assert_array_equal(trajectory.block()[1:], watch.weights[2:12:3])


def test_averaged_weights_are_not_taken_for_the_last_iterate(tmp_path):
    model, watch = make_model(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)), Watch()
    model.fit(*data(), callbacks=[LandscapeCallback(tmp_path / "run.zarr", every=100), watch], **QUIET)
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == [0, 14]
    np.testing.assert_array_equal(trajectory[1].weights, watch.weights[-1])
    assert not np.array_equal(np.concatenate([np.ravel(v) for v in Watch.weights_of(model)]), watch.weights[-1])


def test_resuming_with_backup_and_restore_has_no_duplicates_and_no_gaps(tmp_path):
    class StopAt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 17:
                raise RuntimeError("mine")

    def callbacks():
        return [
            LandscapeCallback(tmp_path / "run.zarr", every=3),
            keras.callbacks.BackupAndRestore(str(tmp_path / "backup")),
        ]

    options = {**QUIET, "epochs": 3}
    with pytest.raises(RuntimeError, match="mine"):
        make_model().fit(*data(), callbacks=[*callbacks(), StopAt()], **options)
    make_model().fit(*data(), callbacks=callbacks(), **options)
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(0, 22, 3))
    assert trajectory.epochs.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_a_second_fit_goes_on(tmp_path):
    model, callback = make_model(), LandscapeCallback(tmp_path / "run.zarr")
    for _ in range(2):
        model.fit(*data(), callbacks=[callback], **QUIET)
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == list(range(29))


def test_what_was_recorded_survives_control_c_in_a_step(tmp_path):
    model = make_model()
    compute, count = model.compute_loss, [0]

    def interrupted(*args, **kwargs):
        count[0] += bool(kwargs.get("training"))
        if count[0] == 10 and kwargs.get("training"):
            raise KeyboardInterrupt
        return compute(*args, **kwargs)

    model.compute_loss = interrupted
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data(), callbacks=[LandscapeCallback(tmp_path / "run.zarr", every=4)], **QUIET)
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8, 9]


def test_what_was_recorded_survives_an_exception_of_a_callback(tmp_path):
    class StopAt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 9:
                raise RuntimeError("mine")

    callback = LandscapeCallback(tmp_path / "run.zarr", every=4)
    with pytest.raises(RuntimeError, match="mine"):
        make_model().fit(*data(), callbacks=[callback, StopAt()], **QUIET)
    deadline = time.monotonic() + 20
    while len(Trajectory.open(tmp_path / "run.zarr")) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8]
    callback.close()
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8, 9]


def test_mixed_precision(tmp_path):
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model()
        model.fit(*data(), validation_data=data(), callbacks=[LandscapeCallback(tmp_path / "run.zarr")], **QUIET)
        own = model.evaluate(*data(), batch_size=10, verbose=0)[0]
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    assert Trajectory.open(tmp_path / "run.zarr").layout.dtype == "float32"
    assert analyze(tmp_path / "run.zarr", **ORIGIN).loss[1, 1] == pytest.approx(own, rel=0.02)


def test_training_is_bit_identical_with_and_without(tmp_path):
    finals = []
    for callbacks in ([], [LandscapeCallback(tmp_path / "run.zarr")]):
        model = make_model()
        model.fit(*data(), validation_data=data(), callbacks=callbacks, **QUIET)
        finals.append(torch.cat([v.value.detach().flatten() for v in model.weights]))
    assert torch.equal(*finals)


def test_the_example_of_the_docstring_runs(run_example):
    model = make_model()
    names = {"LandscapeCallback": LandscapeCallback, "model": model, "x": data()[0], "y": data()[1]}
    fit = model.fit
    model.fit = lambda *args, **options: fit(*args, verbose=0, **options)
    run_example(LandscapeCallback, **names)
    assert len(Trajectory.open("runs/keras.zarr")) == 3


LAYERS = {
    "dense": (lambda: keras.layers.Dense(3, use_bias=False), (5,), 3),
    "convolution": (lambda: keras.layers.Conv2D(4, 3, use_bias=False), (6, 6, 2), 4),
    "transposed": (lambda: keras.layers.Conv2DTranspose(5, 3, use_bias=False), (6, 6, 2), 5),
    "depthwise": (lambda: keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False), (6, 6, 2), 4),
    "einsum": (lambda: keras.layers.EinsumDense("abc,cd->abd", (None, 3)), (4, 5), 3),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_filter_of_a_random_direction_is_what_makes_one_output_feature(kind):
    """Without filter k, and only without it, feature k is silent; and it has the trained filter's norm."""
    make, shape, count = LAYERS[kind]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input(shape), make()])
    variables = KerasVariables(model)
    layout = ParameterLayout.from_json(ParameterLayout.of(variables).to_json())  # as a run has it
    theta, inputs = layout.flatten(variables).detach(), torch.rand(2, *shape) + 0.1
    directions = random.directions(theta.numpy(), layout, seed=1).vectors
    for k in range(count):
        moved = theta.clone()
        view, numbered = random.filters(moved, layout[0])
        place = np.unravel_index(k, [view.shape[axis] for axis in numbered])
        at = tuple(place[numbered.index(i)] if i in numbered else slice(None) for i in range(view.ndim))
        view[at] = 0
        layout.assign(variables, moved)
        features = np.abs(keras.ops.convert_to_numpy(model(inputs))).reshape(-1, count).max(axis=0)
        assert np.flatnonzero(features == 0).tolist() == [k]
        trained = random.filters(theta, layout[0])[0][at].norm()
        for direction in directions:
            drawn = random.filters(torch.from_numpy(direction), layout[0])[0][at].norm()
            assert drawn == pytest.approx(float(trained), rel=1e-5)
    layout.assign(variables, theta)


def test_what_has_no_filter_stays_zero_and_tokens_are_embeddings_filters():
    keras.utils.set_random_seed(0)
    inputs = keras.layers.Input((6,))
    inner = keras.layers.Embedding(11, 4)(inputs)
    inner = keras.layers.LayerNormalization()(keras.layers.MultiHeadAttention(2, 3)(inner, inner))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GRU(5)(inner)))
    variables = KerasVariables(model)
    layout = ParameterLayout.of(variables)
    theta = layout.flatten(variables).detach()
    views = [layout.views(torch.from_numpy(v)) for v in random.directions(theta.numpy(), layout).vectors]
    trained = layout.views(theta)
    for view in views:
        zero = {name for name, value in view.items() if not value.any()}
        assert zero == {name for name in view if name.endswith(("bias", "gamma", "beta"))}
        torch.testing.assert_close(
            view["embedding/embeddings"].norm(dim=1), trained["embedding/embeddings"].norm(dim=1)
        )
        query = "multi_head_attention/query/kernel"  # (features, heads, size of a head)
        torch.testing.assert_close(view[query].norm(dim=0), trained[query].norm(dim=0))
