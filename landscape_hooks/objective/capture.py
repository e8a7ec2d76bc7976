"""capture: a model's loss and probe samples, traced and written into a run as data.

In: the live model, its criterion (or objective) and data. Out: `objective/` of the run: the graph as JSON, its
constants, the samples. The weights stay out: they are in the trajectory. The model, the random states and the
modes are left as they were.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from landscape_hooks.errors import DataError, ObjectiveError, first_line, warn_of_recording
from landscape_hooks.objective.data.batches import Rebuild
from landscape_hooks.objective.data.samples import DataLike
from landscape_hooks.objective.data.states import states_kept
from landscape_hooks.objective.graph.graph import LossGraph
from landscape_hooks.objective.graph.weighing import floating, said_of_unrecorded, weigh
from landscape_hooks.objective.kernels import ModuleKernel
from landscape_hooks.objective.live.copies import WAY_OUT
from landscape_hooks.objective.live.independence import independent
from landscape_hooks.objective.live.weights import value_of, weighing_of
from landscape_hooks.objective.loss_module import LossModule, Unrecorded, check_loss, state_of
from landscape_hooks.objective.probe import Probe, write_tensor
from landscape_hooks.objective.tracing.comparison import compare
from landscape_hooks.objective.tracing.draws import SAID
from landscape_hooks.objective.tracing.exporting import export
from landscape_hooks.objective.tracing.running import run
from landscape_hooks.objective.variants import KeptRebuild, Traced, graph_name, kernel_of, trace_variants
from landscape_hooks.store import schema
from landscape_hooks.store.run import remove_group, writes
from landscape_hooks.trajectory.doubts import OF_THE_LOSS, Doubt, add_doubt, drop_doubts
from landscape_hooks.trajectory.rows.fixed import Fixed

VALUE_SECONDS = 1.0
"""The loss that was stored is computed on as many batches as take so long, to be told."""


def capture(
    root: zarr.Group,
    model: nn.Module,
    *,
    criterion: Callable[..., Any] | None = None,
    objective: Callable[..., Any] | None = None,
    data: DataLike,
    samples: int = 1024,
    one_shot: bool = False,
) -> KeptRebuild:
    """Store the loss and the first `samples` samples of `data` in the run `root`.

    Returns what puts the tensors of a stored batch back into the shape of a batch.

    Parameters are as for `landscape_hooks.record`; with `one_shot` an iterator may be consumed. The graph is traced by
    `torch.export` around a private copy of the model in evaluation mode, with a free number of samples, and its loss is
    compared with the model's own before it is stored.

    Raises
    ------
    DataError
        the data is empty, or does not fit the model and the criterion.
    ObjectiveError
        the model cannot be exported.
    """
    check_arguments(criterion, objective, data, samples)
    probe, rebuild = Probe.collect(data, samples, one_shot=one_shot)
    found, attrs, unrecorded = trace(model, criterion, objective, probe, rebuild, Fixed(root).others.names)
    kept = found.kept
    attrs |= {"notes": [*attrs["notes"], *kept.notes(samples)]}
    write_objective(root, found.graphs, found.constants, kept, attrs)
    drop_doubts(root, OF_THE_LOSS)
    if unrecorded:
        add_doubt(root, Doubt(OF_THE_LOSS, said_of_unrecorded(attrs["unrecorded"]), {"parameters": len(unrecorded)}))
        warn_of_recording(_way_out_of_unrecorded(unrecorded))
    return KeptRebuild(rebuild, tuple(found.makes), found.seconds, found.value, found.valued, kept.samples,
                       found.needs_grad)  # fmt: skip


def check_arguments(criterion: object, objective: object, data: object, samples: int) -> None:
    """The arguments are what they are to be; the loss is not called, and no sample is taken.

    Raises
    ------
    LandscapeError
        they are not.
    """
    check_loss(criterion, objective)
    if samples < 1:
        raise DataError(f"Found samples={samples}", expected="at least 1")
    if isinstance(data, str | bytes) or not (isinstance(data, Iterable) or hasattr(data, "__getitem__")):
        raise DataError(f"Found data of type {type(data).__name__}",
                        expected="a DataLoader, an iterable of batches, one batch, or a dataset")  # fmt: skip
    if isinstance(data, Sized) and not isinstance(data, Tensor) and _length(data) == 0:
        raise DataError("The probe data is empty: it gave no batch", expected="at least one batch")


def _length(data: Sized) -> int | None:
    """How many there are; None where that is not known."""
    if isinstance(data, DataLoader) and isinstance(data.dataset, IterableDataset):
        return None  # it remembers that it was asked, and warns of a stream that is longer
    try:
        return len(data)
    except Exception:  # whatever a loader of somebody's raises
        return None


def _way_out_of_unrecorded(found: Sequence[Unrecorded]) -> str:
    """The warning about parameters that the loss has beside the model's."""
    names = [each.name for each in found]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    modules = list(dict.fromkeys(each.module for each in found if each.module))
    ways = [f"record them too, record([model, {', '.join(modules)}], ...)"] if modules else []
    if any(each.inside for each in found):
        ways.append("register in the model what it holds unregistered (nn.Parameter, nn.ModuleList)")
    if any(not each.module and not each.inside for each in found):
        ways.append("make a tensor an nn.Parameter of a module that is recorded")
    return (
        f"The loss has parameters that are not the recorded model's: {shown}. The run stores them as they are now, so "
        f"where they are trained the stored loss is not the training's. Either {'; or '.join(ways)}; or, where they "
        "are not trained, say so with requires_grad_(False)."
    )


