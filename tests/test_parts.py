"""A part of the network: the plane, the grid and the path of some tensors, the others as they are at the origin."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import landscape_hooks.analysis.analyze as room
from landscape_hooks import Local, Objective, Points, Random, Snapshots, Surface, Trajectory, analyze, record, verify
from landscape_hooks.cli.analyze import analyze as command
from landscape_hooks.errors import LandscapeError, LayoutError
from landscape_hooks.mesh.captions import caption
from landscape_hooks.mesh.mesh import Height
from landscape_hooks.plane.moments import project
from landscape_hooks.store.run import open_run
from landscape_hooks.trajectory.selection import matches, names_matching
from landscape_hooks.viewer.live import extend

PLAIN = Local(tune=False)


class Quadratic(nn.Module):
    """L(θ) = ½ θᵀHθ over two tensors that H couples."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body = nn.ParameterDict({"weight": nn.Parameter(torch.randn(2, 2, generator=generator))})
        self.head = nn.ParameterDict({"weight": nn.Parameter(torch.randn(1, 3, generator=generator))})
        root = torch.randn(7, 7, generator=generator)
        self.register_buffer("h", root @ root.T / 7 + torch.eye(7) / 4)

    def forward(self, x):
        theta = torch.cat([self.body["weight"].flatten(), self.head["weight"].flatten()])
        return (0.5 * theta @ self.h @ theta).expand(len(x))


def loss_of(model, batch):
    return model(batch)


def hessian():
    return Quadratic().h.double().numpy()


def value(theta):
    theta = np.asarray(theta, dtype=float)
    return 0.5 * np.einsum("...i,ij,...j->...", theta, hessian(), theta)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "run.zarr"
    model = Quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    with record(model, optimizer, path, every=1, objective=loss_of, data=torch.zeros(4, 1)):
        for _ in range(9):
            optimizer.zero_grad()
            model(torch.zeros(1, 1)).mean().backward()
            optimizer.step()
    return path


def drawn(run, **options):
    return analyze(run, size=5, engine=PLAIN, progress=False, **options)


@pytest.mark.everyday(1)
@pytest.mark.parametrize("directions", ["pca", "random", "hessian", Points("9,0,4")])
def test_the_surface_is_that_of_the_definition(run, directions):
    """Origin, plane, grid and path in the three dimensions of the head, by hand."""
    surface = drawn(run, directions=directions, snapshots=Snapshots(tensors="head.*"), name="head")
    t = Trajectory.open(run)
    path, end = t.block().astype(float), t[-1].weights.astype(float)
    vectors = np.asarray(t.root["surfaces/head/directions"][:], dtype=float)
    assert vectors.shape == (2, 3)
    a, b = np.meshgrid(surface.alpha, surface.beta, indexing="ij")
    theta = np.broadcast_to(end, (5, 5, 7)).copy()
    theta[..., 4:] += a[..., None] * vectors[0] + b[..., None] * vectors[1]
    np.testing.assert_allclose(surface.loss, value(theta), rtol=1e-5)
    away = path[:, 4:] - end[4:]
    expected = np.linalg.lstsq(vectors.T, away.T, rcond=None)[0].T
    np.testing.assert_allclose(surface.path, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(surface.path_distance, np.linalg.norm(away - expected @ vectors, axis=1), atol=1e-5)
    restricted = np.broadcast_to(end, path.shape).copy()
    restricted[:, 4:] = path[:, 4:]
    np.testing.assert_allclose(surface.path_loss, value(restricted), rtol=1e-5)
    assert verify(run, "head").holds


@pytest.mark.more
def test_principal_components_are_those_of_the_part(run):
    surface = drawn(run, snapshots=Snapshots(tensors=["head.*"]), name="components")
    away = Trajectory.open(run).block()[:, 4:].astype(float)
    variance = np.linalg.svd(away - away.mean(axis=0), compute_uv=False) ** 2
    np.testing.assert_allclose(surface.explained_variance_ratio, (variance / variance.sum())[:2], rtol=1e-5)
    whole = drawn(run, name="whole")
    again = drawn(run, snapshots=Snapshots(tensors=["head.*"]), name="again")
    np.testing.assert_array_equal(again.loss, surface.loss)
    assert not np.allclose(whole.explained_variance_ratio, surface.explained_variance_ratio)


def test_what_is_drawn_is_said(run):
    surface = drawn(run, snapshots=Snapshots(tensors="head.*"), name="said")
    definition = Surface.open(run, "said").definition
    assert (definition.only, definition.parameters) == (("head.*",), ("head.weight",))
    assert any("Only what 'head.*' means moves here" in sentence for sentence in surface.attrs["report"])
    assert "only head.*, the rest as at step 9" in caption(surface, Height.choose(surface.loss))


def test_several_runs_have_the_rest_of_the_first(run, tmp_path):
    other = tmp_path / "other.zarr"
    model = Quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with record(model, optimizer, other, every=1, objective=loss_of, data=torch.zeros(4, 1)):
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.zeros(1, 1)).mean().backward()
            optimizer.step()
    surface = analyze(
        run, other, size=3, engine=PLAIN, progress=False, snapshots=Snapshots(tensors="body.*"), name="two"
    )
    end, path = Trajectory.open(run)[-1].weights.astype(float), Trajectory.open(other).block().astype(float)
    path[:, 4:] = end[4:]
    np.testing.assert_allclose(surface.paths[1].loss, value(path), rtol=1e-5)


