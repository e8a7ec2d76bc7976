"""A run from checkpoints: the same bits as the run that was recorded, whatever saved them."""

import argparse
import json
import os
import pickle
import shutil
import socket
import sys
import warnings
import weakref

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from landscape_hooks import (
    Local,
    Objective,
    Random,
    Surface,
    Trajectory,
    analyze,
    import_checkpoints,
    landscape,
    record,
)
from landscape_hooks.cli import main
from landscape_hooks.cli.description import describe, description_text
from landscape_hooks.errors import CheckpointError, LandscapeError, LayoutError, RecordingWarning, RunError

STEPS = [0, 3, 6, 9]
DATA = (torch.randn(24, 6, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3)
CRITERION = nn.CrossEntropyLoss()
ENGINE = Local(workers=1, tune=False)


class Net(nn.Module):
    """Running statistics, a frozen layer, tied weights, a buffer that is not saved, and one that is no number."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.norm = nn.BatchNorm1d(6)
        self.first = nn.Linear(6, 6, bias=False)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.first.weight
        self.out = nn.Linear(6, 3)
        self.register_buffer("scale", torch.tensor(0.5 + seed * 0), persistent=False)

    def forward(self, x):
        return self.out(torch.tanh(self.again(torch.tanh(self.first(self.norm(self.frozen(x)))) * self.scale)))


def trained(store, steps=STEPS, model=None, optimizer=None, **options):
    """(model, state dicts, optimizer's states) of a training that is recorded as well; the states are copies."""
    model = model or Net()
    optimizer = optimizer or torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5, momentum=0.9)
    states, of_optimizer = [], []

    def keep(step):
        if step in steps:
            states.append({name: value.detach().clone() for name, value in model.state_dict().items()})
            of_optimizer.append(optimizer.state_dict()["param_groups"])

    with record(model, optimizer, store, schedule=steps, criterion=CRITERION, data=DATA, **options):
        keep(0)
        for step in range(1, steps[-1] + 1):
            optimizer.zero_grad()
            CRITERION(model(DATA[0]), DATA[1]).backward()
            optimizer.step()
            keep(step)
    return model, states, of_optimizer


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """(path of the recorded run, its surface, its state dicts, param_groups)."""
    path = tmp_path_factory.mktemp("recorded") / "run.zarr"
    _, states, groups = trained(path)
    return path, analyze(path, size=4, engine=ENGINE, progress=False), states, groups


def same_run(found, expected):
    found, expected = Trajectory.open(found), Trajectory.open(expected)
    assert found.steps.tolist() == expected.steps.tolist()
    assert found.layout == expected.layout
    assert found.buffer_layout == expected.buffer_layout
    assert found.block().tobytes() == expected.block().tobytes()
    assert found.buffers().tobytes() == expected.buffers().tobytes()
    assert found.fixed_layout == expected.fixed_layout
    assert all(found.fixed[name].tobytes() == expected.fixed[name].tobytes() for name in expected.fixed)


def same_surface(found, expected):
    for name in ("alpha", "beta", "loss", "loss_stderr", "path", "path_loss", "path_plane_loss", "path_distance"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes(), name


# -- the formats -------------------------------------------------------------------------------------------------------
def plain(folder, step, state, groups):
    torch.save(state, folder / f"model_{step:04}.pt")


def nested(folder, step, state, groups):
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(6, 6)}}, "param_groups": groups}
    torch.save({"epoch": 7, "model_state_dict": state, "optimizer_state_dict": optimizer, "step": step},
               folder / f"{9 - step}.tar")  # fmt: skip


def wrapped(folder, step, state, groups):
    """torch.compile around DistributedDataParallel, in the old format of torch.save, which is no archive."""
    state = {f"_orig_mod.module.{name}": value for name, value in state.items()}
    torch.save({"net": state, "iteration": torch.tensor(step)}, folder / f"{step}.pth",
               _use_new_zipfile_serialization=False)  # fmt: skip


