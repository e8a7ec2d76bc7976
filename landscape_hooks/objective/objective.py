"""Objective: the loss at given weights over fixed probe data; made from live code, or read from a run.

In: weights θ (D,) and buffers (B,). Out: the mean loss over the probe samples, its standard error, and terms
that can be differentiated. `capture` traces a model's loss with `torch.export` and stores it in a run as data
(graph.py), so that whoever analyzes the run needs none of the training code.

Evaluation is deterministic: fixed samples in a fixed order, evaluation mode (dropout off), the mean weighted by
samples. What normalisation layers with running statistics use is `statistics`:

- `"running"`: the running statistics among the buffers given;
- `"batch"`: those of each recorded batch, as in training;
- `"recalibrate"`: running statistics measured anew over the probe samples at these weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.graph.graph import LossGraph
from landscape_hooks.objective.kernels import GraphKernel, Kernel, ModuleKernel
from landscape_hooks.objective.loss_module import WAY_OUT, LossModule, check_loss
from landscape_hooks.objective.probe import Probe, read_tensor
from landscape_hooks.objective.rehearsal import rehearse
from landscape_hooks.store import checked
from landscape_hooks.trajectory.parameters import ParameterLayout

Statistics = Literal["running", "batch", "recalibrate"]

_CHUNK = 256  # samples at a time where nothing depends on the batch; the analyzer may choose another


@dataclass(frozen=True)
class Evaluation:
    """A loss: `mean` over `samples` samples and the standard error of that mean (NaN where unknown)."""

    mean: float
    stderr: float
    samples: int


class Objective:
    """The loss at θ over fixed probe data.

    Parameters
    ----------
    model
        a `torch.nn.Module`; a private copy is made, the model itself is never touched.
    criterion
        `criterion(output, target)` for batches `(input, target)`; the model is called as `model(input)`,
        `model(*input)` for a tuple or list, `model(**input)` for a mapping.
    objective
        `objective(model, batch)` -> a loss, one number or one a sample, for any other batch.
    data
        a DataLoader, an iterable of batches, one batch, or a dataset.
    samples
        how many samples of `data` are kept, from its beginning.
    copy
        False takes the model itself in place of a copy: for a model so large that one is enough. It is left in
        evaluation mode.

    Raises
    ------
    LandscapeError
        no criterion or objective, both, or no sample.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> data = (torch.ones(4, 2), torch.zeros(4, 1))
    >>> loss = Objective(model, criterion=torch.nn.MSELoss(), data=data)
    >>> loss.evaluate(torch.zeros(3), torch.zeros(0)).mean
    0.0
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        criterion: Callable[..., Any] | None = None,
        objective: Callable[..., Any] | None = None,
        data: Any,
        samples: int = 1024,
        copy: bool = True,
    ) -> None:
        check_loss(criterion, objective)
        probe, rebuild = Probe.collect(data, samples)
        module, names = LossModule.of(model, criterion, objective, rebuild, own=copy)
        leaves, size = next(probe.batches())
        per_sample = module.choose(leaves, size)
        self._set(
            ParameterLayout.of(model),
            ParameterLayout.of_buffers(model),
            ModuleKernel(module, names),
            {},
            probe,
            per_sample=per_sample,
            mutates=True,
        )

    def _set(
        self,
        layout: ParameterLayout,
        buffer_layout: ParameterLayout,
        kernel: Kernel,
        constants: Mapping[str, Tensor],
        probe: Probe,
        *,
        per_sample: bool,
        mutates: bool,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        self.layout, self.buffer_layout = layout, buffer_layout
        self.kernel, self.constants, self.probe = kernel, dict(constants), probe
        self.per_sample, self.mutates = per_sample, mutates
        self.attrs = dict(attrs or {})
        self.running_statistics = kernel.running_statistics()
        self.device = torch.device("cpu")
        self.chunk = _CHUNK
        self.layout_format, self.precision = "contiguous", "float32"

    @classmethod
    def load(cls, root: Any) -> Objective:
        """The objective of an opened run.

        Raises
        ------
        ObjectiveError
            the run carries none, or it is damaged.
        """
        group = checked.group(root, "objective")
        if group is None or not group.attrs.get("complete"):
            raise ObjectiveError("The run carries no objective (it was recorded without criterion and data, "
                                 "or the model could not be exported)", mend=WAY_OUT)  # fmt: skip
        self = cls.__new__(cls)
        graph = LossGraph.from_json(checked.read(root, "objective/graphs/loss").tobytes())
        constants = {
            key: read_tensor(root, f"objective/constants/{key}")
            for key in checked.names_of(root, "objective/constants", arrays=True)
        }
        lists = [checked.attribute(root, key, list, "the run") for key in ("layout", "buffer_layout")]
        self._set(
            ParameterLayout.from_json(lists[0]),
            ParameterLayout.from_json(lists[1], kind="buffer"),
            GraphKernel(graph),
            constants,
            Probe.load(root),
            per_sample=checked.attribute(group, "per_sample", bool, "the objective"),
            mutates=checked.attribute(group, "mutates", bool, "the objective"),
            attrs=dict(group.attrs),
        )
        graph.check_inputs(
            parameters=self.layout.names,
            buffers=self.buffer_layout.names,
            constants=constants,
            data=len(self.probe.names),
        )
        rehearse(self)
        return self

    # -- what it is ------------------------------------------------------------------------------------
    @property
    def samples(self) -> int:
        """Number of probe samples."""
        return self.probe.samples

    @property
    def batch_size(self) -> int:
        """Samples in the largest recorded batch: what `statistics="batch"` are taken over."""
        return self.probe.batch_size

    @property
    def digest(self) -> str:
        """SHA-256 of the probe samples."""
        return self.probe.digest

    @property
    def has_running_statistics(self) -> bool:
        """Whether a normalisation layer uses running statistics."""
        return bool(self.running_statistics)

    def head(self, samples: int) -> Objective:
        """The same loss over the first `samples` probe samples."""
        return self._with(probe=self.probe.head(samples))

    def with_data(self, data: Any, samples: int = 1024) -> Objective:
        """The same loss over other samples, in batches of the same make."""
        probe, _ = Probe.collect(data, samples)
        if probe.names != self.probe.names:
            raise ObjectiveError(f"The data has the entries {probe.names}", expected=f"{self.probe.names}, as recorded")
        return self._with(probe=probe)

    def to(self, device: torch.device | str) -> Objective:
        """The same loss on another device."""
        device = torch.device(device)
        return self._with(
            probe=self.probe.to(device),
            constants={key: t.to(device) for key, t in self.constants.items()},
            kernel=self.kernel.to(device),
            device=device,
        )

    def tuned(self, *, layout: str = "contiguous", chunk: int | None = None, precision: str = "float32") -> Objective:
        """The same loss computed in another way.

        Parameters
        ----------
        layout
            memory format of images and convolution weights: "contiguous" or "channels_last".
        chunk
            samples at a time, where nothing depends on the batch.
        precision
            "float32" leaves the model's own types alone; "bfloat16" runs it under autocast.
        """
        return self._with(
            layout_format=layout,
            chunk=chunk or self.chunk,
            precision=precision,
            kernel=self.kernel.laid_out(layout),
            probe=self.probe.map(lambda t: _laid_out(t, layout)),
        )

    def hollow(self) -> Objective:
        """The same loss without weights of its own: where it is live code, its model's parameters hold no memory."""
        return self._with(kernel=self.kernel.hollow()) if isinstance(self.kernel, ModuleKernel) else self

    def with_kernel(self, kernel: Kernel, *, per_sample: bool) -> Objective:
        """Another loss over the same samples and parameters."""
        return self._with(kernel=kernel, per_sample=per_sample)

    def _with(self, **changes: Any) -> Objective:
        other = object.__new__(type(self))
        other.__dict__.update({**self.__dict__, **changes})
        return other

    # -- the loss --------------------------------------------------------------------------------------
    def evaluate(self, weights: Tensor, buffers: Tensor, *, statistics: Statistics = "running") -> Evaluation:
        """The mean loss at weights (D,) and buffers (B,), and its standard error; nothing is changed.

        The standard error is that of a mean over samples where the loss is known for each sample, and over
        batches where it is known for each batch only.
        """
        mean, stderr = self.measure(weights, buffers, statistics=statistics).tolist()
        return Evaluation(mean, stderr, self.samples)

    def measure(self, weights: Tensor, buffers: Tensor, *, statistics: Statistics = "running") -> Tensor:
        """(2,) mean and standard error as in `evaluate`, in float64, left on the device: nothing waits for it."""
        values, counts = [], []
        with torch.no_grad(), self._precision():
            for value, n in self._values(weights, buffers, statistics):
                values.append(value.reshape(-1).double())
                counts.append(n)
            flat = torch.cat(values)
            if self.per_sample:
                mean, stderr = flat.mean(), flat.std() / math.sqrt(len(flat)) if len(flat) > 1 else None
            else:
                share = torch.tensor(counts, dtype=torch.float64, device=flat.device) / sum(counts)
                mean, square = (share * flat).sum(), float((share**2).sum())
                spread = (share * (flat - mean) ** 2).sum() / (1 - square) if len(flat) > 1 else None
                stderr = (spread * square).sqrt() if spread is not None else None
            return torch.stack([mean, torch.full_like(mean, math.nan) if stderr is None else stderr])

    def _precision(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.precision))

    def terms(self, weights: Tensor, buffers: Tensor, *, statistics: Statistics = "running") -> Iterator[Tensor]:
        """Terms (0-d tensors) whose sum is the mean loss; differentiable, one batch in memory at a time."""
        total = self.samples
        for value, n in self._values(weights, buffers, statistics, whole_batches=True):
            yield value.mean() * (n / total)

    def loss(self, weights: Tensor, buffers: Tensor, *, statistics: Statistics = "running") -> Tensor:
        """The mean loss as a 0-d tensor, differentiable with respect to `weights` (D,)."""
        return torch.stack(list(self.terms(weights, buffers, statistics=statistics))).sum()

    def _values(
        self, weights: Tensor, buffers: Tensor, statistics: Statistics, whole_batches: bool = False
    ) -> Iterator[tuple[Tensor, int]]:
        state = {**self.layout.views(weights), **self.buffer_layout.views(buffers), **self.constants}
        if statistics == "recalibrate" and self.running_statistics:
            state |= self._measured(state)
        mode = "batch" if statistics == "batch" and self.running_statistics else "running"
        if self.layout_format != "contiguous":
            state = {name: _laid_out(tensor, self.layout_format) for name, tensor in state.items()}
        free = self.per_sample and mode == "running" and not whole_batches and self.attrs.get("dynamic", True)
        for leaves, n in self.probe.chunks(self.chunk) if free else self.probe.batches():
            yield self._call(state, leaves, mode), n

    def _call(self, state: Mapping[str, Tensor], leaves: Sequence[Tensor], mode: str) -> Tensor:
        if self.mutates:
            leaves = [t.clone() for t in leaves]
            state = {**state, **{name: state[name].clone() for name in self.running_statistics}}
        value = self.kernel(state, leaves, statistics=mode)
        if not isinstance(value, Tensor) or value.is_complex() or not value.numel():
            raise ObjectiveError(f"The loss gave a value of type {type(value).__name__}", expected="real numbers")
        return value

    def _measured(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Running statistics over all recorded batches: the mean over batches, as `torch.optim.swa_utils.update_bn`."""
        total = {name: torch.zeros_like(state[name], dtype=torch.float64) for name in self.running_statistics}
        count = 0
        with torch.no_grad():
            for leaves, _ in self.probe.batches():
                scratch = {name: state[name].clone() for name in self.running_statistics}
                self.kernel({**state, **scratch}, [t.clone() for t in leaves], statistics="measure")
                for name, value in scratch.items():
                    total[name] += value
                count += 1
        return {name: (value / count).to(state[name].dtype) for name, value in total.items()}


def _laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Images and their filters in the memory format; anything else as it is."""
    if layout == "contiguous" or tensor.ndim not in (4, 5):
        return tensor
    memory_format = torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d
    if tensor.shape[1] > 1:
        return tensor.contiguous(memory_format=memory_format)
    # One channel is in both formats at once, and everything computed from it would be contiguous: what an operation
    # goes by are the strides.
    return torch.empty_like(tensor, memory_format=memory_format).copy_(tensor)
