"""Plan: in which way the loss is computed; another way gives the same values up to rounding.

Chosen by calibration.py, used by the engines, stored with the surface, so that a resumed analysis goes on in the
same way and ends with the same bits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from landscape_hooks.device.arithmetic import PRECISIONS
from landscape_hooks.machine import MOST_WORKERS
from landscape_hooks.objective.kernels import PLAIN, Tuning

if TYPE_CHECKING:
    from landscape_hooks.objective.objective import Objective


class Computable(Protocol):
    """What a plan applies to: a SnapshotLoss or a PlaneLoss."""

    objective: Objective

    def computed(self, objective: Objective, plan: Plan) -> Self:
        """The same loss of another objective, by another plan."""


Loss = TypeVar("Loss", bound=Computable)

GONE = {"fold": False, "fuse": False, "winograd": False}
"""Ways of earlier versions, each as in a plan that did not take it."""


@dataclass(frozen=True)
class Plan:
    """A way of computing the loss at many points.

    Attributes
    ----------
    workers
        processes that share the weights, each computing whole points.
    threads
        of torch in each of them.
    tuning
        the memory format, the samples at a time, the precision.
    tile
        points handed to a process at a time.
    stack
        points computed together, by vectorized operations over their stacked weights (for a GPU and a small model).
    seconds
        what a point took in the calibration, all processes at work; NaN where nothing was measured.
    speedup
        against the plain way in the same calibration.
    """

    workers: int = 1
    threads: int = 1
    tuning: Tuning = PLAIN
    tile: int = 1
    stack: int = 1
    seconds: float = float("nan")
    speedup: float = 1.0

    def apply(self, loss: Loss) -> Loss:
        """The same loss (a PlaneLoss), computed in this way."""
        return loss.computed(self.tune(loss.objective), self)

    def tune(self, objective: Objective) -> Objective:
        """An Objective computed in this way."""
        return objective.tuned(self.tuning)

    def to_json(self) -> dict[str, Any]:
        """As stored with the surface."""
        stored = {k: v for k, v in asdict(self).items() if k not in ("tuning", "seconds", "speedup")}
        return stored | asdict(self.tuning)

    @classmethod
    def from_json(cls, stored: object) -> Plan | None:
        """The inverse of `to_json`; None where what is stored is no plan that this version would have made."""
        counts = {"workers": MOST_WORKERS, "threads": MOST_WORKERS, "chunk": 2**31, "tile": 2**31, "stack": 2**31}
        ways = {"layout": ("contiguous", "channels_last"), "precision": PRECISIONS}
        if not isinstance(stored, dict) or any(stored.get(key, unused) is not unused for key, unused in GONE.items()):
            return None
        stored = {key: value for key, value in stored.items() if key not in GONE}
        if not {"workers", "threads"} <= stored.keys() <= counts.keys() | ways.keys():
            return None
        tuning = {field.name: stored.pop(field.name) for field in fields(Tuning) if field.name in stored}
        plan = cls(**stored, tuning=Tuning(**tuning))  # an older plan lacks the newer ways, which it did not take
        found = plan.to_json()
        numbers = all(type(found[key]) is int and 1 <= found[key] <= most for key, most in counts.items())
        return plan if numbers and all(found[key] in known for key, known in ways.items()) else None

    def sentence(self, processes: str | None = None) -> str:
        """The plan as a sentence; `processes` replaces the count of this machine's processes."""
        processes = processes or f"{self.workers} process{'es' if self.workers > 1 else ''}"
        ways = [f"{processes} with {self.threads} thread{'s' if self.threads > 1 else ''}"]
        ways += ["channels last"] if self.tuning.layout == "channels_last" else []
        ways += [f"{self.tuning.chunk} samples at a time"]
        ways += [f"{self.stack} points together"] if self.stack > 1 else []
        ways += [self.tuning.precision] if self.tuning.precision != "float32" else []
        return f"Computed by {', '.join(ways)}."
