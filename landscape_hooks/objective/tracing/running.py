"""Running: a loss traced by running it on the values of one batch, where torch.export cannot trace it.

In: the loss as a module, and a batch. Out: a graph of what was computed, for batches of the same shapes. Two kinds of
losses need it. A loss that takes derivatives itself (physics-informed losses, gradient penalties, inner steps) is
stored with the operations of these derivatives. A loss whose course depends on values of the data is stored as the
course that this batch takes; the values that it read are computed for other batches too, and the graph holds for those
with the same ones. A course that depends on the weights is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from landscape_hooks.errors import ObjectiveError, first_line
from landscape_hooks.objective.double_backward import plain_kernels
from landscape_hooks.objective.graph.graph import Input, LossGraph, Node, references
from landscape_hooks.objective.graph.operations import resolve
from landscape_hooks.objective.live.copies import WAY_OUT
from landscape_hooks.objective.loss_module import LossModule
from landscape_hooks.objective.probe import Group
from landscape_hooks.objective.tracing.draws import Draws
from landscape_hooks.objective.tracing.exported import Captured, assembled
from landscape_hooks.objective.tracing.sparse import Sparse
from landscape_hooks.objective.tracing.traceable import traceable

_READS = ("item", "__bool__", "__float__", "__int__", "__index__", "__complex__", "tolist", "numpy", "__array__")
_PRINTS = ("__repr__", "__str__", "__format__")
_MEANT = {
    torch.ops.aten.detach.default: torch.ops.aten.alias.default,
    torch.ops.aten.detach_copy.default: torch.ops.aten.detach.default,
}
_VALUES, _SHAPES = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape


class DependsOnWeights(ObjectiveError):
    """What a loss computes depends on values that its weights have."""


def run(module: LossModule, names: Mapping[str, str], group: Group) -> Captured:
    """Trace the loss of the first batch of a group.

    `names` gives the canonical name of each tensor of the model by its name in the module.

    Raises
    ------
    ObjectiveError
        it cannot be traced, or its course depends on the weights.
    """
    leaves = group.slice(0, group.sizes[0])
    trace = _Trace(module, names, leaves)
    for derivatives in [False, True]:
        # draws are looked at below autograd, where each is one operation
        if not derivatives and (module.needs_grad or module.draws):
            continue
        try:
            graph, found = trace.record(derivatives)
        except _TakesDerivatives:
            continue
        except ObjectiveError:
            raise
        except Exception as error:
            raise ObjectiveError(
                f"The loss graph cannot be captured ({type(error).__name__}: {first_line(error)})", mend=WAY_OUT
            ) from error
        if derivatives and any(_has_statistics(layer) for layer in module.modules()):
            raise ObjectiveError(
                "The loss takes derivatives through layers with running statistics, or draws random numbers beside "
                "them, and torch.export cannot capture it",
                expected="layers without running statistics in such a loss",
                mend=WAY_OUT,
            )
        return trace.captured(graph, found, derivatives)
    raise AssertionError


def _has_statistics(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.batchnorm._NormBase) and layer.running_mean is not None


class _TakesDerivatives(Exception):
    """The loss was seen to take derivatives, which is traced below autograd only."""


@dataclass
class _Found:
    """What was seen beside the operations: values that were read, and draws with the state before each."""

    reads: list[tuple[str, Any]] = field(default_factory=list)
    draws: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class _Trace:
    def __init__(self, module: LossModule, names: Mapping[str, str], leaves: Sequence[Tensor]) -> None:
        self._module, self._names, self._leaves = module, names, leaves
        own = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
        self._canonical = list(dict.fromkeys(names.values()))
        first = {canonical: name for name, canonical in reversed([*names.items()])}
        self._parameters = {c for c in self._canonical if isinstance(own[first[c]], nn.Parameter)}
        self._values = [
            own[first[c]].detach().clone().requires_grad_(own[first[c]].requires_grad) for c in self._canonical
        ]

    def record(self, derivatives: bool) -> tuple[torch.fx.GraphModule, _Found]:
        """The operations of the loss; `derivatives` records below autograd, where those of derivatives are."""
        found = _Found()

        def loss(values: list[Tensor], leaves: list[Tensor]) -> list[Any]:
            tensors = dict(zip(self._canonical, values, strict=True))
            given = {name: tensors[canonical] for name, canonical in self._names.items()}
            with self._module.traced(), ExitStack() as inside:
                inside.enter_context(_Course(found, derivatives))
                if derivatives:
                    inside.enter_context(_Draws(found))
                value = torch.func.functional_call(self._module, given, tuple(leaves))
            return [value, *[tensor for _, tensor in found.reads]]

        with ExitStack() as inside:
            inside.enter_context(torch.enable_grad())
            inside.enter_context(torch.autocast("cpu", enabled=False))
            inside.enter_context(traceable())
            if derivatives:
                inside.enter_context(plain_kernels())
            trace = make_fx(
                loss,
                decomposition_table=_unpermitted() if derivatives else None,
                tracing_mode="real",
                pre_dispatch=not derivatives,
                _error_on_data_dependent_ops=False,
            )
            graph = trace([t.detach().clone().requires_grad_(t.requires_grad) for t in self._values],
                          [t.clone() for t in self._leaves])  # fmt: skip
        return graph, found

    def captured(self, traced: torch.fx.GraphModule, found: _Found, derivatives: bool) -> Captured:
        """The graph of what was recorded, once what it depends on is known to be no weight."""
        graph = traced.graph
        places = [n for n in graph.nodes if n.op == "placeholder"]
        state = {n for n in places[: len(self._values)]}
        moving, data = _after(graph, state), _after(graph, set(places[len(self._values) :]))
        (output,) = graph.find_nodes(op="output")
        value, *reads = output.args[0]
        self._check_course(graph, moving, [read for read in reads if isinstance(read, torch.fx.Node)], found)
        kept = [read for read in reads if isinstance(read, torch.fx.Node) and read in data and read not in moving]
        kept += [given for n in graph.nodes for given in _sized_by(n) if given in data]
        for n in graph.nodes if derivatives else ():  # autograd keeps what it needs detached; see `_Course`
            n.target = _MEANT.get(n.target, n.target)
        draws = Draws(iter(found.draws) if derivatives else None, moving)
        output.args = ([value, *kept, *draws.parameters(graph, data)],)
        graph.eliminate_dead_code()
        sparse = Sparse()
        inputs, constants = self._inputs(traced, places, sparse)
        whole, constants = assembled(inputs, constants, traced, draws, sparse)
        loss = LossGraph(whole.inputs, whole.nodes, whole.outputs[:1])
        guards = _only(whole, whole.outputs[1:])
        held = guards(constants, [t.clone() for t in self._leaves]) if guards.outputs else []
        held = held if len(guards.outputs) != 1 else [held]
        return Captured(
            _without_unused(loss), constants, False,
            lambda batch, least: self._fits(batch, least, guards, held, constants),
            ran=True, bound=bool(guards.outputs),
        )  # fmt: skip

    def _check_course(
        self, graph: torch.fx.Graph, moving: set[torch.fx.Node], reads: list[torch.fx.Node], found: _Found
    ) -> None:
        """What was read of values that depend on the weights does not change the loss.

        Raises
        ------
        DependsOnWeights
            it does, or it may.
        """
        for n in graph.nodes:
            if n in moving and n.op == "call_function":
                tags = getattr(n.target, "tags", ())
                # what the user's code reads is tried below
                hidden = _VALUES in tags and not set(n.all_input_nodes) <= set(reads)
                if hidden or moving.intersection(_sized_by(n)):
                    raise _depends(str(n.target))
        read = {k for k, n in enumerate(reads) if n in moving}
        if read and not self._same_with_others(read):
            raise _depends(found.reads[min(read)][0])

    def _same_with_others(self, read: set[int]) -> bool:
        """Whether the live loss is the same where these of its reads give other numbers."""
        values = []
        for change in (lambda v: v, lambda v: -1.7 * v - 13, lambda v: 2.3 * v + 17):
            try:
                with torch.set_grad_enabled(self._module.needs_grad), self._module.traced(), _Others(read, change):
                    values.append(self._module(*[t.clone() for t in self._leaves]).detach())
            except Exception:  # whatever the user's code makes of other numbers
                return False
        return all(torch.equal(values[0], other) for other in values[1:])

    def _inputs(
        self, traced: torch.fx.GraphModule, places: Sequence[torch.fx.Node], sparse: Sparse
    ) -> tuple[list[Input], dict[str, Tensor]]:
        inputs = []
        for n, name in zip(places, self._canonical, strict=False):
            inputs.append(Input(n.name, "parameter" if name in self._parameters else "buffer", name))
        inputs += [Input(n.name, "data", str(k)) for k, n in enumerate(places[len(self._canonical) :])]
        constants: dict[str, Tensor] = {}
        for n in traced.graph.find_nodes(op="get_attr"):
            value: Any = functools.reduce(getattr, str(n.target).split("."), traced)
            key = f"constant{len(constants)}"
            if value.layout is not torch.strided:
                more, parts = sparse.given(n.name, key, value)
                inputs += more
                constants |= parts
                continue
            constants[key] = value.detach().clone()
            inputs.append(Input(n.name, "constant", key))
        return inputs, constants

    def _fits(
        self, batch: Group, least: int, guards: LossGraph, held: Sequence[Any], constants: Mapping[str, Tensor]
    ) -> bool:
        """Whether a batch has the shapes that were traced, and the values that were read.

        With a `least` size below 2 it is enough that it may have another course: it is compared then.
        """
        if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(batch.leaves, self._leaves, strict=True)):
            return False
        if not guards.outputs or least < 2:
            return True
        try:
            found = guards(constants, [t.clone() for t in batch.leaves])
        except ObjectiveError:
            return False
        found = found if len(guards.outputs) != 1 else [found]
        return all(_same(a, b) for a, b in zip(found, held, strict=True))


def _depends(what: str) -> DependsOnWeights:
    return DependsOnWeights(
        f"What the loss computes depends on values that its weights have ({what}), which a graph does not follow",
        expected="operations that do the same at any weights (a mask, torch.where, a weighted sum)",
        mend=WAY_OUT,
    )


def _after(graph: torch.fx.Graph, start: set[torch.fx.Node]) -> set[torch.fx.Node]:
    """The nodes that depend on some, themselves included; what is written into counts, too."""
    found = set(start)
    changed = True
    while changed:  # once more where something was written into a tensor that others were made of
        changed = False
        for n in graph.nodes:
            if n not in found and found.intersection(n.all_input_nodes):
                found.add(n)
                changed = True
            schema = getattr(n.target, "_schema", None)
            if n in found and schema is not None and schema.is_mutable:
                for argument, given in zip(schema.arguments, n.args, strict=False):
                    written = argument.alias_info is not None and argument.alias_info.is_write
                    for base in _bases(given) if written and isinstance(given, torch.fx.Node) else ():
                        changed |= base not in found
                        found.add(base)
    return found


def _bases(n: torch.fx.Node) -> Iterator[torch.fx.Node]:
    """A tensor and what it may be a view of."""
    yield n
    schema = getattr(n.target, "_schema", None)
    if schema is not None and schema.arguments and schema.arguments[0].alias_info is not None and n.args:
        yield from _bases(n.args[0]) if isinstance(n.args[0], torch.fx.Node) else ()


def _sized_by(n: torch.fx.Node) -> list[torch.fx.Node]:
    """What the size of a result depends on by its values."""
    if n.op != "call_function" or _SHAPES not in getattr(n.target, "tags", ()):
        return []
    if n.target is torch.ops.aten.index.Tensor:
        places = [i for i in n.args[1] if isinstance(i, torch.fx.Node)]  # type: ignore[union-attr]
        return [i for i in places if i.meta["val"].dtype in (torch.bool, torch.uint8)]
    return n.all_input_nodes[1:] if n.target is torch.ops.aten.masked_select.default else n.all_input_nodes


def _only(graph: LossGraph, outputs: Sequence[Any]) -> LossGraph:
    """The part of a graph that gives these results, without the state that it does not need."""
    part = _without_unused(LossGraph(graph.inputs, graph.nodes, list(outputs)))
    read = {name for node in part.nodes for name in references((node.args, node.kwargs))} | set(references(outputs))
    return LossGraph([i for i in part.inputs if i.name in read], part.nodes, part.outputs)


def _without_unused(graph: LossGraph) -> LossGraph:
    """The graph without calls that no result needs; what writes into a tensor that is needed is needed, too."""
    needed = set(references(graph.outputs))
    size = -1
    while size != len(needed):
        size = len(needed)
        for node in reversed(graph.nodes):
            given = references((node.args, node.kwargs))
            if node.name in needed or needed.intersection(_shared(node)):
                needed |= {node.name, *given}
    nodes = [node for node in graph.nodes if node.name in needed]
    return LossGraph([i for i in graph.inputs if i.kind != "constant" or i.name in needed], nodes, graph.outputs)


def _shared(node: Node) -> list[str]:
    """What a call writes into, or gives a view of."""
    function: Any = getattr(node.function, "overload", node.function)
    schema = getattr(function, "_schema", None)
    pairs = zip(schema.arguments, node.args, strict=False) if schema is not None else ()
    return [name for argument, given in pairs if argument.alias_info is not None for name in references(given)]


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    return type(a) is type(b) and a == b


@functools.cache
def _unpermitted() -> dict[Any, Callable[..., Any]]:
    """Decompositions of torch for what a graph may not call."""
    found = {}
    for op, made in torch._decomp.decomposition_table.items():
        if isinstance(op, torch._ops.OpOverload) and op.namespace == "aten":
            if torch.Tag.nondeterministic_seeded in op.tags:
                continue
            try:
                resolve(f"aten.{op._schema.name.partition('::')[2]}.{op._overloadname}")
            except ValueError:
                found[op] = made
    return found | {
        # gradients are laid out like what they are of; how makes no difference to the values
        torch.ops.aten.new_empty_strided.default: lambda own, size, stride, **options: own.new_zeros(size, **options),
        torch.ops.aten.empty_strided.default: lambda size, stride, **options: torch.zeros(size, **options),
    }


# -- what is seen while it runs ------------------------------------------------------------------------------------
class _Course(TorchFunctionMode):
    """Notes which values are read; keeps apart what the user's code cuts off from derivatives."""

    def __init__(self, found: _Found, derivatives: bool) -> None:
        super().__init__()
        self._found, self._derivatives = found, derivatives

    def __torch_function__(self, function: Callable[..., Any], _: object, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if not self._derivatives:
            taken = function in (torch.autograd.grad, Tensor.backward, torch.autograd.backward)
            if taken or torch._C._functorch.peek_interpreter_stack() is not None:
                raise _TakesDerivatives
        if args and isinstance(args[0], Tensor) and getattr(Tensor, name, None) is function:
            if name in _PRINTS:
                return name
            if name in _READS and not isinstance(args[0], torch.nn.Parameter) and _level() == 0:
                self._found.reads.append((f"Tensor.{name}", args[0]))
        if not torch.is_grad_enabled() and not name.endswith("_"):
            args, kwargs = tree_map(self._cut_off, (args, kwargs))
        value = function(*args, **kwargs)
        once = function is torch.autograd.grad and not kwargs.get("create_graph")
        if function is Tensor.detach or function is torch.detach or once:
            return tree_map(self._marked, value)
        return value

    def _cut_off(self, value: object) -> object:
        return self._marked(value.detach()) if isinstance(value, Tensor) and value.requires_grad else value

    def _marked(self, value: object) -> object:
        """Below autograd `detach` is recorded as a mere alias, so that a copy stands for it."""
        return torch.ops.aten.detach_copy(value) if self._derivatives and isinstance(value, Tensor) else value


def _level() -> int:
    return 0 if torch._C._functorch.peek_interpreter_stack() is None else 1


class _Draws(TorchDispatchMode):
    """Notes each draw with the state of the generator before it."""

    def __init__(self, found: _Found) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, function: Any, _: object, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*args, **(kwargs or {}))
        before = torch.get_rng_state()
        value = function(*args, **(kwargs or {}))
        self._found.draws.append((before, value.clone() if isinstance(value, Tensor) else value))
        return value


class _Others(TorchFunctionMode):
    """Some of the reads give other numbers."""

    def __init__(self, read: set[int], change: Callable[[Any], Any]) -> None:
        super().__init__()
        self._read, self._change, self._count = read, change, 0

    def __torch_function__(self, function: Callable[..., Any], _: object, args: Any = (), kwargs: Any = None) -> Any:
        value = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        is_read = name in _READS and args and isinstance(args[0], Tensor) and getattr(Tensor, name, None) is function
        if is_read and not isinstance(args[0], torch.nn.Parameter):
            self._count += 1
            if self._count - 1 in self._read:
                return _changed(value, self._change)
        return value


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, bool):
        return not value if change(1) != 1 else value
    if isinstance(value, int):
        return int(change(value))
    if isinstance(value, list):
        return [_changed(v, change) for v in value]
    if isinstance(value, np.ndarray):
        return change(value).astype(value.dtype)
    return change(value)
