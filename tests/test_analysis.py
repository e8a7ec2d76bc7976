"""analyze() on real runs: the stored surface is what its definition says, and comes back after a kill."""

import json
import shutil
import sys
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from landscape_hooks import Local, Random
from landscape_hooks.analysis import filling
from landscape_hooks.analysis.analyze import analyze
from landscape_hooks.cli.analyze import analyze as command
from landscape_hooks.errors import LandscapeError, ObjectiveError, PlaneError, RunError, SurfaceError
from landscape_hooks.objective.capture import capture
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane import stored_plane
from landscape_hooks.store.run import create_run, open_run
from landscape_hooks.surface.surface import Surface
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter


class Quadratic(nn.Module):
    """½(θ-c)ᵀH(θ-c) of its parameters θ; H and c are buffers, but of no running statistics."""

    def __init__(self, size=30, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        factor = torch.randn(size, size, generator=generator) / size**0.5
        self.register_buffer("hessian", factor @ factor.T + 0.1 * torch.eye(size))
        self.register_buffer("centre", torch.randn(size, generator=generator))
        self.theta = nn.Parameter(3 * torch.randn(size, generator=generator))

    def forward(self, batch):
        gap = self.theta - self.centre
        return 0.5 * gap @ self.hessian @ gap + 0 * batch.sum()

    def by_definition(self, weights):
        gap = np.asarray(weights, dtype=float) - self.centre.double().numpy()
        return 0.5 * gap @ self.hessian.double().numpy() @ gap


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)
    )  # fmt: skip


def samples(count=48):
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, 3, (count,), generator=generator)
    return 3 * (torch.randn(count, 1, 8, 8, generator=generator) + y[:, None, None, None]) + 4, y


def train(path, model, step, *, snapshots=8, every=2, learning_rate=0.05, **objective):
    """A short recorded training: snapshots written as the recorder writes them, the objective captured."""
    layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    root = create_run(str(path))
    writer = TrajectoryWriter.create(root, layout, buffers, groups=1)
    capture(root, model, **objective) if objective else None
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)

    def record(number, loss):
        writer.append(
            Rows(
                layout.flatten(model).detach().numpy()[None].copy(),
                buffers.flatten(model).detach().numpy()[None].copy(),
                {"step": [number], "epoch": [number / 10], "loss": [loss], "wall_time": [1e9 + number]},
                np.array([[learning_rate]]),
            )
        )

    record(0, np.nan)
    for number in range(1, (snapshots - 1) * every + 1):
        optimizer.zero_grad()
        loss = step(model)
        loss.backward()
        optimizer.step()
        if number % every == 0:
            record(number, float(loss.detach()))
    return path


@pytest.fixture(scope="module")
def quadratic_run(tmp_path_factory):
    model = Quadratic()
    batch = torch.zeros(4, 1)
    path = tmp_path_factory.mktemp("runs") / "quadratic.zarr"
    return train(path, model, lambda m: m(batch), objective=lambda m, b: m(b), data=batch), Quadratic()


@pytest.fixture(scope="module")
def bn_run(tmp_path_factory):
    model, (x, y) = network().train(), samples()
    path = tmp_path_factory.mktemp("runs") / "network.zarr"
    loss = nn.CrossEntropyLoss()
    return train(path, model, lambda m: loss(m(x), y), criterion=loss, data=[(x[:24], y[:24]), (x[24:], y[24:])])


def run(path, **options):
    """analyze() by the plain loop: two surfaces are then computed in the same way, whatever else the machine does."""
    return analyze(str(path), progress=False, **{"engine": Local(tune=False), **options})