def trace(
    model: nn.Module,
    criterion: Callable[..., Any] | None,
    objective: Callable[..., Any] | None,
    probe: Probe,
    rebuild: Rebuild,
    integers: Sequence[str] = (),
) -> tuple[Traced, dict[str, Any], list[Unrecorded]]:
    """The loss graphs and the samples they take, their attributes, and the parameters they have beside the model.

    `integers` are names of tensors of integers that the run has; all others become constants of the graphs.
    """
    with _nothing_moves():
        module, names = LossModule.of(model, criterion, objective, rebuild, integers=integers)
        leaves, size = next(probe.batches())
        began = time.monotonic()
        per_sample = _choose(module, leaves, size, probe)
        seconds = time.monotonic() - began
        traced = trace_variants(
            module, probe, rebuild, lambda part: export(module, names, part),
            lambda part: run(module, names, part.groups[0]),
            lambda found, *given: compare(found, ModuleKernel(module, names), *given),
        )  # fmt: skip
        traced.seconds, traced.needs_grad = seconds, module.needs_grad
        kept = traced.kept
        free = per_sample and traced.dynamic and _independent(module, traced.graphs, traced.constants, kept)
        weighing = "samples" if per_sample else weighing_of(traced, module, probe)
        traced.value, traced.valued = value_of(traced, module, weighing, VALUE_SECONDS)
    attrs = {
        "per_sample": per_sample, "dynamic": traced.dynamic, "independent": free, "mutates": traced.mutates,
        "differentiable": traced.differentiable, "bound": traced.bound,
        "weighing": weighing, "loss": _name(criterion, objective), "torch": torch.__version__, "samples": kept.samples,
        "batch_size": kept.batch_size, "frozen": traced.frozen,
        "unrecorded": [each.name for each in module.unrecorded],
    } | _left_out(traced, [SAID] if module.draws else [])  # fmt: skip
    return traced, attrs, module.unrecorded


def _independent(module: LossModule, graphs: Sequence[LossGraph], constants: dict[str, Tensor], probe: Probe) -> bool:
    """Whether the stored loss of a sample is the same in any batch."""
    kernel = kernel_of(graphs)
    with torch.autocast("cpu", enabled=False):
        return independent(
            lambda moved, leaves: kernel({**moved, **constants}, leaves, statistics="running"), state_of(module), probe
        )


def _left_out(traced: Traced, notes: list[str]) -> dict[str, Any]:
    """What is said of batches that no graph computes; a warning, for the loss is one over fewer samples then."""
    batches, samples = len(traced.left_out), sum(batch.samples for batch in traced.left_out)
    found: dict[str, Any] = {"left_out": {"batches": batches, "samples": samples}, "notes": notes}
    if batches:
        count = (
            f"{batches} batch of {samples} samples was"
            if batches == 1
            else f"{batches} batches of {samples} samples were"
        )
        text = f"{count} left out of the stored loss: {traced.why}"
        found["notes"] = [text + ".", *notes]
        warn_of_recording(f"{text}. {WAY_OUT}")
    return found


