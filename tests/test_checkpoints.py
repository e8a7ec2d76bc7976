"""Checkpoints as others saved them: what they say of their steps, and hostile ones, each of which is a sentence."""

import argparse
import datetime
import json
import pickle
import struct
import zipfile
from collections import defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks.errors import CheckpointError
from landscape_hooks.recording.importing.layouts import Layouts
from landscape_hooks.trajectory.checkpoints.checkpoint import MOST_TENSORS, Facts, facts_of
from landscape_hooks.trajectory.checkpoints.folders import sources, state_facts
from landscape_hooks.trajectory.checkpoints.matching import match
from landscape_hooks.trajectory.checkpoints.pickled import tree_of
from landscape_hooks.trajectory.checkpoints.steps import steps_of

NONE = Facts()


def steps(*names, facts=None, given=None):
    labels = [(Path(name).stem, Path(name).parent.name) for name in names]
    return steps_of(names, labels, facts or [NONE] * len(names), given)


# -- steps -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["epoch=3-step=40.ckpt", "epoch=1-step=20.ckpt"], [40, 20]),
        (["epoch=01-val_loss=0.25.ckpt", "epoch=02-val_loss=0.5.ckpt"], [1, 2]),
        (["checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors"], [500, 1000]),
        (["model_0010.pt", "model_0002.pt"], [10, 2]),
        (["resnet50_12.pth", "resnet50_13.pth"], [12, 13]),
        (["resnet50-epoch7.pth", "resnet50-epoch8.pth"], [7, 8]),
        (["iter_1000.pth", "iter_20.pth"], [1000, 20]),
        (["ckpt_step_10k.pt", "ckpt_step_2k.pt"], [10_000, 2000]),
        (["global_step100", "global_step50"], [100, 50]),
        (["vit-b16-224.e3.pt", "vit-b16-224.e5.pt"], [3, 5]),
        (["7.pt", "8.pt"], [7, 8]),
        (["last-model.pt"], [0]),
        (["resnet50.pt"], [0]),
        (["model-6.pt"], [6]),
        (["checkpoint-12.pth.tar"], [12]),
    ],
)
def test_steps_are_read_off_the_names(names, expected):
    assert steps(*names) == expected


def test_what_the_checkpoints_say_counts_before_their_names():
    assert steps("a-1.pt", "a-2.pt", facts=[Facts(step=30), Facts(step=10)]) == [30, 10]
    assert steps("a-1.pt", "a-2.pt", facts=[Facts(step=30), NONE]) == [1, 2]  # all of them in one way
    assert steps("a.pt", "b.pt", facts=[Facts(epoch=3.0), Facts(epoch=1)]) == [3, 1]
    assert steps("step-5.pt", "step-9.pt", facts=[Facts(epoch=3.0), Facts(epoch=1)]) == [5, 9]
    assert steps("a.pt", "b.pt", facts=[Facts(step=30)] * 2, given=[5, torch.tensor(4)]) == [5, 4]


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["a.pt", "b.pt"], {}, r"of which step a\.pt, b\.pt are.*--steps"),
        (["a-1.pt", "b.pt"], {}, r"of which step b\.pt is"),
        (["best-3-of-9.pt", "best-4-of-8.pt"], {}, "of which step"),
        (
            ["step=40.ckpt", "last.ckpt"],
            {"facts": [Facts(step=40)] * 2},
            r"step=40\.ckpt and last\.ckpt are both of step 40",
        ),
        (["step=40.ckpt", "step=40-v1.ckpt"], {}, "both of step 40"),
        (["a.pt", "b.pt"], {"given": [1]}, "1 steps for 2 checkpoints"),
        (["a.pt", "b.pt"], {"given": [1, 1]}, "both of step 1"),
        (["a.pt"], {"given": [-1]}, "whole numbers"),
        (["a.pt"], {"given": [1.5]}, "whole numbers"),
        (["a.pt"], {"given": [True]}, "whole numbers"),
        (["a.pt"], {"given": "5"}, "whole numbers"),
    ],
)
def test_steps_that_are_not_known_are_asked_for(names, options, said):
    with pytest.raises(CheckpointError, match=said):
        steps(*names, **options)


def test_facts_of_the_dictionaries_around_the_weights():
    adam = {"param_groups": [{"lr": 0.1, "betas": (0.8, 0.9)}, {"lr": torch.tensor(0.25), "momentum": 0.5}]}
    found = facts_of(tree_of({"optimizer": adam, "meta": {"iter": 7}, "epoch": torch.tensor(2), "loss": 0.5}, "x"))
    assert found == Facts(7, 2.0, 0.5, (pytest.approx(0.1), 0.25), (0.8, 0.5))
    strange = {"step": "seven", "epoch": None, "loss": [1], "optimizer": 3, "global_step": -1, "iteration": 1e300}
    assert repr(facts_of(strange)) == repr(NONE)
    state = {"global_step": 10, "epoch": 0.5, "log_history": [{"step": 9, "loss": 3}, {"step": 10, "loss": 2.0}, 5]}
    assert state_facts(state | {"best_metric": None}).loss == 2.0
    assert repr(state_facts({"global_step": [], "log_history": {}})) == repr(NONE)