@pytest.mark.everyday(2)
# -- what a surface is --------------------------------------------------------------------------------------
@pytest.mark.parametrize("directions", ["pca", Random("none")])
@pytest.mark.parametrize("size", [(7, 4), 6])
def test_a_quadratic_loss_gives_the_exact_paraboloid(quadratic_run, directions, size):
    path, model = quadratic_run
    surface = run(path, directions=directions, size=size, name="paraboloid", fresh=True)
    group = open_run(str(path))["surfaces/paraboloid"]
    origin, vectors = group["origin"][...].astype(float), group["directions"][...].astype(float)
    expected = [
        [model.by_definition(origin + a * vectors[0] + b * vectors[1]) for b in surface.beta] for a in surface.alpha
    ]
    np.testing.assert_allclose(surface.loss, expected, rtol=1e-5)
    snapshots = Trajectory.open(str(path))
    np.testing.assert_allclose(surface.path_loss, [model.by_definition(s.weights) for s in snapshots], rtol=1e-5)
    projected = origin + surface.path @ vectors
    np.testing.assert_allclose(surface.path_plane_loss, [model.by_definition(w) for w in projected], rtol=1e-5)
    gaps = [np.linalg.norm(s.weights - w) for s, w in zip(snapshots, projected, strict=True)]
    np.testing.assert_allclose(surface.path_distance, gaps, atol=1e-4)
    np.testing.assert_array_equal(surface.steps, snapshots.steps)


@pytest.mark.everyday(2)
@pytest.mark.parametrize("policy", ["batch", "fixed", "interpolate", "recalibrate"])
def test_the_surface_at_the_origin_is_the_final_snapshots_loss(bn_run, policy):
    surface = run(bn_run, size=(5, 6), batch_norm=policy, name=policy)
    assert surface.attrs["batch_norm"] == policy
    row, column = np.flatnonzero(surface.alpha == 0), np.flatnonzero(surface.beta == 0)
    at_origin = surface.loss[row, column]
    assert at_origin == surface.path_loss[-1] == surface.path_plane_loss[-1] == surface.attrs["origin_loss"]
    assert surface.path_distance[-1] < 1e-6
    final = Trajectory.open(str(bn_run))[-1]
    statistics = {"fixed": "running", "interpolate": "running"}.get(policy, policy)
    objective = Objective.load(open_run(str(bn_run)))
    own = objective.evaluate(torch.from_numpy(final.weights), torch.from_numpy(final.buffers), statistics=statistics)
    assert surface.path_loss[-1] == pytest.approx(own.mean, rel=1e-6)
    assert surface.path[0, 0] <= 0


def test_interpolated_statistics_bring_the_path_onto_the_surface(tmp_path):
    """Three snapshots lie in their plane: under `interpolate` it shows each one's own evaluation loss."""
    model, (x, y) = network().train(), samples()
    loss = nn.CrossEntropyLoss()
    path = train(tmp_path / "three.zarr", model, lambda m: loss(m(x), y), snapshots=3, criterion=loss, data=(x, y))
    moved, fixed = (run(path, size=3, batch_norm=p, name=p) for p in ("interpolate", "fixed"))
    objective, trajectory = Objective.load(open_run(str(path))), Trajectory.open(str(path))
    own = [objective.evaluate(torch.from_numpy(s.weights), torch.from_numpy(s.buffers)).mean for s in trajectory]
    np.testing.assert_allclose(moved.path_loss, own, rtol=1e-6)
    np.testing.assert_allclose(moved.path_plane_loss, own, rtol=1e-4)
    assert abs(fixed.path_plane_loss[0] - own[0]) > 0.1
    assert moved.path_distance.max() < 1e-4


def test_the_report_says_where_interpolated_variances_are_clamped(bn_run):
    """Far enough along a direction some variance that moves linearly passes below 0, where it is held."""
    near = run(bn_run, size=3, batch_norm="interpolate", name="near", extent=(-1e-3, 1e-3, -1e-3, 1e-3))
    far = run(bn_run, size=(9, 8), batch_norm="interpolate", name="far", extent=(-40, 40, -40, 40))
    group, trajectory = open_run(str(bn_run))["surfaces/far"], Trajectory.open(str(bn_run))
    # the buffers' own least squares: what combination of snapshots is a direction, and so how variances move
    weights = np.stack([s.weights for s in trajectory]).astype(float) - group["origin"][...]
    buffers = np.stack([s.buffers for s in trajectory]).astype(float) - group["origin_buffers"][...]
    combination = np.linalg.lstsq(weights.T, group["directions"][...].T.astype(float), rcond=1e-5)[0]
    moves = (combination.T @ buffers)[:, 4:8]  # after the four means
    variances = group["origin_buffers"][4:8]
    below = [(variances + a * moves[0] + b * moves[1] < 0).any() for a in far.alpha for b in far.beta]
    assert sum(below) > 0
    assert f"At {sum(below)} of 72 grid points" in " ".join(far.attrs["report"])
    assert "--batch-norm recalibrate" in " ".join(far.attrs["report"])
    assert not any("0 of 9 grid points" in s for s in near.attrs["report"])
    for policy in ("batch", "fixed"):
        other = run(bn_run, size=3, batch_norm=policy, name="other", extent=(-40, 40, -40, 40))
        assert "variance falls below 0" not in " ".join(other.attrs["report"])


