"""Keras 3 on torch: one callback that records `model.fit`.

In: the model's events. Out: a run of the trainable variables (moving statistics are buffers), whose steps are
`optimizer.iterations`, whose loss is the compiled one, regularization included, on the validation data as soon as
Keras evaluates it. Keras's optimizers are not torch's: steps and learning rates come from Keras.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from landscape_hooks.errors import LandscapeError
from landscape_hooks.integrations.adapter import Recording, missing

try:
    from keras.callbacks import Callback
except ImportError as error:
    Callback = missing("keras", "keras", error)


class LandscapeCallback(Callback):
    """Records the optimizer's path while `model.fit` runs.

    Parameters
    ----------
    store
        where to: a path, a URL or a Zarr store.
    every, keep, samples, if_exists, options
        as for `landscape_hooks.record`.
    data
        batches `(x, y)` or `(x, y, sample_weight)` for the loss. Left out: those of the first evaluation, or without
        any those of the first epoch.

    Examples
    --------
    >>> history = model.fit(x, y, validation_split=0.2, callbacks=[LandscapeCallback("runs/keras.zarr")])
    """

    def __init__(
        self,
        store: Any,
        *,
        every: int | None = None,
        keep: int | None = None,
        samples: int = 1024,
        data: Any = None,
        if_exists: str = "error",
        **options: Any,
    ) -> None:
        super().__init__()
        self._data, self._samples = data, samples
        self.recording = Recording(store, every=every, keep=keep, samples=samples, if_exists=if_exists, **options)
        self._heard: dict[str, list[Any]] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._begun = False

    # -- the fit -----------------------------------------------------------------------------------------
    def on_train_begin(self, logs: Any = None) -> None:
        """The functions of a step exist: listen to the batches."""
        import keras

        if keras.backend.backend() != "torch":
            raise LandscapeError(
                f"Keras runs on {keras.backend.backend()}", expected="its torch backend", mend="Set KERAS_BACKEND=torch"
            )
        self.recording.close()
        self._begun, self._captured, self._heard = False, False, {}
        self._listen("train_function")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """At the first epoch other callbacks have restored what they restore: the first snapshot."""
        self._epoch = epoch
        self._total = self._count = 0.0
        if self._begun:
            return
        self._begun = True
        variables = KerasVariables(self.model)
        steps = int(self.model.optimizer.iterations)
        self._step = steps
        self.recording.begin(
            variables, None, step=steps, epoch=epoch, counter=lambda: int(self.model.optimizer.iterations)
        )
        self._captured = self.recording.has_loss
        if self._data is not None:
            self._capture(self._data)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """The learning rate of the step to come."""
        self.recording.log(learning_rate=float(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """A batch is over; a step, unless gradients are still accumulated."""
        recorder, step = self.recording.recorder, int(self.model.optimizer.iterations)
        if recorder is None or step == self._step:
            return
        self._step = step
        tracker = self.model._loss_tracker
        total, count = float(tracker.total), float(tracker.count)
        loss = (total - self._total) / (count - self._count) if count > self._count else float("nan")
        self._total, self._count = total, count
        self.recording.log(loss=loss, epoch=self._epoch)
        recorder.step()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Averages and best weights come back once training is over; the last iterate is this one."""
        self.recording.hold()
        if not self._captured and "train_function" in self._heard:
            self._capture(self._heard["train_function"])
        self._silence("train_function", keep=True)

    def on_train_end(self, logs: Any = None) -> None:
        """Everything committed."""
        self.close()

    def close(self, error: BaseException | None = None) -> None:
        """Commit everything. Keras tells its callbacks of no exception: after one outside of a training step, call this
        (or let the script end, which does the same)."""
        self._silence("train_function")
        self.recording.close(error)

    # -- the loss ----------------------------------------------------------------------------------------
    def on_test_begin(self, logs: Any = None) -> None:
        """The validation data, at last."""
        if self.recording.recorder is not None and not self._captured:
            self._listen("test_function")

    def on_test_end(self, logs: Any = None) -> None:
        """Enough was heard."""
        self._silence("test_function")
        if self.recording.recorder is not None and not self._captured and self._heard.get("test_function"):
            self._capture(self._heard["test_function"])

    def _capture(self, data: Any) -> None:
        self._captured = True
        self._heard = {}
        if not self.recording.gives_loss:
            self.recording.capture(lambda: [{"objective": KerasVariables.loss, "data": data}])

    def _listen(self, name: str) -> None:
        """Keep the first batches that go through a function of the model, and commit everything if it raises."""
        function, model = getattr(self.model, name), self.model
        batches: list[Any] = []
        self._functions[name] = function
        self._heard[name] = batches
        rows = 0

        def heard(data: Any) -> Any:
            nonlocal rows
            if rows < self._samples and not self._captured and self._heard.get(name) is batches:
                batches.append(_as_tensors(data[0]))
                rows += len(torch.utils._pytree.tree_leaves(batches[-1])[0])
            try:
                return function(data)
            except BaseException as error:
                self.close(error)
                raise

        setattr(model, name, heard)

    def _silence(self, name: str, keep: bool = False) -> None:
        """Put a function of the model back; with `keep` it is still guarded, but what was heard is dropped."""
        if keep:
            self._heard.pop(name, None)
        elif name in self._functions:
            setattr(self.model, name, self._functions.pop(name))


