"""Where points are evaluated: a family with one interface.

An engine yields finished tiles in any order, each point exactly once; the value at a point does not depend on which
points are computed beside it:

- `points(loss: PlaneLoss, points (N, 2)) -> Iterator[Tile]`: losses at points of the plane;
- `snapshots(loss: PlaneLoss, trajectory, numbers) -> Iterator[Tile]`: losses at snapshots themselves;
- `stretches(trajectory, row, work) -> Iterator[(columns, result)]`: `plane.map_stretches`, where the data is;
- `device(name) -> torch.device`: where losses are computed;
- `THREADS`: of torch in each of its workers; None where the plan decides;
- `PROCESSES`: what the report calls its workers; None where the plan knows their number.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from landscape_hooks.errors import ObjectiveError

NAMES = ("local", "ray")


@dataclass(frozen=True)
class Cluster:
    """Where a cluster is, and what each worker gets of it.

    Attributes
    ----------
    address
        "HOST:PORT", "auto" (the cluster that this machine belongs to), or "local" (one that is started here and ends
        with the analysis); None is RAY_ADDRESS where that is set, else "local".
    workers
        how many; None is as many as the cluster has room for.
    cpus, gpus
        of each worker; a share of a GPU is allowed.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: float = 0.0


def check(name: str, cluster: Cluster) -> None:
    """Refuse an engine that does not exist, and a cluster that cannot be.

    Raises
    ------
    ObjectiveError
        there is none of that name, or it has no cluster.
    """
    if name not in NAMES:
        raise ObjectiveError(f"Found the engine '{name}'", expected=f"one of {', '.join(NAMES)}")
    if name == "local" and cluster != Cluster(workers=cluster.workers):
        raise ObjectiveError(
            "Found an address, or CPUs and GPUs per worker, for the engine of this machine", mend="Add --engine ray"
        )
    if cluster.cpus < 1 or cluster.gpus < 0:
        raise ObjectiveError(
            f"Found {cluster.cpus} CPUs and {cluster.gpus} GPUs per worker", expected="at least 1 CPU, and 0 GPUs"
        )


def start(name: str, cluster: Cluster, sources: Any, joined: Any) -> AbstractContextManager[Any]:
    """The engine of that name, for the time of a `with`.

    Raises
    ------
    ObjectiveError
        what it needs is not installed, or its cluster does not answer.
    """
    try:
        module = import_module(f"landscape_hooks.evaluation.engines.{name}")
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ObjectiveError(
            f"The engine '{name}' is not installed", mend=f'Install it: pip install "landscape-hooks[{name}]"'
        ) from error
    return nullcontext(module) if name == "local" else module.Engine(cluster, sources(), joined)
