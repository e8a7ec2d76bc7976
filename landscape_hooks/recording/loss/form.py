"""Form: how a criterion was called: which of its arguments are the model's outputs, and which are data.

In: the calls of a model, and the arguments of a call of the criterion. Out: a Form, the same for every batch, and the
data of this one; then batches and a loss over them, as `record` takes them from everybody else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from landscape_hooks.objective.data.batches import copied, flatten
from landscape_hooks.recording.loss.outputs import Place, Way, applied, leads_to, operations_to, tensors_in


class Unfit(Exception):
    """The loss is not what a criterion makes of the model's outputs and of data; the text says why."""


@dataclass(eq=False)
class Call:
    """A call of the model.

    Attributes
    ----------
    positional, named
        copies of its arguments.
    foreign
        whether one of them is computed by what has gradients of its own.
    output
        the tensors in what it returned, with their places.
    """

    positional: tuple[Any, ...]
    named: dict[str, Any]
    foreign: bool = False
    output: list[tuple[Place, Tensor]] = field(default_factory=list)
    _versions: list[int] = field(default_factory=list)

    def hold(self, output: object) -> None:
        """Remember what was returned."""
        self.output = list(tensors_in(output))
        self._versions = [tensor._version for _, tensor in self.output]

    def check(self) -> None:
        """The output can be computed again, and is what was returned.

        Raises
        ------
        Unfit
            it is not.
        """
        if self.foreign:
            raise Unfit("the model is given what another module, or another call of it, has a gradient for")
        if self._versions != [tensor._version for _, tensor in self.output]:
            raise Unfit("the model's output is changed in place before the criterion is given it")


@dataclass(frozen=True)
class Spot:
    """Place of what a call of the model returned, or of a part of it."""

    call: int
    way: Way


@dataclass(frozen=True)
class Datum:
    """Place of data. `flattened` says how many of its first dimensions the criterion was given as one."""

    number: int
    flattened: int = 0