def lightning(folder, step, state, groups):
    saved = {
        "state_dict": {f"model.{name}": value for name, value in state.items()},
        "global_step": step,
        "epoch": 1,
        "optimizer_states": [{"state": {}, "param_groups": groups}],
        "callbacks": {"x": {"best": torch.ones(2)}},
        "hyper_parameters": {"lr": 0.5},
    }
    torch.save(saved, folder / f"epoch=1-step={step}.ckpt")


def timm(folder, step, state, groups):
    averaged = {name: value * 0 for name, value in state.items()}
    around = {"epoch": step, "arch": "net", "metric": np.float64(0.5), "args": argparse.Namespace(lr=0.5)}
    torch.save({"state_dict": state, "state_dict_ema": averaged, **around}, folder / f"checkpoint-{step}.pth.tar")


def only_average(folder, step, state, groups):
    torch.save({"ema": {f"module.{name}": value for name, value in state.items()}, "step": step}, folder / f"{step}.pt")


def untied(state):
    return {name: value for name, value in state.items() if name != "again.weight"}


def safetensors(folder, step, state, groups):
    from safetensors.torch import save_file

    save_file(untied(state), folder / f"step_{step}.safetensors")


def sharded(folder, step, state, groups):
    from safetensors.torch import save_file

    inside, state = folder / f"checkpoint-{step}", untied(state)
    inside.mkdir()
    halves = {"model-00001-of-00002.safetensors": list(state)[:5], "model-00002-of-00002.safetensors": list(state)[5:]}
    for file, names in halves.items():
        save_file({name: state[name] for name in names}, inside / file)
    where = {name: file for file, names in halves.items() for name in names}
    (inside / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    logged = [{"step": step, "loss": 0.25, "learning_rate": 0.5}, {"step": step + 1, "loss": 9.0}]
    state = {"global_step": step, "epoch": step / 3, "log_history": logged}
    (inside / "trainer_state.json").write_text(json.dumps(state))


def sharded_pickles(folder, step, state, groups):
    inside = folder / f"checkpoint-{step}"
    inside.mkdir()
    names = list(state)
    where = {name: f"pytorch_model-{place % 2}.bin" for place, name in enumerate(names)}
    for file in set(where.values()):
        torch.save({name: state[name] for name in names if where[name] == file}, inside / file)
    (inside / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))


def distributed(folder, step, state, groups):
    import torch.distributed.checkpoint as dcp

    optimizer = {"state": {"out.weight": {"exp_avg": torch.ones(3)}}}
    dcp.save({"model": state, "optim": optimizer, "step": step}, checkpoint_id=folder / f"saved-{step}", no_dist=True)


def deepspeed(folder, step, state, groups):
    inside = folder / f"global_step{step}"
    inside.mkdir()
    torch.save({"module": state, "global_steps": step, "dp_world_size": 1}, inside / "mp_rank_00_model_states.pt")


WITH_LOSS = (nested, sharded, distributed)
"""Those of which the surface is drawn as well; it follows from the rows."""

FORMATS = [plain, nested, wrapped, lightning, timm, only_average, safetensors, sharded, sharded_pickles, distributed,
           deepspeed]  # fmt: skip


@pytest.mark.everyday(2)
@pytest.mark.parametrize("save", FORMATS, ids=lambda save: save.__name__)
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_an_import_has_the_bits_of_the_recording(save, training, tmp_path):
    path, surface, states, groups = training
    folder = tmp_path / "saved"
    folder.mkdir()
    for place in (2, 0, 3, 1):  # whatever was saved first
        save(folder, STEPS[place], states[place], groups[place])
    model = Net(seed=5)
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    loss = {"criterion": CRITERION, "data": DATA} if save in WITH_LOSS else {}
    found = import_checkpoints(tmp_path / "run.zarr", model, folder, progress=False, **loss)
    for name, value in model.state_dict(keep_vars=True).items():
        assert before[name][0] == value.data_ptr()
        assert torch.equal(before[name][1], value)
    assert model.training
    same_run(found.root, path)
    if save in (nested, lightning):
        assert found.learning_rates.tolist() == [[0.5]] * 4
        assert found.momenta.tolist() == [[0.9]] * 4
    if save is sharded:
        assert found.epochs.tolist() == [0, 1, 2, 3]
        assert found.losses.tolist() == [0.25] * 4
        assert found.learning_rates.tolist() == [[0.5]] * 4
    if loss:
        same_surface(analyze(tmp_path / "run.zarr", size=4, engine=ENGINE, progress=False), surface)
    assert found.verify() == []
    assert "said" not in describe(tmp_path / "run.zarr")["closing"] or not found.doubts