class KerasVariables(torch.nn.Module):
    """A Keras model as torch sees one: trainable variables are parameters, the others buffers.

    The tensors are the model's own. Its loss is computed at the tensors of this module, whatever the model holds, and
    changes nothing in the model.
    """

    def __init__(self, model: Any, tensors: dict[str, torch.Tensor] | None = None) -> None:
        super().__init__()
        self.__dict__["keras_model"] = model  # past torch's registry: its parameters are registered here
        self.__dict__["names"] = _names(model)
        self.__dict__["filter_axes"] = {
            self.names[path]: axes for path, axes in _filter_axes(model).items() if path in self.names
        }
        for variable in model.trainable_variables:
            name = self.names[variable.path]
            value = variable.value if tensors is None else tensors[name]
            self.register_parameter(name, value if isinstance(value, torch.nn.Parameter) else torch.nn.Parameter(value))
        for variable in model.non_trainable_variables:
            name = self.names[variable.path]
            self.register_buffer(name, variable.value.detach() if tensors is None else tensors[name])

    def __deepcopy__(self, memo: dict[int, Any]) -> KerasVariables:
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return type(self)(self.keras_model, {name: t.detach().cpu().clone() for name, t in tensors.items()})

    def loss(self, batch: Any) -> torch.Tensor:
        """The compiled loss of one batch, in inference mode, with regularization."""
        import keras

        model = self.keras_model
        inputs, targets, weights = (*batch, None, None)[:3]
        mapping = [
            (variable, getattr(self, self.names[variable.path]))
            for variable in (*model.trainable_variables, *model.non_trainable_variables)
        ]
        with keras.device("cpu"), keras.StatelessScope(state_mapping=mapping):
            outputs = model(inputs, training=False)
            return model.compute_loss(inputs, targets, outputs, weights, training=False)


def _names(model: Any) -> dict[str, str]:
    """A name for each path, without the counters that Keras's automatic names carry on from one model to the next, and
    without the model's own name in front (a functional model's layers have none)."""
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    places: dict[str, str] = {}
    taken: dict[str, int] = {}
    for variable in variables:
        place = variable.path.rpartition("/")[0]
        if place not in places:
            parts = place.removeprefix(f"{model.name}/").split("/") if place != model.name else []
            base = "/".join(re.sub(r"_\d+$", "", part) for part in parts).replace(".", "_")
            taken[base] = taken.get(base, -1) + 1
            places[place] = f"{base}_{taken[base]}" if taken[base] else base
    return {v.path: f"{places[v.path.rpartition('/')[0]]}/{v.name}".lstrip("/") for v in variables}


def _filter_axes(model: Any) -> dict[str, tuple[int, ...]]:
    """For each variable's path, the axes of its value that number the filters: one for what makes one output feature.

    Keras stores outputs last, but for embeddings (tokens first), transposed convolutions (outputs before inputs) and
    depthwise ones (inputs and multipliers, each pair an output).
    """
    return {
        variable.path: _outputs_of(layer, variable)
        for layer in model._flatten_layers()
        for variable in layer._trainable_variables
    }


def _outputs_of(layer: Any, variable: Any) -> tuple[int, ...]:
    kinds, rank = [kind.__name__ for kind in type(layer).__mro__], len(variable.shape)
    if rank < 2 or "bias" in variable.name or any("Normalization" in kind for kind in kinds):
        return ()
    if "Embedding" in kinds:
        return (rank - 1,) if "reverse" in variable.name else (0,)
    if "EinsumDense" in kinds:
        inputs, kernel, outputs = re.split(",|->", layer.equation)
        return tuple(i for i, axis in enumerate(kernel) if axis in outputs and axis not in inputs)
    if "depthwise" in variable.name or "BaseDepthwiseConv" in kinds:
        return (rank - 2, rank - 1)
    return (rank - 2,) if "BaseConvTranspose" in kinds else (rank - 1,)


def _as_tensors(batch: Any) -> Any:
    """A batch as (x, y[, sample_weight]) of tensors that training does not change."""
    parts = tuple(part for part in batch if part is not None) if isinstance(batch, tuple | list) else (batch,)
    return torch.utils._pytree.tree_map(lambda t: torch.as_tensor(t).detach().cpu().clone(), parts)
