"""Curvature along the path: quadratics with known spectra, dense Hessians, thresholds, what a run keeps."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import zarr
from torch import nn
from torch.nn import functional as F

from landscape_hooks import Curvature, Snapshots, curvature, record
from landscape_hooks.analysis.curvature import curvature as module
from landscape_hooks.analysis.curvature.critical import critical_sharpness
from landscape_hooks.analysis.curvature.threshold import Rule, _limit, rate_rows, rule_of, thresholds
from landscape_hooks.cli.description import describe
from landscape_hooks.errors import DamagedRunError, LandscapeError, RunError, SurfaceError
from landscape_hooks.evaluation.plane_loss import SnapshotLoss
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.curve import NARROW, Curve
from landscape_hooks.recording.watch.rates import described

SPECTRUM = np.array([*np.linspace(-1, 3, 37), 5.0, 7.0, 10.0])


class Quadratic(nn.Module):
    """w'Hw / 2 for a symmetric H of a known spectrum, over samples that do not matter."""

    def __init__(self, spectrum=SPECTRUM, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        size = len(spectrum)
        basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        self.register_buffer("matrix", ((basis * torch.tensor(spectrum)) @ basis.T).to(dtype))
        self.w = nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype))

    def forward(self, x):
        return 0.5 * self.w @ self.matrix @ self.w + 0 * x.sum()


ONES = torch.ones(2, 1, dtype=torch.float64)


def train(place, optimizer_of, steps=6, model=None, every=1):
    model = model or Quadratic()
    optimizer = optimizer_of(model.parameters())
    with record(model, optimizer, place, objective=lambda model, x: model(x), data=ONES, every=every):
        for _ in range(steps):
            optimizer.zero_grad()
            model(ONES).backward()
            optimizer.step()
    return place


@pytest.fixture(scope="module")
def quadratic(tmp_path_factory):
    place = tmp_path_factory.mktemp("curvature") / "run.zarr"
    return train(place, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, weight_decay=0.25))


@pytest.fixture(scope="module")
def found(quadratic):
    return curvature(quadratic, top=3, probes=16, progress=False, name="whole")


# -- known spectra -------------------------------------------------------------------------------------------
def test_a_quadratic_has_its_spectrum_at_every_snapshot(found):
    assert len(SPECTRUM) > NARROW  # so it is iterated
    assert np.allclose(found.eigenvalues, [10, 7, 5], rtol=1e-7)
    assert (np.abs(found.eigenvalues - [10, 7, 5]) <= found.residuals + 1e-12).all()
    assert (np.abs(found.trace - SPECTRUM.sum()) < 5 * found.trace_stderr).all()
    assert (found.trace_stderr > 0).all()


def test_the_curvature_of_a_step_is_that_of_its_direction(found, quadratic):
    matrix, root = Quadratic().matrix.numpy(), zarr.open_group(quadratic, mode="r")
    weights = root["trajectory/weights"][: len(found)]
    steps = np.diff(weights, axis=0)
    expected = np.einsum("ni,ij,nj->n", steps, matrix, steps) / (steps**2).sum(axis=1)
    assert np.allclose(found.step_curvature[:-1], expected)
    assert np.isnan(found.step_curvature[-1])
    gradients = weights @ matrix
    assert np.allclose(found.gradient_norm, np.linalg.norm(gradients, axis=1))
    assert np.allclose(
        found.gradient_curvature, np.einsum("ni,ij,nj->n", gradients, matrix, gradients) / (gradients**2).sum(axis=1)
    )
    assert np.allclose(found.loss, np.einsum("ni,ij,nj->n", weights, matrix, weights) / 2)


def test_the_threshold_has_the_momentum_and_the_weight_decay(found):
    assert np.allclose(found.learning_rate, 0.05)
    assert np.allclose(found.threshold, 2 * 1.5 / 0.05 - 0.25)