# -- which tensor is which -------------------------------------------------------------------------------------------
def states_of(make, seeds):
    return [make(seed).state_dict() for seed in seeds]


def layers(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def imported(model, states, steps=None, store=None, **options):
    store = zarr.storage.MemoryStore() if store is None else store
    steps = range(len(states)) if steps is None else steps
    return import_checkpoints(store, model, states, steps=list(steps), progress=False, **options)


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["model.", "net.", "module.model.", "_forward_module.", "encoder.0.", "a_b.c."])
def test_prefixes_are_taken_off(prefix):
    state = layers(1).state_dict()
    expected = np.concatenate([value.reshape(-1) for value in state.values()])
    found = imported(layers(2), [under(prefix, state)])
    np.testing.assert_array_equal(found[0].weights, expected)


def test_a_prefix_that_the_model_has_is_put_on():
    outer = nn.ModuleDict({"backbone": layers(2)})
    state = layers(1).state_dict()
    found = imported(outer, [state])
    assert found.layout.names[0] == "backbone.0.weight"
    np.testing.assert_array_equal(found[0].weights[:12], state["0.weight"].reshape(-1))


def test_a_model_among_others_is_found_and_averages_are_left_alone():
    state, other = layers(1).state_dict(), layers(3).state_dict()
    for saved in (
        {"ema": other, "model": state},
        {"teacher": other, "student": state},
        under("ema_model.", other) | under("model.", state),
        {"critic": {"weight": torch.ones(2)}, "actor": state},
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = imported(layers(2), [saved])
        np.testing.assert_array_equal(found[0].weights[:12], state["0.weight"].reshape(-1))


def test_two_models_under_two_prefixes_are_not_guessed_between():
    state, other = layers(1).state_dict(), layers(3).state_dict()
    with pytest.raises(CheckpointError, match=r"under the prefixes 'left\.' and 'right\.'"):
        imported(layers(2), [under("left.", state) | under("right.", other)])


def test_several_models_as_one():
    pair = nn.ModuleDict({"generator": layers(2), "critic": layers(3)})
    saved = {"generator": layers(4).state_dict(), "critic": layers(5).state_dict(), "step": 3}
    found = imported(pair, [saved])
    np.testing.assert_array_equal(found[0].weights[:12], saved["generator"]["0.weight"].reshape(-1))
    np.testing.assert_array_equal(found[0].weights[26:38], saved["critic"]["0.weight"].reshape(-1))
    with pytest.raises(CheckpointError, match="several state dicts: 'generator', 'critic'"):
        imported(None, [saved])


def test_missing_unexpected_and_misshapen_tensors_are_named():
    state = layers(1).state_dict()
    lacking = {name: value for name, value in state.items() if name != "2.bias"}
    with pytest.raises(CheckpointError, match=r"checkpoint 1 lacks 1 of the 4 tensors: '2\.bias'"):
        imported(layers(2), [state, lacking])
    with pytest.raises(CheckpointError, match=r"'2\.bias'"):
        imported(None, [state, lacking])
    with pytest.raises(CheckpointError, match=r"'0\.weight' of checkpoint 1 has the shape \[5, 3\].*\[4, 3\]"):
        imported(layers(2), [state, state | {"0.weight": torch.ones(5, 3)}])
    with pytest.warns(
        RecordingWarning, match=r"lacks 1 of the checkpoints' tensors, which are left out: 'more\.weight'"
    ):
        imported(layers(2), [state | {"more.weight": torch.ones(1)}])
    with pytest.raises(CheckpointError, match=r"lacks 4 of the 4 tensors.*it has 'x'"):
        imported(layers(2), [{"x": torch.ones(1)}])


def test_wider_numbers_are_told_and_narrower_ones_are_exact():
    state = layers(1).state_dict()
    half = {name: value.bfloat16() for name, value in state.items()}
    found = imported(layers(2), [half])
    np.testing.assert_array_equal(found[0].weights[:12], half["0.weight"].float().reshape(-1))
    with pytest.warns(RecordingWarning, match="wider type than the model"):
        found = imported(layers(2).bfloat16(), [state])
    assert found.stored_dtype == "bfloat16"
    np.testing.assert_array_equal(found[0].weights[:12], half["0.weight"].float().reshape(-1))


def test_without_a_model_names_and_shapes_say_what_there_is():
    states = [{"bn.weight": torch.full((2,), float(n)), "bn.running_mean": torch.full((2,), n + 0.5),
               "bn.num_batches_tracked": torch.tensor(n), "fc.weight": torch.full((1, 2), -float(n))}
              for n in range(3)]  # fmt: skip
    found = imported(None, [under("module.", state) for state in states])
    assert found.layout.names == ("bn.weight", "fc.weight")
    assert found.buffer_layout.names == ("bn.running_mean",)
    assert found.block().tolist() == [[0, 0, 0, 0], [1, 1, -1, -1], [2, 2, -2, -2]]
    assert found.buffers().tolist() == [[0.5, 0.5], [1.5, 1.5], [2.5, 2.5]]
    mixed = [{"w": torch.ones(2, dtype=torch.bfloat16)}, {"w": torch.full((2,), 0.1)}]
    assert imported(None, mixed)[1].weights.tolist() == [np.float32(0.1)] * 2


def test_tied_tensors_of_a_file_are_one_parameter(tmp_path):
    model = Net()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = import_checkpoints(tmp_path / "run.zarr", None, tmp_path / "model.pt", progress=False)
    assert found.layout["again.weight"].name == "first.weight"


def test_what_the_checkpoints_lack_because_it_is_frozen_is_the_models():
    model = Net(seed=5)
    states = [{name: value for name, value in state.items() if not name.startswith("frozen.")}
              for state in states_of(Net, (1, 2, 3))]  # fmt: skip
    found = imported(model, states)
    np.testing.assert_array_equal(found.fixed["frozen.weight"], model.frozen.weight)
    partly = [state | {"frozen.bias": torch.ones(6)} for state in states]
    with pytest.raises(CheckpointError, match=r"lacks 1 .*'frozen\.weight'"):
        imported(model, partly)
    for state in states:
        del state["norm.running_mean"]
    with pytest.raises(CheckpointError, match=r"'norm\.running_mean'"):
        imported(model, states)


class Packed(nn.Module):
    """A quantized layer under an adapter."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.packed = nn.Parameter(torch.randint(-9, 9, (3, 6), dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.rand(3), requires_grad=False)
        self.a = nn.Parameter(torch.randn(3, 6))

    def forward(self, x):
        return nn.functional.linear(x, self.packed.float() * self.scale[:, None] + self.a)


def test_packed_weights_are_stored_once(tmp_path):
    model, states, _ = trained(tmp_path / "a.zarr", [0, 1, 2], model=Packed(0))
    found = imported(Packed(5), [under("module.", state) for state in states], store=tmp_path / "b.zarr")
    same_run(found.root, tmp_path / "a.zarr")
    adapters = [{"a": state["a"]} for state in states]
    same_run(imported(model, adapters, store=tmp_path / "c.zarr").root, tmp_path / "a.zarr")
    states[2]["packed"] = states[2]["packed"] + 1
    with pytest.warns(RecordingWarning, match="'packed' of integers changed"):
        assert len(imported(Packed(5), states).doubts) == 1


def test_what_begins_to_move_between_checkpoints_moves_in_the_run(tmp_path):
    _model, states, _ = trained(tmp_path / "a.zarr", [0, 2, 4])
    states[2]["frozen.weight"] = states[2]["frozen.weight"] + 1
    found = imported(Net(seed=5), states, steps=[0, 2, 4], store=tmp_path / "b.zarr")
    assert found.layout.names[-1] == "frozen.weight"
    assert "frozen.bias" in found.fixed
    assert "frozen.weight" not in found.fixed
    width = found.layout["frozen.weight"].slice
    for snapshot, state in zip(found, states, strict=True):
        np.testing.assert_array_equal(snapshot.weights[width], state["frozen.weight"].reshape(-1))


# -- interrupted, gone on with, added to ------------------------------------------------------------------------------
def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def saved(folder, states, steps=STEPS):
    folder.mkdir()
    for step, state in zip(steps, states, strict=True):
        torch.save(state, folder / f"model-{step}.pt")
    return folder


KILLED = """
    import os, signal, sys
    from landscape_hooks import import_checkpoints
    from landscape_hooks.recording.importing import rows
    from tests.test_importing import CRITERION, DATA, Net

    def ends(function, after):
        count = [0]
        def counted(*arguments):
            count[0] += 1
            if count[0] > int(after):
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)
        return counted

    store, folder, where, after = sys.argv[1:]
    if where == "row":
        rows.RowsOut.write = ends(rows.RowsOut.write, after)
    else:
        rows.TrajectoryWriter._set = ends(rows.TrajectoryWriter._set, after)
    loss = {"criterion": CRITERION, "data": DATA} if where == "commit" else {}
    import_checkpoints(store, Net(5), folder, progress=False, **loss)
