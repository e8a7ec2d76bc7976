"""Comparison: a captured graph against the live loss that it was captured from, before it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.kernels import ModuleKernel
from landscape_hooks.objective.live.copies import WAY_OUT
from landscape_hooks.objective.loss_module import LossModule, state_of
from landscape_hooks.objective.probe import Probe
from landscape_hooks.objective.tracing.exported import Captured

BESIDE = 1e-3
"""Relative difference that rounding may make at other weights."""


@dataclass(frozen=True)
class Compared:
    """Whether running a graph changes what it is given, and whether its gradient is the loss's own."""

    mutates: bool
    differentiable: bool = True


def compare(captured: Captured, live: ModuleKernel, probe: Probe, dynamic: bool, gradients: bool) -> Compared:
    """The graph must give the model's own loss, also at weights beside; `gradients` looks at gradients there as well.

    Beside, since the weights of the start may hide what differs: a last layer of zeros hides all before it.

    Raises
    ------
    ObjectiveError
        it gives another loss.
    """
    module, graph = live.module, captured.graph
    state = state_of(module) | captured.constants
    whole, size = next(probe.batches())
    half = probe.groups[0].slice(0, size // 2)
    cases = [whole, *([half] if dynamic and size >= 4 and _computable(module, half) else [])]
    if not graph.parameters():
        raise ObjectiveError(
            "The captured loss depends on none of the model's parameters",
            expected="a loss of the model that is recorded (a replaced forward may call another one)",
            mend=WAY_OUT,
        )
    mutates = False
    for leaves in cases:
        with torch.set_grad_enabled(module.needs_grad), torch.autocast("cpu", enabled=False):
            expected = module(*[t.clone() for t in leaves]).detach()
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            given = [t.clone() for t in leaves]
            # in-place operations count up a tensor's version, through views as well
            watched = [*given, *state.values()]
            versions = [t._version for t in watched]
            found = graph(state, given)
        mutates |= versions != [t._version for t in watched]
        _check_equal(found, expected, 1e-4)
    same = True
    for moved in _beside(state, graph.parameters()):
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            try:
                expected = live(moved(), [t.clone() for t in whole], statistics="running")
            except Exception:  # what is no loss at these weights need not be one in the graph
                continue
            _check_equal(graph(moved(), [t.clone() for t in whole]), expected, BESIDE)
        same = same and not (gradients and _gradients_differ(captured, live, moved, whole))
    return Compared(mutates, same)


def _gradients_differ(
    captured: Captured, live: ModuleKernel, moved: Callable[[], dict[str, Tensor]], leaves: Sequence[Tensor]
) -> bool:
    """Whether the gradient of a graph is another one than that of the loss itself."""
    names = sorted(live.trained & captured.graph.parameters())
    found = []
    for call in (live, lambda state, data, statistics: captured.graph(state, data)):
        state = moved()
        at = {name: state[name].detach().requires_grad_() for name in names}
        try:
            with torch.enable_grad(), torch.autocast("cpu", enabled=False):
                value = call({**state, **at}, [t.clone() for t in leaves], statistics="running").sum()
                parts = torch.autograd.grad(value, list(at.values()), allow_unused=True)
        except RuntimeError:
            return True
        found.append([torch.zeros(()) if part is None else part for part in parts])
    scale = max([float(part.abs().max()) for part in found[0] if part.numel()], default=0.0)
    pairs = zip(*found, strict=True)
    return not all(torch.allclose(a, b, rtol=1e-2, atol=1e-3 * scale, equal_nan=True) for a, b in pairs)


def _beside(state: Mapping[str, Tensor], parameters: Iterable[str]) -> Iterator[Callable[[], dict[str, Tensor]]]:
    """Functions that make the state at weights a little away from these, twice; buffers are copied for each."""
    for seed in (1, 2):
        draws = torch.Generator().manual_seed(seed)
        away = {
            name: 0.05 * (state[name].abs().mean().cpu() + 0.1) * torch.randn(state[name].shape, generator=draws)
            for name in sorted(parameters)
            if state[name].is_floating_point() and state[name].numel()
        }
        yield lambda away=away: {  # type: ignore[misc]
            name: t + away[name].to(t) if name in away else t.clone() for name, t in state.items()
        }


def _check_equal(found: Tensor, expected: Tensor, rtol: float) -> None:
    if not torch.allclose(found.double(), expected.double(), rtol=rtol, atol=1e-6, equal_nan=True):
        raise ObjectiveError(
            f"The captured loss graph gives {float(found.mean()):.6g} where the model gives "
            f"{float(expected.mean()):.6g}",
            expected="the same loss twice: a model without randomness in evaluation mode, or state outside itself",
            mend=WAY_OUT,
        )


def _computable(module: LossModule, leaves: Sequence[Tensor]) -> bool:
    """Whether the live loss takes these leaves: a part of a batch may be none."""
    try:
        with torch.set_grad_enabled(module.needs_grad), torch.autocast("cpu", enabled=False):
            module(*[t.clone() for t in leaves])
    except Exception:  # whatever the user's code makes of half a graph
        return False
    return True
