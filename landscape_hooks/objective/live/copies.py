"""Copies: a model and its loss, copied with all that the loss reads, so that nothing of the training is touched.

In: the live model and the live loss: a criterion, or a function with what it closes over. Out: the same, made of
private modules and tensors on the CPU. A module that the loss reads beside the model (a projection head, the other
network of a pair) is copied too; the model itself, where the loss reads it past its argument, becomes the copy.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.data.states import GENERATORS
from landscape_hooks.trajectory.modules import unwrap

WAY_OUT = (
    "Analyze it with the loss from your own code: landscape-hooks analyze RUN --objective module:function, "
    "where function() returns landscape_hooks.Objective.of(model, criterion=..., data=...)"
)

_LIBRARIES = {"torch", "torchvision", "numpy", "builtins", "functools", "landscape_hooks"}
"""Packages whose functions are taken as they are: what they read is not the user's."""

_LARGE = 2**24
"""Elements from which on a tensor that the loss only reads (a data set) is not copied."""


class Copies:
    """Private copies of a model and of the modules and tensors that its loss reads; each object is copied once."""

    def __init__(self, model: nn.Module) -> None:
        self._memo: dict[int, Any] = {}
        self._kept: list[Any] = []
        self._functions: dict[int, Any] = {}
        self.named: dict[int, tuple[str, str]] = {}
        """id of a private tensor -> the module that the loss reads it from ("": none) and its name there."""
        self.model = self.module(model)

    def module(self, live: nn.Module) -> nn.Module:
        """A copy of the unwrapped module on the CPU in evaluation mode, with its own tensors.

        Raises
        ------
        ObjectiveError
            its parameters are sharded, or without values.
        """
        inner = unwrap(live)
        if id(inner) not in self._memo:
            self._copy_tensors(inner)
            private = self._copy(inner).eval()
            for module in private.modules():
                if "_original_forward" in module.__dict__:  # accelerate's autocast, around the forward of its class
                    module.__dict__.pop("forward", None)
            self._memo[id(inner)] = private
        self._memo[id(live)] = self._memo[id(inner)]
        self._kept.append(live)
        return self._memo[id(live)]

    def _copy_tensors(self, inner: nn.Module) -> None:
        for tensor in [*inner.parameters(), *inner.buffers()]:
            if hasattr(tensor, "full_tensor"):
                raise ObjectiveError("The model's parameters are sharded over processes", mend=WAY_OUT)
            if tensor.is_meta:
                raise ObjectiveError("The model's parameters have no values yet (device='meta')", mend=WAY_OUT)
            if type(tensor) in (nn.Parameter, Tensor) and id(tensor) not in self._memo:
                value = _coordinates(tensor.detach()).to("cpu", copy=True)
                parameter = type(tensor) is nn.Parameter
                self._memo[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if parameter else value

    def _copy(self, inner: nn.Module) -> nn.Module:
        """By deepcopy, and attribute by attribute where something that the module holds refuses that."""
        with _Detached():
            memo = dict(self._memo)
            try:
                private = copy.deepcopy(inner, memo)
            except Exception:
                memo = dict(self._memo)
                private = _by_attributes(inner, memo)
        self._memo.update(memo)
        self._kept.append(memo)  # ids stay those of these objects as long as they live
        return private

    # -- the loss ------------------------------------------------------------------------------------------
    def loss(self, live: object, name: str = "") -> Any:
        """The same loss over private modules and tensors; itself where it reads none."""
        private = self._of(live, name or _called(live), objects=1)
        return live if private is _SAME else private

    def _of(self, value: object, name: str, *, objects: int) -> Any:
        """The private form of anything that a loss may hold; `_SAME` where it is to be left alone."""
        if isinstance(value, nn.Module):
            return self._module_of(value, name)
        if isinstance(value, Tensor):
            return self._tensor_of(value, name)
        if isinstance(value, functools.partial):
            parts = self._of([value.func, list(value.args), dict(value.keywords)], name, objects=objects)
            return _SAME if parts is _SAME else functools.partial(parts[0], *parts[1], **parts[2])
        if isinstance(value, types.MethodType):
            owner = self._of(value.__self__, _called(value.__self__), objects=objects)
            return _SAME if owner is _SAME else types.MethodType(value.__func__, owner)
        if isinstance(value, types.FunctionType):
            return self._function_of(value)
        if isinstance(value, GENERATORS):
            return self._generator_of(value)
        if isinstance(value, list | tuple | set | dict) and type(value) in (list, tuple, set, dict):
            return self._container_of(value, name, objects=objects)
        if objects and _is_plain_object(value):
            return self._object_of(value, name, objects=objects - 1)
        return _SAME

    def _module_of(self, value: nn.Module, name: str) -> nn.Module:
        known = id(unwrap(value)) in self._memo
        private = self.module(value)
        if not known:
            own = {id(t) for t in self.model.parameters()}
            for part, tensor in private.named_parameters():
                if id(tensor) not in own:
                    self.named.setdefault(id(tensor), (name, part))
        return private

    def _generator_of(self, value: object) -> Any:
        """A copy that draws in place of the training's own generator."""
        if id(value) not in self._memo:
            on_cpu = not isinstance(value, torch.Generator) or value.device.type == "cpu"
            self._memo[id(value)] = copy.deepcopy(value) if on_cpu else torch.Generator()
            self._kept.append(value)
        return self._memo[id(value)]

    def generators(self) -> list[Any]:
        """The private generators that the model and the loss hold."""
        return [value for value in self._memo.values() if isinstance(value, GENERATORS)]

    def _tensor_of(self, value: Tensor, name: str) -> Tensor:
        if id(value) not in self._memo:
            if value.device.type == "cpu" and not value.requires_grad and value.numel() > _LARGE:
                return value
            private = _coordinates(value.detach()).to("cpu", copy=True)
            if value.is_leaf and value.requires_grad:
                private.requires_grad_()
                self.named.setdefault(id(private), ("", name))
            self._memo[id(value)] = private
            self._kept.append(value)
        return self._memo[id(value)]

    def _container_of(
        self, value: list[Any] | tuple[Any, ...] | set[Any] | dict[Any, Any], name: str, *, objects: int
    ) -> Any:
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
        if len(pairs) > 1000:  # data, not what a loss is made of
            return _SAME
        found = [self._of(part, f"{name}[{key!r}]", objects=objects) for key, part in pairs]
        if all(part is _SAME for part in found):
            return _SAME
        parts = [old if new is _SAME else new for (_, old), new in zip(pairs, found, strict=True)]
        if isinstance(value, dict):
            return dict(zip([key for key, _ in pairs], parts, strict=True))
        return type(value)(parts)

    def _object_of(self, value: object, name: str, *, objects: int) -> Any:
        if id(value) in self._functions:
            return self._functions[id(value)]
        self._functions[id(value)] = _SAME  # an object that holds itself
        found = {k: self._of(v, f"{name}.{k}", objects=objects) for k, v in list(vars(value).items())}
        changed = {k: v for k, v in found.items() if v is not _SAME}
        if changed:
            try:
                private = object.__new__(type(value))
            except TypeError:  # it extends a built-in type
                return _SAME
            private.__dict__.update({**vars(value), **changed})
            self._functions[id(value)] = private
            self._kept.append(value)
        return self._functions[id(value)]

    def _function_of(self, function: types.FunctionType) -> Any:
        """The function over private cells, defaults and globals, where any of them is replaced."""
        if id(function) in self._functions:
            return self._functions[id(function)]
        self._functions[id(function)] = _SAME  # a function that calls itself
        if (function.__module__ or "").partition(".")[0] in _LIBRARIES:
            return _SAME
        wanted = sorted(_names(function.__code__) & function.__globals__.keys())
        read = {name: function.__globals__[name] for name in wanted}
        outer = {n: self._of(v, n, objects=1) for n, v in read.items()}
        cells = [
            self._cell(c, n) for c, n in zip(function.__closure__ or (), function.__code__.co_freevars, strict=True)
        ]
        defaults = self._of(tuple(function.__defaults__ or ()), "", objects=1)
        keywords = self._of(dict(function.__kwdefaults__ or {}), "", objects=1)
        changed = {n: v for n, v in outer.items() if v is not _SAME}
        if not changed and all(c is _SAME for c in cells) and defaults is _SAME and keywords is _SAME:
            return _SAME
        closure = tuple(o if n is _SAME else n for o, n in zip(function.__closure__ or (), cells, strict=True))
        known = {**function.__globals__, **changed} if changed else function.__globals__
        private = types.FunctionType(function.__code__, known, function.__name__, function.__defaults__, closure)
        private.__defaults__ = function.__defaults__ if defaults is _SAME else defaults
        private.__kwdefaults__ = function.__kwdefaults__ if keywords is _SAME else keywords
        private.__qualname__, private.__module__ = function.__qualname__, function.__module__
        self._functions[id(function)] = private
        self._kept.append(function)
        return private

    def _cell(self, cell: types.CellType, name: str) -> Any:
        try:
            private = self._of(cell.cell_contents, name, objects=1)
        except ValueError:  # not filled yet
            return _SAME
        return _SAME if private is _SAME else types.CellType(private)


def _coordinates(value: Tensor) -> Tensor:
    """Compressed sparse tensors as coordinates, which can be traced."""
    compressed = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
    return value.to_sparse_coo() if value.layout in compressed else value


_SAME = object()


class _Detached(TorchFunctionMode):
    """Inside, a tensor with history (a kept activation, a cache) is copied as its values on the CPU.

    torch refuses to copy such a tensor. Which operations led to it is no part of the model.
    """

    def __torch_function__(self, function: Callable[..., Any], _: object, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().to("cpu", copy=True)
            return memo[id(tensor)]
        return function(*args, **(kwargs or {}))


def _by_attributes(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy that shares with the original only what cannot be copied (locks, files, streams, other objects)."""
    if id(module) in memo:
        return memo[id(module)]
    private = module.__class__.__new__(module.__class__)
    memo[id(module)] = private
    for key, value in module.__dict__.items():
        if key == "_modules":
            held = {n: child if child is None else _by_attributes(child, memo) for n, child in value.items()}
            private.__dict__[key] = type(value)(held)
            continue
        trial = dict(memo)
        try:
            private.__dict__[key] = copy.deepcopy(value, trial)
        except Exception:
            private.__dict__[key] = value
        else:
            memo.update(trial)
    return private


def _is_plain_object(value: object) -> bool:
    """An object of the user's own that may hold modules: a trainer, a task, a loss with `__call__`."""
    kind = type(value)
    if kind.__module__.partition(".")[0] in _LIBRARIES or isinstance(value, type | types.ModuleType | Mapping):
        return False
    return hasattr(value, "__dict__")


def _names(code: types.CodeType) -> set[str]:
    """Names that a function may read from its globals, those of functions inside it included."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found


def _called(value: object) -> str:
    """What a loss is called in a message."""
    if isinstance(value, nn.Module | types.FunctionType | types.MethodType | functools.partial):
        return "criterion" if isinstance(value, nn.Module) else ""
    return type(value).__name__


def outside(value: Tensor, inside: set[int]) -> Iterator[Tensor]:
    """Leaves that a loss would send a gradient to, but for those whose ids are given."""
    seen: set[Any] = set()
    stack: list[Any] = [value.grad_fn] if value.grad_fn is not None else []
    if value.is_leaf and value.requires_grad and id(value) not in inside:
        yield value
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor) and id(leaf) not in inside:
            yield leaf
        stack.extend(n for n, _ in node.next_functions if n is not None and n not in seen)
