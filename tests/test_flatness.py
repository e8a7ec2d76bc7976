"""Flatness of a solution, against closed forms of quadratics, and what a run keeps of it."""

import json
import math

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from landscape_hooks import Flatness, Snapshots, flatness, record
from landscape_hooks.analysis.curvature import flatness as module
from landscape_hooks.cli.description import describe, description_text
from landscape_hooks.errors import DamagedRunError, LandscapeError, SurfaceError

SPECTRUM = torch.tensor([1.0, 2.0, 4.0, 0.5], dtype=torch.float64)
W = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
X = torch.ones(2, 4, dtype=torch.float64)


class Bowl(nn.Module):
    """`floor` + w'diag(SPECTRUM)w / 2, of a matrix w that has two rows as its filters."""

    def __init__(self, floor=0.0, scale=1.0):
        super().__init__()
        self.w = nn.Parameter(scale * W.reshape(2, 2).clone())
        self.register_buffer("curve", SPECTRUM.reshape(2, 2))
        self.floor = floor

    def forward(self, x):
        return self.floor + 0.5 * (self.curve * self.w**2).sum() + 0 * x.sum()


def recorded(place, model, steps=()):
    with record(model, None, place, objective=lambda m, x: m(x), data=X, every=1) as recorder:
        for scale in steps:
            with torch.no_grad():
                model.w *= scale
            recorder.step()
    return place


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("flatness") / "run.zarr", Bowl(scale=2.0), [0.5])


@pytest.fixture(scope="module")
def found(run):
    return flatness(run, progress=False)


def bowl(w):
    return 0.5 * (SPECTRUM * w**2).sum().item()


def test_the_measures_are_those_of_the_quadratic(found):
    assert (found.step, found.loss) == (1, pytest.approx(bowl(W)))
    assert found["lambda_max"].value == pytest.approx(4)
    assert found["trace"].value == pytest.approx(7.5)
    gradient = SPECTRUM * W
    assert found["sam"].value == pytest.approx(bowl(W + 0.05 * gradient / gradient.norm()) - bowl(W))
    away = 0.5 * W**2 * gradient / (W * gradient).norm()
    assert (away / W).norm().item() == pytest.approx(0.5)
    assert found["asam"].value == pytest.approx(bowl(W + away) - bowl(W))


@pytest.mark.parametrize(("name", "rho", "scale"), [("sam", 0.05, torch.ones(4)), ("asam", 0.5, W.abs())])
def test_the_error_of_the_first_order_is_what_is_lacking_to_the_maximum(found, name, rho, scale):
    generator = torch.Generator().manual_seed(0)
    ball = torch.randn(200_000, 4, generator=generator, dtype=torch.float64)
    moved = W + rho * scale * ball / ball.norm(dim=1, keepdim=True)
    most = (0.5 * (SPECTRUM * moved**2).sum(dim=1)).max().item() - bowl(W)
    row = found[name]
    assert row.value < most <= row.value + row.error + 1e-9
    assert row.value + row.error == pytest.approx(most, rel=1e-2)


def test_the_radius_is_where_the_loss_has_doubled(found):
    generator, radii = torch.Generator().manual_seed(0), []
    for _ in range(10):
        d = torch.randn(4, generator=generator, dtype=torch.float64).reshape(2, 2)
        d = (d * (W.reshape(2, 2).norm(dim=1) / d.norm(dim=1))[:, None]).reshape(-1)
        # r²d'Hd/2 + r w'Hd = L
        a, b, c = 0.5 * (SPECTRUM * d * d).sum(), (SPECTRUM * W * d).sum(), -bowl(W)
        radii.append(((-b + (b * b - 4 * a * c).sqrt()) / (2 * a)).item())
    low, middle, high = (np.quantile(radii, q, method="nearest") for q in (0.25, 0.5, 0.75))
    assert found["radius"].value == pytest.approx(middle, rel=0.01)
    assert found["radius"].error == pytest.approx((high - low) / 2, rel=0.1)
    assert "doubled" in found["radius"].definition


@pytest.mark.parametrize(
    ("floor", "steps", "words", "level"),
    [(0.0, [0.05], "1% of the training's whole fall", 0.01), (-100.0, [0.5], "risen by |L|", None)],
)
def test_the_radius_of_losses_near_zero_and_below(tmp_path, floor, steps, words, level):
    start = bowl(W)
    end = start * steps[0] ** 2
    found = flatness(recorded(tmp_path / "run.zarr", Bowl(floor), steps), progress=False, directions=3)
    assert words in found["radius"].definition
    if level is not None:
        # |d| = |w|, so that by r the loss has risen by about r² |w|² d'Hd
        assert found["radius"].value == pytest.approx(math.sqrt(level * (start - end) / end), rel=0.5)


def test_at_an_exact_minimum_there_is_no_ascent(tmp_path):
    found = flatness(recorded(tmp_path / "run.zarr", Bowl(1.0), [0.0]), progress=False)
    assert math.isnan(found["sam"].value)
    assert "gradient is zero" in found["sam"].said
    assert "leave alone" in found["radius"].said, "directions as long as filters of zeros"


def test_it_is_read_back_replaced_and_listed(run, found, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(module._Around, "second", lambda *a: pytest.fail("computed again"))
        assert flatness(run, progress=False).rows == found.rows
    assert flatness(run, rho=0.1, progress=False)["sam"].value > found["sam"].value
    first = flatness(run, snapshots=Snapshots(stop=0), progress=False)
    assert (first.step, first.loss) == (0, pytest.approx(4 * found.loss))
    assert flatness(run, progress=False).rows == found.rows == Flatness.open(run).rows
    told = describe(run)
    assert told["flatness"]["rows"][0]["value"] == pytest.approx(4)
    assert "arXiv:2010.01412" in description_text(told)


def test_analyze_measures_it_too(run, found, capsys):
    from landscape_hooks.cli import main

    common = ["analyze", str(run), "--size", "2", "--directions", "random", "--quiet", "--no-tune"]
    main([*common, "--flatness"])
    said = capsys.readouterr().out
    assert all(line in said for line in found.lines())
    main([*common, "--flatness", "--json"])
    assert json.loads(capsys.readouterr().out)["flatness"][0]["rows"][0]["value"] == pytest.approx(4)
    main([*common, "--json"])
    assert "flatness" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "options", [{"rho": 0}, {"rho": math.nan}, {"adaptive_rho": "x"}, {"directions": 0}, {"probes": 1}, {"seed": 1.5}]
)
def test_options_that_mean_nothing_are_refused(run, options):
    with pytest.raises(LandscapeError):
        flatness(run, progress=False, **options)


def test_a_run_without_it_and_a_damaged_one(tmp_path):
    place = recorded(tmp_path / "run.zarr", Bowl())
    with pytest.raises(SurfaceError, match="--flatness"):
        Flatness.open(place)
    root = zarr.open_group(place)
    for rows in ("x", [1], [{"value": "much", "error": 0}]):
        root.require_group("flatness").update_attributes({"complete": True, "rows": rows, "step": 0, "loss": 0})
        with pytest.raises(DamagedRunError):
            Flatness.open(place)
