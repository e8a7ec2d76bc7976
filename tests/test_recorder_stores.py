"""Where and how rows are stored: types, compression, durability, memory, and a real S3 server on loopback."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from landscape_hooks import Storage, Trajectory, record
from landscape_hooks.errors import LandscapeError, RecordingWarning, RunError
from landscape_hooks.recording import background
from landscape_hooks.store.folder import put_files
from landscape_hooks.store.run import free_bytes
from landscape_hooks.trajectory import writer


def train(store, steps=6, size=700, **options):
    torch.manual_seed(0)
    model = nn.Linear(size, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = [nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy()]
    with record(model, optimizer, store, **options):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(4, size)).square().mean().backward()
            optimizer.step()
            rows.append(nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy())
    return np.stack(rows)


def folder_bytes(path):
    return sum(p.stat().st_size for p in path.rglob("c/**/*") if p.is_file())


@pytest.mark.everyday(2)
@pytest.mark.parametrize("options", [{"every": 1}, {"keep": 9}])
@pytest.mark.parametrize("compress", ["lz4", "zstd"])
def test_compressed_rows_are_the_same_rows(tmp_path, options, compress):
    rows = train(tmp_path / "run.zarr", storage=Storage(compress=compress), **options)
    t = Trajectory.open(tmp_path / "run.zarr")
    np.testing.assert_array_equal(t.block(), rows)
    assert t.root["trajectory/weights"].compressors
    train(tmp_path / "run.zarr", storage=Storage(compress=compress), if_exists="overwrite", **options)


def test_compression_saves_space(tmp_path):
    train(tmp_path / "plain.zarr", size=100_000, every=1)
    train(tmp_path / "small.zarr", size=100_000, every=1, storage=Storage(compress="zstd"))
    assert folder_bytes(tmp_path / "small.zarr") < 0.95 * folder_bytes(tmp_path / "plain.zarr")


@pytest.mark.parametrize("size", [700, 400_000])
def test_float16_halves_the_rows_and_is_read_as_float32(tmp_path, size):
    rows = train(tmp_path / "run.zarr", size=size, steps=3, every=1, storage=Storage(dtype="float16"))
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.root["trajectory/weights"].dtype == np.float16
    assert t.dtype == np.float32
    assert t[1].weights.dtype == np.float32
    np.testing.assert_array_equal(t.block(), rows.astype(np.float16).astype(np.float32))


def test_a_run_is_resumed_with_its_own_type(tmp_path):
    train(tmp_path / "run.zarr", every=1, storage=Storage(dtype="float16"))
    with pytest.raises(RunError, match="stores weights as float16"):
        train(tmp_path / "run.zarr", every=1, if_exists="resume", step=6)


def test_the_size_on_disk_is_that_of_the_numbers(tmp_path):
    size = 500_003
    train(tmp_path / "run.zarr", steps=5, size=size, every=1)
    numbers = 6 * (3 * size + 3) * 4
    assert numbers < folder_bytes(tmp_path / "run.zarr") < 1.01 * numbers


@pytest.mark.more
def test_many_snapshots_of_a_small_model_share_files(tmp_path):
    train(tmp_path / "run.zarr", steps=3000, size=4, every=1)
    assert len(Trajectory.open(tmp_path / "run.zarr")) == 3001
    assert sum(1 for p in tmp_path.rglob("*") if p.is_file()) < 40


def test_a_group_fills_a_file_and_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "GROUP_SECONDS", 60)
    written = []
    real = put_files
    monkeypatch.setattr(writer, "put_files", lambda s, puts: (written.extend(p.key for p in puts), real(s, puts)))
    size = 20_000  # 17 rows a file
    rows = train(tmp_path / "run.zarr", steps=70, size=size, every=1)
    weights = [key for key in written if "/weights/c/" in key]
    assert len(weights) == len(set(weights)) == 5
    np.testing.assert_array_equal(Trajectory.open(tmp_path / "run.zarr").block(), rows)
    with record(nn.Linear(size, 3), None, tmp_path / "run.zarr", every=1, if_exists="resume", step=40) as recorder:
        for _ in range(30):
            recorder.step()
    np.testing.assert_array_equal(Trajectory.open(tmp_path / "run.zarr").block(slice(41)), rows[:41])
    assert len(Trajectory.open(tmp_path / "run.zarr")) == 71


def test_thinned_places_are_reused(tmp_path):
    train(tmp_path / "run.zarr", steps=500, size=50, keep=10)
    files = [p for p in (tmp_path / "run.zarr/trajectory/weights/c").rglob("*") if p.is_file()]
    assert len(files) <= 10


def test_fsync_reaches_the_disk_before_the_commit(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def spy(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc to see which file was synchronised")
    monkeypatch.setattr(os, "fsync", spy)
    rows = train(tmp_path / "run.zarr", steps=2, size=300_000, every=1, storage=Storage(durability="fsync"))
    np.testing.assert_array_equal(Trajectory.open(tmp_path / "run.zarr").block(), rows)
    base = str(tmp_path / "run.zarr")
    for place in range(3):
        file = next(i for i, name in enumerate(synced) if name.startswith(f"{base}/trajectory/weights/c/{place}/0."))
        folder = synced.index(f"{base}/trajectory/weights/c/{place}", file)
        assert any(name.startswith(f"{base}/trajectory/zarr.json.") for name in synced[folder:])
    monkeypatch.undo()
    with pytest.raises(LandscapeError, match="a folder of this machine"):
        train("memory://somewhere/run.zarr", storage=Storage(durability="fsync"))


def test_a_zarr_store_in_memory(tmp_path):
    store = zarr.storage.MemoryStore()
    rows = train(store, every=1)
    np.testing.assert_array_equal(Trajectory.open(store).block(), rows)
    with pytest.raises(RunError, match="already"):
        train(store, every=1)
    rows = train(store, steps=2, every=1, if_exists="overwrite")
    np.testing.assert_array_equal(Trajectory.open(store).block(), rows)


@pytest.mark.everyday(1)
@pytest.mark.parametrize("size", [700, 400_000])
def test_a_url_in_memory(size):
    pytest.importorskip("fsspec")
    url = f"memory://{uuid.uuid4().hex}/run.zarr"
    rows = train(url, size=size, every=1, steps=4)
    t = Trajectory.open(url)
    assert t.label == "run"
    np.testing.assert_array_equal(t.block(), rows)
    with pytest.raises(RunError, match="already"):
        train(url, size=size, every=1)
    resumed = train(url, size=size, every=1, steps=2, if_exists="resume", step=0)
    np.testing.assert_array_equal(Trajectory.open(url).block(), resumed)
    train(url, size=size, keep=5, steps=20, if_exists="overwrite")
    assert len(Trajectory.open(url)) <= 5


@pytest.fixture(scope="module")
def bucket():
    """An S3 server (moto) in a process of its own, on loopback."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    settings = {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=1).read()
                break
            except OSError:
                assert server.poll() is None, "the S3 server did not start"
                time.sleep(0.1)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()  # one that knows no credentials may be left of another test
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("landscapes")
        yield "s3://landscapes"
    finally:
        server.kill()
        server.wait()
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


