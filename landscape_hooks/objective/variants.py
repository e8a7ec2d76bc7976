"""Variants: one loss traced in several ways, where one graph does not hold for all batches.

In: the loss as a module, and the probe with the values of its batches that are no tensors. Out: graphs, and for each
batch the one that computes it. Numbers and arrays that differ from batch to batch are inputs of the graph where the
loss can be traced so; values that it does not read are passed over; for what is left there is a graph for each
distinct value, and for each size of batch where the number of samples cannot be left open. Every graph is compared
with the live loss at batches with other values than those that it was traced with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.data.batches import Rebuild, Template, Unread, python_value, same_value
from landscape_hooks.objective.graph.graph import LossGraph
from landscape_hooks.objective.graph.relabelling import data_read, reading, renamed
from landscape_hooks.objective.kernels import GraphKernel
from landscape_hooks.objective.loss_module import LossModule
from landscape_hooks.objective.probe import VARIANT, Group, Probe, with_variant
from landscape_hooks.objective.tracing.comparison import Compared
from landscape_hooks.objective.tracing.exported import Captured
from landscape_hooks.objective.tracing.running import DependsOnWeights
from landscape_hooks.store import checked

MOST = 8
"""Graphs at most: tracing one takes seconds."""
REFUSALS = 2
"""Batches that cannot be traced, after which no other is tried."""
CHECKED = 3
"""Batches with other values, at which a graph is compared with the live loss."""

Trace = Callable[[Probe], Captured]
Compare = Callable[[Captured, Probe, bool, bool], Compared]


@dataclass(frozen=True)
class VariantKernel:
    """The loss as several stored graphs; the last leaf of a batch says which of them is its."""

    kernels: tuple[GraphKernel, ...]

    def __call__(self, state: Mapping[str, Tensor], leaves: Sequence[Tensor], *, statistics: str) -> Tensor:
        number = 0 if leaves[-1].is_meta else int(leaves[-1])
        if not 0 <= number < len(self.kernels):
            raise ObjectiveError(f"A batch asks for loss graph {number}", expected=f"one of {len(self.kernels)}")
        return self.kernels[number](state, leaves[:-1], statistics=statistics)

    @property
    def graph(self) -> LossGraph:
        """One of the graphs: their operations are the same but for sizes and values."""
        return self.kernels[0].graph

    def running_statistics(self) -> dict[str, str]:
        return {name: kind for kernel in self.kernels for name, kind in kernel.running_statistics().items()}

    def to(self, device: torch.device) -> VariantKernel:
        return replace(self, kernels=tuple(kernel.to(device) for kernel in self.kernels))

    def laid_out(self, layout: str) -> VariantKernel:
        """For images and weights of this memory format."""
        return replace(self, kernels=tuple(kernel.laid_out(layout) for kernel in self.kernels))


def graph_name(number: int) -> str:
    """Name below `objective/graphs` of a variant's graph."""
    return f"loss{number}" if number else "loss"


def kernel_of(graphs: Sequence[LossGraph]) -> GraphKernel | VariantKernel:
    """One graph, or several of which each batch has one."""
    kernels = tuple(map(GraphKernel, graphs))
    return kernels[0] if len(kernels) == 1 else VariantKernel(kernels)


@dataclass(frozen=True)
class KeptRebuild:
    """Leaves of a stored batch -> the batch as the loss takes it.

    `makes` are the numbers of the templates of `rebuild`, one for each graph; `seconds` is what computing the live loss
    of the first batch took, some times over. `value` is the loss on the first `valued` of the `samples` that were kept
    (NaN and 0 where it is not known). `needs_grad` is whether the live loss takes derivatives itself.
    """

    rebuild: Rebuild
    makes: tuple[int, ...]
    seconds: float = 0.0
    value: float = math.nan
    valued: int = 0
    samples: int = 0
    needs_grad: bool = False

    def __call__(self, leaves: Sequence[Tensor]) -> Any:
        several = len(self.makes) > 1
        make = self.makes[int(leaves[-1]) if several else 0]
        return replace(self.rebuild, only=make)(leaves[:-1] if several else leaves)


