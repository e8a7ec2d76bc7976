"""The Ray engine gives the bits of this machine's, whoever dies meanwhile. Real clusters, of one or two small nodes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

ray = pytest.importorskip("ray")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster as RayCluster  # noqa: E402

from landscape_hooks import analyze  # noqa: E402
from landscape_hooks.errors import ObjectiveError, RunError  # noqa: E402
from landscape_hooks.evaluation.engines import Local, Ray  # noqa: E402
from landscape_hooks.evaluation.engines import ray as engine_module  # noqa: E402
from landscape_hooks.evaluation.sources import Sources  # noqa: E402
from landscape_hooks.plane import blockwise, gram  # noqa: E402
from landscape_hooks.plane.moments import Projection  # noqa: E402
from landscape_hooks.store.run import open_run  # noqa: E402
from landscape_hooks.surface.surface import Surface  # noqa: E402
from landscape_hooks.trajectory.joined import Joined  # noqa: E402
from landscape_hooks.trajectory.selection import Snapshots  # noqa: E402
from landscape_hooks.trajectory.trajectory import Trajectory  # noqa: E402

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
COMPARED = ("loss", "loss_stderr", "evaluated", "path", "path_loss", "path_plane_loss", "path_distance")

# a module of the user's own: the run it makes, and the same loss as live code that takes its time
MODULE = """
import os, time
import torch
from torch import nn
from landscape_hooks import Objective, record

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))

def samples():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(48, 8, generator=generator), torch.randint(0, 3, (48,), generator=generator)

def train(path):
    torch.set_num_threads(1)
    model, (x, y), loss = network(), samples(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with record(model, optimizer, path, every=2, criterion=loss, data=[(x[:24], y[:24]), (x[24:], y[24:])]):
        for _ in range(12):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()

def slow():
    def objective(model, batch):
        time.sleep(0.02)
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)
    return Objective.of(network(), objective=objective, data=[samples()])
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with the user's module and a run."""
    home, before = tmp_path_factory.mktemp("work"), Path.cwd()
    (home / "ray_user_code.py").write_text(MODULE)
    os.chdir(home)
    sys.path.insert(0, str(home))
    import ray_user_code

    ray_user_code.train("run.zarr")
    yield home
    sys.path.remove(str(home))
    os.chdir(before)


@pytest.fixture(scope="module")
def cluster(folder):
    made = RayCluster(initialize_head=True, head_node_args=NODE)
    yield made
    made.shutdown()


@pytest.fixture
def connected(cluster):
    """This process is connected already, as in a notebook: the engine leaves the connection as it found it."""
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    assert ray.is_initialized()
    ray.shutdown()


def run(**options):
    return analyze("run.zarr", **{"progress": False, "engine": Local(tune=False), "size": (6, 7), **options})


def assert_same(one, other):
    for key in COMPARED:
        np.testing.assert_array_equal(getattr(one, key), getattr(other, key), err_msg=key)


def evaluated(name):
    """Points of a surface that are in the run; 0 while it is being created."""
    try:
        return int(open_run("run.zarr")[f"surfaces/{name}/evaluated"][...].sum())
    except (KeyError, FileNotFoundError):
        return 0


def engine_of(paths, **options):
    joined = Joined([Trajectory.open(path) for path in paths])
    return engine_module.Engine(Ray(**options), Sources.of(paths, joined, None, None, None), joined), joined


# -- the same bits ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {"batch_norm": "interpolate", "metrics": ["accuracy"]},
        {"directions": "random", "objective": "ray_user_code:slow", "size": (3, 4)},
        {"engine": Ray(stream=True), "adaptive": 0.05, "size": 9},
    ],
    ids=["run's own loss", "live code", "streamed, adaptive"],
)
def test_the_surface_is_that_of_this_machine_bit_for_bit(connected, options):
    there = run(**{"engine": Ray(tune=False), **options}, name="there")
    plan = json.dumps(there.attrs["plan"])
    here = run(**{**options, "engine": Local(tune=False, stream="engine" in options)}, name="here")
    assert json.dumps(here.attrs["plan"]) == plan or "engine" in options
    assert_same(there, here)
    for name in there.metrics:
        np.testing.assert_array_equal(there.metrics[name], here.metrics[name])
    assert there.attrs["definition"] == here.attrs["definition"]
    assert "Ray workers" in there.attrs["report"][-1]