@pytest.mark.more
def test_a_run_on_s3(bucket):
    url = f"{bucket}/{uuid.uuid4().hex}/run.zarr"
    rows = train(url, size=1000, every=1, steps=4)
    np.testing.assert_array_equal(Trajectory.open(url).block(), rows)
    with pytest.raises(RunError, match="already"):
        train(url, every=1)
    resumed = train(url, size=1000, every=1, steps=3, if_exists="resume", step=0)
    np.testing.assert_array_equal(Trajectory.open(url).block(), resumed)
    train(url, size=300, keep=5, steps=9, if_exists="overwrite")
    assert Trajectory.open(url).steps.tolist() == [0, 4, 8, 9]
    with pytest.raises(RunError, match=r"nothing at|not a run"):
        Trajectory.open(f"{bucket}/nowhere.zarr")


@pytest.mark.everyday(1)
def test_the_size_is_said_and_compared_with_the_disk(tmp_path, caplog):
    caplog.set_level("INFO", logger="landscape_hooks")
    model = nn.Linear(1_000_000, 1, bias=False)
    record(model, None, tmp_path / "run.zarr", keep=50).close()
    assert "at most 50 snapshots of 4 MB, 200 MB" in caplog.text
    free = free_bytes(tmp_path / "not" / "yet" / "there.zarr")
    assert 0 < free <= shutil.disk_usage(tmp_path).total
    with pytest.warns(RecordingWarning, match=r"up to [\d.]+ .B, and the disk has .* left. Keep fewer"):
        record(model, None, tmp_path / "large.zarr", keep=free // 4_000_000 * 10).close()