@dataclass
class Traced:
    """The graphs of a loss, and the batches that they compute.

    Attributes
    ----------
    graphs, constants
        in the order of the variants; the constants of all of them.
    makes
        for each graph, the number of the template of the batch that it was traced with.
    probe
        the batches that are computed, with a last leaf `VARIANT` where there are several graphs.
    dynamic
        whether every graph takes any number of samples.
    mutates
        whether running one changes what it is given.
    frozen
        values that the graphs hold, by their names in a batch.
    left_out
        batches that no graph computes, and why.
    why
        the reason.
    seconds
        what computing the live loss of the first batch took, some times over.
    needs_grad
        whether the live loss takes derivatives itself.
    bound
        whether a graph holds for some values of the data only.
    value, valued
        the loss at the weights of now, and on how many samples.
    """

    graphs: list[LossGraph] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    makes: list[int] = field(default_factory=list)
    probe: Probe | None = None
    dynamic: bool = True
    mutates: bool = False
    differentiable: bool = True
    needs_grad: bool = False
    bound: bool = False
    frozen: dict[str, str] = field(default_factory=dict)
    left_out: list[Group] = field(default_factory=list)
    why: str = ""
    seconds: float = 0.0
    value: float = math.nan
    valued: int = 0

    @property
    def kept(self) -> Probe:
        """The batches that are computed, once all of it is traced."""
        assert self.probe is not None
        return self.probe


def trace_variants(
    module: LossModule, probe: Probe, rebuild: Rebuild, export: Trace, run: Trace, compare: Compare
) -> Traced:
    """Trace the loss of every batch of the probe.

    Parameters
    ----------
    module
        the loss; its `_rebuild` is replaced while it is traced, and comes back.
    probe, rebuild
        the batches, and what makes them of leaves.
    export
        traces the loss of the first batches of a probe.
    run
        traces the loss of the first batch of a probe by running it, where exporting it fails.
    compare
        compares a graph with the live loss at the first batch of a probe.

    Raises
    ------
    ObjectiveError
        the loss of a batch cannot be traced.
    """
    tracer = _Tracer(module, probe, rebuild, export, run, compare)
    try:
        return tracer.run()
    finally:
        module._rebuild = rebuild


