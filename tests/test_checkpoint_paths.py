"""What people name as checkpoints: patterns, folders with other files in them, shards; each right or a sentence."""

import json
import os

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import import_checkpoints
from landscape_hooks.errors import CheckpointError
from landscape_hooks.trajectory.checkpoints.folders import sources

OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))


def state(number):
    return {name: tensor + number for name, tensor in network().state_dict().items()}


def saved(folder, name="ckpt_{:06d}.pt", numbers=(10, 20, 30)):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        torch.save(state(number), folder / name.format(number))
    return folder


def imported(checkpoints, numbers=(10, 20, 30)):
    run = import_checkpoints({}, network(), checkpoints, progress=False)
    assert run.steps.tolist() == list(numbers)
    for snapshot, number in zip(run, numbers, strict=True):
        expected = torch.cat([tensor.flatten() for tensor in state(number).values()])
        np.testing.assert_array_equal(snapshot.weights, expected)


def shards(folder, number, *, suffix="bin", index=True):
    """A checkpoint of two files, as transformers writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = state(number)
    places = {name: f"pytorch_model-0000{1 + n % 2}-of-00002.{suffix}" for n, name in enumerate(tensors)}
    for file in set(places.values()):
        torch.save({name: tensors[name] for name in places if places[name] == file}, folder / file)
    if index:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    torch.save(OPTIMIZER, folder / "optimizer.pt")
    torch.save([1], folder / "rng_state.pth")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": number}))
    return folder


@pytest.mark.parametrize("pattern", ["ckpt_*.pt", "*_0000?0.pt", "**/*.pt"])
def test_a_pattern_that_no_shell_has_looked_up(tmp_path, pattern):
    imported(str(saved(tmp_path / "a") / pattern))


def test_a_path_that_looks_like_a_pattern_is_a_path(tmp_path):
    imported(saved(tmp_path / "run[1]"))


def test_a_pattern_that_means_nothing_is_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match=r"Nothing matches .*none-\*\.pt"):
        sources(tmp_path / "none-*.pt")


def test_files_beside_the_weights_are_left_alone(tmp_path):
    folder = saved(tmp_path / "a")
    for name in ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state_0.pth", "training_args.bin", "optim_20.pt"):
        torch.save(OPTIMIZER, folder / name)
    imported(folder)


@pytest.mark.parametrize("index", [True, False])
def test_files_that_are_one_checkpoint(tmp_path, index):
    for number in (10, 20):
        shards(tmp_path / "out" / f"checkpoint-{number}", number, index=index)
    imported(tmp_path / "out", (10, 20))
    imported([tmp_path / "out" / "checkpoint-20"], (20,))
    imported(str(tmp_path / "out" / "checkpoint-*"), (10, 20))


def test_an_import_goes_on_where_a_part_of_a_checkpoint_was_written_anew(tmp_path):
    folder = shards(tmp_path / "checkpoint-10", 10, index=False)
    before = sources(folder)[0].identity
    part = folder / "pytorch_model-00002-of-00002.bin"
    os.utime(part, ns=(10**18, 2 * 10**18))
    assert sources(folder)[0].identity != before


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("pytorch_model-00002-of-00002.bin", r"is one of 2 files of a checkpoint\. Name the folder"),
        ("optimizer.pt", "is the state of an optimizer, without weights"),
    ],
)
def test_a_part_of_a_checkpoint_is_a_sentence(tmp_path, named, said):
    folder = shards(tmp_path / "checkpoint-10", 10)
    with pytest.raises(CheckpointError, match=said):
        import_checkpoints({}, network(), folder / named, progress=False)


def test_a_part_that_is_missing_is_named(tmp_path):
    folder = shards(tmp_path / "checkpoint-10", 10, index=False)
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 'pytorch_model-00002-of-00002\.bin', one of its 2 files"):
        import_checkpoints({}, network(), folder, progress=False)


def test_a_tensor_in_two_parts_is_a_sentence(tmp_path):
    folder = shards(tmp_path / "checkpoint-10", 10, index=False)
    torch.save(state(1), folder / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(CheckpointError, match=r"The tensor '0\.weight' is in two files of checkpoint-10"):
        import_checkpoints({}, network(), folder, progress=False)


def test_the_same_file_twice_is_a_sentence(tmp_path):
    file = saved(tmp_path / "a") / "ckpt_000010.pt"
    os.symlink(file, tmp_path / "link.pt")
    with pytest.raises(CheckpointError, match=r"link\.pt is named twice"):
        sources([file, tmp_path / "link.pt"])


def test_files_of_one_name_are_told_apart(tmp_path):
    saved(tmp_path / "a", numbers=(10,))
    saved(tmp_path / "b", numbers=(10,))
    with pytest.raises(CheckpointError, match=r"a/ckpt_000010\.pt and b/ckpt_000010\.pt are both of step 10"):
        import_checkpoints({}, network(), str(tmp_path / "?" / "*.pt"), progress=False)


def test_flat_parameters_of_fsdp_are_a_sentence(tmp_path):
    torch.save({"_fsdp_wrapped_module._flat_param": torch.zeros(14)}, tmp_path / "step_1.pt")
    with pytest.raises(CheckpointError, match="save a full state dict"):
        import_checkpoints({}, network(), tmp_path / "step_1.pt", progress=False)
