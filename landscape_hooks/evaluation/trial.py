"""Trial: a stored loss is computed in a process of its own before it is computed in this one.

In: the stored loss and the trajectory. Out: nothing, or an error where computing it ends the process. A run may come
from a stranger, and torch does not promise that its operations stand every argument.
"""

from __future__ import annotations

import faulthandler
import signal
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np
import torch

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.evaluation.engines.local import forked
from landscape_hooks.machine import forks
from landscape_hooks.objective.objective import Objective
from landscape_hooks.trajectory.trajectory import Trajectory


def try_apart(objective: Objective, trajectory: Trajectory) -> None:
    """Compute the loss of the first batch at both ends of the path, in a forked process of one thread.

    What it raises there it raises here as well, where it is reported. Without forked processes nothing is tried.

    Raises
    ------
    ObjectiveError
        the process ended.
    """
    if not forks() or objective.device.type != "cpu" or not len(trajectory):
        return
    process, mine = forked(_compute, objective, trajectory)
    try:
        mine.recv()
    except (EOFError, OSError):
        process.join(10)
        raise _ended(process.exitcode) from None
    finally:
        mine.close()
        process.kill()
        process.join()


def _compute(connection: Connection, objective: Objective, trajectory: Trajectory) -> None:
    faulthandler.disable()  # the process that waits says how this one ended
    torch.set_num_threads(1)
    with suppress(Exception):
        first = objective.head(1)
        for number in sorted({0, len(trajectory) - 1}):
            snapshot = trajectory[number]
            first.measure(*(torch.from_numpy(np.array(part)) for part in (snapshot.weights, snapshot.buffers)))
    connection.send(True)
    connection.close()


def _ended(status: int | None) -> ObjectiveError:
    how = f"exit status {status}"
    if status is not None and status < 0:
        with suppress(ValueError):
            how = signal.Signals(-status).name
    return ObjectiveError(
        f"Computing the stored loss ends the process that computes it ({how})",
        expected="operations of torch on arguments that they stand, and tensors that fit into memory",
        mend="Do not trust this run if you do not know its author. Else give the loss by hand: landscape-hooks analyze "
        "RUN --objective module:function",
    )
