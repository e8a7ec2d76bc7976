"""Float32 masters of half-precision parameters are recorded on request."""

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Storage, Trajectory, record

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


class MasterSGD(torch.optim.Optimizer):
    """Keeps masters of its own, in its state or at the parameters, as mixed-precision optimizers do."""

    def __init__(self, parameters, keep):
        super().__init__(parameters, {"lr": 1e-3})
        self.masters = [p.detach().float() for p in self.param_groups[0]["params"]]
        for p, master in zip(self.param_groups[0]["params"], self.masters, strict=True):
            if keep == "state":
                self.state[p] = {"momentum": torch.zeros_like(master), "master_param": master}
            elif keep == "attribute":
                p.main_param = master

    @torch.no_grad()
    def step(self):
        for p, master in zip(self.param_groups[0]["params"], self.masters, strict=True):
            master.sub_(p.grad.float(), alpha=1e-3)
            p.copy_(master)


def train(run, keep, dtype=torch.bfloat16, steps=5, **options):
    """A loop with masters, kept as `keep` says; returns the masters and the model's weights after every step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)).to(dtype)
    nn.init.zeros_(model[1].weight)  # as adapters begin: two tensors of the same shape and numbers
    nn.init.zeros_(model[2].weight)
    parameters = list(model.parameters())
    if keep == "groups":  # the loop's own: it copies gradients there and weights back
        masters = [nn.Parameter(p.detach().float()) for p in parameters]
        optimizer = torch.optim.SGD(masters, lr=1e-3)
    else:
        optimizer = MasterSGD(parameters, keep)
        masters = optimizer.masters
    log = [[p.detach().float().clone() for p in masters]], [[p.detach().float().clone() for p in parameters]]
    with record(model, optimizer, run, every=1, **options):
        for _ in range(steps):
            model(X.to(dtype)).float().square().mean().backward()
            if keep == "groups":
                for p, master in zip(parameters, masters, strict=True):
                    master.grad = p.grad.float()
            optimizer.step()
            with torch.no_grad():
                for p, master in zip(parameters, masters, strict=True):
                    p.copy_(master)
                    p.grad = None
            for place, values in zip(log, (masters, parameters), strict=True):
                place.append([v.detach().float().clone() for v in values])
    return [np.stack([torch.cat([v.flatten() for v in each]).numpy() for each in place]) for place in log]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keep", ["groups", "state", "attribute"])
def test_masters_are_recorded_on_request(tmp_path, keep, dtype):
    masters, weights = train(tmp_path / "run.zarr", keep, dtype, storage=Storage(dtype="float32"))
    assert not np.array_equal(masters, weights)
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.stored_dtype == "float32"
    np.testing.assert_array_equal(t.block(), masters)
    assert t.doubts == ()


def test_without_being_asked_for_the_rows_are_the_models(tmp_path):
    _, weights = train(tmp_path / "run.zarr", "groups")
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.stored_dtype == "bfloat16"
    np.testing.assert_array_equal(t.block(), weights)


def test_without_masters_the_rows_are_the_models(tmp_path):
    _, weights = train(tmp_path / "run.zarr", "nowhere", storage=Storage(dtype="float32"))
    np.testing.assert_array_equal(Trajectory.open(tmp_path / "run.zarr").block(), weights)


@pytest.mark.filterwarnings("ignore:The weights changed after the last")
def test_a_master_of_other_weights_is_none(tmp_path):
    """After the model was changed by hand its rows are the model's, whatever the optimizer holds."""
    model = nn.Linear(3, 2).bfloat16()
    masters = [nn.Parameter(p.detach().float() + 1e-5) for p in model.parameters()]
    optimizer = torch.optim.SGD(masters, lr=0.1)
    with record(model, optimizer, tmp_path / "run.zarr", every=1, storage=Storage(dtype="float32")):
        for p in masters:
            p.grad = torch.ones_like(p)
        optimizer.step()
        model.weight.data += 1
    row = Trajectory.open(tmp_path / "run.zarr")[-1].weights
    np.testing.assert_array_equal(row[:6], model.weight.detach().float().numpy().ravel())