def test_everything_that_defines_the_picture_is_stored(bn_run):
    surface = run(bn_run, size=(3, 4), directions="random", seed=7)
    assert surface.name == "random"
    assert Surface.open(str(bn_run)).name == "random"
    wanted = {"directions", "labels", "normalization", "centring", "batch_norm", "samples", "seed", "data_digest"}
    wanted |= {"origin_step", "extent", "versions", "report"}
    assert wanted <= set(surface.attrs)
    assert surface.attrs["batch_norm"] == "batch"
    assert surface.attrs["seed"] == 7
    assert surface.attrs["samples"] == 48
    assert surface.attrs["origin_step"] == 14
    assert surface.attrs["extent"] == [surface.alpha[0], surface.alpha[-1], surface.beta[0], surface.beta[-1]]
    assert surface.complete
    assert (surface.loss_stderr > 0).all()
    assert surface.alpha[0] <= -1
    assert surface.alpha[-1] >= 1
    assert len(surface.attrs["report"]) >= 3


def test_probe_samples_and_data_can_be_others(bn_run):
    fewer = run(bn_run, size=2, samples=24, name="fewer")
    assert fewer.attrs["samples"] == 24
    x, y = samples(72)
    other = run(bn_run, size=2, data=[(x[48:], y[48:])], name="other")
    assert other.attrs["samples"] == 24
    assert other.attrs["data_digest"] != fewer.attrs["data_digest"]
    model, (x, y) = network(), samples()
    live = Objective.of(model, criterion=nn.CrossEntropyLoss(), data=[(x[:24], y[:24])])
    np.testing.assert_allclose(run(bn_run, size=2, objective=live, name="live").loss, fewer.loss, rtol=1e-6)


def test_probe_and_training_data_side_by_side_on_one_plane(bn_run, tmp_path, monkeypatch):
    """Another --data changes the losses and nothing else: two surfaces of a run compare point by point."""
    (tmp_path / "training.py").write_text(
        "import torch\ndef batches():\n    generator = torch.Generator().manual_seed(7)\n"
        "    y = torch.randint(0, 3, (40,), generator=generator)\n"
        "    return [(torch.randn(40, 1, 8, 8, generator=generator), y)]\n"
    )
    monkeypatch.chdir(tmp_path)
    probe = run(bn_run, size=(4, 5), name="probe")
    training = run(bn_run, size=(4, 5), name="training", data="training:batches")
    group = open_run(str(bn_run))["surfaces"]
    for key in ("alpha", "beta", "origin", "directions"):
        np.testing.assert_array_equal(group[f"probe/{key}"][...], group[f"training/{key}"][...])
    np.testing.assert_array_equal(probe.path, training.path)
    assert probe.attrs["data_digest"] != training.attrs["data_digest"]
    assert (probe.loss != training.loss).all()
    import training as module  # the test's own file

    objective = Objective.load(open_run(str(bn_run))).with_data(module.batches(), 1000)
    final = Trajectory.open(str(bn_run))[-1]
    expected = objective.evaluate(torch.from_numpy(final.weights), torch.from_numpy(final.buffers), statistics="batch")
    assert training.path_loss[-1] == pytest.approx(expected.mean, rel=1e-6)
    del sys.modules["training"]


def test_a_coarser_precision_says_what_it_costs(bn_run):
    exact, coarse = (
        run(bn_run, size=4, name=p, engine=Local(precision=p, tune=False), batch_norm="fixed")
        for p in ("float32", "bfloat16")
    )
    said = next(s for s in coarse.attrs["report"] if s.startswith("bfloat16 changes the loss by up to"))
    tried = np.arange(16)[::3][:5]
    worst = np.abs(coarse.loss.ravel()[tried] / exact.loss.ravel()[tried] - 1).max()
    assert worst > 1e-5
    assert f"{worst:.1%} at 5 points tried" in said
    assert not any("bfloat16" in s for s in exact.attrs["report"])


