"""Losses: that of each sample, so that differences between networks have the standard error of a paired comparison."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from landscape_hooks.objective.graph.weighing import weighted
from landscape_hooks.objective.objective import Objective, Statistics


@dataclass(frozen=True)
class Losses:
    """The losses (N,) of the samples, or of the batches where no more is known; `shares` (N,) are their weights."""

    values: torch.Tensor
    shares: torch.Tensor

    @classmethod
    def at(cls, objective: Objective, weights: torch.Tensor, buffers: torch.Tensor, statistics: Statistics) -> Losses:
        """Those at weights (D,) and buffers (B,)."""
        values, counts, shares = [], [], []
        with torch.no_grad():
            for value, count, own in objective.by_batch(weights, buffers, statistics):
                values.append(value.reshape(-1).double().cpu())
                counts += [1.0] * value.numel() if objective.per_sample else [float(count)]
                shares += [share.cpu() for share in own[:1]]
        weights_of = torch.cat(shares) if shares else torch.tensor(counts, dtype=torch.float64)
        return cls(torch.cat(values), weights_of)

    def mean(self) -> tuple[float, float]:
        """The mean loss and its standard error (NaN where unknown)."""
        mean, error = weighted(self.values, self.shares).tolist()
        return mean, error

    def above(self, one: Losses, other: Losses, share: float) -> tuple[float, float]:
        """How far these lie above the line from those of `one` to those of `other`, and the standard error of that.

        The three are of the same samples: the error is that of the mean of what each sample says.
        """
        means = [losses.mean()[0] for losses in (self, one, other)]
        height = means[0] - (1 - share) * means[1] - share * means[2]
        paired = self.values - (1 - share) * one.values - share * other.values
        same = torch.equal(self.shares, one.shares) and torch.equal(self.shares, other.shares)
        return height, float(weighted(paired, self.shares)[1]) if same else float("nan")