def test_sums_over_blocks_are_the_same_whoever_computes_which(connected, monkeypatch):
    monkeypatch.setattr(blockwise, "SPAN_BYTES", 4 * 7 * 20)
    engine, trajectory = engine_of(["run.zarr"])
    with engine:
        trajectory = engine._joined
        here = gram.matrix(trajectory)
        assert len(blockwise.partitions(trajectory)[0]) > 5
        np.testing.assert_array_equal(gram.matrix(trajectory, blocks=engine.partitions), here)
        monkeypatch.setattr(engine_module, "HELD_BYTES", 3 * here.nbytes)  # no more than three wait for their turn
        np.testing.assert_array_equal(gram.matrix(trajectory, blocks=engine.partitions), here)
        whole = trajectory.block().astype(float)
        whole -= whole[0]
        np.testing.assert_allclose(here, whole @ whole.T, rtol=1e-12)
        wanted = Projection(whole[[1, 3]])
        there = [part.products for _, part in engine.partitions(trajectory, 2, wanted)]
        np.testing.assert_array_equal(there, [p.products for _, p in blockwise.map_partitions(trajectory, 2, wanted)])


def test_what_this_machine_began_a_cluster_finishes(connected, monkeypatch):
    from landscape_hooks.analysis import filling

    real = filling.evaluate

    def stopped(loss, points, **options):
        for number, tile in enumerate(real(loss, points, **options)):
            if number == 9:
                raise KeyboardInterrupt
            yield tile

    monkeypatch.setattr(filling, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(name="shared")
    monkeypatch.undo()
    assert Surface.open("run.zarr", "shared").evaluated.sum() == 9
    assert_same(run(name="shared", engine=Ray(tune=False)), run(name="whole"))


# -- whoever dies -------------------------------------------------------------------------------------------
def test_a_node_that_is_lost_in_the_middle_costs_nothing_but_time(cluster):
    node = cluster.add_node(**{**NODE, "include_dashboard": None})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        lost = []
        real = engine_module.Engine._received

        def received(self, handle, todo):
            done = real(self, handle, todo)
            if done is None:
                lost.append(len(todo))
            return done

        together = []
        assign = engine_module.Engine._assign

        def both_work(self, todo):
            # the grid's tiles are given out once both workers have started, one on each node
            together.extend([True] * (sum(handle.starting is None for handle in self._handles) == 2))
            if together or len(todo) < 40:
                assign(self, todo)

        def remove_in_the_middle():
            while evaluated("halved") < 10:
                time.sleep(0.02)
            cluster.remove_node(node, allow_graceful=False)

        thread = threading.Thread(target=remove_in_the_middle)
        patch = pytest.MonkeyPatch()
        patch.setattr(engine_module.Engine, "_received", received)
        patch.setattr(engine_module.Engine, "_assign", both_work)
        patch.setattr("landscape_hooks.analysis.commits.COMMIT_SECONDS", 0.0)
        thread.start()
        there = run(engine=Ray(workers=2, tune=False), name="halved", objective="ray_user_code:slow", size=12)
        thread.join()
        patch.undo()
        assert lost, "the node held no tile when it was removed"
    finally:
        ray.shutdown()
    assert_same(there, run(name="unhalved", objective="ray_user_code:slow", size=12))


def test_kill_9_of_the_driver_and_the_same_command_goes_on(cluster):
    options = {"objective": "ray_user_code:slow", "size": 10, "name": "killed"}
    script = (
        "from landscape_hooks import Ray, analyze\n"
        "from landscape_hooks.analysis import commits; commits.COMMIT_SECONDS = 0.0\n"
        f"options = { ({'engine': Ray(address=cluster.address, tune=False), **options})!r}\n"
        "analyze('run.zarr', progress=False, **options)"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    done = 0
    while process.poll() is None and done < 10:
        time.sleep(0.05)
        done = evaluated("killed")
    process.kill()
    process.wait()
    assert 10 <= Surface.open("run.zarr", "killed").evaluated.sum() < 100
    resumed = run(engine=Ray(address=cluster.address, tune=False), **options)
    assert not ray.is_initialized()
    assert_same(resumed, run(**{**options, "name": "whole"}))


def test_ctrl_c_saves_what_is_there_and_ends_the_workers(cluster):
    arguments = [
        "analyze",
        "run.zarr",
        "--engine",
        "ray",
        "--address",
        cluster.address,
        "--no-tune",
        "--name",
        "stopped",
    ]
    arguments += ["--objective", "ray_user_code:slow", "--size", "60"]
    # a background shell hands the signal down as ignored
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import landscape_hooks.cli as c; "
    command = [sys.executable, "-c", f"{code}c.main({arguments!r})"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
        if evaluated("stopped") > 0:
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command continues from there" in said
    assert "surface 'stopped': " in said
    assert "Traceback" not in said
    assert 0 < Surface.open("run.zarr", "stopped").evaluated.sum() < 3600
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        deadline = time.monotonic() + 20
        while ray.available_resources().get("CPU") != 1 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert ray.available_resources().get("CPU") == 1  # nobody holds the worker's place
    finally:
        ray.shutdown()


def test_a_tile_that_ends_every_worker_is_an_error_and_not_an_endless_story(connected, folder):
    engine, joined = engine_of(["run.zarr"])
    with engine:
        jobs = [engine_module.Job(0, "partition", (([np.arange(7)], None), 0, ray.put(Deadly()), [slice(0, 8)], 1))]
        with pytest.raises(ObjectiveError, match="3 workers in a row ended while they computed the same points"):
            list(engine._results(jobs))
        # and the engine is still of use
        assert gram.matrix(joined, blocks=engine.partitions).shape == (7, 7)


class Deadly:
    """Work that ends the process it runs in."""

    def __reduce__(self):
        # by value: this module cannot be imported on a worker
        return eval, ("type('Deadly', (), {'join': lambda self, parts: __import__('os')._exit(1)})()",)


# -- errors -------------------------------------------------------------------------------------------------
def test_errors_say_what_was_found_and_what_mends_it(connected, tmp_path, monkeypatch):
    import ray_user_code

    memory = zarr.storage.MemoryStore()
    ray_user_code.train(memory)
    with pytest.raises(ObjectiveError, match=r"No node .* has 1 CPUs and 0 GPUs altogether.*--worker-gpus"):
        run(engine=Ray(gpus=1, tune=False), name="none")
    with pytest.raises(RunError, match="Workers in other processes cannot read"):
        analyze(memory, engine="ray", progress=False)
    elsewhere = tmp_path / "gone.zarr"
    engine, joined = engine_of(["run.zarr"])
    object.__setattr__(engine._sources, "runs", (str(elsewhere),))
    with engine, pytest.raises(ObjectiveError, match=r"A worker on .*There is nothing at .*gone\.zarr.*all nodes can"):
        gram.matrix(joined, blocks=engine.partitions)
    engine, joined = engine_of(["run.zarr"])
    object.__setattr__(engine._sources, "digest", "another")
    with engine, pytest.raises(ObjectiveError, match="other snapshots here"):
        gram.matrix(joined, blocks=engine.partitions)


@pytest.mark.parametrize("kind", ["nobody", "silent", "nonsense"])
def test_an_address_that_does_not_answer_is_said_in_seconds(folder, kind, monkeypatch):
    monkeypatch.setattr(engine_module, "ANSWER_SECONDS", 1.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "silent":
            listener.listen()
        address = "nonsense" if kind == "nonsense" else f"127.0.0.1:{listener.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(ObjectiveError, match=r"No Ray cluster answers at .*ray start --head"):
            run(engine=Ray(address=address))
        assert time.monotonic() - start < 10


def test_a_part_of_the_network_has_the_same_bits(connected):
    """Workers hold what else moves as it is at the origin; the PCA is of the part."""
    options = {"snapshots": Snapshots(tensors="3.*"), "batch_norm": "fixed"}
    here = run(name="part_here", **options)
    there = run(name="part_there", engine=Ray(tune=False), **options)
    assert_same(here, there)
    assert there.definition.parameters == ("3.weight", "3.bias")