class _Tracer:
    def __init__(
        self,
        module: LossModule,
        probe: Probe,
        rebuild: Rebuild,
        export: Trace,
        run: Trace,
        compare: Compare,
    ) -> None:
        self._module, self._rebuild = module, rebuild
        self._export, self._run, self._compare = export, run, compare
        several = len(rebuild.templates) > 1
        self._leaf_names = probe.names[: len(probe.names) - several]
        each = probe.each()
        self._makes = [int(batch.leaves[-1]) if several else 0 for batch in each]
        count = len(self._leaf_names)
        self._batches = [Group(b.leaves[:count], b.per_sample[:count], b.sizes) for b in each]

    def run(self) -> Traced:
        done = Traced()
        waiting = list(range(len(self._batches)))
        chosen: dict[int, int] = {}
        refused: list[int] = []
        while waiting and len(done.graphs) < MOST and len(refused) < REFUSALS:
            try:
                covered = self._trace(done, waiting)
            except ObjectiveError as error:
                if not done.graphs:
                    raise
                refused.append(waiting.pop(0))
                done.why = error.found
                continue
            chosen |= dict.fromkeys(covered, len(done.graphs) - 1)
            waiting = [n for n in waiting if n not in chosen]
        if waiting and not refused:
            done.why = f"{done.why or 'the batches differ'}, and no more than {MOST} graphs are stored"
        done.left_out = [self._batches[n] for n in [*refused, *waiting]]
        self._finish(done, chosen)
        return done

    def _template(self, number: int) -> Template:
        return self._rebuild.templates[self._makes[number]]

    def _trace(self, done: Traced, waiting: list[int]) -> list[int]:
        """One more graph, of the first batch that waits; which batches it computes."""
        lead = waiting[0]
        template = self._template(lead)
        family = [n for n in waiting if self._template(n).same_make(template)]
        kinds = dict(zip(template.places, template.kinds, strict=True))
        python = {place for place, kind in kinds.items() if kind not in ("tensor", "array")}
        moving = {p for p in python if any(not self._same_leaf(lead, n, p) for n in family)}
        differing = set().union(*(template.differing(self._template(n)) for n in family))
        hidden = self._unread(family, moving, differing)
        read = moving - {p for kind, p in hidden if kind == "leaf"}
        fixed = differing - {k for kind, k in hidden if kind == "plain"}
        arrays = {place for place, kind in kinds.items() if kind == "array"}
        attempts = [python - read, *([python] if read else []), *([python | arrays] if arrays else [])]
        ways = [(self._export, held) for held in attempts] if not self._module.needs_grad else []
        said: ObjectiveError | None = None
        for way, held in [*ways, (self._run, attempts[-1])]:
            alike = [n for n in family if self._alike(lead, n, held & (read | arrays), fixed)]
            try:
                return self._attempt(way, done, lead, alike, held, {k for k in differing if k in fixed})
            except ObjectiveError as error:  # what torch.export says is told, unless the weights are the reason
                said = error if said is None or way == self._export or isinstance(error, DependsOnWeights) else said
        assert said is not None
        raise self._named(said, template, read, fixed, len(done.graphs)) from said

    def _attempt(
        self, way: Trace, done: Traced, lead: int, alike: list[int], held: set[int], fixed: set[int]
    ) -> list[int]:
        """Trace with the leaves `held` as the values that they have in the first batch, the others as inputs."""
        template, batch = self._template(lead), self._batches[lead]
        kinds = dict(zip(template.places, template.kinds, strict=True))
        values = {place: python_value(kinds[place], batch.leaves[place]) for place in held}
        self._module._rebuild = replace(self._rebuild, only=self._makes[lead], frozen=values)
        whole = any(batch.per_sample[place] for place in held)  # values of all samples go with no part of the batch
        given = [self._batches[n] for n in alike]
        if whole:
            given = [replace(b, per_sample=(False,) * len(b.leaves)) for b in given]
        with _arrays_as_tensors():
            found = way(Probe.of(given, self._leaf_names))
        dynamic = found.dynamic and not whole
        graph, constants = found.graph, found.constants
        if done.graphs:
            graph, constants = renamed(graph, constants, len(done.graphs))
        graph = LossGraph.from_json(graph.to_json())  # what is compared is what will be read
        found = replace(found, graph=graph, constants=constants)
        compared = self._compared(found, lead, dynamic, found.ran)
        covered = [n for n in alike if n == lead or found.fits(self._batches[n], 2)]
        for number in self._others(lead, covered):
            self._compared(found, number)
        covered += self._singles(found, [n for n in alike if n not in covered])
        done.graphs.append(graph)
        done.makes.append(self._makes[lead])
        done.constants |= constants
        done.dynamic &= dynamic
        done.mutates |= compared.mutates
        done.differentiable &= compared.differentiable
        done.bound |= found.bound
        done.frozen |= {self._leaf_names[place]: repr(values[place])[:200] for place in held if kinds[place] != "array"}
        if not dynamic:
            done.why = "the loss can be traced for one size of batch at a time"
        if fixed:
            done.why = f"the loss reads {', '.join(template.plain[k][0] or 'the batch' for k in fixed)}"
        return covered

    def _compared(self, found: Captured, number: int, dynamic: bool = False, gradients: bool = False) -> Compared:
        self._module._rebuild = replace(self._rebuild, only=self._makes[number])
        return self._compare(found, Probe.of([self._batches[number]], self._leaf_names), dynamic, gradients)

    def _singles(self, captured: Captured, numbers: Sequence[int]) -> list[int]:
        """Batches that may be computed so: with a size of one, or with other values where the loss reads values.

        They are compared with the live loss.
        """
        found = []
        for number in numbers:
            if captured.fits(self._batches[number], 1):
                try:
                    self._compared(captured, number)
                except ObjectiveError:
                    continue
                found.append(number)
        return found

    def _others(self, lead: int, covered: list[int]) -> list[int]:
        """Batches with values that the graph was not traced with."""
        template = self._template(lead)
        python = [p for p, kind in zip(template.places, template.kinds, strict=True) if kind != "tensor"]
        other = [
            n for n in covered
            if self._makes[n] != self._makes[lead] or any(not self._same_leaf(lead, n, p) for p in python)
        ]  # fmt: skip
        step = max(1, len(other) // CHECKED)
        return other[::step][:CHECKED]

    # -- which values are read ---------------------------------------------------------------------------
    def _same_leaf(self, a: int, b: int, place: int) -> bool:
        x, y = self._batches[a].leaves[place], self._batches[b].leaves[place]
        return x.shape == y.shape and x.dtype == y.dtype and bool(((x == y) | ((x != x) & (y != y))).all())

    def _alike(self, a: int, b: int, places: set[int], plain: set[int]) -> bool:
        mine, theirs = self._template(a).plain, self._template(b).plain
        return all(self._same_leaf(a, b, p) for p in places) and all(
            same_value(mine[k][1], theirs[k][1]) for k in plain
        )

    def _unread(self, family: list[int], leaves: set[int], plain: set[int]) -> set[tuple[str, int]]:
        """Those of the values that the loss of these batches does not read."""
        candidates = [*(("leaf", p) for p in sorted(leaves)), *(("plain", k) for k in sorted(plain))]
        if not candidates:
            return set()
        tried = self._one_of_each_type(family, plain)
        if all(self._same_without(n, set(candidates)) for n in tried):
            return set(candidates)
        if len(candidates) > 64:  # the fields of many records: which of them is read is not worth finding out
            return set()
        return {c for c in candidates if len(candidates) > 1 and all(self._same_without(n, {c}) for n in tried)}

    def _one_of_each_type(self, family: list[int], plain: set[int]) -> list[int]:
        first: dict[tuple[type, ...], int] = {}
        for n in family:
            first.setdefault(tuple(type(self._template(n).plain[k][1]) for k in sorted(plain)), n)
        return list(first.values())[:CHECKED]

    def _same_without(self, number: int, hidden: set[tuple[str, int]]) -> bool:
        only = replace(self._rebuild, only=self._makes[number])
        away = replace(
            only,
            frozen={place: Unread() for kind, place in hidden if kind == "leaf"},
            hidden=frozenset(k for kind, k in hidden if kind == "plain"),
        )
        values = []
        for self._module._rebuild in (only, away):
            try:
                with torch.set_grad_enabled(self._module.needs_grad):
                    values.append(self._module(*[t.clone() for t in self._batches[number].leaves]))
            except Exception:  # whatever the user's code makes of a value that is not there
                return False
        return bool(torch.allclose(values[0].detach(), values[1].detach(), equal_nan=True))

    def _named(
        self, error: ObjectiveError, template: Template, read: set[int], fixed: set[int], done: int
    ) -> ObjectiveError:
        """The error, with the values that may be its reason."""
        names = [self._leaf_names[p] for p in sorted(read)] + [template.plain[k][0] for k in sorted(fixed)]
        if not names:
            return error
        return ObjectiveError(
            f"{error.found}; the loss reads values that differ from batch to batch ({', '.join(names[:5])})",
            expected=error.expected,
            mend=error.mend,
        )

    # -- what is kept --------------------------------------------------------------------------------------
    def _finish(self, done: Traced, chosen: Mapping[int, int]) -> None:
        """Drop the numbers that no graph reads; say of each batch which graph is its."""
        python: set[int] = set()
        for template in self._rebuild.templates:
            python |= {p for p, k in zip(template.places, template.kinds, strict=True) if k not in ("tensor", "array")}
        used = [data_read(graph) for graph in done.graphs]
        kept = [p for p in range(len(self._leaf_names)) if p not in python or any(p in reads for reads in used)]
        done.graphs = [reading(graph, kept) for graph in done.graphs]
        groups = [
            Group([b.leaves[p] for p in kept], tuple(b.per_sample[p] for p in kept), b.sizes)
            for b in (self._batches[n] for n in sorted(chosen))
        ]
        names = [self._leaf_names[p] for p in kept]
        if len(done.graphs) > 1:
            groups = [with_variant(g, chosen[n]) for g, n in zip(groups, sorted(chosen), strict=True)]
            names.append(VARIANT)
        done.probe = Probe.of(groups, names)


@contextmanager
def _arrays_as_tensors() -> Iterator[None]:
    """While a loss is traced, tensors stand for arrays: what makes a tensor of an array takes them."""
    original: Any = torch.from_numpy

    def from_numpy(array: NDArray[Any] | Tensor) -> Tensor:
        return array if isinstance(array, Tensor) else original(array)

    vars(torch)["from_numpy"] = from_numpy
    try:
        yield
    finally:
        vars(torch)["from_numpy"] = original


def check_variants(probe: Probe, graphs: int) -> None:
    """Where there are several graphs, the last leaf of every batch is the number of one."""
    if graphs == 1:
        return
    for group in probe.groups:
        number = group.leaves[-1]
        if probe.names[-1] != VARIANT or number.numel() != 1 or not 0 <= int(number.real.reshape(())) < graphs:
            raise checked.damaged("A batch of the probe data has none of the stored loss graphs")