"""


@pytest.mark.more
@pytest.mark.parametrize(("where", "after"), [("row", 0), ("row", 2), ("commit", 1)])
def test_a_killed_import_goes_on_to_the_same_bits(where, after, training, tmp_path, interpreters):
    _, _, states, _ = training
    states = [*states[:2], *({**state, "frozen.bias": state["frozen.bias"] + 1} for state in states[2:])]
    folder = saved(tmp_path / "saved", states)
    loss = {"criterion": CRITERION, "data": DATA} if where == "commit" else {}
    import_checkpoints(tmp_path / "a.zarr", Net(5), folder, progress=False, **loss)
    done = interpreters.run(KILLED, tmp_path / "b.zarr", folder, where, after)
    assert done.returncode == -9, done.stderr
    assert len(Trajectory.open(tmp_path / "b.zarr")) < 4
    import_checkpoints(tmp_path / "b.zarr", Net(6), folder, progress=False, **loss)
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


def test_further_checkpoints_are_added_and_others_are_refused(training, tmp_path):
    path, _, states, _ = training
    folder = saved(tmp_path / "saved", states)
    files = [folder / f"model-{step}.pt" for step in STEPS]
    store, model = tmp_path / "run.zarr", Net(5)
    assert len(import_checkpoints(store, model, files[:2], progress=False)) == 2
    before = content(store)
    assert len(import_checkpoints(store, model, files[:2], progress=False)) == 2
    assert content(store) == before
    assert len(import_checkpoints(store, model, files[2], progress=False)) == 3
    import_checkpoints(store, model, files, progress=False)
    same_run(store, path)
    torch.save(states[0], folder / "model-7.pt")
    with pytest.raises(RunError, match=r"model-7\.pt is of step 7, and the run goes to step 9"):
        import_checkpoints(store, model, folder / "model-7.pt", progress=False)
    torch.save(states[1], files[2])
    with pytest.raises(RunError, match=r"step 6 already, in which 'norm\.weight' differs from model-6\.pt"):
        import_checkpoints(store, model, files[2], progress=False)
    torch.save(states[2], files[2])  # the same numbers at another time
    import_checkpoints(store, model, files, progress=False)
    with pytest.raises(RunError, match="recorded and not imported"):
        import_checkpoints(path, model, files, progress=False)
    with pytest.raises(LayoutError):
        import_checkpoints(store, layers(1), [layers(1).state_dict()], steps=[12], progress=False)


def test_the_loss_of_a_run_that_has_none_is_added(training, tmp_path):
    path, _, states, _ = training
    import_checkpoints(tmp_path / "run.zarr", Net(5), states, steps=STEPS, progress=False)
    assert describe(tmp_path / "run.zarr")["objective"] is None
    imported(Net(5), states, STEPS, tmp_path / "run.zarr", criterion=CRITERION, data=DATA)
    assert describe(tmp_path / "run.zarr")["objective"] == describe(path)["objective"]


def test_nothing_is_left_where_nothing_was_imported(tmp_path):
    for bad in ([{"a": torch.ones(1)}, {"b": torch.ones(1)}], [tmp_path / "absent.pt"]):
        with pytest.raises(CheckpointError):
            import_checkpoints(tmp_path / "run.zarr", None, bad, progress=False)
    loss = {"criterion": CRITERION, "data": (torch.ones(4, 9), torch.zeros(4, dtype=torch.long))}
    with pytest.raises(LandscapeError, match="mat1 and mat2"):
        import_checkpoints(tmp_path / "run.zarr", layers(1), [layers(1).state_dict()], progress=False, **loss)
    assert not (tmp_path / "run.zarr").exists() or not any((tmp_path / "run.zarr").iterdir())


def test_one_checkpoint_at_a_time_is_in_memory(monkeypatch, tmp_path):
    states = states_of(layers, range(6))
    alive = []

    def given(number):
        def state():
            kept = {name: value.clone() for name, value in states[number].items()}
            alive[:] = [ref for ref in alive if ref() is not None]
            assert len(alive) <= 4  # the one before, until its row is written
            alive.extend(weakref.ref(value) for value in kept.values())
            return kept

        return state

    found = imported(layers(7), [given(number) for number in range(6)])
    assert len(found) == 6


# -- the loss ----------------------------------------------------------------------------------------------------------
def test_a_loss_wants_the_model_or_an_objective(training, tmp_path):
    path, surface, states, _ = training
    bare = [{name: value for name, value in state.items() if name != "again.weight"} for state in states]
    loss = Objective.of(Net(5), criterion=CRITERION, data=DATA)
    shuffled = [dict(sorted(state.items(), reverse=True)) for state in bare]
    found = imported(None, shuffled, STEPS, tmp_path / "run.zarr", objective=loss)
    same_run(found.root, path)
    drawn = analyze(tmp_path / "run.zarr", objective=loss, size=4, engine=ENGINE, progress=False)
    np.testing.assert_allclose(drawn.path_loss, surface.path_loss, rtol=1e-5)
    with pytest.raises(LandscapeError, match="without the model"):
        imported(None, bare, criterion=CRITERION, data=DATA)
    with pytest.raises(LandscapeError, match="without data="):
        imported(Net(), bare, criterion=CRITERION)
    with pytest.raises(LandscapeError, match="data= without"):
        imported(Net(), bare, data=DATA)
    with pytest.raises(LandscapeError, match="of type list"):
        imported([Net()], bare)


def test_an_objective_takes_the_tensors_in_the_order_of_the_run(tmp_path):
    def make(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))

    states = [dict(sorted(state.items(), reverse=True)) for state in states_of(make, range(3))]
    for place, state in enumerate(states):
        state["1.running_mean"] = torch.arange(4.0) + place
    found = imported(None, states, store=tmp_path / "run.zarr")
    assert found.layout.names[0] == "2.weight"
    assert found.buffer_layout.names == ("1.running_var", "1.running_mean")
    loss = Objective.of(make(7), criterion=CRITERION, data=DATA)
    drawn = analyze(tmp_path / "run.zarr", objective=loss, batch_norm="fixed", size=2, engine=ENGINE, progress=False)
    model = make(8)
    model.load_state_dict(states[-1])
    expected = CRITERION(model.eval()(DATA[0]), DATA[1]).item()
    assert drawn.path_loss[-1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.more
def test_one_checkpoint_is_enough_for_a_random_plane_and_the_hessians(training, tmp_path):
    _, _, states, _ = training
    imported(Net(5), states[-1:], [9], tmp_path / "run.zarr", criterion=CRITERION, data=DATA)
    drawn = analyze(tmp_path / "run.zarr", directions="random", size=3, engine=ENGINE, progress=False)
    assert drawn.path.tolist() == [[0, 0]]
    assert drawn.loss[1, 1] == pytest.approx(drawn.path_loss[0], rel=1e-6)
    analyze(tmp_path / "run.zarr", directions="hessian", size=3, engine=ENGINE, progress=False)
    with pytest.raises(RunError, match=r"1 snapshot.*at least 3"):
        analyze(tmp_path / "run.zarr", progress=False)


def test_the_landscape_of_a_finished_model_in_one_call(training, tmp_path):
    _, _, states, _ = training
    model = Net(5)
    model.load_state_dict(states[-1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    imported(Net(5), states[-1:], [0], tmp_path / "a.zarr", criterion=CRITERION, data=DATA)
    expected = analyze(tmp_path / "a.zarr", directions="random", size=3, engine=ENGINE, progress=False)
    loss = {"criterion": CRITERION, "data": DATA, "size": 3, "engine": ENGINE, "progress": False}
    same_surface(landscape(model, **loss), expected)
    same_surface(landscape(nn.DataParallel(model), store=tmp_path / "b.zarr", **loss), expected)
    assert Surface.open(tmp_path / "b.zarr").attrs["directions"] == "random"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(RunError, match="already, in which"):
        landscape(Net(7), store=tmp_path / "b.zarr", **loss)
    with pytest.raises(LandscapeError, match="several checkpoints"):
        landscape(model, **loss, directions="pca")
    with pytest.raises(LandscapeError, match="no loss"):
        landscape(model, data=DATA)
    frozen = landscape(model.requires_grad_(False), directions=Random(norm="filter"), **loss)
    assert np.ptp(frozen.loss) > 0  # frozen as a whole is not frozen


# -- the command -------------------------------------------------------------------------------------------------------
MODULE = """
import torch
from tests.test_importing import DATA, Net

