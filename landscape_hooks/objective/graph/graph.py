"""LossGraph: a loss as a list of ATen operations; plain data that can be stored, read back and run.

In: what `torch.export` made of a module (tracing/exported.py), or JSON. Out: JSON, and a callable over tensors.
`torch.export.save` would do for a friend's file, but its loader unpickles and evaluates expressions; a run may come
from a stranger. So the graph is kept as data: `from_json` accepts the calls that operations.py allows, and nothing
else, and running it interprets the list without generating code.

The graph is exported in evaluation mode (dropout off). What the normalisation layers do is chosen at each call:
`statistics="running"` uses the running statistics given as buffers, `"batch"` those of the batch itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from landscape_hooks.device.memory import is_out_of_memory
from landscape_hooks.errors import LandscapeError, ObjectiveError, first_line
from landscape_hooks.objective.graph.operations import resolve
from landscape_hooks.objective.graph.permitted import check_kinds

_DTYPES = {
    str(d).removeprefix("torch."): d
    for d in vars(torch).values()
    if isinstance(d, torch.dtype) and not str(d).startswith(("torch.q", "torch.bits"))
}
_FORMATS = {str(f).removeprefix("torch."): f for f in (torch.contiguous_format, torch.preserve_format,
                                                       torch.channels_last, torch.channels_last_3d)}  # fmt: skip
_LAYOUTS = {"strided": torch.strided}

_WAY_OUT = "Give the loss by hand: landscape-hooks analyze RUN --objective module:function"

BATCH_NORM = "aten.batch_norm.default"
INSTANCE_NORM = "aten.instance_norm.default"
_VIEWS = ("aten.view.default", "aten._unsafe_view.default")


@dataclass(frozen=True)
class Ref:
    """The value of an earlier node, by name."""

    name: str


@dataclass(frozen=True)
class Input:
    """What a value that is not computed stands for: kind is parameter, buffer, constant or data."""

    name: str
    kind: str
    target: str


@dataclass
class Node:
    """One call. `scope` is a sub-graph run under a context (grad mode, autocast) in place of an operation."""

    name: str
    op: str
    args: list[Any]
    kwargs: dict[str, Any]
    scope: LossGraph | None = None
    function: Callable[..., Any] | None = None


DEVICE = object()  # stands for "the device the graph runs on"


@dataclass
class LossGraph:
    """A loss over named parameters, buffers and constants and a list of data tensors.

    Attributes
    ----------
    inputs
        the values that the caller gives, in order of first use.
    nodes
        the calls, in order.
    outputs
        references to the results.
    """

    inputs: list[Input]
    nodes: list[Node]
    outputs: list[Any]
    _last_use: dict[str, list[str]] = field(default_factory=dict, repr=False)
    _unused: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        last: dict[str, str] = {}
        for node in self.nodes:
            for ref in references((node.args, node.kwargs)):
                last[ref] = node.name
        kept = set(references(self.outputs))
        for ref, user in last.items():
            if ref not in kept:
                self._last_use.setdefault(user, []).append(ref)
        self._unused = {node.name for node in self.nodes} - kept - last.keys()
        for node in self.nodes:
            node.function = None if node.scope is not None else resolve(node.op)

    def copy(self) -> LossGraph:
        """The same graph with nodes of its own, whose functions may be replaced."""
        graph = LossGraph(self.inputs, [replace(node) for node in self.nodes], self.outputs)
        for node, mine in zip(graph.nodes, self.nodes, strict=True):
            node.function = mine.function  # which may have been replaced before
        return graph

    def without_views(self) -> LossGraph:
        """The same graph where a `view` copies if the memory format asks for it, in place of an error."""
        graph = self.copy()
        for node in graph.nodes:
            if node.scope is not None:
                node.scope = node.scope.without_views()
            elif node.op in _VIEWS:
                node.function = torch.reshape
        return graph

    # -- running ---------------------------------------------------------------------------------------
    def __call__(
        self,
        state: Mapping[str, Tensor],
        data: Sequence[Tensor],
        *,
        statistics: str = "running",
        device: torch.device | None = None,
    ) -> Any:
        """Run the graph.

        Parameters
        ----------
        state
            parameters, buffers and constants by name.
        data
            the data tensors, in the order of their leaves.
        statistics
            `"running"`: normalisation layers use the running statistics in `state`; `"batch"`: those of this
            batch; `"measure"`: those of this batch, written into the running statistics in `state`.
        """
        values = {}
        for entry in self.inputs:
            values[entry.name] = data[int(entry.target)] if entry.kind == "data" else state[entry.target]
        if device is None:
            device = next((t.device for t in values.values() if isinstance(t, Tensor)), torch.device("cpu"))
        try:
            out = self._run(values, statistics, device)
        except LandscapeError:
            raise
        except Exception as error:  # any error that torch raises for operations of unknown origin
            if is_out_of_memory(error):  # no property of the loss: fewer samples at a time may do
                raise
            said = f"{type(error).__name__}: {first_line(error)}"
            raise ObjectiveError(
                f"The stored loss cannot be computed on the probe samples ({said})",
                expected="samples that the model and the criterion take",
                mend=f"Check --data. {_WAY_OUT}",
            ) from error
        return out[0] if len(out) == 1 else out

    def _run(self, values: dict[str, Any], statistics: str, device: torch.device) -> list[Any]:
        def bind(value: object) -> Any:
            if isinstance(value, Ref):
                return values[value.name]
            if isinstance(value, list):
                return [bind(v) for v in value]
            return device if value is DEVICE else value

        for node in self.nodes:
            # most arguments are values or numbers: a call for each of them costs more than a small operation
            args = [values[a.name] if type(a) is Ref else bind(a) for a in node.args]
            kwargs = {key: bind(v) for key, v in node.kwargs.items()} if node.kwargs else {}
            if node.scope is not None:
                inner = {entry.name: value for entry, value in zip(node.scope.inputs, args, strict=True)}
                with _context(node.op, node.kwargs):
                    result: Any = node.scope._run(inner, statistics, device)
            else:
                if statistics != "running" and node.op in (BATCH_NORM, INSTANCE_NORM):
                    args = _with_statistics(node.op, args, statistics)
                result = node.function(*args, **kwargs)  # type: ignore[misc]
            if node.name not in self._unused:
                values[node.name] = result
            for name in self._last_use.get(node.name, ()):
                del values[name]
        return [bind(o) for o in self.outputs]

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Sent to another process as the JSON that a run stores."""
        return LossGraph.from_json, (self.to_json(),)

    def check_inputs(
        self, *, parameters: Container[str], buffers: Container[str], constants: Container[str], data: int
    ) -> None:
        """Every input stands for something that is there, and the result is one value.

        Raises
        ------
        ObjectiveError
            one of them does not.
        """
        known: dict[str, Container[str]] = {"parameter": parameters, "buffer": buffers, "constant": constants}
        known["data"] = [str(number) for number in range(data)]
        for entry in self.inputs:
            if entry.target not in known.get(entry.kind, ()):
                raise ObjectiveError(
                    f"The loss graph takes the {entry.kind} '{entry.target}', which the run does not have",
                    mend=_WAY_OUT,
                )
        if len(self.outputs) != 1 or not isinstance(self.outputs[0], Ref):
            raise ObjectiveError(f"The loss graph has {len(self.outputs)} results", expected="one", mend=_WAY_OUT)

    def parameters(self) -> set[str]:
        """Names of the parameters that the loss is computed from."""
        used = {name for node in self.nodes for name in references((node.args, node.kwargs))}
        return {entry.target for entry in self.inputs if entry.kind == "parameter" and entry.name in used}

    def running_statistics(self) -> dict[str, str]:
        """Names of the buffers that normalisation layers use as running statistics -> "mean" or "var"."""
        buffers = {entry.name: entry.target for entry in self.inputs if entry.kind == "buffer"}
        found: dict[str, str] = {}
        for node in self.nodes:
            if node.scope is not None:
                outer = {
                    e.name: a.name for e, a in zip(node.scope.inputs, node.args, strict=True) if isinstance(a, Ref)
                }
                inner = _statistics_arguments(node.scope)
                pairs = {outer[name]: kind for name, kind in inner.items() if name in outer}
            else:
                pairs = _statistics_of(node)
            found.update({buffers[name]: kind for name, kind in pairs.items() if name in buffers})
        return found

    # -- storing ---------------------------------------------------------------------------------------
    def to_json(self) -> str:
        """The graph as JSON (`docs/format.md` describes it)."""
        return json.dumps(self._plain(), separators=(",", ":"))

    def _plain(self) -> dict[str, Any]:
        return {
            "inputs": [[i.name, i.kind, i.target] for i in self.inputs],
            "nodes": [
                {"name": n.name, "op": n.op, "args": _encode(n.args), "kwargs": _encode_mapping(n.kwargs)}
                | ({"scope": n.scope._plain()} if n.scope is not None else {})
                for n in self.nodes
            ],
            "outputs": _encode(self.outputs),
        }

    @classmethod
    def from_json(cls, text: str | bytes) -> LossGraph:
        """Read a graph; anything but known operations over earlier values is refused.

        Raises
        ------
        ObjectiveError
            the text is no such graph, or names an operation that this torch does not have or that is not allowed.
        """
        try:
            return cls._from_plain(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise ObjectiveError(
                f"The loss graph in the run cannot be read ({type(error).__name__}: {error})", mend=_WAY_OUT
            ) from error

    @classmethod
    def _from_plain(cls, plain: Mapping[str, Any]) -> LossGraph:
        inputs = [Input(str(name), str(kind), str(target)) for name, kind, target in plain["inputs"]]
        nodes = [
            Node(
                str(n["name"]),
                str(n["op"]),
                _decode(n["args"]),
                {str(k): _decode(v) for k, v in n["kwargs"].items()},
                scope=cls._from_plain(n["scope"]) if "scope" in n else None,
            )
            for n in plain["nodes"]
        ]
        graph = cls(inputs, nodes, _decode(plain["outputs"]))
        known = {i.name for i in inputs}
        if len(known) < len(inputs) or not isinstance(graph.outputs, list):
            raise ValueError("two inputs have one name, or the results are no list")
        for node in nodes:
            _check_node(node)
            if node.name in known:
                raise ValueError(f"the name {node.name} occurs twice")
            if missing := [r for r in references((node.args, node.kwargs)) if r not in known]:
                raise ValueError(f"node {node.name} uses {missing[0]}, which no earlier node computes")
            known.add(node.name)
        if missing := [r for r in references(graph.outputs) if r not in known]:
            raise ValueError(f"the result {missing[0]} is computed nowhere")
        return graph


def _check_node(node: Node) -> None:
    """A node has arguments, those that its sub-graph or its context takes."""
    if not isinstance(node.args, list):
        raise TypeError(f"the arguments of {node.name} are no list")
    if node.op in (BATCH_NORM, INSTANCE_NORM) and len(node.args) != 9:
        raise ValueError(f"the normalisation {node.name} has {len(node.args)} arguments, not 9")
    if node.scope is None:
        check_kinds(node.op, node.args, node.kwargs, DEVICE)
        return
    if len(node.scope.inputs) != len(node.args) or any(entry.kind != "data" for entry in node.scope.inputs):
        raise ValueError(f"the sub-graph of {node.name} takes other arguments than it is given")
    with _context(node.op, node.kwargs):
        pass


# -- normalisation layers -----------------------------------------------------------------------------------
def _statistics_of(node: Node) -> dict[str, str]:
    if node.op not in (BATCH_NORM, INSTANCE_NORM):
        return {}
    mean, var = node.args[3], node.args[4]
    return {r.name: kind for r, kind in ((mean, "mean"), (var, "var")) if isinstance(r, Ref)}


def _statistics_arguments(graph: LossGraph) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in graph.nodes:
        found.update(_statistics_of(node))
    return found


def _with_statistics(op: str, args: list[Any], statistics: str) -> list[Any]:
    """batch_norm and instance_norm: (input, weight, bias, mean, var, from the batch?, momentum, eps, cudnn)."""
    if args[3] is None:
        return args
    args = list(args)
    args[5] = True
    if statistics == "batch":
        args[3] = args[4] = None
    else:
        args[6] = 1.0  # momentum one: the running statistics become those of this batch
    return args


# -- contexts, references and JSON -------------------------------------------------------------------------------
def _context(op: str, options: Mapping[str, Any]) -> AbstractContextManager[Any]:
    if op == "scope.set_grad_enabled":
        # an inner no_grad stays; an inner enable_grad must not undo the evaluation's own no_grad
        return torch.set_grad_enabled(bool(options["enabled"]) and torch.is_grad_enabled())
    if op == "scope.autocast":
        if str(options["device_type"]) not in ("cpu", "cuda", "mps", "xpu"):
            raise ValueError(f"autocast for {options['device_type']!r}")
        return torch.autocast(
            str(options["device_type"]),
            dtype=options["dtype"],
            enabled=bool(options["enabled"]),
            cache_enabled=options["cache_enabled"],
        )
    raise ValueError(f"scope {op!r} is unknown")


def references(value: object) -> list[str]:
    if isinstance(value, Ref):
        return [value.name]
    if isinstance(value, list | tuple):
        return [name for v in value for name in references(v)]
    if isinstance(value, Mapping):
        return [name for v in value.values() for name in references(v)]
    return []


def _encode_mapping(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _encode(value) for key, value in mapping.items()}


def _encode(value: object) -> Any:
    if isinstance(value, Ref):
        return {"ref": value.name}
    if isinstance(value, list):
        return [_encode(v) for v in value]
    if value is DEVICE:
        return {"device": True}
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        key = {torch.dtype: "dtype", torch.memory_format: "memory_format", torch.layout: "layout"}[type(value)]
        return {key: str(value).removeprefix("torch.")}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def _decode(value: object) -> Any:
    if isinstance(value, list):
        return [_decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    ((key, content),) = value.items()
    if key == "ref":
        return Ref(str(content))
    if key == "device":
        return DEVICE
    if key == "complex":
        return complex(float(content[0]), float(content[1]))
    if key == "float":
        return float({"inf": "inf", "-inf": "-inf", "nan": "nan"}[content])
    tables: dict[str, Mapping[str, Any]] = {"dtype": _DTYPES, "memory_format": _FORMATS, "layout": _LAYOUTS}
    return tables[key][content]
