"""Threshold: by what rule a run's optimizer stepped, as far as the run says, and how sharp a valley that rule can hold.

In: the attribute `optimizers` of a run, learning rates and momenta of its steps. Out: the largest curvature at which
steps of that rule are stable on a quadratic, for each snapshot, and a sentence where there is none. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import RunError, printable
from landscape_hooks.store import checked
from landscape_hooks.trajectory.trajectory import Trajectory

Floats = NDArray[np.float64]

NUMBERS, SWITCHES = ("dampening", "weight_decay"), ("nesterov", "maximize")


@dataclass(frozen=True)
class Rule:
    """How an optimizer steps.

    Attributes
    ----------
    name
        of the optimizer, as a sentence has it.
    sgd
        whether it steps as `torch.optim.SGD` does.
    groups
        of each parameter group: `dampening`, `weight_decay`, `nesterov`, `maximize`; none where all are as torch has
        them if nothing is said.
    said
        why no threshold can be had of the run; "" where one can.
    """

    name: str
    sgd: bool
    groups: tuple[dict[str, float], ...] = ()
    said: str = ""

    @property
    def attrs(self) -> dict[str, Any]:
        """What it is, as JSON."""
        groups = [{key: checked.spell(value) for key, value in group.items()} for group in self.groups]
        return {"name": self.name, "sgd": self.sgd, "groups": groups}


def rule_of(root: zarr.Group, given: str | None = None) -> Rule:
    """The rule of a run's optimizer; `given` "sgd" is what the caller knows of a run that does not say.

    Raises
    ------
    RunError
        `given` is something else, or contradicts the run.
    DamagedRunError
        the attribute is not what the format says.
    """
    if given not in (None, "sgd"):
        raise RunError(f"Found the optimizer {given!r}", expected="'sgd', or nothing: what the run says")
    found = root.attrs.get("optimizers")
    if found is not None and not (isinstance(found, list) and all(isinstance(each, dict) for each in found)):
        raise checked.damaged("The attribute 'optimizers' of the run is no list of optimizers")
    if not found:
        if given:
            return Rule("gradient descent (as given)", True)
        return Rule("an optimizer that the run does not know", False, said=(
            "The run does not say by what rule its steps were taken, so there is no threshold 2/η "
            "(say --optimizer sgd where they were those of gradient descent)."
        ))  # fmt: skip
    names = [printable(each.get("name", "?")) for each in found]
    if len(found) > 1:
        said = f"The steps were taken by {len(found)} optimizers ({', '.join(names)}), which have no common threshold."
        return Rule(", ".join(names), False, said=said)
    if found[0].get("rule") != "sgd":
        if given:
            raise RunError(f"Found the optimizer 'sgd' for a run of {names[0]}", expected="what the run says")
        return Rule(names[0], False, said=(
            f"The steps were taken by {names[0]}: the threshold 2/η is one of gradient descent, "
            "not of adaptive or other optimizers."
        ))  # fmt: skip
    listed = found[0].get("groups")
    groups = listed if isinstance(listed, list) and all(isinstance(group, dict) for group in listed) else [{}]
    return Rule(names[0], True, tuple(_constants(group) for group in groups))


def _constants(group: dict[str, Any]) -> dict[str, float]:
    found = {key: checked.number(group.get(key, 0), f"The {key} of an optimizer") for key in NUMBERS}
    return found | {key: float(bool(group.get(key))) for key in SWITCHES}


def rate_rows(steps: NDArray[np.int64], rates: Floats, places: Sequence[int]) -> NDArray[np.intp]:
    """(n,) the rows whose learning rates are those of the steps away from the snapshots `places`.

    A row's own rate is that of the step towards it. The next row's is that of the step away where it is one step later;
    else, and at the end, the own one is nearest.
    """
    found = []
    for place in places:
        following = place + 1 < len(steps)
        near = following and steps[place + 1] - steps[place] == 1
        found.append(place + 1 if near or (following and not np.isfinite(rates[place]).any()) else place)
    return np.array(found, dtype=np.intp)


def thresholds(rule: Rule, trajectory: Trajectory, places: Sequence[int]) -> tuple[Floats, Floats, str]:
    """((n,) learning rates of the steps away from snapshots, (n,) thresholds of curvature, why one is missing).

    On a quadratic of curvature λ, gradient descent with heavy-ball momentum β is stable while
    λ < 2(1 + β) / ((1 - d) η), d being the dampening, with Nesterov's momentum while λ < 2(1 + β) / ((1 + 2β) η) (Cohen
    et al. 2021). Weight decay adds to every curvature of the loss, so it is taken from the threshold.
    Parameter groups with different numbers have no common threshold: NaN.
    """
    steps, rates = trajectory.steps, np.asarray(trajectory.learning_rates, dtype=float)
    rates = rates.reshape(len(steps), -1)
    momenta = np.asarray(trajectory.momenta, dtype=float).reshape(len(steps), -1)
    rows = rate_rows(steps, rates, places)
    common, limits = np.full((2, len(places)), np.nan)
    said = rule.said
    for number, row in enumerate(rows):
        known = np.isfinite(rates[row])
        own = rates[row][known]
        if not own.size:
            said = said or "The run does not have the learning rate of some steps."
            continue
        if np.ptp(own) == 0:
            common[number] = own[0]
        if not rule.sgd:
            continue
        groups = rule.groups or ({},) * len(own)
        if len(groups) != len(own):
            said = said or "Parameter groups were added on the way; what the run says of the optimizer is not of all."
            continue
        found = [_limit(rate, m, group) for rate, m, group in zip(own, momenta[row][known], groups, strict=True)]
        if len(set(found)) == 1:
            limits[number] = found[0]
        else:
            said = said or "The parameter groups have different learning rates or constants, so no common threshold."
    if np.isinf(limits).any():
        limits[np.isinf(limits)] = np.nan
        said = said or "Steps that go uphill, whose rate is 0, or whose constants are unknown, have no threshold."
    return common, limits, said


def _limit(rate: float, momentum: float, constants: dict[str, float]) -> float:
    """The largest stable curvature for one group; -inf where there is none."""
    if not rate > 0 or constants.get("maximize"):
        return -np.inf
    beta = momentum if np.isfinite(momentum) else 0.0
    limit = 2 * (1 + beta) / rate
    if constants.get("nesterov"):
        limit /= 1 + 2 * beta
    elif beta:
        limit /= 1 - constants.get("dampening", 0.0)
    found = float(limit - constants.get("weight_decay", 0.0))
    return found if np.isfinite(found) else -np.inf
