"""Comparison: a captured graph against the live loss that it was captured from, before it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.graph.graph import LossGraph
from landscape_hooks.objective.kernels import ModuleKernel
from landscape_hooks.objective.live.copies import WAY_OUT
from landscape_hooks.objective.live.weights import state_of
from landscape_hooks.objective.loss_module import LossModule
from landscape_hooks.objective.probe import Probe

BESIDE = 1e-3
"""Relative difference that rounding may make at other weights."""


def compare(graph: LossGraph, constants: dict[str, Tensor], live: ModuleKernel, probe: Probe, dynamic: bool) -> bool:
    """The graph must give the model's own loss, also at weights beside; returns whether running it changes its inputs.

    Beside, since the weights of the start may hide what differs: a last layer of zeros hides all before it.
    """
    module = live.module
    state = state_of(module) | constants
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
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            expected = module(*[t.clone() for t in leaves])
            given = [t.clone() for t in leaves]
            # in-place operations count up a tensor's version, through views as well
            watched = [*given, *state.values()]
            versions = [t._version for t in watched]
            found = graph(state, given)
        mutates |= versions != [t._version for t in watched]
        _check_equal(found, expected, 1e-4)
    for moved in _beside(state, graph.parameters()):
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            try:
                expected = live(moved(), [t.clone() for t in whole], statistics="running")
            except Exception:  # what is no loss at these weights need not be one in the graph
                continue
            _check_equal(graph(moved(), [t.clone() for t in whole]), expected, BESIDE)
    return mutates


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
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            module(*[t.clone() for t in leaves])
    except Exception:  # whatever the user's code makes of half a graph
        return False
    return True