def test_live_code_and_metrics_are_of_the_part(run):
    live = Objective.of(Quadratic(), objective=loss_of, data=torch.zeros(4, 1))
    stored = drawn(run, directions=Random(), snapshots=Snapshots(tensors="head.*"), name="stored")
    coded = drawn(run, directions=Random(), snapshots=Snapshots(tensors="head.*"), name="coded", objective=live)
    np.testing.assert_allclose(coded.loss, stored.loss, rtol=1e-6)
    np.testing.assert_allclose(coded.path_loss, stored.path_loss, rtol=1e-6)


def test_a_pattern_that_means_nothing_lists_near_names(run):
    with pytest.raises(LayoutError, match=r"'haed\.\*' matches none of the 2 tensors.*head\.weight"):
        drawn(run, snapshots=Snapshots(tensors="haed.*"))


@pytest.mark.parametrize("tensors", [3, [""], ["head.*", 4], " , "])
def test_patterns_are_texts(tensors):
    with pytest.raises(LandscapeError):
        Snapshots(tensors=tensors)


@pytest.mark.parametrize(
    ("pattern", "name", "meant"),
    [
        ("head.*", "head.weight", True),
        ("head.*", "model.head.weight", True),
        ("head.*", "ahead.weight", False),
        ("lora_*", "base_model.model.layers.0.q_proj.lora_A.default.weight", True),
        ("*.bias", "a.b.bias", True),
        ("layers.1.*", "layers.11.weight", False),
        ("weight", "weight", True),
        ("HEAD.*", "head.weight", False),
    ],
)
def test_matching(pattern, name, meant):
    assert matches(pattern, name) is meant


def test_names_keep_their_order():
    assert names_matching(["b.*", "a.*"], ["a.x", "c.x", "b.x"]) == ["a.x", "b.x"]


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x):
        return self.head(self.body(x))


def test_buffers_outside_the_part_are_those_of_the_origin(tmp_path):
    """Under "interpolate" a snapshot has the running statistics of its own head, and of the origin's body."""
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(3))
    model, run = Normed(), tmp_path / "run.zarr"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    states = []
    with record(model, optimizer, run, every=1, criterion=nn.MSELoss(), data=(x, x[:, :1])):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), x[:, :1]).backward()
            optimizer.step()
            states.append({k: v.clone() for k, v in model.state_dict().items()})
    surface = drawn(run, snapshots=Snapshots(tensors="head.*"), batch_norm="interpolate", name="head")
    expected = []
    for state in states:
        mixed = Normed().eval()
        mixed.load_state_dict({k: state[k] if k.startswith("head") else states[-1][k] for k in state})
        expected.append(nn.functional.mse_loss(mixed(x), x[:, :1]).item())
    np.testing.assert_allclose(surface.path_loss, expected, rtol=1e-5)
    assert verify(run, "head").holds


# -- runs in which different tensors move ----------------------------------------------------------------------
def trained(path, frozen=(), steps=5, lr=0.1):
    """A run of the quadratic loss, from the same start, in which some tensors stand still."""
    model = Quadratic()
    for name in frozen:
        getattr(model, name).requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    with record(model, optimizer, path, every=1, objective=loss_of, data=torch.zeros(4, 1)):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.zeros(1, 1)).mean().backward()
            optimizer.step()
    return path