@dataclass(frozen=True)
class Form:
    """How the criterion was called: each of its arguments, and those by name."""

    positional: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]

    @property
    def spots(self) -> list[Spot]:
        """The model's outputs among them."""
        every = [*self.positional, *(value for _, value in self.named)]
        return [each for each in every if isinstance(each, Spot)]

    @property
    def is_plain(self) -> bool:
        """Whether it is `criterion(output, target)`."""
        return not self.named and self.positional == (Spot(0, Way()), Datum(0))

    def filled(self, outputs: Sequence[Any], data: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments, of these outputs and this data."""

        def value(each: object) -> Any:
            if isinstance(each, Spot):
                return each.way(outputs[each.call])
            assert isinstance(each, Datum)
            found = data[each.number]
            return found.flatten(0, each.flattened - 1) if each.flattened else found

        return [value(each) for each in self.positional], {name: value(each) for name, each in self.named}


@dataclass(frozen=True)
class Kept:
    """One batch: the calls of the model that its loss is of, and the data beside."""

    form: Form
    calls: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]
    data: tuple[Any, ...]

    @property
    def content(self) -> list[Any]:
        """All that it holds."""
        return [self.calls, self.data]

    @property
    def key(self) -> bytes:
        """Its digest: the same for the same batch."""
        total = hashlib.sha256()
        for leaf in flatten(self.content).leaves:
            total.update(f"{leaf.name}{tuple(leaf.tensor.shape)}{leaf.tensor.dtype}".encode())
            total.update(leaf.tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return total.digest()


def kept_of(calls: Sequence[Call], given: Sequence[Any], named: Mapping[str, Any]) -> Kept | None:
    """What a call of the criterion was of; None where it has nothing to do with these calls of the model.

    Raises
    ------
    Unfit
        an argument is computed from the model's output, or by parameters of another module.
    """
    used: list[Call] = []
    data: list[Any] = []
    shapes: list[tuple[tuple[int, ...], int]] = []
    places: list[Any] = []
    foreign = False
    for value in [*given, *named.values()]:
        found = _found(value, calls)
        if found is None:
            foreign = foreign or any(t.requires_grad for _, t in tensors_in(value))
            data.append(value)
            places.append(Datum(len(data) - 1))
            continue
        call, way = found
        if call not in used:
            used.append(call)
        places.append(Spot(used.index(call), way))
        if way.flattened:
            output = dict(call.output)[way.place]
            source = applied(output, way.operations[:-1])
            shapes.append((tuple(source.shape[: way.flattened]), way.flattened))
    if not used:
        return None
    for call in used:
        call.check()
    if foreign:
        raise Unfit("the criterion is also given what another module or another computation has a gradient for")
    for number, place in enumerate(places):
        if isinstance(place, Datum):
            data[place.number], places[number] = _unflattened(data[place.number], place, shapes)
    form = Form(tuple(places[: len(given)]), tuple(zip(named, places[len(given) :], strict=True)))
    return Kept(form, tuple((call.positional, call.named) for call in used), tuple(copied(value) for value in data))


def _found(value: object, calls: Sequence[Call]) -> tuple[Call, Way] | None:
    """The call whose output, or a part of it, a value is."""
    mine = list(tensors_in(value))
    if not any(tensor.requires_grad for _, tensor in mine):
        return None
    for call in reversed(calls):
        known = call.output
        if not isinstance(value, Tensor):
            place = _whole_place(mine, known)
            if place is not None:
                return call, Way(place)
            continue
        for place, tensor in known:
            if tensor is value:
                return call, Way(place)
        for place, tensor in known:
            operations = operations_to(value, tensor) if tensor.grad_fn is not None else None
            if operations is not None:
                return call, Way(place, operations)
    sources = [tensor for call in calls for _, tensor in call.output]
    if any(leads_to(tensor, sources) for _, tensor in mine):
        raise Unfit("the criterion is given what is computed from the model's output, and not the output itself")
    return None


def _whole_place(mine: Sequence[tuple[Place, Tensor]], known: Sequence[tuple[Place, Tensor]]) -> Place | None:
    """Where in an output a container with these tensors stands; None where it is another one."""
    for place, tensor in known:
        for length in range(len(place) + 1):
            if tensor is mine[0][1] and place[length:] == mine[0][0]:
                start = place[:length]
                there = [(p[length:], t) for p, t in known if p[:length] == start]
                if [(p, id(t)) for p, t in there] == [(p, id(t)) for p, t in mine]:
                    return start
    return None


def _unflattened(value: object, place: Datum, shapes: Sequence[tuple[tuple[int, ...], int]]) -> tuple[Any, Datum]:
    """Data of all tokens as data of samples, where the output was flattened as well: the same numbers by sample."""
    if isinstance(value, Tensor) and value.ndim:
        for lead, count in shapes:
            if value.shape[0] == torch.Size(lead).numel():
                return value.reshape(*lead, *value.shape[1:]), Datum(place.number, count)
    return value, place


# -- as record() takes a loss -------------------------------------------------------------------------------------
def loss_of(criterion: nn.Module, kept: Sequence[Kept]) -> tuple[dict[str, Any], list[Any]]:
    """(criterion= or objective=, batches) that are the loss of these batches."""
    form = kept[0].form
    calls = [each.calls for each in kept]
    one = len(calls[0]) == 1 and [place.number for place in (*form.positional, *(v for _, v in form.named))
                                  if isinstance(place, Datum)] == [0]  # fmt: skip
    if one and all(not (given and named) for ((given, named),) in calls):
        batches = [(_input(*each.calls[0]), each.data[0]) for each in kept]
        return {"criterion": criterion if form.is_plain else AsCalled(criterion, form)}, batches
    return {"objective": AsCalledOnAll(criterion, form)}, [
        {"calls": list(each.calls), "data": list(each.data)} for each in kept
    ]


def _input(given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What the model was given as the input of a batch, whose tuples and dicts are taken apart for it."""
    if named:
        return named
    return given[0] if len(given) == 1 and not isinstance(given[0], Mapping | list | tuple) else given


class AsCalled(nn.Module):
    """`criterion(output, target)` as the training calls it: with a part of the output, in another shape, by name."""

    def __init__(self, criterion: nn.Module, form: Form) -> None:
        super().__init__()
        self.criterion, self.form = criterion, form

    def forward(self, output: object, target: object) -> Any:
        given, named = self.form.filled([output], [target])
        return self.criterion(*given, **named)

    def __repr__(self) -> str:
        return repr(self.criterion)


class AsCalledOnAll(AsCalled):
    """The same as an objective, of several calls of the model and any data."""

    def forward(self, model: Any, batch: Any) -> Any:
        outputs = [model(*given, **named) for given, named in batch["calls"]]
        given, named = self.form.filled(outputs, batch["data"])
        return self.criterion(*given, **named)
