"""transformers: one callback that records a `Trainer.train`.

In: the trainer's events. Out: a run whose steps are `state.global_step`, whose loss is the one the model returns
for a batch with labels (with the label smoothing of the arguments), first on training data, and on the
evaluation data as soon as the trainer shows it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.integrations.adapter import Recording, missing, probe_loader
from landscape_hooks.recording.storage import Storage

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState
except ImportError as error:
    TrainerCallback = missing("transformers", "transformers", error)
    ExportableState = object


class LandscapeCallback(TrainerCallback, ExportableState):
    """Records the optimizer's path while `Trainer.train` runs.

    Parameters
    ----------
    store
        where to: a path, a URL or a Zarr store.
    every, keep, samples, objective, data, if_exists, options
        as for `landscape_hooks.record`. Without `objective` the loss is the one that the model returns; a trainer
        with a `compute_loss` of its own has to give it. Without `data` the evaluation data is used, which the trainer
        shows at its first evaluation, and until then training data.

    Examples
    --------
    >>> trainer = Trainer(model, arguments, train_dataset=train, eval_dataset=val)
    >>> trainer.add_callback(LandscapeCallback("runs/transformers.zarr"))
    >>> output = trainer.train()
    """

    def __init__(
        self,
        store: Any,
        *,
        every: int | None = None,
        keep: int | None = None,
        samples: int = 1024,
        objective: Any = None,
        data: Any = None,
        if_exists: str = "error",
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(options.get("storage"), dict):
            options["storage"] = Storage(**options["storage"])
        self._arguments = {"store": store, "every": every, "keep": keep, "samples": samples, "objective": objective,
                           "data": data, "if_exists": if_exists, **options}  # fmt: skip
        self.recording = Recording(**self._arguments)
        self._losses: list[torch.Tensor] = []
        self._heard, self._summed = False, False
        self._listener: Any = None
        self._wants_evaluation = False

    # -- in the trainer's checkpoint ---------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """What `restore_callback_states_from_checkpoint=True` makes this callback from again."""
        arguments = {name: asdict(v) if isinstance(v, Storage) else v for name, v in self._arguments.items()}
        arguments = {name: value for name, value in arguments.items() if _is_json(value)}
        if not isinstance(arguments.get("store", 0), str):
            arguments["store"] = str(self._arguments["store"])
        return {"args": arguments, "attributes": {"recorder_state": self.recording.state_dict()}}

    @property
    def recorder_state(self) -> dict[str, Any]:
        """The recorder's state, to go on without gaps."""
        return self.recording.state_dict()

    @recorder_state.setter
    def recorder_state(self, state: dict[str, Any]) -> None:
        self.recording.load_state_dict(state)

    # -- the trainer's events -------------------------------------------------------------------------------
    def on_train_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """The optimizer exists, a checkpoint is loaded: the first snapshot."""
        self.close()
        model = known["model"]
        loss = ModelLoss(model, args.label_smoothing_factor)
        self.recording.begin(
            model,
            known["optimizer"],
            step=state.global_step,
            epoch=state.epoch or 0,
            counter=lambda: state.global_step + 1,  # it rises only after the optimizer's hooks
            main=state.is_world_process_zero,
            find=lambda: [{"objective": loss, "data": probe_loader(known["train_dataloader"])}],
        )
        if self.recording.recorder is not None:
            self._listen(model)
            self._wants_evaluation = self.recording.found and self._arguments["data"] is None

    def _listen(self, model: Any) -> None:
        self._listener = model.register_forward_hook(self._hear, with_kwargs=True)

    def _deafen(self) -> None:
        if self._listener is not None:
            self._listener.remove()
            self._listener = None

    def _hear(self, model: Any, args: Any, kwargs: Any, output: Any) -> None:
        """The loss of a batch, at once: `on_log` comes later, and rarely. (Traced where the model is compiled.)"""
        if model.training:
            loss = output.get("loss") if isinstance(output, dict) else None
            if loss is not None:
                self._losses.append(loss.detach())
                self._summed = kwargs.get("num_items_in_batch") is not None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """The loss of the step to come: of accumulated batches the mean, or the sum of shares of one mean."""
        if self._losses:
            losses, self._losses, self._heard = torch.stack(self._losses), [], True
            self.recording.log(loss=losses.sum() if self._summed else losses.mean())

    def on_step_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """The epoch that the trainer gives the step."""
        self.recording.log(epoch=state.epoch, step=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **known: Any) -> None:
        """Where the model keeps no loss (label smoothing, a loss function of the trainer), the one that is logged."""
        if not self._heard and logs is not None and "loss" in logs:
            self.recording.log(loss=logs["loss"], step=state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """The evaluation data, at last."""
        loader = known.get("eval_dataloader")
        if self._wants_evaluation and loader is not None:
            self._wants_evaluation = False
            loss = ModelLoss(known["model"], args.label_smoothing_factor)
            self._deafen()  # what is captured is a copy of the model, hooks and all
            self.recording.capture(lambda: [{"objective": loss, "data": probe_loader(loader)}])
            self._listen(known["model"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """`load_best_model_at_end` changes the weights once training is over; the last iterate is this one."""
        self.recording.hold()

    def on_train_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Everything committed."""
        self.close()

    def close(self) -> None:
        """Commit everything. The trainer tells its callbacks of no exception: after one, call this (or let the script
        end, which does the same)."""
        self._deafen()
        self._wants_evaluation = False
        self.recording.close()


class ModelLoss:
    """objective(model, batch): the loss that the model returns for the batch, or the trainer's smoothed one."""

    def __init__(self, model: Any, smoothing: float = 0.0) -> None:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        self.smoothing = smoothing
        self.shifts = type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        self.counts = _label_count(model)

    def __call__(self, model: Any, batch: Any) -> torch.Tensor:
        if self.smoothing:
            from transformers.trainer_pt_utils import LabelSmoother

            inputs = {name: value for name, value in batch.items() if name != "labels"}
            outputs = model(**inputs)
            return LabelSmoother(self.smoothing)(outputs, batch["labels"], shift_labels=self.shifts)
        more = {} if self.counts is None else {"num_items_in_batch": self.counts(batch["labels"])}
        outputs = model(**batch, **more)
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs[0]
        if loss is None:
            raise ObjectiveError("The model returned no loss for a batch", expected=f"labels among {list(batch)}")
        return loss


def _label_count(model: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """How the trainer counts the labels that a model's loss is divided by; None where the model takes no count."""
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

    parameters = inspect.signature(model.forward).parameters.values()
    takes = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    if not getattr(model, "accepts_loss_kwargs", takes):
        return None
    decoder = not getattr(model.config, "is_encoder_decoder", False)
    if LOSS_MAPPING.get(getattr(model, "loss_type", None)) is ForCausalLMLoss and decoder:
        return lambda labels: (labels[..., 1:] != -100).sum()
    return lambda labels: (labels != -100).sum()


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