def test_metrics_are_computed_beside_the_loss(bn_run, quadratic_run, tmp_path, monkeypatch):
    (tmp_path / "my_metric.py").write_text(
        "import torch\nfrom torch import nn\nfrom landscape_hooks.objective.objective import Objective\n"
        "from test_analysis_support import network, samples\n"
        "def norm():\n"
        "    return Objective.of(network(), objective=lambda m, b: m[5].weight.norm(), data=[samples()])\n"
    )
    support = type(sys)("test_analysis_support")
    support.network, support.samples = network, samples
    monkeypatch.setitem(sys.modules, "test_analysis_support", support)
    monkeypatch.chdir(tmp_path)
    surface = run(bn_run, size=(3, 4), batch_norm="fixed", metrics=["accuracy", "my_metric:norm"], name="metrics")
    group = open_run(str(bn_run))["surfaces/metrics"]
    layout, (x, y), model = Trajectory.open(str(bn_run)).layout, samples(), network().eval()
    ParameterLayout.of_buffers(model).assign(model, torch.from_numpy(group["origin_buffers"][...]))
    for i, alpha in enumerate(surface.alpha):
        for j, beta in enumerate(surface.beta):
            theta = group["origin"][...] + alpha * group["directions"][0] + beta * group["directions"][1]
            layout.assign(model, torch.from_numpy(theta.astype(np.float32)))
            with torch.no_grad():
                right = (model(x).argmax(dim=1) == y).float().mean().item()
            assert surface.metrics["accuracy"][i, j] == pytest.approx(right, abs=0.03)
            assert surface.metrics["norm"][i, j] == pytest.approx(model[5].weight.norm().item(), rel=1e-5)
    with pytest.raises(ObjectiveError, match="cross-entropy"):
        run(quadratic_run[0], size=2, metrics=["accuracy"])


# -- interrupted and resumed --------------------------------------------------------------------------------
def test_asking_again_computes_nothing_and_fresh_everything(bn_run, monkeypatch):
    first = run(bn_run, size=4, name="again")
    monkeypatch.setattr(filling, "evaluate", lambda *a, **k: pytest.fail("evaluated") if len(a[1]) else iter(()))
    again = run(bn_run, size=4, name="again")
    np.testing.assert_array_equal(first.loss, again.loss)
    monkeypatch.undo()
    np.testing.assert_allclose(run(bn_run, size=4, name="again", fresh=True).loss, first.loss, rtol=1e-6)