def make_model():
    return Net(5)

def make_data():
    return DATA

def loss(model, batch):
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
"""


def test_the_command_imports(training, tmp_path, monkeypatch, capsys):
    path, surface, states, _ = training
    folder = saved(tmp_path / "saved", states)
    (tmp_path / "of_user.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    command = ["import", "run.zarr", *(str(folder / f"model-{step}.pt") for step in (9, 0, 6, 3))]
    options = [
        "--model",
        "of_user:make_model",
        "--criterion",
        "torch.nn:CrossEntropyLoss",
        "--data",
        "of_user:make_data",
    ]
    main([*command, *options, "--quiet"])
    assert "run.zarr holds 4 snapshots of 75 parameters, steps 0 to 9." in capsys.readouterr().out
    same_run(tmp_path / "run.zarr", path)
    same_surface(analyze("run.zarr", size=4, engine=ENGINE, progress=False), surface)
    assert "imported    from 4 checkpoints: model-0.pt to model-9.pt" in description_text(describe("run.zarr"))
    main(["import", "bare.zarr", str(folder), "--quiet", "--steps", "9,6,3,0"])
    assert Trajectory.open("bare.zarr").steps.tolist() == [0, 3, 6, 9]
    main(["import", "other.zarr", str(folder), "--model", "of_user:Net", "--objective", "of_user:loss",
          "--data", "of_user:DATA", "--samples", "8"])  # fmt: skip
    said = capsys.readouterr()
    assert "import: 4 of 4 checkpoints" in said.err
    assert describe("other.zarr")["objective"]["loss"] == "loss"
    for bad in (["--criterion", "torch.nn:MSELoss"], ["--steps", "1,2"], ["--model", "of_user:DATA"]):
        with pytest.raises(SystemExit) as ended:
            main(["import", "bad.zarr", str(folder), *bad])
        assert ended.value.code == 2
        assert "landscape-hooks: " in capsys.readouterr().err


# -- processes ---------------------------------------------------------------------------------------------------------
RANK = """
    import os, sys
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch import nn
    from torch.distributed.fsdp import fully_shard
    from landscape_hooks import record
    from tests.test_importing import sharded_model

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = sharded_model(0)
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with record(model, optimizer, sys.argv[1], every=2):
        for step in range(5):
            if step % 2 == 0:
                # no get_state_dict: where the optimizer has no state yet, that steps it once, with a rate of 0
                app = {"model": model.state_dict(), "optim": optimizer.state_dict()}
                dcp.save({"app": app, "step": step}, checkpoint_id=f"{sys.argv[2]}/saved-{step}")
            optimizer.zero_grad()
            model(torch.ones(8, 5) * (step + 1)).square().mean().backward()
            optimizer.step()
    dist.barrier()
    dist.destroy_process_group()
