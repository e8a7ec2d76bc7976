"""Exporting: a loss traced by torch.export, with as many free sizes as it allows.

In: the loss as a module, and batches. Out: a graph that holds for any number of samples where that can be, and for
the sizes of a batch where it cannot.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout

import torch

from landscape_hooks.errors import ObjectiveError, first_line
from landscape_hooks.objective.live.copies import WAY_OUT
from landscape_hooks.objective.loss_module import LossModule
from landscape_hooks.objective.probe import Group, Probe
from landscape_hooks.objective.tracing.draws import draw_at_all
from landscape_hooks.objective.tracing.exported import Captured, graph_of
from landscape_hooks.objective.tracing.traceable import traceable

# samples of the batch that is traced: small, and not the size of anything else that may vary
_TRACE_SIZES = (7, 6, 5, 9, 11, 3, 2)


def export(module: LossModule, names: Mapping[str, str], probe: Probe) -> Captured:
    """Trace the loss of the first batches of a probe.

    `names` gives the canonical name of each tensor of the model by its name in the module.

    Raises
    ------
    ObjectiveError
        torch.export cannot, or the graph cannot be stored.
    """
    program, dynamic = _export(module, probe)
    graph, constants = graph_of(program, names)
    return Captured(graph, constants, dynamic, lambda batch, least: _fits(program, batch, least))


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
        with warnings.catch_warnings(), _quiet(), torch.no_grad(), torch.autocast("cpu", enabled=False), traceable():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, leaves, dynamic_shapes=(tuple(shapes),), strict=False)
    except Exception as error:
        if first:
            return None
        raise ObjectiveError(
            f"torch.export cannot capture the loss graph ({type(error).__name__}: {first_line(error)})", mend=WAY_OUT
        ) from error
    if first:
        if draw_at_all(program):  # so many numbers as this batch has samples are drawn
            return None
        values = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in
                  {s.arg.name for s in program.graph_signature.input_specs if s.kind.name == "USER_INPUT"}]  # fmt: skip
        for value, per in zip(values, group.per_sample, strict=True):
            # a size that `len(x)` turned into a number is still a SymInt, but no longer free
            if per and not (isinstance(value.shape[0], torch.SymInt) and value.shape[0].node.maybe_as_int() is None):
                return None
    return program


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


def _fits(program: torch.export.ExportedProgram, batch: Group, least: int) -> bool:
    """Whether the shapes of a batch are among those that the program was traced for, open sizes from `least` on."""
    given = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"}
    values = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in given]
    free: dict[str, int] = {}
    for value, leaf in zip(values, batch.leaves, strict=True):
        if value.ndim != leaf.ndim or value.dtype != leaf.dtype:
            return False
        for expected, size in zip(value.shape, leaf.shape, strict=True):
            if not isinstance(expected, torch.SymInt) or expected.node.maybe_as_int() is not None:
                if int(expected) != size:
                    return False
                continue
            symbol = expected.node.expr
            if free.setdefault(str(symbol), size) != size:
                return False
            bounds = program.range_constraints.get(symbol)
            lower = 2 if bounds is None else bounds.lower
            if size < (lower if lower > 2 else least) or (bounds is not None and not size <= bounds.upper):
                return False
    return True


class _quiet:
    """torch logs and prints at length what our one warning says in a sentence."""

    def __enter__(self) -> None:
        self._streams = ExitStack()
        self._streams.enter_context(redirect_stdout(io.StringIO()))
        self._streams.enter_context(redirect_stderr(io.StringIO()))
        self._logger = logging.getLogger("torch")
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
        self._streams.close()
