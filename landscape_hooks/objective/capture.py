"""capture: a model's loss and probe samples, traced and written into a run as data.

In: the live model, its criterion (or objective) and data. Out: `objective/` of the run: the graph as JSON, its
constants, the samples. The weights stay out: they are in the trajectory. The model, the random states and the
modes are left as they were.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape_hooks.errors import DataError, ObjectiveError, RecordingWarning
from landscape_hooks.objective.data.batches import Rebuild
from landscape_hooks.objective.graph.graph import LossGraph
from landscape_hooks.objective.independence import independent
from landscape_hooks.objective.loss_module import WAY_OUT, LossModule, check_loss
from landscape_hooks.objective.probe import Group, Probe, write_tensor
from landscape_hooks.objective.variants import Traced, graph_name, kernel_of, trace_variants
from landscape_hooks.store import schema
from landscape_hooks.store.run import remove_group, writes
from landscape_hooks.trajectory.parameters import ParameterLayout

# samples of the batch that is traced: small, and not the size of anything else that may vary
_TRACE_SIZES = (7, 6, 5, 9, 11, 3, 2)


def capture(
    root: Any,
    model: nn.Module,
    *,
    criterion: Callable[..., Any] | None = None,
    objective: Callable[..., Any] | None = None,
    data: Any,
    samples: int = 1024,
) -> None:
    """Store the loss and the first `samples` samples of `data` in the run `root`.

    Parameters are as for `landscape_hooks.record`. The graph is traced by `torch.export` around a private copy
    of the model in evaluation mode, with a free number of samples, and its loss is compared with the model's
    own before it is stored.

    Raises
    ------
    DataError
        the data is empty, or does not fit the model and the criterion.
    ObjectiveError
        the model cannot be exported.
    """
    check_loss(criterion, objective)
    probe, rebuild = Probe.collect(data, samples)
    graphs, constants, kept, attrs = trace(model, criterion, objective, probe, rebuild)
    write_objective(root, graphs, constants, kept, attrs | {"notes": [*attrs.get("notes", []), *kept.notes(samples)]})


def trace(
    model: nn.Module,
    criterion: Callable[..., Any] | None,
    objective: Callable[..., Any] | None,
    probe: Probe,
    rebuild: Rebuild,
) -> tuple[list[LossGraph], dict[str, Tensor], Probe, dict[str, Any]]:
    """The loss graphs, their constants, the samples it takes and its attributes."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        module, names = LossModule.of(model, criterion, objective, rebuild)
        leaves, size = next(probe.batches())
        try:
            per_sample = module.choose(leaves, size)
        except ObjectiveError:
            raise
        except Exception as error:
            raise DataError(
                f"The loss of the first probe batch cannot be computed ({type(error).__name__}: {_first_line(error)})",
                expected="batches that the model and the criterion take",
                mend="Give objective=lambda model, batch: loss, or other data",
            ) from error
        traced = trace_variants(
            module, probe, rebuild, names, lambda part: _export(module, part),
            lambda graph, constants, part, dynamic: _compare(graph, constants, module, part, dynamic),
        )  # fmt: skip
        kept = traced.probe
        assert kept is not None
        free = per_sample and traced.dynamic and _independent(module.model, traced.graphs, traced.constants, kept)
    attrs = {"per_sample": per_sample, "dynamic": traced.dynamic, "independent": free, "mutates": traced.mutates,
             "loss": _name(criterion, objective), "torch": torch.__version__, "samples": kept.samples,
             "batch_size": kept.batch_size, "frozen": traced.frozen} | _left_out(traced)  # fmt: skip
    return traced.graphs, traced.constants, kept, attrs


def _independent(model: nn.Module, graphs: Sequence[LossGraph], constants: dict[str, Tensor], probe: Probe) -> bool:
    """Whether the stored loss of a sample is the same in any batch."""
    layouts = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    state = {e.name: t.detach() for lay in layouts for e, t in zip(lay, lay.tensors(model), strict=True)}
    kernel = kernel_of(graphs)
    with torch.autocast("cpu", enabled=False):
        return independent(
            lambda moved, leaves: kernel({**moved, **constants}, leaves, statistics="running"),
            state, probe,
        )  # fmt: skip


def _left_out(traced: Traced) -> dict[str, Any]:
    """What is said of batches that no graph computes; a warning, for the loss is one over fewer samples then."""
    batches, samples = len(traced.left_out), sum(batch.samples for batch in traced.left_out)
    found: dict[str, Any] = {"left_out": {"batches": batches, "samples": samples}, "notes": []}
    if batches:
        count = (
            f"{batches} batch of {samples} samples was"
            if batches == 1
            else f"{batches} batches of {samples} samples were"
        )
        text = f"{count} left out of the stored loss: {traced.why}"
        found["notes"] = [text + "."]
        warnings.warn(RecordingWarning(f"{text}. {WAY_OUT}"), stacklevel=7)
    return found


