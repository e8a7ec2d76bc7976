"""Runs of format 1, as the version before it wrote them, are opened, gone on with and analyzed."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Local, Surface, Trajectory, analyze, record
from landscape_hooks.store.run import open_run
from landscape_hooks.trajectory.doubts import closing_state

DATA = Path(__file__).parent / "data" / "format1"
EXPECTED = json.loads((DATA / "expected.json").read_text())


@pytest.fixture
def old(tmp_path):
    def unpack(name):
        with zipfile.ZipFile(DATA / f"{name}.zip") as archive:
            archive.extractall(tmp_path / f"{name}.zarr")
        return tmp_path / f"{name}.zarr"

    return unpack


def numbers(values, dtype="f8"):
    return np.array([np.nan if v is None else v for v in values], dtype)


@pytest.mark.parametrize("name", ["growing", "thinned", "sharded"])
def test_it_has_the_numbers_that_were_recorded(old, name):
    t, expected = Trajectory.open(old(name)), EXPECTED[name]
    assert t.steps.tolist() == expected["steps"]
    np.testing.assert_array_equal(t.losses, numbers(expected["losses"]))
    np.testing.assert_array_equal(t.epochs, numbers(expected["epochs"]))
    np.testing.assert_array_equal(t.block(), np.array(expected["weights"], "f4"))
    np.testing.assert_array_equal(t.buffers(), np.array(expected["buffers"], "f4").reshape(len(t), -1))
    np.testing.assert_array_equal(t.learning_rates, expected["learning_rates"])
    assert np.isnan(t.momenta).all()
    assert (t.marks, t.doubts, closing_state(t.root)) == ({}, (), ("unchecked", ""))
    if name == "thinned":
        assert t.verify() == []


def test_its_surface_is_opened(old):
    surface, expected = Surface.open(old("growing")), EXPECTED["surface"]
    for key in ("alpha", "beta", "loss", "path", "path_loss"):
        np.testing.assert_array_equal(getattr(surface, key), expected[key])


def test_it_is_analyzed(old):
    run = old("growing")
    surface = analyze(run, size=3, name="again", engine=Local(tune=False), progress=False)
    np.testing.assert_allclose(surface.loss, EXPECTED["surface"]["loss"], rtol=1e-5)
    np.testing.assert_allclose(surface.path_loss, EXPECTED["surface"]["path_loss"], rtol=1e-5)


@pytest.mark.parametrize(("name", "schedule"), [("growing", {"every": 1}), ("thinned", {"keep": 4})])
def test_it_is_gone_on_with_and_stays_format_1(old, name, schedule):
    run = old(name)
    t = Trajectory.open(run)
    before = t.block()
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    t.layout.assign(model, torch.from_numpy(t[-1].weights))
    last = int(t.steps[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    with record(model, optimizer, run, if_exists="resume", **schedule):
        for _ in range(4):
            model(torch.ones(3, 2)).sum().backward()
            optimizer.step()
    again = Trajectory.open(run)
    assert again.steps[-1] == last + 4
    np.testing.assert_array_equal(again[-1].weights, again.layout.flatten(model).numpy())
    common = np.isin(again.steps, t.steps)
    np.testing.assert_array_equal(again.block()[common], before[np.isin(t.steps, again.steps)])
    assert open_run(run).attrs["landscape_hooks"]["format"] == 1
    assert "momentum" not in open_run(run)["trajectory"]
    if name == "thinned":
        assert again.verify() == []