"""


def sharded_model(seed):
    """7, 5 and 1 rows do not divide by two ranks."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 5), nn.Linear(5, 1))


@pytest.mark.more
def test_a_folder_that_two_processes_wrote(interpreters, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    arguments = tmp_path / "a.zarr", tmp_path / "saved"
    ranks = [interpreters.start(RANK, *arguments, env={**world, "RANK": str(rank)}) for rank in range(2)]
    said = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    files = sorted((tmp_path / "saved").iterdir())
    assert len(list(files[0].glob("*.distcp"))) == 2
    recorded = Trajectory.open(tmp_path / "a.zarr")
    for model in (sharded_model(1), None):
        found = imported(model, files[::-1], steps=[4, 2, 0])
        assert recorded.steps.tolist() == [0, 2, 4, 5]
        assert sorted(found.layout.names) == sorted(recorded.layout.names)
        for place, snapshot in enumerate(found):
            for entry in recorded.layout:
                own = snapshot.weights[found.layout[entry.name].slice]
                assert own.tobytes() == recorded[place].weights[entry.slice].tobytes()


@pytest.fixture(scope="module")
def folder_of_parts(tmp_path_factory):
    """A folder of torch.distributed.checkpoint, as a function that gives a copy of it."""
    made = tmp_path_factory.mktemp("parts") / "saved"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distributed(made.parent, 0, layers(1).state_dict(), None)

    def copied(folder):
        shutil.copytree(made.parent / "saved-0", folder)
        return folder

    return copied


class Ends:
    def __reduce__(self):
        return (os._exit, (3,))


def outside(metadata):
    for info in metadata.storage_data.values():
        info.relative_path = "../../x.distcp"


def gap(metadata):
    metadata.state_dict_metadata["model.0.weight"].chunks[0].sizes = torch.Size([1, 1])


def beyond(metadata):
    metadata.state_dict_metadata["model.0.weight"].chunks[0].offsets = torch.Size([10**9, 0])


def enormous(metadata):
    for entry in (metadata.state_dict_metadata["model.0.weight"],):
        entry.size = entry.chunks[0].sizes = torch.Size([10**9, 10**9])


def executed(metadata):
    metadata.planner_data = Ends()


def elsewhere(metadata):
    for info in metadata.storage_data.values():
        info.offset = 10**12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (outside, "names the file"),
        (gap, "do not make up its shape|does not say where"),
        (beyond, "does not say where|reaches beyond"),
        (enormous, "claims to hold"),
        (executed, r"cannot be read \(it names posix\._exit\)"),
        (elsewhere, "is cut off"),
    ],
    ids=lambda change: getattr(change, "__name__", ""),
)
def test_hostile_lists_of_parts_are_sentences(change, said, folder_of_parts, tmp_path):
    folder = folder_of_parts(tmp_path / "saved")
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=said):
        imported(layers(2), [folder])


def test_parts_that_are_missing_or_no_list_are_sentences(folder_of_parts, tmp_path):
    folder = folder_of_parts(tmp_path / "saved")
    (folder / ".metadata").write_bytes(b"no pickle")
    with pytest.raises(CheckpointError, match="cannot be read"):
        imported(layers(2), [folder])
    folder = folder_of_parts(tmp_path / "again")
    for file in folder.glob("*.distcp"):
        file.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        imported(layers(2), [folder])


def test_numbers_that_are_not_finite_are_told_and_kept(tmp_path):
    states = states_of(layers, range(3))
    states[1]["2.bias"] = torch.tensor([float("nan"), float("inf")])
    with pytest.warns(RecordingWarning, match=r"checkpoint of step 1 holds NaN or inf in '2\.bias'"):
        found = imported(layers(5), states)
    assert np.isnan(found[1].weights[-2])
    assert found[1].weights[-1] == np.inf


def test_safetensors_that_is_not_installed_is_a_sentence(tmp_path, monkeypatch):
    safetensors(tmp_path, 1, layers(1).state_dict(), None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(CheckpointError, match=r"not installed.*landscape-hooks\[checkpoints\]"):
        imported(layers(1), [tmp_path / "step_1.safetensors"])