@writes
def write_objective(
    root: Any, graphs: Sequence[LossGraph], constants: dict[str, Tensor], probe: Probe, attrs: dict[str, Any]
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


def _export(module: LossModule, probe: Probe) -> tuple[torch.export.ExportedProgram, bool]:
    """Trace the loss with as many free sizes as the model allows; whether the number of samples is free."""
    group = probe.groups[0]
    varying = _varying(probe)
    taken = {group.leaves[leaf].shape[dim] for leaf, dim in varying}
    size = next((n for n in _TRACE_SIZES if n <= group.samples and n not in taken), None)
    if size is not None and (program := _attempt(module, group, size, varying, first=True)) is not None:
        return program, True
    whole = group.sizes[0]
    program = _attempt(module, group, whole, varying, first=False)
    assert program is not None
    return program, False


def _attempt(
    module: LossModule, group: Group, size: int, varying: set[tuple[int, int]], *, first: bool
) -> torch.export.ExportedProgram | None:
    """One export; None where a first attempt turned out to be tied to the number of samples it was given."""
    leaves = tuple(t.clone() for t in group.slice(0, size))
    auto = torch.export.Dim.AUTO
    shapes = [
        {dim: auto for dim in range(t.ndim) if (first and per and dim == 0) or (leaf, dim) in varying} or None
        for leaf, (t, per) in enumerate(zip(leaves, group.per_sample, strict=True))
    ]
    try:
        with warnings.catch_warnings(), _quiet(), torch.no_grad(), torch.autocast("cpu", enabled=False):
            warnings.simplefilter("ignore")
            program = torch.export.export(module, leaves, dynamic_shapes=(tuple(shapes),), strict=False)
    except Exception as error:
        if first:
            return None
        raise ObjectiveError(
            f"torch.export cannot capture the loss graph ({type(error).__name__}: {_first_line(error)})", mend=WAY_OUT
        ) from error
    if first:
        values = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in
                  {s.arg.name for s in program.graph_signature.input_specs if s.kind.name == "USER_INPUT"}]  # fmt: skip
        for value, per in zip(values, group.per_sample, strict=True):
            # a size that `len(x)` turned into a number is still a SymInt, but no longer free
            if per and not (isinstance(value.shape[0], torch.SymInt) and value.shape[0].node.maybe_as_int() is None):
                return None
    return program


def _compare(graph: LossGraph, constants: dict[str, Tensor], module: LossModule, probe: Probe, dynamic: bool) -> bool:
    """The graph must give the model's own loss; returns whether running it changes its inputs."""
    layouts = ParameterLayout.of(module.model), ParameterLayout.of_buffers(module.model)
    state = {
        e.name: t.detach() for layout in layouts for e, t in zip(layout, layout.tensors(module.model), strict=True)
    }
    state |= constants
    whole, size = next(probe.batches())
    half = probe.groups[0].slice(0, size // 2)
    cases = [whole, *([half] if dynamic and size >= 4 and _computable(module, half) else [])]
    if not graph.parameters():
        raise ObjectiveError(
            "The captured loss depends on none of the model's parameters",
            expected="a loss of the model that is recorded (a replaced forward may call another one)",
            mend=WAY_OUT,
        )
    mutates = False
    for leaves in cases:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            expected = module(*[t.clone() for t in leaves])
            given = [t.clone() for t in leaves]
            # in-place operations count up a tensor's version, through views as well
            watched = [*given, *state.values()]
            versions = [t._version for t in watched]
            found = graph(state, given)
        mutates |= versions != [t._version for t in watched]
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-6, equal_nan=True):
            raise ObjectiveError(
                f"The captured loss graph gives {float(found.mean()):.6g} where the model gives "
                f"{float(expected.mean()):.6g}",
                expected="the same loss twice: a model without randomness in evaluation mode, or state outside itself",
                mend=WAY_OUT,
            )
    return mutates


def _computable(module: LossModule, leaves: Sequence[Tensor]) -> bool:
    """Whether the live loss takes these leaves: a part of a batch may be none."""
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            module(*[t.clone() for t in leaves])
    except Exception:  # whatever the user's code makes of half a graph
        return False
    return True


def _varying(probe: Probe) -> set[tuple[int, int]]:
    """(leaf, dimension) of the sizes, other than the number of samples, that differ between batches."""
    first = probe.groups[0]
    return {
        (leaf, dim)
        for group in probe.groups[1:]
        for leaf, (a, b) in enumerate(zip(first.leaves, group.leaves, strict=True))
        for dim in range(min(a.ndim, b.ndim))
        if a.shape[dim] != b.shape[dim] and not (dim == 0 and first.per_sample[leaf])
    }


class _quiet:
    """torch logs and prints at length what our one warning says in a sentence."""

    def __enter__(self) -> None:
        self._streams = ExitStack()
        self._streams.enter_context(redirect_stdout(io.StringIO()))
        self._streams.enter_context(redirect_stderr(io.StringIO()))
        self._logger = logging.getLogger("torch")
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL)

    def __exit__(self, *_: Any) -> None:
        self._logger.setLevel(self._level)
        self._streams.close()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:200]


def _name(criterion: Any, objective: Any) -> str:
    chosen = criterion if criterion is not None else objective
    return repr(chosen) if isinstance(chosen, nn.Module) else getattr(chosen, "__qualname__", type(chosen).__name__)
