"""Objective: the loss at given weights over fixed probe data; made from live code, or read from a run.

In: weights θ (D,) and buffers (B,). Out: the mean loss over the probe samples, its standard error, and terms
that can be differentiated. `capture` traces a model's loss with `torch.export` and stores it in a run as data
(graph.py), so that an analysis needs none of the training code.

Evaluation is deterministic: fixed samples in a fixed order, evaluation mode (dropout off), fixed draws where the loss
draws random numbers itself (tracing/draws.py), the mean over batches weighted as the loss itself weighs
(graph/weighing.py). What normalisation layers with running statistics use is `statistics`:

- `"running"`: the running statistics among the buffers given;
- `"batch"`: those of each recorded batch, as in training;
- `"recalibrate"`: running statistics measured anew over the probe samples at these weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
import zarr
from torch import Tensor, nn

from landscape_hooks.device.arithmetic import arithmetic, wide
from landscape_hooks.device.memory import is_out_of_memory, release, too_little
from landscape_hooks.errors import ObjectiveError, printable
from landscape_hooks.objective.capture import live_weights
from landscape_hooks.objective.data.samples import DataLike
from landscape_hooks.objective.data.states import states_kept
from landscape_hooks.objective.fixed import attributes_of, check_others, state_of_run, without_integers
from landscape_hooks.objective.graph.graph import LossGraph
from landscape_hooks.objective.graph.weighing import floating, mean_of, said_of_weighing, weigh
from landscape_hooks.objective.kernels import PLAIN, Kernel, ModuleKernel, Tuning, laid_out
from landscape_hooks.objective.live.copies import WAY_OUT
from landscape_hooks.objective.live.independence import independent
from landscape_hooks.objective.live.made import MadeOfModel
from landscape_hooks.objective.loss_module import LossModule, check_loss
from landscape_hooks.objective.probe import VARIANT, Probe, read_tensor
from landscape_hooks.objective.rehearsal import rehearse
from landscape_hooks.objective.tracing.draws import SAID
from landscape_hooks.objective.variants import check_variants, graph_name, kernel_of
from landscape_hooks.store import checked
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.trajectory import Trajectory

Statistics = Literal["running", "batch", "recalibrate"]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Evaluation:
    """A loss: `mean` over `samples` samples and the standard error of that mean (NaN where unknown)."""

    mean: float
    stderr: float
    samples: int


@dataclass(frozen=True, eq=False)
class Objective(metaclass=MadeOfModel):
    """The loss at θ over fixed probe data.

    Attributes
    ----------
    layout, buffer_layout
        the parameters and buffers that it is a function of, and their places in θ (D,) and (B,).
    kernel
        the loss of one batch: a stored graph or live code.
    constants
        tensors by name that the loss reads beside them: those that do not move, and those of the graph.
    probe
        the samples, in batches.
    per_sample
        whether the kernel gives a loss for each sample, not one for the batch.
    mutates
        whether the kernel may write into what it is given.
    weighing, shares
        by what the mean over batches is weighed: "samples", "batches" or "loss" (see graph/weighing.py), and the
        weights of the probe's batches where live code told them.
    attrs
        what the run says of it: notes for the report, whether samples are independent, numbers that are frozen.
    still
        names of the constants that are parameters or buffers which do not move.
    device, tuning, most
        where and in which way it is computed; samples at a time that fit into memory, as far as that is known.
    """

    layout: ParameterLayout
    buffer_layout: ParameterLayout
    kernel: Kernel
    constants: Mapping[str, Tensor]
    probe: Probe
    per_sample: bool
    mutates: bool
    weighing: str = "samples"
    shares: Sequence[Tensor] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    still: tuple[str, ...] = ()
    device: torch.device = CPU
    tuning: Tuning = PLAIN
    most: int = 2**31

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        criterion: Callable[..., Any] | None = None,
        objective: Callable[..., Any] | None = None,
        data: DataLike,
        samples: int = 1024,
        copy: bool = True,
    ) -> Objective:
        """The loss of live code; `Objective(model, ...)` is the same.

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
            a DataLoader, an iterable of batches, one batch, or a dataset. It is not iterated itself: its batches are
            made again from what they are made of, and an iterator that can be read only once is refused.
        samples
            how many samples of `data` are kept, in whole batches.
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
        >>> loss = Objective.of(model, criterion=torch.nn.MSELoss(), data=data)
        >>> loss.evaluate(torch.zeros(3), torch.zeros(0)).mean
        0.0
        """
        check_loss(criterion, objective)
        probe, rebuild = Probe.collect(data, samples)
        module, names = LossModule.of(model, criterion, objective, rebuild, own=copy)
        found = cls(
            ParameterLayout.of(model),
            ParameterLayout.of_buffers(model),
            ModuleKernel(module, names),
            {},
            probe,
            per_sample=module.choose(*next(probe.batches()), probe.batches),
            mutates=True,
        )
        notes = [*probe.notes(samples), *([SAID] if module.draws else [])]
        alone = found.per_sample and found._is_independent(model)
        return replace(found, attrs={"notes": notes, "independent": alone})._weighed()

    def _weighed(self) -> Objective:
        """The same loss with what the batches of the probe are weighed by, where it is live code."""
        if self.per_sample or not isinstance(self.kernel, ModuleKernel):
            return self
        weighing, shares = live_weights(self.kernel.module, self.kernel.names, self.probe)
        return replace(self, weighing=weighing, shares=shares)

    def _is_independent(self, model: nn.Module) -> bool:
        """Whether the live loss of a sample is the same in any batch."""
        both = [*self.layout, *self.buffer_layout]
        tensors = [*self.layout.tensors(model), *self.buffer_layout.tensors(model)]
        state = {e.name: t.detach().cpu() for e, t in zip(both, tensors, strict=True)}
        with states_kept():
            return independent(lambda moved, data: self.kernel(moved, data, statistics="running"), state, self.probe)

    @classmethod
    def load(cls, root: zarr.Group, trajectory: Trajectory | None = None) -> Objective:
        """The objective of an opened run, as a function of what moves in it; `trajectory` where that is open, too.

        Raises
        ------
        ObjectiveError
            the run carries none, or it is damaged.
        """
        if (group := checked.group(root, "objective")) is None or not group.attrs.get("complete"):
            why = "It was recorded without criterion and data, or the loss could not be stored"
            why = why if group is None else printable(group.attrs.get("awaited", why))
            raise ObjectiveError(f"The run carries no objective. {why}", mend=WAY_OUT)
        names = checked.names_of(root, "objective/graphs", arrays=True)
        stored = [graph_name(k) for k in range(max(1, len(names)))]
        graphs = [LossGraph.from_json(checked.read(root, f"objective/graphs/{name}").tobytes()) for name in stored]
        constants = {
            key: read_tensor(root, f"objective/constants/{key}")
            for key in checked.names_of(root, "objective/constants", arrays=True)
        }
        layout, fixed = state_of_run(root, trajectory)
        found = cls(
            layout,
            ParameterLayout.from_json(checked.attribute(root, "buffer_layout", list, "the run"), kind="buffer"),
            kernel_of(graphs),
            {**constants, **fixed},
            Probe.load(root),
            per_sample=checked.attribute(group, "per_sample", bool, "the objective"),
            mutates=checked.attribute(group, "mutates", bool, "the objective"),
            weighing=str(group.attrs.get("weighing", "samples")),
            attrs=attributes_of(group),
            still=tuple(fixed),
        )
        for graph in graphs:
            graph.check_inputs(
                parameters={*layout.names, *fixed},
                buffers={*found.buffer_layout.names, *fixed},
                constants=constants,
                data=len(found.probe.names) - (len(graphs) > 1),
            )
        check_variants(found.probe, len(graphs))
        rehearse(found.kernel, found.probe, (layout, found.buffer_layout), found.constants)
        if found.weighing != "loss":
            return found
        weighed = [weigh(graph, floating(graph, found.probe)) for graph in graphs]
        known = [graph for graph in weighed if graph is not None]
        return replace(found, kernel=kernel_of(known)) if len(known) == len(weighed) else found

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

    @cached_property
    def running_statistics(self) -> dict[str, str]:
        """The buffers that are running statistics: by name "mean" or "var"."""
        return self.kernel.running_statistics()

    @property
    def has_running_statistics(self) -> bool:
        """Whether a normalisation layer uses running statistics."""
        return bool(self.running_statistics)

    @property
    def free(self) -> bool:
        """Whether samples may be taken together in any number: a split has shown that they are independent."""
        return self.per_sample and bool(self.attrs.get("independent")) and bool(self.attrs.get("dynamic", True))

    def head(self, samples: int) -> Objective:
        """The same loss over the first `samples` probe samples; whole batches where samples depend on one another."""
        return self._over(self.probe.head(samples, whole=not self.free))

    def drawn(self, count: int, seed: int) -> Objective:
        """The same loss over `count` samples drawn by `seed`; whole batches where samples depend on one another."""
        whole = not self.free or self.has_running_statistics
        return self._over(self.probe.drawn(count, seed, whole=whole))

    def with_data(self, data: DataLike, samples: int = 1024) -> Objective:
        """The same loss over other samples, in batches of the same make."""
        probe, rebuild = Probe.collect(data, samples, one_shot=True)
        attrs = {**self.attrs, "notes": probe.notes(samples), "left_out": {"batches": 0, "samples": 0}}
        if isinstance(self.kernel, ModuleKernel):
            return replace(self, kernel=self.kernel.rebuilding(rebuild), attrs=attrs)._over(probe)
        if VARIANT in self.probe.names or self.attrs.get("bound"):  # to values of these batches
            raise ObjectiveError("The stored loss has a graph for each kind of the recorded batches", mend=WAY_OUT)
        found = rebuild.constants(probe)
        for name, value in self.attrs.get("frozen", {}).items():
            if found.get(name, {value}) != {value}:
                raise ObjectiveError(f"The data has {name} = {', '.join(sorted(found[name]))}",
                                     expected=f"{value}, which the stored loss holds", mend=WAY_OUT)  # fmt: skip
        return replace(self, probe=probe.select(self.probe.names), attrs=attrs)

    def _over(self, probe: Probe) -> Objective:
        return replace(self, probe=probe)._weighed()

    def to(self, device: torch.device | str) -> Objective:
        """The same loss on another device."""
        device = torch.device(device)
        kernel, constants = self.kernel.to(device), {key: t.to(device) for key, t in self.constants.items()}
        return replace(self, probe=self.probe.to(device), constants=constants, kernel=kernel, device=device)

    def tuned(self, tuning: Tuning) -> Objective:
        """The same loss computed in another way."""
        return replace(
            self,
            tuning=replace(tuning, chunk=min(tuning.chunk, self.most)),
            kernel=self.kernel.laid_out(tuning.layout),
            probe=self.probe.map(lambda t: laid_out(t, tuning.layout)),
        )

    def given(
        self, moving: ParameterLayout, fixed: Mapping[str, Tensor], buffers: ParameterLayout | None = None
    ) -> Objective:
        """The same loss as a function of the parameters `moving`, the others being `fixed`.

        `buffers` is another order of its buffers.

        Raises
        ------
        LayoutError
            these are not the parameters that it is a loss of.
        """
        if isinstance(self.kernel, ModuleKernel):  # live code has the packed weights of quantized layers itself
            fixed = without_integers(self.kernel.module.model, fixed)
        known = {name: value for name, value in self.constants.items() if name in self.still}
        check_others(self.layout, known, moving, fixed)
        constants = {name: value for name, value in self.constants.items() if name not in known}
        given = {name: value.to(self.device) for name, value in fixed.items()}
        return replace(
            self,
            layout=moving,
            buffer_layout=self.buffer_layout if buffers is None else buffers,
            constants={**constants, **given},
            still=tuple(fixed),
        )

    def without_weights(self) -> Objective:
        """The same loss; where it is live code, its model's parameters hold no memory."""
        return replace(self, kernel=self.kernel.without_weights()) if isinstance(self.kernel, ModuleKernel) else self

    def with_kernel(self, kernel: Kernel, *, per_sample: bool) -> Objective:
        """Another loss over the same samples and parameters."""
        return replace(self, kernel=kernel, per_sample=per_sample)

    # -- the loss --------------------------------------------------------------------------------------
    def evaluate(self, weights: Tensor, buffers: Tensor, *, statistics: Statistics = "running") -> Evaluation:
        """The mean loss at weights (D,) and buffers (B,), and its standard error; nothing is changed.

        The standard error is that of a mean over samples where the loss is known for each of them, else over batches.
        """
        mean, stderr = self.measure(weights, buffers, statistics=statistics).tolist()
        return Evaluation(mean, stderr, self.samples)

    def measure(self, weights: Tensor, buffers: Tensor, *, statistics: Statistics = "running") -> Tensor:
        """(2,) mean and standard error as in `evaluate`, in float64, left on the device: nothing waits for it.

        Raises
        ------
        TooLittleMemory
            the device has no room for so many samples at a time.
        """
        try:
            return self._mean(weights, buffers, statistics)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            count = min(self.tuning.chunk, self.samples) if (cut := self._is_cut(statistics)) else self.batch_size
            trouble = too_little(error, self.device, count, whole=not cut)
        release(self.device)  # not before the error is gone, which holds what did not fit
        raise trouble

    def smaller(self, statistics: Statistics) -> Objective | None:
        """The same loss with half as many samples at a time; None where there are no fewer."""
        n = min(self.tuning.chunk, self.samples) // 2
        return replace(self, tuning=replace(self.tuning, chunk=n), most=n) if n and self._is_cut(statistics) else None

    def _is_cut(self, statistics: Statistics) -> bool:
        return self.free and not (statistics == "batch" and bool(self.running_statistics))

    def _mean(self, weights: Tensor, buffers: Tensor, statistics: Statistics) -> Tensor:
        values, counts, shares = [], [], []
        with torch.no_grad(), arithmetic(self.device, self.tuning.precision):
            for value, n, weight in self.by_batch(weights, buffers, statistics):
                values.append(wide(value.reshape(-1)))
                counts.append(n)
                shares.extend(weight[:1])
            return mean_of(torch.cat(values), counts, shares, per_sample=self.per_sample)

    def terms(self, weights: Tensor, buffers: Tensor, *, statistics: Statistics = "running") -> Iterator[Tensor]:
        """Terms (0-d tensors) whose sum is the mean loss; differentiable, one batch in memory at a time."""
        shares: Iterable[Any] = itertools.repeat(None)
        if self.weighing in ("loss", "batches"):
            found = self._weights(weights.detach(), buffers, statistics)[:, 0]
            shares = (found / found.sum()).tolist()
        for (value, n, _), share in zip(self.by_batch(weights, buffers, statistics, whole_batches=True), shares):  # noqa: B905
            yield value.mean() * (n / self.samples if share is None else share)

    def _weights(self, weights: Tensor, buffers: Tensor, statistics: Statistics) -> Tensor:
        """(batches, ways) the weights of the batches, one for each way in which the loss is weighed."""
        with torch.no_grad(), arithmetic(self.device, self.tuning.precision):
            found = [(n, w) for _, n, w in self.by_batch(weights, buffers, statistics, whole_batches=True)]
        rows = [torch.cat(w) if w else torch.tensor([float(n)], dtype=torch.float64) for n, w in found]
        return torch.stack([row.cpu() for row in rows])

    def doubts(self, weights: Tensor, buffers: Tensor, *, statistics: Statistics = "running") -> list[str]:
        """What is to be said of the mean over batches and of parameters that the run does not record, in sentences."""
        found = self._weights(weights, buffers, statistics) if self.weighing == "loss" else None
        batches = sum(len(group.sizes) for group in self.probe.groups)
        return said_of_weighing(self.weighing, batches, found, self.attrs.get("unrecorded", ()))

    def loss(self, weights: Tensor, buffers: Tensor, *, statistics: Statistics = "running") -> Tensor:
        """The mean loss as a 0-d tensor, differentiable with respect to `weights` (D,)."""
        with arithmetic(self.device):
            return torch.stack(list(self.terms(weights, buffers, statistics=statistics))).sum()

    def by_batch(
        self, weights: Tensor, buffers: Tensor, statistics: Statistics, whole_batches: bool = False
    ) -> Iterator[tuple[Tensor, int, list[Tensor]]]:
        """Of each batch the loss, the samples, and what it is weighed by where that is not the samples."""
        state = {**self.layout.views(weights), **self.buffer_layout.views(buffers), **self.constants}
        if statistics == "recalibrate" and self.running_statistics:
            state |= self._measured(state)
        mode = "batch" if statistics == "batch" and self.running_statistics else "running"
        if self.tuning.layout != "contiguous":
            state = {name: laid_out(tensor, self.tuning.layout) for name, tensor in state.items()}
        free = self.free and mode == "running" and not whole_batches
        for number, (leaves, n) in enumerate(self.probe.chunks(self.tuning.chunk) if free else self.probe.batches()):
            value, shares = self._call(state, leaves, mode)
            if self.shares and not shares:
                shares = [row.reshape(1).to(wide(value).device) for row in self.shares[number]]
            yield value, 1 if self.weighing == "batches" else n, shares

    def _call(self, state: Mapping[str, Tensor], leaves: Sequence[Tensor], mode: str) -> tuple[Tensor, list[Tensor]]:
        if self.mutates:
            leaves = [t.clone() for t in leaves]
            state = {**state, **{name: state[name].clone() for name in self.buffer_layout.names if name in state}}
        found = self.kernel(state, leaves, statistics=mode)
        value, *weights = found if isinstance(found, list) else [found]
        if not isinstance(value, Tensor) or value.is_complex() or not value.numel():
            raise ObjectiveError(f"The loss gave a value of type {type(value).__name__}", expected="real numbers")
        return value, [wide(torch.as_tensor(w, device=value.device)).reshape(-1) for w in weights]

    def measured(self, weights: Tensor, buffers: Tensor) -> dict[str, Tensor]:
        """Running statistics by name, measured anew at these weights; nothing is differentiated."""
        return self._measured({**self.layout.views(weights), **self.buffer_layout.views(buffers), **self.constants})

    def _measured(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Running statistics over all recorded batches: the mean over batches, as `torch.optim.swa_utils.update_bn`."""
        total = {name: torch.zeros_like(wide(state[name])) for name in self.running_statistics}
        with torch.no_grad():
            for count, (leaves, _) in enumerate(self.probe.batches(), 1):  # noqa: B007
                scratch = {name: state[name].clone() for name in self.running_statistics}
                self.kernel({**state, **scratch}, [t.clone() for t in leaves], statistics="measure")
                for name, value in scratch.items():
                    total[name] += wide(value)
        return {name: (value / count).to(state[name].dtype).to(state[name].device) for name, value in total.items()}
