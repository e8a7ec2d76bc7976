"""`info --verify`: what was analyzed holds, bit for bit; what was changed since is found and named."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Local, Points, Storage, Surface, analyze, record
from landscape_hooks.analysis.verification import verify
from landscape_hooks.store.run import open_run
from tests import hostile

ANALYSES = {
    "pca": {},
    "random": {"directions": "random", "seed": 3},
    "hessian": {"directions": "hessian"},
    "points": {"directions": Points("0,3,6")},
    "line": {"size": (5, 1)},
    "fixed": {"batch_norm": "fixed"},
    "recalibrate": {"batch_norm": "recalibrate"},
    "interpolate": {"batch_norm": "interpolate"},
    "interpolate-points": {"batch_norm": "interpolate", "directions": Points("0,3,6")},
    "few": {"samples": 7},
    "adaptive": {"adaptive": 0.4, "size": 9},
    "tuned": {"engine": Local(workers=2)},
    "coarse": {"engine": Local(precision="bfloat16", tune=False)},
}


def train(folder, seed=0, steps=6, **options):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    torch.manual_seed(0)
    data = torch.randn(12, 3), torch.randint(0, 2, (12,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"criterion": nn.CrossEntropyLoss(), "data": data, **options}
    with record(model, optimizer, folder, every=1, **options):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data[0]), data[1]).backward()
            optimizer.step()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = train(tmp_path_factory.mktemp("verified") / "run.zarr", storage=Storage(checksum=True))
    for name, options in ANALYSES.items():
        analyze(folder, **{"size": 3, "engine": Local(tune=False), "progress": False, "name": name, **options})
    return folder


@pytest.fixture(scope="module")
def verified(run):
    return {found.name: found for found in verify(run).surfaces}


@pytest.mark.everyday(3)
@pytest.mark.parametrize("name", ANALYSES)
def test_what_was_just_analyzed_holds_bit_for_bit(verified, name):
    found = verified[name]
    assert found.verdict == "holds"
    assert not found.missing
    losses = [check for check in found.checks if check.what.startswith("loss")]
    assert all(check.exact for check in losses)
    assert len(losses) >= 5 + 4  # grid points, and both ends by themselves and on the plane


@pytest.mark.parametrize("name", ANALYSES)
def test_seed_samples_versions_and_digest_are_in_every_surface(run, name):
    attrs = Surface.open(run, name).attrs
    assert attrs["seed"] == ANALYSES[name].get("seed", 0)
    assert attrs["samples"] == ANALYSES[name].get("samples", 12)
    assert attrs["versions"]["torch"] == torch.__version__
    assert {"landscape_hooks", "numpy", "python", "zarr", "scikit-learn"} < attrs["versions"].keys()
    stored = open_run(run)["objective/data"].attrs["digest"]
    assert len(attrs["data_digest"]) == 64
    assert (attrs["data_digest"] == stored) == (name != "few")
    assert attrs["objective"] == attrs["data"] == "of the run"


def test_a_changed_number_is_found_and_named(tmp_path):
    folder = train(tmp_path / "run.zarr")
    analyze(folder, size=3, engine=Local(tune=False), progress=False)
    group = open_run(folder, mode="r+")["surfaces/pca"]
    loss = group["loss"][...]
    loss[1, 2] *= 1.001
    group["loss"][...] = loss
    (found,) = verify(folder).surfaces
    assert found.verdict == "differs"
    (wrong,) = [check for check in found.checks if not check.holds]
    assert wrong.stored == loss[1, 2]
    assert f"{Surface.open(folder).alpha[1]:.6g}" in wrong.what


@pytest.mark.everyday(1)
@pytest.mark.parametrize("array", ["paths/0/plane_loss", "paths/0/loss", "paths/0/coordinates", "origin", "directions"])
def test_a_changed_path_or_plane_is_found(tmp_path, array):
    folder = train(tmp_path / "run.zarr")
    analyze(folder, size=3, engine=Local(tune=False), progress=False)
    target = open_run(folder, mode="r+")[f"surfaces/pca/{array}"]
    target[...] = target[...] * 1.01
    assert not verify(folder).holds
    assert verify(folder).surfaces[0].verdict == "differs"


def test_other_samples_or_another_loss_are_asked_for(tmp_path, monkeypatch):
    folder = train(tmp_path / "run.zarr")
    (tmp_path / "given_here.py").write_text(
        "import torch\ntorch.manual_seed(5)\ndata = torch.randn(9, 3), torch.randint(0, 2, (9,))\n"
    )
    monkeypatch.chdir(tmp_path)
    options = {"size": 3, "engine": Local(tune=False), "progress": False}
    analyze(folder, data="given_here:data", name="other", **options)
    (found,) = verify(folder).surfaces
    assert found.verdict == "not verified"
    assert "--data given_here:data" in found.missing[0]
    assert verify(folder, data="given_here:data").holds
    wrong = torch.randn(9, 3), torch.randint(0, 2, (9,))
    (found,) = verify(folder, data=wrong).surfaces
    assert found.verdict == "not verified"
    assert "digests differ" in found.missing[0]


@pytest.mark.more
def test_of_several_runs_the_first_ones_snapshots_are_computed(tmp_path):
    folders = [train(tmp_path / f"{seed}.zarr", seed) for seed in (0, 1)]
    analyze(*folders, size=3, engine=Local(tune=False), progress=False)
    (found,) = verify(folders[0]).surfaces
    assert found.verdict == "holds"
    assert "1 further runs" in found.missing[0]
    assert sum(check.what.startswith("loss on the plane") for check in found.checks) == 4


def test_the_command_says_it_and_ends_with_1_where_it_does_not_hold(run, tmp_path, capsys):
    from landscape_hooks.cli import main

    main(["info", str(run), "--verify", "--name", "pca", "--json"])
    said = json.loads(capsys.readouterr().out)["verification"]
    assert said["holds"] is True
    assert said["damaged_snapshots"] == []
    assert {"what", "stored", "found", "tolerance", "holds"} == said["surfaces"][0]["checks"][0].keys()
    folder = hostile.honest(tmp_path / "run.zarr")
    open_run(folder, mode="r+")["surfaces/pca/loss"][...] = np.full((3, 3), 0.5)
    with pytest.raises(SystemExit) as end:
        main(["info", str(folder), "--verify"])
    assert end.value.code == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_a_damaged_snapshot_is_named(tmp_path):
    folder = train(tmp_path / "run.zarr", storage=Storage(checksum=True))
    analyze(folder, size=3, engine=Local(tune=False), progress=False)
    assert verify(folder).holds
    weights = open_run(folder, mode="r+")["trajectory/weights"]
    weights[2, 0] = 7.0
    found = verify(folder)
    assert not found.holds
    assert [damage.index for damage in found.damages] == [2]


@pytest.mark.more
def test_a_surface_of_a_way_that_is_gone_is_not_verified_but_computed_anew(tmp_path):
    folder = train(tmp_path / "run.zarr")
    options = {"size": 3, "engine": Local(tune=False), "progress": False}
    before = analyze(folder, **options)
    group = open_run(folder, mode="r+")["surfaces/pca"]
    group.attrs["plan"] = {**group.attrs["plan"], "winograd": True}
    (found,) = verify(folder).surfaces
    assert found.verdict != "holds"
    assert any("no way that this version has" in words for words in found.missing)
    np.testing.assert_array_equal(analyze(folder, **options).loss, before.loss)
    (found,) = verify(folder).surfaces
    assert found.verdict == "holds"
