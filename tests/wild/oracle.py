"""Oracle: the three things that hold for every loop that is recorded.

In: a loop, run once without the line and once with it. Out: a `Verdict`, or `Broken` with a sentence.

I1  The training is the same bit for bit: the weights of every iteration, the batches, the random states, the modes.
I2  Every snapshot is what a plain log has of its iteration, and the last one is the last iterate.
I3  The stored loss is the loss computed by hand, or the run says that it is not.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from landscape_hooks import Trajectory
from landscape_hooks.errors import ObjectiveError, RecordingWarning
from landscape_hooks.objective.objective import Objective
from landscape_hooks.trajectory.doubts import closing_state
from tests.wild.watch import State, Watch, digest

Train = Callable[[Watch], None]
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


class Broken(AssertionError):
    """One of the three does not hold."""


@dataclass
class Verdict:
    """What came of a loop.

    Attributes
    ----------
    told
        what the run says of itself: warnings, doubts, sentences about its loss.
    compared
        the losses that were compared.
    plain_end
        whether nothing is to be said of the end of the path: it is the last step's, or the loop edits every iterate.
    """

    told: list[str] = field(default_factory=list)
    compared: int = 0
    plain_end: bool = True


def judge(train: Train, run: Path, *, store_loss: bool = False, swaps: bool = False, **options: Any) -> Verdict:
    """Hold a loop to the three.

    Parameters
    ----------
    train
        the loop; it seeds all random states itself and is called twice.
    run
        where the run goes.
    store_loss
        whether the loss that the loop has is stored and compared.
    swaps
        whether the loop changes the weights by hand after its last step, which cannot be told from an edit of the
        iterate: then the path may end with the changed weights, without a word if there were such edits between
        earlier steps, else in doubt.
    options
        of `record`.
    """
    plain, recorded = Watch(), Watch(str(run), options, store_loss)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(plain)
        plain.look()
    with _heard() as told:
        train(recorded)
        recorded.look()
    verdict = Verdict(list(told))
    same_training(plain, recorded)
    trajectory = Trajectory.open(str(run))
    verdict.told += [doubt.said for doubt in trajectory.doubts if doubt.said not in verdict.told]
    last = len(recorded.found) - 1
    earlier = [n for n in recorded.edited if n < last]
    snapshots_are_the_log(trajectory, recorded, swaps and bool(earlier or recorded.hidden or verdict.told), options)
    verdict.plain_end = not swaps and not recorded.hidden and not recorded.cut_after_an_edit
    verdict.plain_end &= last not in recorded.edited or 1 in earlier
    if store_loss and recorded.stored is not None:
        losses_are_by_hand(trajectory, recorded, verdict)
    return verdict


@contextmanager
def _heard() -> Iterator[list[str]]:
    told: list[str] = []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield told
    told += [str(w.message) for w in found if issubclass(w.category, RecordingWarning)]


# -- I1 ----------------------------------------------------------------------------------------------------------------
def same_training(plain: Watch, recorded: Watch) -> None:
    """The training is the same bit for bit."""
    if plain.batches != recorded.batches:
        raise Broken(f"The batches differ from number {_first(plain.batches, recorded.batches)} on")
    for name in ("found", "left"):
        mine, theirs = ([digest(row) for row in getattr(watch, name)] for watch in (plain, recorded))
        if mine != theirs:
            raise Broken(f"The weights {name} differ from iteration {_first(mine, theirs)} on")
    for name, value in plain.after.items():
        if value != recorded.after[name]:
            raise Broken(f"After the training, '{name}' differs: {value} without the line, {recorded.after[name]} with")


def _first(mine: Sequence[Any], theirs: Sequence[Any]) -> int:
    differing = (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b)
    return next(differing, min(len(mine), len(theirs)))


# -- I2 ----------------------------------------------------------------------------------------------------------------
def snapshots_are_the_log(trajectory: Trajectory, watch: Watch, or_closing: bool, options: Any) -> None:
    """Every snapshot is what the log has, the last one `or_closing`: the model as it was when the recording ended."""
    last = len(watch.found) - 1
    steps = np.asarray(trajectory.steps).tolist()
    if last == 0 and steps == [0, 1] and "steps" in {doubt.kind for doubt in trajectory.doubts}:
        # no step was taken, but the weights were edited: the model as it was at the end is kept, and that is said
        rows = [flat(state, trajectory.layout.names) for state in (watch.closing[0], watch.found[0])]
        return _is_one_of(trajectory[1].weights, rows, "The weights at the end of a training without a step")
    _steps_are_due(steps, last, options)
    if len(watch.found) != len(watch.left):
        raise Broken("The log of the test is not whole")
    names = trajectory.layout.names
    shown = {*names, *(alias for entry in trajectory.layout for alias in entry.aliases)}
    for row in watch.found:
        for name, tensor in row.items():
            if name not in shown and digest(tensor) != digest(watch.found[0][name]):
                raise Broken(f"'{name}' moves, and no snapshot has it")
    for number, step in enumerate(steps):
        snapshot = trajectory[number]
        ways = [(watch.found[step], watch.left[step][1]), *([watch.closing] if or_closing and step == last else [])]
        _is_one_of(snapshot.weights, [flat(way, names) for way, _ in ways], f"The weights of step {step} (of {last})")
        if not watch.reloaded:
            rows = [flat(way, trajectory.buffer_layout.names) for _, way in ways]
            _is_one_of(snapshot.buffers, rows, f"The buffers of step {step} (of {last})")


def _is_one_of(shown: Any, ways: Sequence[Any], what: str) -> None:
    plain = shown.astype(np.float64)
    if not any(np.array_equal(plain, way, equal_nan=True) for way in ways):
        apart = np.nanmax(np.abs(plain - ways[0])) if plain.shape == ways[0].shape else "sizes"
        raise Broken(f"{what} are not those of the log: {apart} apart")


def _steps_are_due(steps: list[int], last: int, options: Any) -> None:
    every, keep = options.get("every"), options.get("keep")
    if every is not None:
        expected = sorted({*range(0, last + 1, every), last})
        if steps != expected:
            raise Broken(f"The snapshots are of steps {steps}, due were {expected}")
    else:
        distances = set(np.diff(steps[:-1]).tolist())
        if steps[0] != 0 or steps[-1] != last or len(distances) > 1 or len(steps) > (keep or 200):
            raise Broken(f"The snapshots are of steps {steps} of {last}, with keep={keep}")


def flat(state: State, names: Sequence[str]) -> np.ndarray[Any, Any]:
    """(D,) float64 values of the named tensors, one after the other."""
    parts = [torch.view_as_real(state[n]) if state[n].is_complex() else state[n] for n in names]
    return torch.cat([p.double().reshape(-1) for p in parts]).numpy() if parts else np.zeros(0)


# -- I3 ----------------------------------------------------------------------------------------------------------------
def losses_are_by_hand(trajectory: Trajectory, watch: Watch, verdict: Verdict) -> None:
    """The stored loss is the loss by hand at several snapshots, or the run says what is the matter."""
    try:
        objective = Objective.load(trajectory.root)
    except ObjectiveError as error:
        if not verdict.told:
            raise Broken(f"The run has no loss and nobody was told: {error}") from error
        return
    state, said = closing_state(trajectory.root)
    policies = ["running", "batch"] if objective.has_running_statistics else ["running"]
    for number in sorted({0, len(trajectory) // 2, len(trajectory) - 1}):
        shown = trajectory[number]
        weights, buffers = torch.from_numpy(np.array(shown.weights)), torch.from_numpy(np.array(shown.buffers))
        step = int(trajectory.steps[number])
        # where no step was seen, the closing state is a snapshot of a step that the log does not have
        known = step < len(watch.found)
        found, kept = (watch.found[step], watch.left[step][1]) if known else watch.closing
        as_logged = np.array_equal(shown.weights.astype(np.float64), flat(found, trajectory.layout.names))
        weights_then = found if as_logged else watch.closing[0]
        # a path that ends with the model as it was closed may have the buffers of the last step's end
        left = np.array_equal(shown.buffers.astype(np.float64), flat(kept, trajectory.buffer_layout.names))
        buffers_then = kept if as_logged or left else watch.closing[1]
        if watch.reloaded:  # by another state's buffers or by the step's own: both are the model's at that step
            buffers_then = {**buffers_then, **trajectory.buffer_layout.views(buffers)}
        for policy in policies:
            said_of_loss = [sentence for sentence in verdict.told if not sentence.startswith("The weights changed")]
            told = [*said_of_loss, *objective.doubts(weights, buffers, statistics=policy)]
            stored = objective.evaluate(weights, buffers, statistics=policy).mean
            own = by_hand(watch, {**weights_then, **buffers_then}, policy)
            verdict.compared += 1
            if not np.isclose(stored, own, **CLOSE, equal_nan=True):
                if not told and state != "unchecked":
                    raise Broken(
                        f"The stored loss of step {trajectory.steps[number]} is {stored:.7g}, by hand {own:.7g} "
                        f"({policy} statistics), and nobody was told"
                    )
                verdict.told += [sentence for sentence in told or [said] if sentence not in verdict.told]


NORMS = nn.modules.batchnorm._BatchNorm


def by_hand(watch: Watch, states: State, policy: str) -> float:
    """The loss of all kept batches at these weights and buffers, in a plain loop over a copy of the model."""
    assert watch.stored is not None
    model = copy.deepcopy(watch.model)
    modules = model if isinstance(model, list) else [model]
    for number, module in enumerate(modules):
        prefix = f"{number}." if isinstance(model, list) else ""
        with torch.no_grad():
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                tensor.data = states[prefix + name].clone().to(tensor.dtype)
        module.eval()
        for each in module.modules():
            if policy == "batch" and isinstance(each, NORMS):
                each.train()
    total = weight = 0.0
    for batch in watch.stored.kept:
        share = float(watch.stored.weigh(batch))
        if share:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # as the draws of a stored loss
                total += share * float(watch.stored.loss(model, copy.deepcopy(batch)).detach().double().mean())
            weight += share
    return total / weight if weight else float("nan")
