"""Edits of the wild: what loops do to a model between steps, and when the training is over.

`EDITS[name](model, watch, update)` makes what is called after every iteration; `ENDINGS[name](...)` is called once.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.wild.updates import Update
from tests.wild.watch import Watch

After = Callable[[int], None]


@dataclass(frozen=True)
class Edit:
    """What happens between steps; `stateless` if a resumed training need not restore anything for it."""

    make: Callable[[nn.Module, Watch, Update], After]
    stateless: bool = True


@torch.no_grad()
def _renormalise(model: nn.Module) -> None:
    for p in model.parameters():
        if p.ndim == 2 and p.requires_grad:
            p.div_(p.norm(dim=1, keepdim=True).clamp(min=0.5))


def _clamped(model: nn.Module, watch: Watch, update: Update) -> After:
    def after(n: int) -> None:
        for p in model.parameters():
            if p.requires_grad and not p.is_complex():
                p.data.clamp_(-0.4, 0.4)

    return after


def _pruned(model: nn.Module, watch: Watch, update: Update) -> After:
    masks = [(p, (torch.rand(p.shape) > 0.3)) for p in model.parameters() if p.ndim == 2 and p.requires_grad]

    def after(n: int) -> None:
        for p, mask in masks:
            p.data = p.data * mask

    return after


def _noisy(model: nn.Module, watch: Watch, update: Update) -> After:
    def after(n: int) -> None:
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(torch.randn_like(p), alpha=1e-3)

    return after


def _by_numpy(model: nn.Module, watch: Watch, update: Update) -> After:
    """One number of one tensor, written through numpy, every third iteration."""
    chosen = next(p for p in model.parameters() if p.requires_grad and not p.is_complex())

    def after(n: int) -> None:
        if n % 3 == 2:
            chosen.detach().numpy().reshape(-1)[0] *= 0.9

    return after


def _averaged(model: nn.Module, watch: Watch, update: Update) -> After:
    average = {name: p.detach().clone() for name, p in model.named_parameters()}

    def after(n: int) -> None:
        for name, p in model.named_parameters():
            average[name].lerp_(p.detach(), 0.5)

    return after


def _swapped(model: nn.Module, watch: Watch, update: Update) -> After:
    """The average takes the weights' place for validation, and gives it back."""
    average = {name: p.detach().clone() for name, p in model.named_parameters()}

    def after(n: int) -> None:
        mine = {name: p.detach().clone() for name, p in model.named_parameters()}
        for values in (average, mine):
            for name, p in model.named_parameters():
                p.data.copy_(values[name])
        for name, p in model.named_parameters():
            average[name].lerp_(p.detach(), 0.5)

    return after


def _loaded_for_validation(model: nn.Module, watch: Watch, update: Update) -> After:
    """The same through `load_state_dict`."""
    average = copy.deepcopy(model.state_dict())

    def after(n: int) -> None:
        if n % 2:
            mine = copy.deepcopy(model.state_dict())
            watch.loads()
            model.load_state_dict(average)
            model.load_state_dict(mine)

    return after


def _set_back(model: nn.Module, watch: Watch, update: Update) -> After:
    """Every third iteration is taken back."""
    kept = copy.deepcopy(model.state_dict())

    def after(n: int) -> None:
        nonlocal kept
        if n % 3 == 2:
            watch.loads()
            model.load_state_dict(kept)
        else:
            kept = copy.deepcopy(model.state_dict())

    return after


def _validated(model: nn.Module, watch: Watch, update: Update) -> After:
    def after(n: int) -> None:
        model.eval()
        with torch.no_grad():
            model(torch.ones(3, 4, dtype=next(model.parameters()).real.dtype))
        model.train()

    return after


def _saved(model: nn.Module, watch: Watch, update: Update) -> After:
    def after(n: int) -> None:
        torch.save({"model": model.state_dict(), "step": n}, io.BytesIO())
        copy.deepcopy(model.state_dict())

    return after


def _scheduled(model: nn.Module, watch: Watch, update: Update) -> After:
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in update.optimizers]

    def after(n: int) -> None:
        for schedule in schedules:
            schedule.step()

    return after


def _thawed(model: nn.Module, watch: Watch, update: Update) -> After:
    """The first tensor that is trained stands still for three iterations."""
    chosen = next(p for p in model.parameters() if p.requires_grad)
    chosen.requires_grad_(False)

    def after(n: int) -> None:
        if n == 2:
            chosen.requires_grad_(True)

    return after


def _talked_to(model: nn.Module, watch: Watch, update: Update) -> After:
    """The recorder's own methods."""

    def after(n: int) -> None:
        if watch.recorder is not None:
            watch.recorder.log(loss=float(n), epoch=n)
            if n % 2:
                watch.recorder.flush()
            else:
                watch.recorder.state_dict()
            watch.recorder.mark("best")

    return after


EDITS: dict[str, Edit] = {
    "nothing": Edit(lambda m, w, u: lambda n: None),
    "renormalised": Edit(lambda m, w, u: lambda n: _renormalise(m)),
    "clamped": Edit(_clamped),
    "pruned": Edit(_pruned, stateless=False),
    "noise": Edit(_noisy),
    "by numpy": Edit(_by_numpy),
    "averaged": Edit(_averaged, stateless=False),
    "swapped for validation": Edit(_swapped, stateless=False),
    "loaded for validation": Edit(_loaded_for_validation, stateless=False),
    "set back": Edit(_set_back, stateless=False),
    "validated": Edit(_validated),
    "saved": Edit(_saved),
    "scheduled": Edit(_scheduled, stateless=False),
    "thawed": Edit(_thawed, stateless=False),
    "talked to": Edit(_talked_to),
}


# -- when the training is over -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Ending:
    """What happens after the last iteration; `swaps` if the weights are changed by hand, which no one can tell."""

    act: Callable[[nn.Module, Watch, dict[str, Any]], None]
    swaps: bool = False


def _load(model: nn.Module, watch: Watch, best: dict[str, Any]) -> None:
    model.load_state_dict(best)
    model.eval()


def _load_part(model: nn.Module, watch: Watch, best: dict[str, Any]) -> None:
    name, part = list(model.named_children())[-1]
    part.load_state_dict({k.removeprefix(f"{name}."): v for k, v in best.items() if k.startswith(f"{name}.")})


def _load_twice(model: nn.Module, watch: Watch, best: dict[str, Any]) -> None:
    now = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    model.load_state_dict(now)
    model.load_state_dict(best, assign=True)


def _copy(model: nn.Module, watch: Watch, best: dict[str, Any]) -> None:
    for name, p in model.named_parameters():
        p.data.copy_(best[name])


def _copied(model: nn.Module, watch: Watch, best: dict[str, Any]) -> None:
    if not hasattr(model, "last"):  # activations with their history cannot be copied
        copy.deepcopy(model).half()


def _freeze(model: nn.Module, watch: Watch, best: dict[str, Any]) -> None:
    model.eval()
    model.requires_grad_(False)


ENDINGS: dict[str, Ending] = {
    "nothing": Ending(lambda m, w, best: None),
    "best loaded": Ending(_load),
    "a part loaded": Ending(_load_part),
    "loaded again and again": Ending(_load_twice),
    "average copied in": Ending(_copy, swaps=True),
    "half": Ending(lambda m, w, best: m.half() and None, swaps=True),
    "frozen": Ending(_freeze),
    "copied": Ending(_copied),
}