def test_ctrl_c_keeps_what_is_done_and_resuming_completes_it_bit_for_bit(bn_run, monkeypatch):
    whole = run(bn_run, size=5, name="whole")
    real = filling.evaluate

    def stopped(loss, points, **options):
        for number, tile in enumerate(real(loss, points, **options)):
            if number == 7:
                raise KeyboardInterrupt
            yield tile

    monkeypatch.setattr(filling, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(bn_run, size=5, name="stopped")
    monkeypatch.undo()
    partial = Surface.open(str(bn_run), "stopped")
    assert partial.evaluated.sum() == 7
    assert not partial.complete
    resumed = run(bn_run, size=5, name="stopped")
    for key in ("loss", "loss_stderr", "evaluated", "path_loss", "path_plane_loss"):
        np.testing.assert_array_equal(getattr(resumed, key), getattr(whole, key))


def test_a_loss_of_zero_is_a_result_and_is_not_computed_again(tmp_path):
    class Zero(Quadratic):
        def forward(self, batch):
            return 0 * super().forward(batch)

    batch = torch.zeros(4, 1)
    path = train(tmp_path / "zero.zarr", Zero(), lambda m: Quadratic.forward(m, batch), objective=lambda m, b: m(b),
                 data=batch)  # fmt: skip
    surface = run(path, size=(3, 4))
    assert (surface.loss == 0).all()
    assert surface.complete


@pytest.mark.more
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_and_resuming_gives_the_same_bits(interpreters, bn_run, workers):
    name, options = f"killed-{workers}", {"size": 12, "batch_norm": "recalibrate"}
    options["engine"] = Local(workers=workers, tune=False)
    script = (
        "from landscape_hooks import Local, analyze\n"
        "from landscape_hooks.analysis import commits; commits.COMMIT_SECONDS = 0.0\n"
        f"analyze({str(bn_run)!r}, name={name!r}, progress=False, **{options!r})"
    )
    process = interpreters.start(script)
    done = 0
    while process.poll() is None and done < 10:
        time.sleep(0.05)
        try:
            done = int(open_run(str(bn_run))[f"surfaces/{name}/evaluated"][...].sum())
        except (KeyError, FileNotFoundError):
            continue
    process.kill()  # SIGKILL
    process.wait()
    assert 10 <= Surface.open(str(bn_run), name).evaluated.sum() < 144  # killed in the middle, and nothing is lost
    resumed = run(bn_run, name=name, **options)
    whole = run(bn_run, name="whole", **options)
    for key in ("loss", "loss_stderr", "evaluated", "path_loss", "path_plane_loss", "path_distance"):
        np.testing.assert_array_equal(getattr(resumed, key), getattr(whole, key))


@pytest.mark.more
def test_parts_run_side_by_side_and_any_of_them_may_be_killed_and_started_again(interpreters, bn_run, tmp_path):
    path = tmp_path / "parts.zarr"
    shutil.copytree(bn_run, path, ignore=shutil.ignore_patterns("surfaces", "gram"))
    options = {"size": 9, "batch_norm": "recalibrate", "name": "parts", "engine": Local(tune=False)}
    script = (
        "import sys\nfrom landscape_hooks import Local, analyze\n"
        "from landscape_hooks.analysis import commits; commits.COMMIT_SECONDS = 0.0\n"
        f"analyze({str(path)!r}, part=sys.argv[1], progress=False, **{options!r})"
    )
    jobs = [interpreters.start(script, f"{k}/3") for k in (1, 2, 3)]

    def done(k):
        try:
            return int(open_run(str(path))[f"surfaces/parts.part-{k}-of-3/evaluated"][...].sum())
        except (KeyError, FileNotFoundError):
            return 0

    while jobs[1].poll() is None and done(2) < 3:
        time.sleep(0.02)
    jobs[1].kill()
    assert [job.wait() for job in jobs] == [0, -9, 0]
    before = done(2)
    assert 3 <= before < 27
    assert run(path, part="2/3", **options).evaluated.sum() == 27
    joined, whole = run(path, **options), run(bn_run, **options)
    for key in ("loss", "loss_stderr", "evaluated", "path_loss", "path_plane_loss"):
        np.testing.assert_array_equal(getattr(joined, key), getattr(whole, key))


@pytest.mark.more
def test_a_plane_left_in_the_run_gives_the_same_bits_and_is_resumed(bn_run, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_plane, "BLOCK", 7)
    held, streamed = (
        run(bn_run, size=4, batch_norm="interpolate", name=f"s{s}", engine=Local(tune=False, stream=s))
        for s in (False, True)
    )
    for key in ("loss", "loss_stderr", "path", "path_loss", "path_plane_loss", "path_distance"):
        np.testing.assert_array_equal(getattr(held, key), getattr(streamed, key))
    root = open_run(str(bn_run))
    for key in ("origin", "directions", "origin_buffers"):
        np.testing.assert_array_equal(root[f"surfaces/sTrue/{key}"][...], root[f"surfaces/sFalse/{key}"][...])
    assert held.attrs["definition"] == streamed.attrs["definition"]
    # how the plane is held defines nothing: one goes on with what the other has
    monkeypatch.setattr(filling, "evaluate", lambda *a, **k: pytest.fail("evaluated") if len(a[1]) else iter(()))
    np.testing.assert_array_equal(
        run(bn_run, size=4, batch_norm="interpolate", name="sTrue", engine=Local(tune=False, stream=False)).loss,
        held.loss,
    )
    monkeypatch.undo()
    engines = (Local(tune=False, stream=s) for s in (False, True))
    line = [run(bn_run, size=(5, 1), name="line", engine=engine, fresh=True).loss for engine in engines]
    np.testing.assert_array_equal(*line)


def test_live_code_is_emptied_of_its_weights_where_the_plane_stays_in_the_run(bn_run):
    model, (x, y) = network(), samples()
    live = Objective.of(model, criterion=nn.CrossEntropyLoss(), data=[(x, y)], copy=False)
    assert live.kernel.module.model is model
    hollow = live.without_weights().to("cpu")
    assert all(p.is_meta for p in hollow.kernel.module.parameters())
    assert not any(p.is_meta for p in model.parameters())
    theta, buffers = live.layout.flatten(model).detach(), live.buffer_layout.flatten(model)
    for statistics in ("running", "batch", "recalibrate"):
        found = [o.evaluate(theta, buffers, statistics=statistics) for o in (live, hollow)]
        assert found[0] == found[1]


# -- errors -------------------------------------------------------------------------------------------------
def test_errors_say_what_was_found_and_what_mends_it(bn_run, quadratic_run, tmp_path):
    with pytest.raises(RunError, match="nothing at"):
        run(tmp_path / "none.zarr")
    with pytest.raises(PlaneError, match="directions 'pcb'"):
        run(bn_run, directions="pcb")
    with pytest.raises(ObjectiveError, match="policy 'train'"):
        run(bn_run, batch_norm="train")
    with pytest.raises(ObjectiveError, match="engine 'slurm'"):
        run(bn_run, engine="slurm")
    with pytest.raises(SurfaceError, match="name"):
        run(bn_run, name="../up")
    with pytest.raises(ObjectiveError, match="cannot be imported"):
        run(bn_run, objective="nowhere:make")
    with pytest.raises(ObjectiveError, match="module:function"):
        run(bn_run, objective="nowhere")
    with pytest.raises(ObjectiveError, match="device"):
        run(bn_run, engine=Local(device="abacus"))
    other = Objective.of(
        nn.Linear(2, 3), criterion=nn.CrossEntropyLoss(), data=(torch.ones(2, 2), torch.zeros(2).long())
    )
    with pytest.raises(LandscapeError, match=r"0\.weight"):
        run(bn_run, objective=other)


def test_a_run_with_one_snapshot_or_without_objective(tmp_path):
    batch = torch.zeros(4, 1)
    one = train(tmp_path / "one.zarr", Quadratic(), lambda m: m(batch), snapshots=1,
                objective=lambda m, b: m(b), data=batch)  # fmt: skip
    with pytest.raises(RunError, match="1 snapshot"):
        run(one)
    none = train(tmp_path / "none.zarr", Quadratic(), lambda m: m(batch))
    with pytest.raises(ObjectiveError, match="--objective module:function"):
        run(none)


def test_nan_everywhere_is_an_error_and_a_hole_is_data(tmp_path):
    batch = torch.full((4, 1), float("nan"))
    path = train(tmp_path / "nan.zarr", Quadratic(), lambda m: m(torch.zeros(4, 1)), objective=lambda m, b: m(b),
                 data=batch)  # fmt: skip
    with pytest.raises(ObjectiveError, match="NaN at all 9 points"):
        run(path, size=3)


# -- the command --------------------------------------------------------------------------------------------
def test_the_command_is_the_function(bn_run, monkeypatch, tmp_path):
    (tmp_path / "my_data.py").write_text(
        "import torch\ndef probe():\n    return [(torch.ones(5, 1, 8, 8), torch.zeros(5).long())]\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = [str(bn_run), "--size", "3x4", "--extent", "-1,1,-2,2", "--data", "my_data:probe", "--quiet"]
    result = CliRunner().invoke(command, [*arguments, "--name", "cli", "--json"], catch_exceptions=False)
    printed = json.loads(result.stdout)
    assert printed["shape"] == [3, 4]
    assert printed["attrs"]["extent"] == [-1, 1, -2, 2]
    assert printed["attrs"]["samples"] == 5
    plain = CliRunner().invoke(command, [*arguments, "--name", "cli"], catch_exceptions=False)
    assert "variance" in plain.output
    assert "random walk" in plain.output


def test_bfloat16_says_what_it_costs(bn_run):
    coarse = run(bn_run, size=3, engine=Local(precision="bfloat16", tune=False), name="coarse")
    exact = run(bn_run, size=3, name="exact")
    said = next(s for s in coarse.attrs["report"] if s.startswith("bfloat16 changes"))
    error = np.abs(coarse.loss / exact.loss - 1).ravel()[:5].max()
    assert error > 0
    assert said == f"bfloat16 changes the loss by up to {error:.1%} at 5 points tried."
    assert "bfloat16" in coarse.attrs["report"][-1]
