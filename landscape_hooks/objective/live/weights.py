"""Weights: by what the batches of a live loss are weighed.

In: the traced loss and its module. Out: one of four words, which `evaluate` goes by.
"""

from __future__ import annotations

import math
import time

import torch

from landscape_hooks.objective.graph.graph import Ref
from landscape_hooks.objective.graph.weighing import floating, weigh
from landscape_hooks.objective.loss_module import LossModule, state_of
from landscape_hooks.objective.probe import Probe
from landscape_hooks.objective.variants import Traced, kernel_of
from landscape_hooks.trajectory.parameters import ParameterLayout


def weighing_of(traced: Traced, module: LossModule, probe: Probe) -> str:
    """By what batches are weighed: "loss" (what the graphs divide by), "samples", "batches" (each once), "unknown".

    What is read off the graphs is tried on the first batch in two parts, where there may be such.
    """
    kept = traced.probe
    assert kept is not None
    read = [weigh(graph, floating(graph, kept)) for graph in traced.graphs]
    graphs = [graph for graph in read if graph is not None]
    sizes = {size for _, size in kept.batches()}
    # a graph for one size of batch divides by a number where the loss divides by that size
    numbers = any(not isinstance(output, Ref) for graph in graphs for output in graph.outputs)
    if len(graphs) < len(read) or (numbers and not traced.dynamic and len(sizes) > 1):
        return module.weighing(probe.batches)
    kernel, state = kernel_of(graphs), state_of(module) | traced.constants
    _, size = next(kept.batches())
    cut = max(1, size // 3)
    cases = [(0, size), (0, cut), (cut, size)] if traced.dynamic and size > 1 else [(0, size)]
    try:
        with torch.no_grad():
            leaves = [[t.clone() for t in kept.groups[0].slice(*part)] for part in cases]
            found = [kernel(state, part, statistics="running") for part in leaves]
        values, weights = zip(*[(float(value), float(weight)) for value, weight, *_ in found], strict=True)
    except Exception:  # a part of a batch is none
        return "loss" if len(cases) == 1 or module.parts(*next(probe.batches())) is None else "unknown"
    each = all(not isinstance(output, Ref) for graph in graphs for output in graph.outputs[1:])
    if len(found) == 1 and not each:
        other = next((leaves for leaves, n in kept.batches() if n != size), None)
        with torch.no_grad():
            same = other is not None and float(kernel(state, other, statistics="running")[1]) == weights[0]
        # a mean over what has no samples any more (a covariance) divides by the same number whatever their count
        return module.weighing(probe.batches) if same else "loss"
    if len(found) == 1:
        return "batches"
    parts = sum(w * v for v, w in zip(values[1:], weights[1:], strict=True) if w) / (sum(weights[1:]) or math.nan)
    same = math.isclose(values[0], sum(values[1:]) if each else parts, rel_tol=1e-4, abs_tol=1e-6)
    if not (same or math.isnan(values[0])):
        return module.weighing(probe.batches)
    return "batches" if each else "loss"


def value_of(traced: Traced, module: LossModule, weighing: str, seconds: float) -> tuple[float, int]:
    """The loss of the module's weights over the first batches, as many as take so long, and how many samples they have.

    NaN and 0 where it cannot be computed.
    """
    kept = traced.kept
    weighed = [weigh(graph, floating(graph, kept)) for graph in traced.graphs] if weighing == "loss" else []
    known = [graph for graph in weighed if graph is not None]
    kernel = kernel_of(known if len(known) == len(traced.graphs) else traced.graphs)
    buffers = set(ParameterLayout.of_buffers(module.model).names)
    state = state_of(module) | traced.constants
    total, shares, samples, deadline = 0.0, 0.0, 0, time.monotonic() + seconds
    try:
        for leaves, size in kept.batches():
            own = {name: t.clone() if name in buffers else t for name, t in state.items()}
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                found = kernel(own, [t.clone() for t in leaves], statistics="running")
            value, *weights = found if isinstance(found, list) else [found]
            share = float(torch.as_tensor(weights[0]).sum()) if weights else 1.0 if weighing == "batches" else size
            total += share * float(value.double().mean()) if share else 0.0
            shares, samples = shares + share, samples + size
            if time.monotonic() > deadline:
                break
    except Exception:  # it is only told
        return math.nan, 0
    return (total / shares, samples) if shares else (math.nan, 0)