def test_critical_sharpness_is_the_curvature_along_the_gradient_of_a_quadratic(quadratic, found):
    critical = curvature(quadratic, method="critical", progress=False, snapshots=Snapshots(only=[0, 3, 6]))
    rows = [0, 3, 6]
    assert critical.eigenvalues.shape == (3, 0)
    assert critical.name == "critical"
    assert (
        np.abs(critical.critical_gradient - found.gradient_curvature[rows]) <= critical.critical_gradient_error
    ).all()
    assert (critical.critical_gradient_error < 0.02 * critical.critical_gradient).all()
    # along the step d of momentum: L(w + s d / η) rises from s = -2 g'd / (d'Hd / η) on
    matrix = Quadratic().matrix.numpy()
    weights = zarr.open_group(quadratic, mode="r")["trajectory/weights"][:7]
    way = (weights[1] - weights[0]) / 0.05
    rise = -2 * (weights[0] @ matrix @ way) / (way @ matrix @ way)
    assert abs(critical.critical_step[0] - 2 / rise) <= critical.critical_step_error[0]
    assert np.isnan(critical.critical_step[-1])


def test_a_narrow_model_is_exact_and_the_rest_of_its_columns_is_empty():
    model = Quadratic([1.0, -2.0, 4.0])
    objective = Objective.of(model, objective=lambda model, x: model(x), data=ONES)
    curve = Curve(objective, model.w.detach().numpy(), np.empty(0), "running")
    assert curve.size == 3
    found = Curve(objective, model.w.detach().numpy(), model.matrix.reshape(-1).numpy(), "running").top(
        5, seed=0, tolerance=1e-4
    )
    assert np.allclose(found.values[:3], [4, 1, -2])
    assert np.isnan(found.values[3:]).all()
    assert Curve(objective, model.w.detach().numpy(), model.matrix.reshape(-1).numpy(), "running").trace(
        2, seed=0
    ) == pytest.approx((3, 0))


def test_a_loss_without_curvature_has_zeros():
    model = nn.Linear(40, 1)
    objective = Objective.of(model, objective=lambda model, x: model(x).mean(), data=torch.ones(3, 40))
    curve = Curve(objective, np.ones(41, np.float32), np.empty(0, np.float32), "running")
    assert curve.top(2, seed=0, tolerance=1e-4).values.tolist() == [0, 0]
    assert curve.trace(2, seed=0) == (0, 0)


# -- networks against their dense Hessians -------------------------------------------------------------------
X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(torch.tanh(self.norm(self.a(x))))