@writes
def write_objective(
    root: zarr.Group, graphs: Sequence[LossGraph], constants: dict[str, Tensor], probe: Probe, attrs: dict[str, Any]
) -> None:
    """Write all of it; the attribute `complete` comes last and makes it count."""
    remove_group(root, "objective")
    group = root.create_group("objective", overwrite=True)
    probe.store(root)
    for number, graph in enumerate(graphs):
        text = np.frombuffer(graph.to_json().encode(), dtype=np.uint8)
        schema.create(root, f"objective/graphs/{graph_name(number)}", text.shape, chunks=text.shape)[...] = text
    for key, value in constants.items():
        write_tensor(root, f"objective/constants/{key}", value.cpu())
    group.attrs.put({**attrs, "complete": True})


def _choose(module: LossModule, leaves: Sequence[Tensor], size: int, probe: Probe) -> bool:
    """Whether the loss is known for each sample, of a loss that can be stored at all."""
    try:
        per_sample = module.choose(leaves, size, probe.batches)
    except ObjectiveError:
        raise
    except Exception as error:
        raise _trouble(module, leaves, error) from error
    return per_sample


def _trouble(module: LossModule, leaves: Sequence[Tensor], error: Exception) -> ObjectiveError:
    """What to say of a loss that raised: what it takes, or what it was called with."""
    said = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return ObjectiveError(
            f"The loss of the first probe batch does not fit into memory ({said})",
            mend=f"Give data= smaller batches. {WAY_OUT}",
        )
    if not isinstance(error, RecursionError) and _computable_in_training(module, leaves):
        return ObjectiveError(
            f"The model gives a loss in training mode only; in evaluation mode it raised {said}",
            mend="Give objective= with model.train() as its first line if the loss is to be taken in training mode, "
            f"dropout and batch statistics included. {WAY_OUT}",
        )
    if "device" in str(error):
        return ObjectiveError(
            f"The loss cannot be computed by a copy of the model on the CPU ({said})",
            expected="a loss that goes by the device of the model it is given, next(model.parameters()).device",
            mend=WAY_OUT,
        )
    return DataError(
        f"The loss of the first probe batch cannot be computed by a copy of the model in evaluation mode ({said})",
        expected="a model, a loss and a batch that go together, as in the training loop",
        mend=f"Give objective=lambda model, batch: loss, or other data. {WAY_OUT}",
    )


def _computable_in_training(module: LossModule, leaves: Sequence[Tensor]) -> bool:
    """Whether it is evaluation mode that the loss cannot be computed in; the copy is tried on a copy of its own."""
    try:
        module.train()
        value = module(*[t.clone() for t in leaves])
        return isinstance(value, Tensor)
    except Exception:
        return False
    finally:
        module.eval()


def live_weights(module: LossModule, names: Mapping[str, str], probe: Probe) -> tuple[str, list[Tensor]]:
    """By what the batches of a probe are weighed (`weighing_of`), and where it is "loss" the weights (ways,) of each.

    They are read off the loss's graph, where there is one, which is computed once a batch for that.
    """
    batches = [leaves for leaves, _ in probe.batches()]
    if len(batches) == 1:
        return "samples", []
    labels = [weight for leaves in batches if (weight := module.weight(leaves)) is not None]
    if labels:
        return "loss", [weight.reshape(1).double() for weight in labels]
    try:
        with _nothing_moves():
            found = export(module, names, probe)
            graph, constants = found.graph, found.constants
            weighing = weighing_of(Traced([graph], constants, probe=probe, dynamic=found.dynamic), module, probe)
            weighed = weigh(graph, floating(graph, probe)) if weighing == "loss" else None
            if weighed is None:
                return weighing, []
            state, rows = state_of(module) | constants, []
            with torch.no_grad():
                for leaves in batches:
                    value, *row = weighed(state, [t.clone() for t in leaves])
                    live = module(*[t.clone() for t in leaves])
                    if not torch.allclose(value.double(), live.double(), rtol=1e-4, atol=1e-6, equal_nan=True):
                        return module.weighing(probe.batches), []
                    rows.append(torch.tensor([float(weight) for weight in row], dtype=torch.float64))
        return "loss", rows
    except Exception:  # it has no graph, or none of all batches: that is why it is live
        return module.weighing(probe.batches), []


@contextmanager
def _nothing_moves() -> Iterator[None]:
    """Random states stay as they were, and attention takes in evaluation mode the path that it takes in training."""
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with states_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the user's own code warns of, the training will
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _name(criterion: object, objective: object) -> str:
    chosen = criterion if criterion is not None else objective
    return repr(chosen) if isinstance(chosen, nn.Module) else getattr(chosen, "__qualname__", type(chosen).__name__)