# -- names of PEFT -------------------------------------------------------------------------------------------------
def test_names_of_adapters_are_those_of_the_model():
    wanted = [
        ("base_model.model.q.base_layer.weight",),
        ("base_model.model.q.lora_A.default.weight",),
        ("base_model.model.q.lora_embedding_B.default",),
        ("base_model.model.q.lora_magnitude_vector.default.weight",),
        ("base_model.model.score.original_module.weight",),
        ("base_model.model.score.modules_to_save.default.weight",),
        ("base_model.model.ia3.ia3_l.my_adapter",),
    ]
    saved = ["q.lora_A.weight", "q.lora_embedding_B", "q.lora_magnitude_vector.weight", "score.weight", "ia3.ia3_l"]
    found = match(wanted, [f"base_model.model.{name}" for name in saved])
    assert [name.removeprefix("base_model.model.") for name in found.names.values()] == [*saved]
    assert found.missing == (wanted[0][0], wanted[4][0])
    bare = [tuple(name.removeprefix("base_model.model.") for name in names) for names in wanted]
    again = match(bare, [f"base_model.model.{name}" for name in saved])  # adapters that transformers added itself
    assert len(again.names) == 5
    short = match([wanted[3]], ["base_model.model.q.lora_magnitude_vector"])  # how PEFT saves it
    assert not short.missing
    base = match(wanted[:2], ["q.weight"])
    assert base.names == {wanted[0][0]: "q.weight"}
    assert base.missing == (wanted[1][0],)


