"""What each BatchNorm policy shows at the path: the loss at every snapshot's projection, beside the true losses.

python benchmarks/batch_norm.py [RUN]

Without RUN, the demo's network is trained on scikit-learn's digits. Prints the table of docs/reading.md.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from landscape_hooks import Surface, analyze
from landscape_hooks.cli.demo.digits import train_digits

POLICIES = ("fixed", "interpolate", "batch", "recalibrate")
ROWS = 8


def main(run: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if run is None:
            run = str(Path(folder) / "digits.zarr")
            train_digits(Path(run), progress=False)
        print_table({p: analyze(run, size=3, batch_norm=p, name=f"policy-{p}", progress=False) for p in POLICIES})


def print_table(found: dict[str, Surface]) -> None:
    """One row a snapshot, spaced so that the fast beginning is seen."""
    steps = found["batch"].steps
    rows = np.unique(np.geomspace(1, len(steps), ROWS).round().astype(int) - 1)
    print("| step | own running statistics | batch statistics | " + " | ".join(f"plane, {p}" for p in POLICIES) + " |")
    print("|---|---|---|" + "---|" * len(POLICIES))
    for row in rows:
        # at the snapshot itself: its own buffers under `interpolate`, statistics of the batch under `batch`
        values = [found["interpolate"].path_loss[row], found["batch"].path_loss[row]]
        values += [found[p].path_plane_loss[row] for p in POLICIES]
        print(f"| {steps[row]} | " + " | ".join(f"{v:.3g}" for v in values) + " |")
    final = found["batch"].explained_variance_ratio
    print(f"\nThe plane holds {final[0]:.1%} + {final[1]:.1%} of the variance of {len(steps)} snapshots.")


if __name__ == "__main__":
    main(*sys.argv[1:])