@pytest.mark.everyday(1)
@pytest.mark.parametrize("order", [("body", "head"), ("head", "body"), ("body", "all"), ("all", "head")])
@pytest.mark.parametrize("directions", ["pca", "random"])
def test_runs_with_other_frozen_tensors_share_a_plane(tmp_path, order, directions):
    """Each path has the loss of its own snapshots, and the plane is of all seven numbers; in any order of the runs."""
    frozen = {"body": ["body"], "head": ["head"], "all": []}
    runs = [trained(tmp_path / f"{name}.zarr", frozen[name]) for name in order]
    surface = analyze(*runs, size=5, engine=PLAIN, progress=False, directions=directions)
    names = Surface.open(runs[0]).definition.parameters or Trajectory.open(runs[0]).layout.names
    assert set(names) == {"body.weight", "head.weight"}
    turned = np.concatenate([np.arange(4) if name.startswith("body") else np.arange(4, 7) for name in names])
    start = np.concatenate([p.detach().numpy().ravel() for p in Quadratic().parameters()]).astype(float)
    full = []
    for run in runs:
        t = Trajectory.open(run)
        path = np.tile(start, (len(t), 1))
        for entry in t.layout:
            where = slice(0, 4) if entry.name.startswith("body") else slice(4, 7)
            path[:, where] = t.block()[:, entry.slice]
        full.append(path)
    for path, shown in zip(full, surface.paths, strict=True):
        np.testing.assert_allclose(shown.loss, value(path), rtol=1e-5)
    group = Trajectory.open(runs[0]).root[f"surfaces/{surface.name}"]
    vectors = np.asarray(group["directions"][:], dtype=float)
    end = full[0][-1]
    a, b = np.meshgrid(surface.alpha, surface.beta, indexing="ij")
    theta = np.broadcast_to(end, (5, 5, 7)).copy()
    theta[..., turned] += a[..., None] * vectors[0] + b[..., None] * vectors[1]
    np.testing.assert_allclose(surface.loss, value(theta), rtol=1e-5)
    if directions == "pca":
        every = np.concatenate(full)
        variance = np.linalg.svd(every - every.mean(axis=0), compute_uv=False) ** 2
        np.testing.assert_allclose(surface.explained_variance_ratio, (variance / variance.sum())[:2], rtol=1e-4)
    verified = verify(runs[0], surface.name)
    assert all(check.holds for found in verified.surfaces for check in found.checks)
    assert any(check.kind == "loss" for found in verified.surfaces for check in found.checks)


def test_a_surface_of_several_runs_follows_its_first_one(tmp_path):
    """New snapshots are projected onto the shared plane, whose vectors have further tensors than the run's rows."""
    runs = [trained(tmp_path / f"{name}.zarr", [name]) for name in ("body", "head")]
    surface = analyze(*runs, size=3, engine=PLAIN, progress=False, snapshots=Snapshots(stop=3))
    root = open_run(runs[0])
    extended = extend(root, Surface.open(runs[0]))
    assert extended is None  # both were analyzed to their end: what was left out stays out
    t = surface.definition.drawn(Trajectory.open(runs[0]))
    spots, distance = project(root[f"surfaces/{surface.name}"], t, np.array([0, 3]))
    np.testing.assert_allclose(spots, surface.path[[0, 3]], atol=1e-5)
    np.testing.assert_allclose(distance, surface.path_distance[[0, 3]], atol=1e-5)


def test_random_directions_go_along_what_moves_alone(tmp_path):
    run = trained(tmp_path / "run.zarr", ["body"])
    surface = analyze(run, size=3, engine=PLAIN, progress=False, directions="random")
    t = Trajectory.open(run)
    vectors = np.asarray(t.root[f"surfaces/{surface.name}/directions"][:])
    assert vectors.shape == (2, 3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.linalg.norm(t[-1].weights), rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--only", "head.*"], Snapshots(tensors="head.*")),
        (["--only", "head.*,body.*"], Snapshots(tensors=["head.*", "body.*"])),
        (["--only", "head.*", "--only", "3,4"], Snapshots(only=(3, 4), tensors="head.*")),
        (["--only", "7"], Snapshots(only=(7,))),
    ],
)
def test_the_command_takes_patterns_or_steps(words, expected, monkeypatch):
    called = {}
    monkeypatch.setattr(room, "analyze", lambda *runs, **options: called.update(options) or 1 / 0)
    CliRunner().invoke(command, ["RUN", *words, "--base", "somewhere"])
    assert called["snapshots"] == expected
    assert called["snapshots"].base == "somewhere"