# -- hostile files -------------------------------------------------------------------------------------------------
class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def zipped(path, data, records=()):
    """A file as torch.save makes it, around a pickle of any kind."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for name, content in records:
            archive.writestr(f"archive/data/{name}", content)


def claims(path, shape, stride):
    """A tensor of any shape over one number."""
    storage = b"ctorch\nFloatStorage\n"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage" + storage + b"X\x01\x00\x00\x000X\x03\x00"
    tensor += b"\x00\x00cpuK\x01tQK\x00(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in shape) + b"t("
    tensor += b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in stride) + b"t\x89ccollections\nOrderedDict\n)RtR"
    zipped(path, b"\x80\x02}(X\x01\x00\x00\x00w" + tensor + b"u.", [("0", b"\0\0\0\0")])


def header(path, content, body=b""):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def hostile(folder):
    """Path -> a part of the sentence."""
    mark, found = folder / "executed", {}

    def put(name, said):
        found[folder / name] = said
        return folder / name

    torch.save({"model": {"w": torch.ones(2)}, "step": Code(mark)}, put("code.pt", r"needs code to be read \(.*open"))
    torch.save(nn.Linear(2, 1), put("module.pt", r"needs code to be read \(torch\.nn\.modules"))
    put("plain.pkl", "code|without running").write_bytes(pickle.dumps({"w": Code(mark)}))
    zipped(put("system.pt", "code|without running"), b"cposix\nsystem\n(X\x04\x00\x00\x00truetR.")
    zipped(put("memo.pt", "no checkpoint|without running"), b"\x80\x02h\x05.")
    zipped(put("empty.pt", "no checkpoint"), b"")
    put("nothing.pt", "no checkpoint").write_bytes(b"")
    put("text.pt", "no checkpoint|without running").write_text("a page that says 404")
    put("zeros.bin", "no checkpoint|without running").write_bytes(bytes(10**6))
    torch.save({"w": torch.ones(10**4)}, folder / "whole.pt")
    put("half.pt", "no checkpoint").write_bytes((folder / "whole.pt").read_bytes()[:20_000])
    (folder / "whole.pt").unlink()
    claims(put("expanded.pt", "claims to hold 1,000,000,000,000,000 numbers"), [10**9, 10**6], [0, 0])
    claims(put("beyond.pt", "no checkpoint|without running"), [10**9], [1])
    claims(put("negative.pt", "no checkpoint|without running|shape"), [-5], [1])
    torch.save([torch.ones(2)], put("list.pt", "object of type list"))
    torch.save(torch.ones(2), put("tensor.pt", "object of type Tensor"))
    torch.save({"a": 1}, put("numbers.pt", "no floating-point tensors"))
    torch.save({"w": torch.ones(2, dtype=torch.int8)}, put("whole_numbers.pt", "no floating-point"))
    torch.save({"w": torch.eye(2).to_sparse()}, put("sparse.pt", "sparse"))
    torch.save({"../../w": torch.ones(2)}, put("path.pt", r"with the name '\.\./\.\./w'"))
    torch.save({"a..w": torch.ones(2)}, put("dots.pt", "with the name"))
    torch.save({"a\x1b[31m": torch.ones(2)}, put("escape.pt", r"with the name 'a\\x1b"))
    one = torch.ones(1)
    torch.save({f"w{n}": one for n in range(MOST_TENSORS + 1)}, put("many.pt", "65,537 tensors"))
    torch.jit.save(torch.jit.script(nn.ReLU()), put("script.pt", "TorchScript"))
    deep = {"w": torch.ones(1)}
    for _ in range(60):
        deep = {"model": deep}
    torch.save(deep, put("deep.pt", "no floating-point tensors"))

    whole = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    header(put("cut.safetensors", "cut off"), whole, bytes(4))
    header(put("code.safetensors", "cut off"), b"os.system('true')")
    header(
        put("huge.safetensors", "cut off"), {"w": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 8]}}, bytes(8)
    )
    header(
        put("outside.safetensors", "cut off"), {"w": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, bytes(8)
    )
    header(put("path.safetensors", r"with the name"), {"../w": whole["w"]}, bytes(8))
    many = {f"w{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(10**5)}
    header(put("many.safetensors", "100,000 tensors"), many)
    put("long.safetensors", "cut off").write_bytes(struct.pack("<Q", 2**60) + b"{}")

    for name, content, said in [
        ("path", {"weight_map": {"w": "../model.safetensors"}}, r"names the file '\.\./model"),
        ("root", {"weight_map": {"w": "/etc/passwd"}}, "names the file '/etc/passwd'"),
        ("absent", {"weight_map": {"w": "other.safetensors"}}, "is missing"),
        ("empty", {"weight_map": {}}, "no weight_map"),
        ("list", [1], "holds no object"),
        ("numbers", {"weight_map": {"w": 3}}, "no weight_map"),
    ]:
        (folder / name).mkdir()
        put(name, said)
        (folder / name / "model.safetensors.index.json").write_text(json.dumps(content))
    put("unknown", "is no checkpoint and holds none").mkdir()
    put("absent.pt", "nothing at")
    return mark, found


def read_all(path):
    for source in sources([path]):
        checkpoint = source.open()
        Layouts.of_checkpoint(checkpoint)
        for stored in checkpoint.flattened().values():
            stored.read()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return hostile(tmp_path_factory.mktemp("hostile"))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_hostile_checkpoints_are_sentences_and_run_no_code(files):
    mark, found = files
    for path, said in found.items():
        with pytest.raises(CheckpointError, match=said) as raised:
            read_all(path)
        assert len(str(raised.value)) < 700, path
        assert "\x1b" not in str(raised.value)
    assert not mark.exists()


def test_settings_beside_the_weights_are_left_alone(tmp_path):
    around = {
        "args": argparse.Namespace(lr=0.1, at=Path("x")),
        "counts": defaultdict(list, {"a": [1]}),
        "best": np.float64(0.5),
        "history": np.arange(3),
        "losses": deque([1.0, 2.0], maxlen=5),
        "when": datetime.datetime(2020, 1, 1),
    }
    torch.save({"model": {"w": torch.ones(2)}, "step": 3, **around}, tmp_path / "model.pt")
    before = set(torch.serialization.get_safe_globals())
    (source,) = sources(tmp_path / "model.pt")
    checkpoint = source.open()
    assert checkpoint.facts.step == 3
    assert checkpoint.state_dicts()["model",]["w"].read().tolist() == [1, 1]
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_folder_stands_for_the_checkpoints_in_it(tmp_path):
    names = ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    for name in names:
        (tmp_path / name).mkdir()
        torch.save({"w": torch.ones(1)}, tmp_path / name / "pytorch_model.bin")
    assert [source.name for source in sources(tmp_path)] == names
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")  # what a trainer leaves at the end
    assert [source.name for source in sources(str(tmp_path))] == names
    assert [source.name for source in sources(path for path in [tmp_path / "checkpoint-10"])] == ["checkpoint-10"]
    state = {"global_step": 9, "epoch": 0.5}
    (tmp_path / "checkpoint-9" / "trainer_state.json").write_text(json.dumps(state))
    alone = sources(tmp_path / "checkpoint-9" / "pytorch_model.bin")
    assert alone[0].open().facts.epoch == 0.5
    assert alone[0].identity == sources(tmp_path / "checkpoint-9")[0].identity
    assert alone[0].name == "checkpoint-9/pytorch_model.bin"
    assert steps_of([alone[0].name], [alone[0].labels], [NONE], None) == [9]