class Attends(nn.Module):
    """Attention over six tokens of one number, its output tied to its input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.q, self.head = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.k = self.q

    def forward(self, x):
        x = self.up(x[..., None])
        return self.head(F.scaled_dot_product_attention(self.q(x), self.k(x), x).mean(1))


def halves():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).bfloat16()


def frozen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    model[2].requires_grad_(False)
    return model


def flat(layout, model):
    tensors = layout.tensors(model)
    return torch.cat([t.detach().reshape(-1).float() for t in tensors]) if tensors else torch.empty(0)


@pytest.mark.everyday(3)
@pytest.mark.parametrize("policy", ["none", "batch", "fixed", "interpolate", "recalibrate"])
def test_eigenvalues_are_those_of_the_dense_hessian_under_each_policy(policy):
    model = Normed()
    model(X + 1)  # so that the running statistics are not those of the samples
    objective = Objective.of(model, criterion=F.cross_entropy, data=[(X[:12], Y[:12]), (X[12:], Y[12:])])
    theta, buffers = flat(objective.layout, model), flat(objective.buffer_layout, model)
    own = buffers * 1.5 + 0.1
    loss = SnapshotLoss(objective, buffers, policy)
    held, statistics = loss.held_at(theta, own)
    full = torch.autograd.functional.hessian(lambda w: objective.loss(w, held, statistics=statistics), theta).double()
    curve = Curve(objective, theta.numpy(), held, statistics)
    pairs = curve.top(3, seed=0, tolerance=1e-4)
    assert len(theta) > NARROW
    assert np.allclose(pairs.values, torch.linalg.eigvalsh(full).flip(0)[:3], rtol=1e-4)
    trace, error = curve.trace(64, seed=0)
    assert abs(trace - float(full.trace())) < 4 * error
    # the loss that is differentiated is the loss of the snapshot
    assert objective.evaluate(theta, held, statistics=statistics).mean == pytest.approx(
        loss.of_snapshot(theta, own).mean, rel=1e-5
    )


def test_attention_and_tied_weights_have_the_dense_hessian_of_the_formula():
    model = Attends()
    objective = Objective.of(model, criterion=F.cross_entropy, data=(X, Y))
    theta = flat(objective.layout, model)

    def plain(w):
        named = objective.layout.views(w)
        x = F.linear(X[..., None], named["up.weight"], named["up.bias"])
        q = F.linear(x, named["q.weight"], named["q.bias"])
        attended = (q @ q.transpose(-1, -2) / 2).softmax(-1) @ x
        return F.cross_entropy(F.linear(attended.mean(1), named["head.weight"], named["head.bias"]), Y)

    full = torch.autograd.functional.hessian(plain, theta).double()
    pairs = Curve(objective, theta.numpy(), np.empty(0, np.float32), "running").top(2, seed=0, tolerance=1e-4)
    assert np.allclose(pairs.values, torch.linalg.eigvalsh(full).flip(0)[:2], rtol=1e-4)


def test_bfloat16_has_the_curvature_of_its_network_within_its_rounding():
    model = halves()
    objective = Objective.of(model, criterion=lambda y, t: F.cross_entropy(y.float(), t), data=(X.bfloat16(), Y))
    theta = flat(objective.layout, model)
    exact = Objective.of(model.float(), criterion=F.cross_entropy, data=(X.bfloat16().float(), Y))
    full = torch.autograd.functional.hessian(lambda w: exact.loss(w, torch.empty(0)), theta).double()
    pairs = Curve(objective, theta.numpy(), np.empty(0, np.float32), "running").top(1, seed=0, tolerance=1e-4)
    assert pairs.values[0] == pytest.approx(float(torch.linalg.eigvalsh(full)[-1]), rel=0.05)
    assert pairs.residuals[0] > 1e-4 * pairs.values[0]  # the rounding is told


def test_a_frozen_layer_has_no_part_in_the_hessian(tmp_path):
    model = frozen()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with record(model, optimizer, tmp_path / "run.zarr", criterion=nn.CrossEntropyLoss(), data=(X, Y), every=1):
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    found = curvature(tmp_path / "run.zarr", top=1, progress=False)
    moving = [p for p in model.parameters() if p.requires_grad]
    theta = torch.cat([p.detach().reshape(-1) for p in moving])

    def loss(w):
        parts = iter(w.split([p.numel() for p in moving]))
        named = {name: next(parts).view_as(p) if p.requires_grad else p for name, p in model.named_parameters()}
        return F.cross_entropy(torch.func.functional_call(model, named, (X,)), Y)

    full = torch.autograd.functional.hessian(loss, theta).double()
    assert found.attrs["parameters"] == len(theta)
    assert found.sharpness[-1] == pytest.approx(float(torch.linalg.eigvalsh(full)[-1]), rel=1e-4)


# -- thresholds ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.5, "dampening": 0.3},
        {"momentum": 0.8, "nesterov": True},
        {"dampening": 0.3},
        {"momentum": 0.9, "weight_decay": 0.3},
        {"weight_decay": 0.3},
    ],
)
def test_steps_of_sgd_are_stable_up_to_the_threshold_and_not_beyond(options):
    def last(sharpness):
        w = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.1, foreach=False, **options)
        for _ in range(400):
            w.grad = sharpness * w.detach()
            optimizer.step()
        return float(w.detach().abs())

    (said,) = described([torch.optim.SGD([torch.ones(1)], lr=0.1, **options)])
    rule = rule_of(group({"optimizers": [said]}))
    limit = _limit(0.1, options.get("momentum", 0.0), rule.groups[0])
    assert last(0.97 * limit) < 1 < last(1.03 * limit)


def group(attributes):
    return zarr.create_group(zarr.storage.MemoryStore(), attributes=attributes)


class Steps:
    """What `thresholds` reads of a trajectory."""

    def __init__(self, rates, momenta, steps=None):
        self.learning_rates, self.momenta = np.atleast_2d(rates).T, np.atleast_2d(momenta).T
        self.steps = np.arange(len(self.learning_rates)) if steps is None else np.array(steps)


def test_the_rate_is_that_of_the_step_away_from_the_snapshot():
    rates = np.array([[np.nan], [0.1], [0.2], [0.3]])
    assert rate_rows(np.arange(4), rates, [0, 1, 2, 3]).tolist() == [1, 2, 3, 3]
    assert rate_rows(np.array([0, 5, 10, 11]), rates, [0, 1, 2, 3]).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize(
    ("rule", "rates", "words"),
    [
        (Rule("SGD", True), [[0.1], [0.2]], "different learning rates"),
        (Rule("SGD", True, ({"nesterov": 1.0}, {})), [[0.1], [0.1]], "different"),
        (Rule("SGD", True, ({}, {}, {})), [[0.1], [0.1]], "added on the way"),
        (Rule("SGD", True, ({},)), [[0.1], [0.1]], "added on the way"),
        (Rule("SGD", True), [[np.nan], [np.nan]], "does not have the learning rate"),
        (Rule("SGD", True, ({"maximize": 1.0},)), [[0.1]], "uphill"),
        (Rule("SGD", True), [[0.0]], "rate is 0"),
        (Rule("SGD", True, ({"weight_decay": np.nan},)), [[0.1]], "constants are unknown"),
    ],
)
def test_no_threshold_where_there_is_none(rule, rates, words):
    rates = np.array(rates, dtype=float)
    _, limits, said = thresholds(rule, Steps(rates, np.full_like(rates, 0.9)), [0])
    assert np.isnan(limits).all()
    assert words in said


def test_an_optimizer_that_cannot_be_looked_at_is_another():
    class Odd:
        optimizer = property(lambda self: 1 / 0)

    class Without(torch.optim.SGD):
        param_groups = property(lambda self: [None], lambda self, value: None)

    assert [found["rule"] for found in described([Odd(), object.__new__(Without)])] == ["other", "other"]


def test_so_many_snapshots_are_evenly_spread():
    steps = np.arange(0, 110, 10)
    assert Snapshots(count=3).places(steps).tolist() == [0, 5, 10]
    assert Snapshots(count=1).places(steps).tolist() == [10]
    assert Snapshots(count=50).places(steps).tolist() == list(range(11))
    assert Snapshots(start=50, count=2).places(steps).tolist() == [5, 10]
    assert Snapshots(count=3).attrs == {"count": 3}


def test_groups_with_the_same_numbers_have_one_threshold():
    rates = np.full((2, 1), 0.1)
    common, limits, said = thresholds(Rule("SGD", True, ({}, {})), Steps(rates, rates * 0), [0])
    assert (common[0], limits[0], said) == (0.1, 20, "")


def test_other_rules_are_named_and_have_no_threshold():
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    class Named(torch.optim.SGD):
        pass

    w = [torch.ones(1, requires_grad=True)]
    assert [found["rule"] for found in described([Named(w, lr=1), Own(w, lr=1), torch.optim.Adam(w)])] == [
        "sgd", "other", "other",
    ]  # fmt: skip
    adam = rule_of(group({"optimizers": described([torch.optim.Adam(w)])}))
    assert not adam.sgd
    assert "Adam" in adam.said
    assert "2 optimizers" in rule_of(group({"optimizers": described([Named(w, lr=1)] * 2)})).said
    assert "does not say" in rule_of(group({})).said
    assert rule_of(group({}), "sgd").sgd
    with pytest.raises(RunError, match="Adam"):
        rule_of(group({"optimizers": described([torch.optim.Adam(w)])}), "sgd")
    for hostile in ("x", [1], [{"rule": "sgd", "groups": [{"dampening": "x"}]}]):
        with pytest.raises(RunError):
            rule_of(group({"optimizers": hostile}))


def test_adam_and_its_run_say_why_there_is_no_threshold(tmp_path):
    train(tmp_path / "run.zarr", lambda p: torch.optim.Adam(p, lr=0.01), steps=1)
    found = curvature(tmp_path / "run.zarr", top=1, progress=False, snapshots=1)
    assert np.isnan(found.threshold).all()
    assert found.learning_rate.tolist() == [0.01]
    assert any("not of adaptive" in sentence for sentence in found.attrs["report"])


# -- critical sharpness ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("start", [1e-9, 0.3, 1e9])
def test_the_critical_step_is_found_from_anywhere(start):
    value, error = critical_sharpness(lambda s: (1 - s) ** 2 * 3.5, start, 1e-16)
    assert abs(value - 1) <= error < 0.02


def test_where_the_loss_does_not_fall_or_never_rises():
    assert np.isnan(critical_sharpness(lambda s: s, 1.0, 1e-16)).all()
    assert critical_sharpness(lambda s: -s, 1.0, 1e-16)[0] == 0
    assert np.isnan(critical_sharpness(lambda s: 1 + 1e-9 * (1 - s) ** 2, 1.0, 1e-7)).all()  # it is all rounding
    assert critical_sharpness(lambda s: math.nan if s > 2 else -s, 1.0, 1e-16)[0] == pytest.approx(1, rel=0.02)


# -- what a run keeps --------------------------------------------------------------------------------------------
def numbers(found):
    return {key: value for key, value in found.columns().items()}


def test_it_is_read_back_and_goes_on_where_it_was_interrupted(quadratic, found, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module.Measure, "at", lambda *a: pytest.fail("computed again"))
        again = curvature(quadratic, top=3, probes=16, progress=False, name="whole")
    at, left = module.Measure.at, [3]

    def interrupted(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return at(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module.Measure, "at", interrupted)
        with pytest.raises(KeyboardInterrupt):
            curvature(quadratic, top=3, probes=16, progress=False, name="twice")
    half = Curvature.open(quadratic, "twice")
    assert half.evaluated.sum() == 3
    assert not half.complete
    assert "3 of 7" in half.sentences()[0]
    with pytest.raises(SurfaceError, match="unfinished"):
        curvature(quadratic, top=2, progress=False, name="twice")
    done = curvature(quadratic, top=3, probes=16, progress=False, name="twice")
    for key, value in numbers(found).items():
        assert np.array_equal(value, numbers(again)[key], equal_nan=True), key
        assert np.array_equal(value, numbers(done)[key], equal_nan=True), key
    assert curvature(quadratic, top=1, snapshots=2, progress=False, name="twice").eigenvalues.shape == (2, 1)


def test_what_fails_at_once_leaves_nothing(quadratic, monkeypatch):
    monkeypatch.setattr(module.Measure, "at", lambda *a: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.raises(RuntimeError):
        curvature(quadratic, progress=False, name="broken")
    assert "broken" not in zarr.open_group(quadratic, mode="r")["curvature"]


def test_a_snapshot_that_is_not_finite_is_told_and_skipped(tmp_path):
    model = Quadratic()
    with record(model, None, tmp_path / "run.zarr", objective=lambda m, x: m(x), data=ONES, every=1) as recorder:
        for step in range(3):
            with torch.no_grad():
                model.w *= math.nan if step == 1 else 0.5 if step == 0 else 0
                model.w.nan_to_num_(0.25 if step == 2 else math.nan)
            recorder.step()
    found = curvature(tmp_path / "run.zarr", top=1, progress=False)
    assert found.complete
    assert found.diverged.tolist() == [2]
    assert np.isfinite(found.sharpness).tolist() == [True, True, False, True]
    assert np.isnan(found.step_curvature[1]), "the way to a snapshot that is not finite"
    assert any("step 2" in sentence for sentence in found.attrs["report"])


def test_the_random_states_of_the_user_stay(quadratic):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    curvature(quadratic, top=1, snapshots=1, progress=False, name="states")
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002


def test_a_part_of_the_network_has_the_hessian_of_that_part(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))

        def forward(self, x):
            return (self.a**2).sum() + 5 * (self.b**2).sum() + 0 * x.sum()

    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with record(model, optimizer, tmp_path / "run.zarr", objective=lambda m, x: m(x), data=torch.ones(2, 1)):
        model(torch.ones(1)).backward()
        optimizer.step()
    found = curvature(tmp_path / "run.zarr", top=2, snapshots=Snapshots(tensors="a"), progress=False)
    assert np.allclose(found.eigenvalues, [2, 2])


@pytest.mark.everyday(5)
@pytest.mark.parametrize(
    "options",
    [
        {"top": 0}, {"top": 1.5}, {"top": True}, {"probes": 1}, {"seed": -1}, {"method": "pca"}, {"snapshots": 0},
        {"snapshots": "all"}, {"samples": 0}, {"batch_norm": "x"}, {"device": "nowhere"}, {"name": "a/b"},
        {"optimizer": "adam"},
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused_before_any_work(quadratic, options):
    with pytest.raises(LandscapeError):
        curvature(quadratic, progress=False, **{"name": "refused", **options})
    assert "refused" not in zarr.open_group(quadratic, mode="r").get("curvature", {})


def test_the_edge_of_stability_is_said(found):

    flat_line = replace(found, threshold=np.full(7, 10.2))
    assert any("edge of stability" in sentence and "step 0" in sentence for sentence in flat_line.sentences())
    assert not any("edge" in sentence for sentence in found.sentences())


# -- the figure and the command -------------------------------------------------------------------------------
def texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_figure_shows_sharpness_threshold_and_loss(found):
    from matplotlib.figure import Figure

    from landscape_hooks import curvature_figure

    upper, lower = curvature_figure(found).axes
    lines = {line.get_label(): line.get_ydata() for line in upper.lines}
    assert np.array_equal(lines["sharpness $\\lambda_1$"], found.sharpness)
    assert np.array_equal(lower.lines[0].get_ydata(), found.loss)
    assert any("above the picture" in text for text in texts(upper)), "60 is far above 10"
    near = replace(found, threshold=np.full(7, 12.0))
    upper = curvature_figure(near, style="paper").axes[0]
    assert [12.0] * 7 in [list(line.get_ydata()) for line in upper.lines]
    axes = Figure().subplots()
    drawn = curvature_figure([found, near], names=["$a", "b"], ax=axes)
    assert "samples" in drawn.caption
    assert len(drawn.artists) > 3
    assert "\\$a" in texts(axes)
    with pytest.raises(SurfaceError):
        curvature_figure(replace(found, eigenvalues=found.eigenvalues * np.nan))


def test_the_command_prints_a_table_and_writes_json_and_the_figure(quadratic, found, tmp_path, capsys):
    from landscape_hooks.cli import main

    common = [
        "curvature",
        str(quadratic),
        "--name",
        "whole",
        "--quiet",
        "--snapshots",
        "20",
        "--top",
        "3",
        "--probes",
        "16",
    ]
    main([*common, "--png", str(tmp_path / "c.png")])
    said = capsys.readouterr().out
    assert said.splitlines()[0].split() == ["step", "loss", "λ1", "λ2", "λ3", "trace", "along", "step", "threshold"]
    assert "59.8" in said.splitlines()[1]
    assert len(said.splitlines()) > 8
    assert (tmp_path / "c.png").stat().st_size > 1000
    main([*common, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert np.allclose(told["columns"]["eigenvalue_1"], 10)
    assert told["columns"]["step_curvature"][-1] is None
    assert told["report"] == found.sentences()
    with pytest.raises(SystemExit):
        main([*common, "--png", "run.zarr"])
    main([common[0], str(quadratic), *common[1:], "--json", "--png", str(tmp_path / "two.png")])
    assert [each["report"] for each in json.loads(capsys.readouterr().out)] == [found.sentences()] * 2
    assert (tmp_path / "two.png").stat().st_size > 1000


def test_the_command_says_how_to_go_on_after_an_interruption(quadratic, monkeypatch, capsys):
    from landscape_hooks.cli import main

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Measure, "at", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["curvature", str(quadratic), "--name", "interrupted", "--quiet"])
    assert stopped.value.code == 130
    assert "same command" in capsys.readouterr().err


def test_a_damaged_curvature_is_an_error_and_a_half_written_one_is_none(quadratic, found, tmp_path):
    import shutil

    place = tmp_path / "run.zarr"
    shutil.copytree(quadratic, place)
    root = zarr.open_group(place)
    names = {*root["curvature"].group_keys()}
    root["curvature"].create_group("begun")
    root["curvature"].attrs["latest"] = ["whole"]
    assert Curvature.open(place).name == sorted(names)[-1]
    assert len(describe(place)["curvature"]) == len(names)
    del root["curvature/whole/trace"]
    with pytest.raises(DamagedRunError):
        Curvature.open(place, "whole")
    root.create_array("curvature/whole/trace", shape=(3,), dtype="float64")
    with pytest.raises(DamagedRunError, match="snapshot"):
        Curvature.open(place, "whole")
    with pytest.raises(SurfaceError, match="begun"):
        Curvature.open(place, "begun")


@pytest.mark.everyday(2)
@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": np.full(7, np.nan)},
        {"eigenvalues": np.full((7, 3), -2.0), "step_curvature": np.full(7, np.nan)},
        {"loss": np.zeros(7), "loss_stderr": np.full(7, np.nan)},
        {"evaluated": np.arange(7) < 2, "eigenvalues": np.where(np.arange(21).reshape(7, 3) < 6, 10.0, np.nan)},
        {"threshold": np.array([1.0, 2.0, 3.0, np.nan, 500.0, 1e9, 0.1])},
        {"attrs": {}},
    ],
)
@pytest.mark.filterwarnings("error")
def test_odd_numbers_have_a_figure_too(found, changes):
    from landscape_hooks import curvature_figure

    odd = replace(found, **changes)
    for style in ("screen", "paper"):
        curvature_figure(odd, style=style).savefig(io.BytesIO(), dpi=30)
    curvature_figure([odd, found]).savefig(io.BytesIO(), dpi=30)
    assert odd.sentences()


def test_a_run_says_by_what_rule_it_stepped_and_whether_it_stayed_so(tmp_path):
    model = nn.Linear(1, 1)
    parameters = list(model.parameters())
    for make, rule in ((torch.optim.SGD, "sgd"), (torch.optim.SGD, "sgd"), (torch.optim.Adam, "other")):
        optimizer = make(parameters, lr=0.1)
        with record(model, optimizer, tmp_path / "run.zarr", if_exists="resume"):
            model(torch.ones(1, 1)).sum().backward()
            optimizer.step()
        (said,) = zarr.open_group(tmp_path / "run.zarr", mode="r").attrs["optimizers"]
        assert said["rule"] == rule
    with record(model, None, tmp_path / "own.zarr"):
        pass
    assert zarr.open_group(tmp_path / "own.zarr", mode="r").attrs["optimizers"] == []


def test_a_large_model_is_left_to_the_critical_sharpness(quadratic, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 40)
    assert curvature(quadratic, snapshots=1, progress=False).method == "critical"
    assert curvature(quadratic, snapshots=1, method="hessian", name="one", progress=False).method == "hessian"
