"""Updates of the wild: how one iteration moves the weights, with which optimizers, and through which wrappers.

In: a model. Out: an `Update`: what is passed to `record`, and `take(watch, backward)`, which computes gradients with
`backward()` and takes the steps of one iteration inside of `watch.step()`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.wild.watch import Watch

Parameters = Sequence[Tensor]
Backward = Callable[[], Tensor]


@dataclass
class Update:
    """How an iteration moves the weights; `optimizers` are those with a state to save and a learning rate."""

    given: Any
    take: Callable[[Watch, Backward], None]
    optimizers: Sequence[torch.optim.Optimizer]


# -- optimizers --------------------------------------------------------------------------------------------------------
class Signs(torch.optim.Optimizer):
    """An optimizer of one's own."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(torch.sgn(p.grad) if p.is_complex() else p.grad.sign(), alpha=group["lr"])


def _grouped(parameters: Parameters) -> torch.optim.Optimizer:
    half = len(parameters) // 2
    return torch.optim.SGD([{"params": parameters[:half], "lr": 0.05}, {"params": parameters[half:]}], 0.1, 0.9)


OPTIMIZERS: dict[str, Callable[[Parameters], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, 0.01, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, torch.tensor(0.01), amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
    "averaged sgd": lambda p: torch.optim.ASGD(p, 0.05),
    "signs": lambda p: Signs(p, 0.01),
    "groups": _grouped,
}


# -- wrappers ----------------------------------------------------------------------------------------------------------
class Lookahead(torch.optim.Optimizer):
    """Slow weights every two steps; `super().__init__` is called as it should be."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer.param_groups, {})
        self.optimizer, self.count = optimizer, 0
        self.slow = [[p.detach().clone() for p in g["params"]] for g in optimizer.param_groups]

    def step(self, closure: Any = None) -> Any:
        loss = self.optimizer.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            for group, slow in zip(self.optimizer.param_groups, self.slow, strict=True):
                for p, s in zip(group["params"], slow, strict=True):
                    s.add_(p.data - s, alpha=0.5)
                    p.data.copy_(s)
        return loss


class Bare(torch.optim.Optimizer):
    """The same without `super().__init__`, as many wrappers are written."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.count = optimizer, 0
        self.param_groups, self.state = optimizer.param_groups, optimizer.state
        self.slow = [[p.detach().clone() for p in g["params"]] for g in optimizer.param_groups]

    def step(self, closure: Any = None) -> Any:
        loss = self.optimizer.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            for group, slow in zip(self.param_groups, self.slow, strict=True):
                for p, s in zip(group["params"], slow, strict=True):
                    s.lerp_(p.data, 0.5)
                    p.data.copy_(s)
        return loss


class Holder:
    """No torch optimizer: an object that holds one, as trainers have them."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups

    def step(self) -> None:
        self.optimizer.step()


class Sharp(torch.optim.Optimizer):
    """SAM: uphill first, back, then down by the gradient found there."""

    def __init__(self, optimizer: torch.optim.Optimizer, rho: float = 0.05) -> None:
        super().__init__(optimizer.param_groups, {"rho": rho})
        self.base, self.rho = optimizer, rho
        self.param_groups = optimizer.param_groups

    def _each(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def first_step(self) -> None:
        norm = torch.stack([p.grad.norm() for p in self._each() if p.grad is not None]).norm() + 1e-12
        for p in self._each():
            self.state[p]["old"] = p.data.clone()
            p.add_(p.grad * (self.rho / norm))

    @torch.no_grad()
    def second_step(self) -> None:
        for p in self._each():
            p.data = self.state[p]["old"]
        self.base.step()

    def step(self, closure: Any = None) -> None:
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


def _plain(wrap: Callable[[torch.optim.Optimizer], Any], inner_given: bool = False, hidden: bool = False) -> Any:
    def make(model: nn.Module, parameters: Parameters, kind: Callable[[Parameters], Any]) -> Update:
        inner = kind(parameters)
        optimizer = wrap(inner)

        def take(watch: Watch, backward: Backward) -> None:
            backward()
            with watch.step() as step:
                optimizer.step()
                step.hidden = hidden

        return Update(inner if inner_given else optimizer, take, [inner])

    return make


def _closure(model: nn.Module, parameters: Parameters, kind: Any) -> Update:
    optimizer = kind(parameters)

    def take(watch: Watch, backward: Backward) -> None:
        with watch.step():
            optimizer.step(backward)

    return Update(optimizer, take, [optimizer])


def _lbfgs(model: nn.Module, parameters: Parameters, kind: Any) -> Update:
    return _closure(model, parameters, lambda p: torch.optim.LBFGS(p, 0.3, max_iter=3))


def _sam_calls(model: nn.Module, parameters: Parameters, kind: Any) -> Update:
    optimizer = Sharp(kind(parameters))

    def take(watch: Watch, backward: Backward) -> None:
        backward()
        with watch.step():
            optimizer.first_step()
            backward()
            optimizer.second_step()

    return Update(optimizer, take, [optimizer.base])


def _sam_closure(model: nn.Module, parameters: Parameters, kind: Any) -> Update:
    optimizer = Sharp(kind(parameters))

    def take(watch: Watch, backward: Backward) -> None:
        backward()
        with watch.step():
            optimizer.step(backward)

    return Update(optimizer, take, [optimizer.base])


def _one_each(model: nn.Module, parameters: Parameters, kind: Any) -> Update:
    """One optimizer a parameter, each stepping when its gradient is there."""
    optimizers = {p: kind([p]) for p in parameters}

    def stepped(p: Any) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in parameters:
        p.register_post_accumulate_grad_hook(stepped)  # type: ignore[attr-defined]

    def take(watch: Watch, backward: Backward) -> None:
        with watch.step():
            backward()

    return Update(list(optimizers.values()), take, [])


def _two_kinds(model: nn.Module, parameters: Parameters, kind: Any) -> Update:
    """Matrices with one optimizer, all else with another; both step in every iteration."""
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    pair = [Signs(matrices, 0.01), kind(others)]

    def take(watch: Watch, backward: Backward) -> None:
        backward()
        with watch.step():
            for optimizer in pair:
                optimizer.step()

    return Update({"matrices": pair[0], "others": pair[1]}, take, pair)


class Pair:
    """Two optimizers in one object that is none."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self.first, self.second = first, second

    @property
    def param_groups(self) -> list[Any]:
        return self.first.param_groups + self.second.param_groups

    def step(self) -> None:
        self.first.step()
        self.second.step()


def _pair(model: nn.Module, parameters: Parameters, kind: Any) -> Update:
    """The same in one object."""
    matrices = [p for p in parameters if p.ndim == 2]
    pair = Pair(Signs(matrices, 0.01), kind([p for p in parameters if p.ndim != 2]))

    def take(watch: Watch, backward: Backward) -> None:
        backward()
        with watch.step():
            pair.step()

    return Update(pair, take, [pair.first, pair.second])


def _second_phase(model: nn.Module, parameters: Parameters, kind: Any) -> Update:
    """After three iterations another optimizer, which nobody passed.

    The first one is still there, so that the first step of the second one belongs to its last iteration: nothing tells
    it from the second step of a GAN's iteration.
    """
    first, count = kind(parameters), 0
    second: list[torch.optim.Optimizer] = []

    def take(watch: Watch, backward: Backward) -> None:
        nonlocal count
        count += 1
        if count == 4:
            second.append(torch.optim.SGD(parameters, 0.02))
        backward()
        with watch.step(further=count == 4):
            (second or [first])[0].step()

    return Update(first, take, [first])


def _masters(model: nn.Module, parameters: Parameters, kind: Any) -> Update:
    """The optimizer holds copies; the model's weights are set from them, through `.data`."""
    masters = [nn.Parameter(p.detach().clone()) for p in parameters]
    optimizer = kind(masters)

    def take(watch: Watch, backward: Backward) -> None:
        backward()
        for master, p in zip(masters, parameters, strict=True):
            master.grad = None if p.grad is None else p.grad.clone()
        with watch.step():
            optimizer.step()
        for master, p in zip(masters, parameters, strict=True):
            p.data.copy_(master.data)

    return Update(optimizer, take, [optimizer])


def _scaled(model: nn.Module, parameters: Parameters, kind: Any) -> Update:
    """Mixed precision: some steps are skipped, since the scale is too large at first."""
    optimizer = kind(parameters)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=2, backoff_factor=2.0**-60)

    def take(watch: Watch, backward: Backward) -> None:
        backward()
        for p in parameters:
            if p.grad is not None:
                p.grad = p.grad * scaler.scale(torch.ones(()))
        with watch.step() as step:
            step.skipped = not all(p.grad.isfinite().all() for p in parameters if p.grad is not None)
            scaler.step(optimizer)
            scaler.update()

    return Update(optimizer, take, [optimizer])


Wrap = Callable[[nn.Module, Parameters, Callable[[Parameters], Any]], Update]

UPDATES: dict[str, Wrap] = {
    "plain": _plain(lambda o: o),
    "closure": _closure,
    "lookahead": _plain(Lookahead),
    "lookahead, the inner one given": _plain(Lookahead, inner_given=True, hidden=True),
    "bare wrapper": _plain(Bare, hidden=True),
    "bare wrapper, the inner one given": _plain(Bare, inner_given=True, hidden=True),
    "holder": _plain(Holder),
    "lbfgs": _lbfgs,
    "sam in two calls": _sam_calls,
    "sam with a closure": _sam_closure,
    "one a parameter": _one_each,
    "two kinds": _two_kinds,
    "two kinds in one object": _pair,
    "second phase": _second_phase,
    "masters": _masters,
    "scaler": _scaled,
}
