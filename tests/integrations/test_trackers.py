"""Experiment trackers for real: what they were given is read back with their own means."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from landscape_hooks import Surface, analyze, record
from landscape_hooks.errors import LandscapeError
from landscape_hooks.integrations import trackers
from landscape_hooks.integrations.trackers import log_surface


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    model, criterion = nn.Linear(4, 1), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, optimizer, path, criterion=criterion, data=(inputs, inputs.sum(1, keepdim=True))):
        for _ in range(12):
            optimizer.zero_grad()
            criterion(model(inputs), inputs.sum(1, keepdim=True)).backward()
            optimizer.step()
    return path


@pytest.fixture(scope="module")
def surface(store):
    return analyze(store, size=5, progress=False)


@pytest.fixture(autouse=True)
def _short_animations(monkeypatch):
    monkeypatch.setattr(trackers, "ANIMATION_SIZE", (120, 80))
    monkeypatch.setattr(trackers, "ANIMATION_FRAMES", 3)


def is_animation(data):
    with Image.open(io.BytesIO(data)) as image:
        return image.format == "GIF" and image.n_frames > 1


def test_tensorboard(surface, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "own") as writer:
        log_surface(surface, writer)
    log_surface(surface, f"tensorboard:{tmp_path / 'named'}")
    for folder in ("own", "named"):
        events = EventAccumulator(str(tmp_path / folder)).Reload()
        curve = events.Scalars("landscape/pca/path_loss")
        assert [event.step for event in curve] == surface.steps.tolist()
        np.testing.assert_allclose([event.value for event in curve], surface.path_loss, rtol=1e-6)
        assert is_animation(events.Images("landscape/pca/replay")[0].encoded_image_string)
        assert events.Images("landscape/pca/contours")[0].step == 12
        told = events.Tensors("landscape/pca/report/text_summary")[0].tensor_proto.string_val[0].decode()
        assert surface.attrs["report"][0] in told


def test_mlflow(surface, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("e", artifact_location=(tmp_path / "files").as_uri()))
    with mlflow.start_run() as run:
        log_surface(surface, mlflow)
    metrics = mlflow.MlflowClient().get_metric_history(run.info.run_id, "landscape/pca/path_loss")
    assert [metric.step for metric in metrics] == surface.steps.tolist()
    np.testing.assert_allclose([metric.value for metric in metrics], surface.path_loss)
    animations = list((tmp_path / "files").rglob("landscape/pca/replay.gif"))
    assert len(animations) == 1
    assert is_animation(animations[0].read_bytes())
    assert list((tmp_path / "files").rglob("landscape/pca/contours.png"))
    assert surface.attrs["report"][0] in next((tmp_path / "files").rglob("landscape/pca/report.txt")).read_text()


def test_weights_and_biases_offline(surface, tmp_path):
    wandb = pytest.importorskip("wandb")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with wandb.init(project="p", mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True)) as run:
            log_surface(surface, run)
    animations = list(tmp_path.rglob("media/videos/**/*.gif"))
    assert len(animations) == 1
    assert is_animation(animations[0].read_bytes())
    assert list(tmp_path.rglob("media/images/**/*.png"))
    assert list(tmp_path.rglob("*.wandb"))


def test_analyze_logs_where_it_is_told_to(store, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    again = analyze(store, size=5, progress=False)
    log_surface(again, f"tensorboard:{tmp_path / 'tb'}")
    assert isinstance(again, Surface)
    assert "landscape/pca/path_loss" in EventAccumulator(str(tmp_path / "tb")).Reload().Tags()["scalars"]


def test_an_unknown_tracker_is_refused(surface):
    for unknown in ("nowhere:runs", object()):
        with pytest.raises(LandscapeError, match="tensorboard"):
            log_surface(surface, unknown)
