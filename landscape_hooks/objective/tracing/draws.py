"""Draws: random numbers of a loss, drawn once and stored as constants of its graph.

In: the calls of an exported program in their order. Out: for each call that draws, calls that compute the same from
constants. The constants are what torch draws on the CPU, in that order, after `torch.manual_seed(0)`: common random
numbers, so that the loss is a function of the weights. The live loss is seeded likewise (loss_module.py), and the two
are compared before the graph is stored: draws that depend on the weights in any other way than written here are
refused by that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.data.states import SEED
from landscape_hooks.objective.graph.graph import Input, Node, Ref

SAID = (
    "The loss draws random numbers; they are fixed (common random numbers): for every batch and at all weights those "
    f"that torch draws on the CPU after torch.manual_seed({SEED}), and numpy, Python and generators of the loss's own "
    f"after a seed of {SEED}."
)
"""What is said of a loss with noise."""

WAY_OUT = "Analyze it with --objective module:function, where the loss draws its numbers itself"

_FACTORIES = ("rand", "randn", "rand_like", "randn_like", "randint", "randint_like", "randperm")
_IN_PLACE = ("uniform_", "normal_", "exponential_", "log_normal_", "cauchy_", "geometric_", "random_", "bernoulli_")
_BY_CALLS = {*_FACTORIES, *_IN_PLACE, "dropout", "dropout_", "feature_dropout", "feature_dropout_", "bernoulli",
             "normal", "multinomial"}  # fmt: skip
"""Draws that calls take the places of, whatever their parameters are."""
_DROPOUT = {"dropout": "mul", "dropout_": "mul_", "feature_dropout": "mul", "feature_dropout_": "mul_"}

PREFIX = "drawn"
"""How the names of these constants begin."""


class Draws:
    """The constants so far, and the generators that they come from.

    Parameters
    ----------
    seen
        of each draw in turn the state of the generator before it and what it gave, where the loss was run.
    moving
        the calls that depend on the weights, where the loss was run.
    own
        generators of the loss's own by the names that they have in the graph.
    """

    def __init__(
        self,
        seen: Iterator[tuple[Tensor, Tensor]] | None = None,
        moving: Collection[torch.fx.Node] = (),
        own: Collection[str] = (),
    ) -> None:
        self.constants: dict[str, Tensor] = {}
        self.inputs: list[Input] = []
        self._seen, self._moving = seen, moving
        self._default = self._generator = torch.Generator().manual_seed(SEED)
        self._own = {name: torch.Generator().manual_seed(SEED) for name in own}

    def calls(self, n: torch.fx.Node, name: str, args: Sequence[Any]) -> list[Node] | None:
        """Calls in place of `n`, the last one under its name; None where it draws nothing.

        Raises
        ------
        ObjectiveError
            its draws cannot be fixed.
        """
        given = _arguments(n, args)
        if not is_draw(n, name, given):
            return None
        drawn = None
        if self._seen is not None:
            before, drawn = next(self._seen)
            self._default.set_state(before)
        own = given.pop("generator", None)
        self._generator = self._own[own.name] if isinstance(own, Ref) else self._default
        try:
            make = self._made(n, name, given)
        except (TypeError, KeyError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            if isinstance(error, ObjectiveError):
                raise
            make = None  # arguments that are no numbers
        if make is None and drawn is not None and n not in self._moving:
            make = [self._constant(n.name, drawn)]
        if make is None:
            raise ObjectiveError(
                f"The loss draws random numbers ({n.target}) that cannot be fixed",
                expected="dropout, or draws of shapes and parameters that do not depend on the weights",
                mend=WAY_OUT,
            )
        return make

    def parameters(self, graph: torch.fx.Graph, data: Collection[torch.fx.Node]) -> list[torch.fx.Node]:
        """What the draws of a graph that depend on data alone are made from: they hold for these values."""
        found = []
        for n in graph.nodes:
            name = n.target._schema.name.partition("::")[2] if isinstance(n.target, torch._ops.OpOverload) else ""
            if name and n in data and n not in self._moving and name not in _BY_CALLS and is_draw(n, name):
                found += [given for given in n.all_input_nodes if given in data]
        return found

    def _made(self, n: torch.fx.Node, name: str, given: dict[str, Any]) -> list[Node] | None:
        value, own = n.meta["val"], given.get("self", given.get("input"))
        shape, dtype = _fixed_shape(value), value.dtype
        if name in _FACTORIES:
            return [self._constant(n.name, self._factory(name, given, shape, dtype))]
        if name in _IN_PLACE and not isinstance(given.get("p"), Ref):
            numbers = [v for k, v in given.items() if k != "self"]
            drawn = getattr(torch.empty(shape, dtype=dtype), name)(*numbers, generator=self._generator)
            return [Node(n.name, "aten.copy_.default", [own, self._new(drawn)], {})]
        if name in _DROPOUT:
            wide = shape if "feature" not in name else (*shape[:2], *(1 for _ in shape[2:]))
            noise = self._kept(wide, dtype, given["p"])
            return [Node(n.name, f"aten.{_DROPOUT[name]}.Tensor", [own, self._new(noise)], {})]
        if name == "bernoulli":
            if "p" in given:
                drawn = torch.empty(shape, dtype=dtype).bernoulli_(given["p"], generator=self._generator)
                return [self._constant(n.name, drawn)]
            kind = torch.float64 if dtype is torch.float64 else torch.float32  # as torch takes them
            uniform = torch.rand(shape, dtype=kind, generator=self._generator)
            below = Node(f"{n.name}_below", "aten.lt.Tensor", [self._new(uniform), own], {})
            return [below, Node(n.name, "aten.to.dtype", [Ref(below.name), dtype], {})]
        if name == "normal":
            return self._normal(n.name, given, shape, dtype)
        if name == "multinomial" and (given["num_samples"] == 1 or not given.get("replacement")):
            return self._multinomial(n, given["self"], int(given["num_samples"]))
        return None

    def _factory(self, name: str, given: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        options: dict[str, Any] = {"dtype": dtype, "generator": self._generator}
        if name == "randperm":
            return torch.randperm(*shape, **options)
        if name.startswith("randint"):
            return torch.randint(given.get("low", 0), given["high"], shape, **options)
        return (torch.rand if name.startswith("rand_like") or name == "rand" else torch.randn)(shape, **options)

    def _kept(self, shape: tuple[int, ...], dtype: torch.dtype, p: float) -> Tensor:
        """What dropout multiplies with."""
        noise = torch.empty(shape, dtype=dtype).bernoulli_(1 - p, generator=self._generator)
        return noise.div_(1 - p) if p < 1 else noise.zero_()

    def _normal(self, name: str, given: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> list[Node]:
        eps = torch.empty(shape, dtype=dtype).normal_(0, 1, generator=self._generator)
        wide = Node(f"{name}_wide", _by(given["std"], "mul"), [self._new(eps), given["std"]], {})
        return [wide, Node(name, _by(given["mean"], "add"), [Ref(wide.name), given["mean"]], {})]

    def _multinomial(self, n: torch.fx.Node, odds: Any, count: int) -> list[Node] | None:
        val = n.args[0].meta["val"]  # type: ignore[union-attr]
        drawn = torch.empty(_fixed_shape(val), dtype=val.dtype).exponential_(1, generator=self._generator)
        first = Node(f"{n.name}_odds", "aten.div.Tensor", [odds, self._new(drawn)], {})
        if count == 1:
            return [first, Node(n.name, "aten.argmax.default", [Ref(first.name), -1, True], {})]
        best = Node(f"{n.name}_best", "aten.topk.default", [Ref(first.name), count], {})
        return [first, best, Node(n.name, "operator.getitem", [Ref(best.name), 1], {})]

    def _new(self, value: Tensor) -> Ref:
        key = f"{PREFIX}{len(self.constants)}"
        self.constants[key] = value
        self.inputs.append(Input(key, "constant", key))
        return Ref(key)

    def _constant(self, name: str, value: Tensor) -> Node:
        return Node(name, "aten.clone.default", [self._new(value)], {})


def _arguments(n: torch.fx.Node, args: Sequence[Any]) -> dict[str, Any]:
    """The arguments of a call by name, those left out as torch takes them."""
    schema = n.target._schema  # type: ignore[union-attr]
    left_out = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    named = {key: Ref(v.name) if isinstance(v, torch.fx.Node) else v for key, v in n.kwargs.items()}
    return left_out | dict(zip([a.name for a in schema.arguments], args, strict=False)) | named


def is_draw(n: torch.fx.Node, name: str, given: dict[str, Any] | None = None) -> bool:
    """Whether a call of an operation draws."""
    if torch.Tag.nondeterministic_seeded not in getattr(n.target, "tags", ()):
        return False
    return _draws(name, _arguments(n, n.args) if given is None else given)


def _draws(name: str, given: dict[str, Any]) -> bool:
    """Whether a call that may draw does."""
    if "dropout_p" in given or name == "scaled_dot_product_attention":
        return bool(given.get("dropout_p"))
    if "dropout" in given and "train" in given:
        return bool(given["dropout"] and given["train"])
    if "dropout" in name:
        return bool(given.get("train", True) and given.get("p"))
    if "rrelu" in name:
        return bool(given.get("training"))
    return True


def _fixed_shape(value: Any) -> tuple[int, ...]:
    """The shape, where it is known."""
    if not all(isinstance(size, int) or size.node.maybe_as_int() is not None for size in value.shape):
        raise ObjectiveError("The loss draws random numbers whose shape is open", mend=WAY_OUT)
    return tuple(int(size) for size in value.shape)


def _by(other: Any, name: str) -> str:
    return f"aten.{name}.{'Tensor' if isinstance(other, Ref) else 'Scalar'}"


def draw_at_all(program: torch.export.ExportedProgram) -> bool:
    """Whether any call of the program draws."""
    modules = [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    calls = [n for module in modules for n in module.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    return any(is_draw(n, n.target._schema.name.partition("::")[2]) for n in calls)
