"""Exported: what `torch.export` made of a loss, as a LossGraph.

In: an exported program. Out: the graph, and the tensors among its inputs that are neither parameters nor buffers of
the model. A program that does more than call operations of torch one after the other is refused, with what it does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.graph.graph import DEVICE, Input, LossGraph, Node, Ref
from landscape_hooks.objective.graph.operations import ARITHMETIC_NAME
from landscape_hooks.objective.live.copies import WAY_OUT
from landscape_hooks.objective.probe import Group
from landscape_hooks.objective.tracing import experts
from landscape_hooks.objective.tracing.draws import Draws
from landscape_hooks.objective.tracing.sparse import Sparse

# assertions about shapes that tracing leaves behind: they compute nothing
_ASSERTIONS = ("_assert", "sym_constrain_range", "_check")


@dataclass(frozen=True)
class Captured:
    """A loss as a graph.

    Attributes
    ----------
    graph, constants
        the graph, and its constants by name.
    dynamic
        whether it holds for any number of samples.
    fits
        whether a batch is of the shapes (open sizes from a least one on) and values that it holds for.
    ran
        whether it was recorded by running the loss, so that its gradient is to be compared as well.
    bound
        whether it holds for some values of the data only.
    """

    graph: LossGraph
    constants: dict[str, Tensor]
    dynamic: bool
    fits: Callable[[Group, int], bool]
    ran: bool = False
    bound: bool = False


def graph_of(program: torch.export.ExportedProgram, names: Mapping[str, str]) -> tuple[LossGraph, dict[str, Tensor]]:
    """The graph of an exported program, and its constants by name.

    `names` gives the canonical name of each parameter and buffer of the model by its name in the exported
    module; every other tensor of the program becomes a constant.
    """
    inputs: list[Input] = []
    constants: dict[str, Tensor] = {}
    own: list[str] = []
    sparse = Sparse()
    data = 0
    for spec in program.graph_signature.input_specs:
        name = getattr(spec.arg, "name", None)
        target = spec.target or ""
        if spec.kind is InputKind.USER_INPUT:
            if name is not None:  # constants among the arguments have no placeholder that is used
                inputs.append(Input(name, "data", str(data)))
            data += 1
            continue
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            value = program.state_dict[target] if target in program.state_dict else program.constants[target]
        elif spec.kind is InputKind.CUSTOM_OBJ and isinstance(program.constants.get(target), torch.Generator):
            own.append(str(name))  # the loss's own, whose draws become constants
            continue
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            value = program.constants[target]
        else:
            raise ObjectiveError(f"The loss graph takes a {spec.kind.name.lower()}", expected="tensors only")
        if value.layout is not torch.strided:
            more, parts = sparse.given(str(name), f"constant{len(constants)}", value)
            inputs += more
            constants |= parts
            continue
        if target in names:
            kind = "parameter" if spec.kind is InputKind.PARAMETER else "buffer"
            inputs.append(Input(str(name), kind, names[target]))
        else:
            key = f"constant{len(constants)}"
            constants[key] = value.detach().clone()
            inputs.append(Input(str(name), "constant", key))
    return assembled(inputs, constants, program.graph_module, Draws(own=own), sparse)


def assembled(
    inputs: list[Input], constants: dict[str, Tensor], module: torch.fx.GraphModule, draws: Draws, sparse: Sparse
) -> tuple[LossGraph, dict[str, Tensor]]:
    """The graph of calls over these inputs, with the draws among its constants.

    Raises
    ------
    ObjectiveError
        it calls what is not permitted.
    """
    nodes, outputs = _convert(module, draws, sparse, {n.name for n in module.graph.find_nodes(op="get_attr")})
    inputs = [*inputs, *draws.inputs]
    constants = constants | draws.constants
    try:
        return LossGraph(inputs, nodes, outputs), constants
    except ValueError as error:  # an operation that is not permitted
        raise ObjectiveError(f"The loss cannot be stored: {error}", expected="dense tensors, and operations on them",
                             mend=WAY_OUT) from error  # fmt: skip


def _convert(
    module: torch.fx.GraphModule, draws: Draws | None, sparse: Sparse | None, known: Container[str] = ()
) -> tuple[list[Node], list[Any]]:
    nodes: list[Node] = []
    outputs: list[Any] = []
    for n in module.graph.nodes:
        if n.op in ("placeholder", "get_attr"):
            if (
                n.op == "get_attr"
                and n.name not in known
                and not isinstance(_attribute(module, n.target), torch.fx.GraphModule)
            ):
                raise ObjectiveError(f"The loss graph reads the attribute {n.target}", expected="tensors given to it")
        elif n.op == "output":
            outputs = [_plain_argument(a) for a in n.args[0]]
        elif n.op == "call_function":
            nodes += _convert_call(module, n, draws, sparse)
        elif not n.users:
            continue  # a guard on shapes
        else:
            raise ObjectiveError(f"The loss graph calls {n.target}", expected="tensor operations only")
    return nodes, outputs


def _convert_call(
    module: torch.fx.GraphModule, n: torch.fx.Node, draws: Draws | None, sparse: Sparse | None
) -> list[Node]:
    target = n.target
    if isinstance(target, torch._ops.OpOverload):
        namespace, name = target._schema.name.split("::")
        if name.startswith(_ASSERTIONS) and not n.users:
            return []
        if target._schema.name == experts.NAME:
            return experts.calls(n, [_plain_argument(a) for a in n.args])
        if namespace != "aten":
            raise ObjectiveError(f"The loss uses the operation {target}", expected="operations of torch itself")
        if draws is not None:  # below a context there are no constants, and what draws there is not permitted
            fixed = draws.calls(n, name, [_plain_argument(a) for a in n.args])
            if fixed is not None:
                return fixed
        if sparse is not None:
            made = sparse.calls(n, name, [_plain_argument(a) for a in n.args])
            if made is not None:
                return made
        op = f"aten.{name}.{target._overloadname}"
    elif isinstance(target, torch._ops.HigherOrderOperator):
        return [_convert_scope(module, n)]
    elif target in ARITHMETIC_NAME:
        op = ARITHMETIC_NAME[target]
    elif not n.users:
        return []
    else:
        raise ObjectiveError(f"The loss uses {target}", expected="tensor operations only")
    kwargs = {key: _plain_argument(value) for key, value in n.kwargs.items()}
    return [Node(n.name, op, [_plain_argument(a) for a in n.args], kwargs)]


def _convert_scope(module: torch.fx.GraphModule, n: torch.fx.Node) -> Node:
    name = n.target.name()  # type: ignore[union-attr]
    if name == "wrap_with_set_grad_enabled":
        enabled, inner, *rest = n.args
        op, kwargs = "scope.set_grad_enabled", {"enabled": enabled}
    elif name == "wrap_with_autocast":
        device_type, dtype, enabled, cache, inner, *rest = n.args
        op = "scope.autocast"
        kwargs = {"device_type": device_type, "dtype": dtype, "enabled": enabled, "cache_enabled": cache}
    else:
        raise ObjectiveError(
            f"The loss uses the control-flow operation {name}", expected="a straight line of operations"
        )
    graph_module = _attribute(module, inner.target)  # type: ignore[union-attr]
    inputs = [Input(p.name, "data", str(i)) for i, p in enumerate(graph_module.graph.nodes) if p.op == "placeholder"]
    scope = LossGraph(inputs, *_convert(graph_module, None, None))
    return Node(n.name, op, [_plain_argument(a) for a in rest], kwargs, scope=scope)


def _attribute(module: torch.nn.Module, target: object) -> Any:
    return operator.attrgetter(str(target))(module)


def _plain_argument(value: object) -> Any:
    if isinstance(value, torch.fx.Node):
        return Ref(value.name)
    if isinstance(value, list | tuple):
        return [_plain_argument(v) for v in value]
    if isinstance(value, torch.device):
        return DEVICE
    if value is None or isinstance(value, bool | int | float | complex | str | torch.dtype | torch.layout):
        return value
    if isinstance(value, torch.memory_format):
        return value
    raise ObjectiveError(f"The loss graph has an argument of type {type(value).__name__}",
                         expected="tensors, numbers and strings")  # fmt: skip
