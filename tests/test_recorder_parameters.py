"""Which parameters are recorded (`Parameters`), bases by reference, and tensors of integers."""

import json
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import landscape_hooks
from landscape_hooks import (
    Local,
    Objective,
    Parameters,
    RecordingWarning,
    Snapshots,
    Trajectory,
    analyze,
    record,
    verify,
)
from landscape_hooks.cli.description import describe, description_text
from landscape_hooks.errors import LandscapeError, LayoutError, RunError

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randn(16, 2, generator=torch.Generator().manual_seed(2))
PLAIN = Local(tune=False)


def network():
    torch.manual_seed(0)
    return nn.ModuleDict({"body": nn.Linear(6, 5), "head": nn.Linear(5, 2)})


def loss_of(model, batch):
    return nn.functional.mse_loss(model["head"](model["body"](batch[0]).tanh()), batch[1])


def train(model, run, steps=4, **options):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with record(model, optimizer, run, every=1, objective=loss_of, data=(X, Y), **options):
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(model, (X, Y)).backward()
            optimizer.step()
    return model


# -- names ---------------------------------------------------------------------------------------------------
def test_the_options_check_themselves():
    assert Parameters("lora_*", "head.*").patterns == ("lora_*", "head.*")
    assert Parameters("head.*") == Parameters("head.*") != Parameters("head.*", frozen="reference")
    assert landscape_hooks.Parameters is Parameters
    for wrong in (lambda: Parameters(3), lambda: Parameters(""), lambda: Parameters(frozen="nowhere")):
        with pytest.raises(LandscapeError):
            wrong()
    with pytest.raises(LandscapeError, match="parameters="):
        record(network(), None, "nowhere.zarr", parameters="head.*")
    assert not Path("nowhere.zarr").exists()


def test_only_what_was_asked_for_is_in_the_snapshots(tmp_path):
    model = network()
    model["body"].requires_grad_(False)
    train(model, tmp_path / "run.zarr", parameters=Parameters("head.*"))
    t = Trajectory.open(tmp_path / "run.zarr")
    assert (t.layout.names, list(t.fixed)) == (("head.weight", "head.bias"), ["body.weight", "body.bias"])
    assert t.doubts == ()


def test_a_frozen_parameter_that_was_asked_for_is_in_every_snapshot(tmp_path):
    model = network()
    model["body"].requires_grad_(False)
    train(model, tmp_path / "run.zarr", parameters=Parameters("body.bias", "head.*"))
    assert Trajectory.open(tmp_path / "run.zarr").layout.names == ("body.bias", "head.weight", "head.bias")


def test_a_pattern_that_means_nothing_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(LayoutError, match=r"'haed\.\*' matches none of the 4 tensors. Expected .*head\.weight"):
        record(network(), None, tmp_path / "run.zarr", parameters=Parameters("body.*", "haed.*"))
    assert not (tmp_path / "run.zarr").exists()


def test_what_moves_outside_of_them_is_in_doubt(tmp_path):
    """The body is trained and not recorded: the run says that its losses are not the training's."""
    with pytest.warns(RecordingWarning, match=r"'body\.weight' \(and 1 more\) is outside"):
        train(network(), tmp_path / "run.zarr", parameters=Parameters("head.*"))
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.layout.names == ("head.weight", "head.bias")
    assert any(doubt.kind == "fixed" and "outside of the recorded ones" in doubt.said for doubt in t.doubts)
    surface = analyze(tmp_path / "run.zarr", size=3, engine=PLAIN, progress=False)
    assert any("outside of the recorded ones" in sentence for sentence in surface.attrs["report"])


def test_a_tied_tensor_is_meant_by_either_name(tmp_path):
    model = nn.Module()
    model.embed, model.head = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    model.head.weight = model.embed.weight
    model.other = nn.Linear(3, 3).requires_grad_(False)
    record(model, None, tmp_path / "run.zarr", parameters=Parameters("head.*")).close()
    assert Trajectory.open(tmp_path / "run.zarr").layout.names == ("embed.weight",)


def test_going_on_wants_the_same_parameters(tmp_path):
    model = network()
    model["body"].requires_grad_(False)
    run = tmp_path / "run.zarr"
    train(model, run, parameters=Parameters("head.*"))
    with pytest.raises(RunError, match=r"does not record 'body\.bias'"):
        record(model, None, run, every=1, if_exists="resume", parameters=Parameters("*.bias", "head.*"))
    train(model, run, parameters=Parameters("head.*"), if_exists="resume")
    assert Trajectory.open(run).steps.tolist() == list(range(9))


def test_keep_goes_by_what_is_recorded(tmp_path):
    model = nn.ModuleDict({"body": nn.Linear(4000, 3000), "head": nn.Linear(3000, 1)})
    with record(model, None, tmp_path / "run.zarr", parameters=Parameters("head.*", frozen="reference")):
        pass
    assert Trajectory.open(tmp_path / "run.zarr").root["trajectory"].attrs["slots"] == 200


# -- by reference --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def referenced(tmp_path_factory):
    """A run with its base by reference, the same run with the base in it, and the base in several forms."""
    folder = tmp_path_factory.mktemp("referenced")
    for name, frozen in (("run", "reference"), ("whole", "stored")):
        model = network()
        model["body"].requires_grad_(False)
        train(model, folder / f"{name}.zarr", parameters=Parameters(frozen=frozen))
    base = network().state_dict()
    torch.save({"epoch": 3, "model": {f"module.{name}": value for name, value in base.items()}}, folder / "base.pt")
    (folder / "hub").mkdir()
    for number, names in enumerate((["body.weight"], ["body.bias", "head.weight", "head.bias"])):
        safetensors(folder / "hub" / f"model-{number}.safetensors", {f"model.{name}": base[name] for name in names})
    torch.save({name: value + 1 for name, value in base.items()}, folder / "other.pt")
    torch.save({"body.weight": base["body.weight"]}, folder / "part.pt")
    torch.save({"body.weight": base["body.weight"].T, "body.bias": base["body.bias"]}, folder / "shapes.pt")
    return folder


def safetensors(path, tensors):
    header, content = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        values = tensor.numpy().tobytes()
        entry = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(content), len(content) + len(values)],
        }
        header, content = {**header, name: entry}, content + values
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


def test_a_reference_has_no_values(referenced):
    t = Trajectory.open(referenced / "run.zarr")
    assert list(t.fixed) == ["body.weight", "body.bias"]
    assert t.fixed_layout.names == ("body.weight", "body.bias")
    assert not (referenced / "run.zarr" / "fixed" / "0").exists()
    assert t.doubts == ()
    assert t.root.attrs["closing"]["state"] == "checked"
    with pytest.raises(RunError, match="--base FILE, FOLDER or module:function"):
        t.fixed["body.weight"]
    with pytest.raises(RunError, match=r"has 'body.weight' and 1 more tensors by reference"):
        analyze(referenced / "run.zarr", size=3, engine=PLAIN, progress=False)


def test_what_is_fixed_is_said_by_info(referenced):
    for name, said in (("run", "by reference: analyze needs --base"), ("whole", "stored once")):
        description = describe(referenced / f"{name}.zarr")
        assert description["fixed"] == {"tensors": 2, "bytes": 4 * 35, "by_reference": name == "run"}
        assert f"fixed       2 tensors, 140 B, {said}" in description_text(description)


@pytest.mark.everyday(2)
@pytest.mark.parametrize("base", ["base.pt", "hub", "state", "model", "function"])
def test_a_base_gives_them_back(referenced, base):
    given = {"state": network().state_dict(), "model": network(), "function": network}.get(base, referenced / base)
    whole = analyze(referenced / "whole.zarr", size=3, engine=PLAIN, progress=False, name="whole")
    found = analyze(
        referenced / "run.zarr", size=3, engine=PLAIN, progress=False, name=base.partition(".")[0],
        snapshots=Snapshots(base=given),
    )  # fmt: skip
    np.testing.assert_array_equal(found.loss, whole.loss)
    np.testing.assert_array_equal(found.path_loss, whole.path_loss)
    assert verify(referenced / "run.zarr", found.name, base=given).holds
    assert not verify(referenced / "run.zarr", found.name).holds


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("other.pt", "another 'body.weight' than the training had"),
        ("part.pt", "no tensor 'body.bias'"),
        ("shapes.pt", r"'body.weight' of the base .* has the shape \[6, 5\]"),
        ("nowhere.pt", "There is no base at"),
        ("missing:function", "cannot be imported"),
        (".", "is no checkpoint and holds none"),
        (3, "base of type int"),
        (lambda: "text", "base of type str"),
    ],
)
def test_another_base_is_a_sentence(referenced, base, said, tmp_path):
    given = referenced / base if isinstance(base, str) and ":" not in base else base
    given = tmp_path if base == "." else given
    with pytest.raises(LandscapeError, match=said):
        analyze(referenced / "run.zarr", size=3, engine=PLAIN, progress=False, snapshots=Snapshots(base=given))


BEYOND = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8 * 10**9]}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 4,
        struct.pack("<Q", 10**15),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 3) + b"{{{",
        struct.pack("<Q", len(BEYOND)) + BEYOND,
    ],
)
def test_a_damaged_safetensors_file_is_a_sentence(tmp_path, referenced, content):
    (tmp_path / "base.safetensors").write_bytes(content)
    with pytest.raises(LandscapeError):
        Trajectory.open(
            referenced / "run.zarr", landscape_hooks.evaluation.base.open_base(tmp_path / "base.safetensors")
        )


def test_a_pickle_with_code_is_not_run(tmp_path, referenced):
    class Code:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"body.weight": Code()}, tmp_path / "base.pt")
    with pytest.raises(LandscapeError, match="needs code to be read"):
        analyze(
            referenced / "run.zarr",
            size=3,
            engine=PLAIN,
            progress=False,
            snapshots=Snapshots(base=tmp_path / "base.pt"),
        )
    assert not (tmp_path / "ran").exists()


def test_what_begins_to_move_from_a_reference_is_recorded(tmp_path):
    model, run = network(), tmp_path / "run.zarr"
    model["body"].requires_grad_(False)
    log = []
    with record(model, None, run, every=1, parameters=Parameters(frozen="reference")) as recorder:
        for step in range(6):
            log.append(torch.cat([p.detach().flatten() for p in model.parameters()]).numpy())
            model["head"].weight.data += 0.5
            if step > 2:
                model["body"].weight.data += 0.5
            recorder.step()
        log.append(torch.cat([p.detach().flatten() for p in model.parameters()]).numpy())
    base = landscape_hooks.evaluation.base.open_base(network())
    t = Trajectory.open(run, base)
    assert t.layout.names == ("head.weight", "head.bias", "body.weight")
    np.testing.assert_array_equal(t.block()[:, 12:], np.stack(log)[:, :30])
    assert t.doubts == ()


# -- integers ------------------------------------------------------------------------------------------------
class Quantized(nn.Module):
    """A linear layer of 8 bits under an adapter; its packed weight is a parameter or a buffer."""

    def __init__(self, kind):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        packed = torch.randint(-127, 127, (5, 6), dtype=torch.int8, generator=generator)
        if kind == "parameter":
            self.packed = nn.Parameter(packed, requires_grad=False)
        else:
            self.register_buffer("packed", packed)
        self.register_buffer("zero", torch.arange(5, dtype=torch.int32))
        self.scale = nn.Parameter(torch.rand(5, generator=generator), requires_grad=False)
        self.a = nn.Parameter(torch.randn(2, 6, generator=generator) / 4)
        self.b = nn.Parameter(torch.zeros(5, 2))

    def forward(self, x):
        weight = (self.packed.float() - self.zero[:, None]) * self.scale[:, None] / 64
        return nn.functional.linear(x, weight + self.b @ self.a)


def quantized(kind):
    return nn.ModuleDict({"body": Quantized(kind), "head": nn.Linear(5, 2)})


@pytest.mark.everyday(1)
@pytest.mark.parametrize("kind", ["parameter", "buffer"])
@pytest.mark.parametrize("frozen", ["stored", "reference"])
def test_integers_are_stored_once_as_they_are(tmp_path, kind, frozen):
    torch.manual_seed(0)
    model, run = quantized(kind), tmp_path / "run.zarr"
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, run, parameters=Parameters(frozen=frozen))
    options = {"base": start} if frozen == "reference" else {}
    t = Trajectory.open(run, landscape_hooks.evaluation.base.open_base(start) if options else None)
    assert set(t.fixed) == {"body.scale", "body.packed", "body.zero"}
    assert t.layout.names == ("body.a", "body.b", "head.weight", "head.bias")
    assert (t.fixed["body.packed"].dtype, t.fixed["body.zero"].dtype) == (np.int8, np.int32)
    np.testing.assert_array_equal(t.fixed["body.packed"], start["body.packed"].numpy())
    # in the stored loss they are inputs, no constants: they are in the run once
    assert all(array.shape != (5, 6) for _, array in t.root["objective"].get("constants", t.root["fixed"]).arrays())
    surface = analyze(run, size=3, engine=PLAIN, progress=False, snapshots=Snapshots(**options))
    np.testing.assert_allclose(surface.path_loss[-1], loss_of(model, (X, Y)).item(), rtol=1e-5)
    live = Objective.of(quantized(kind).to(torch.float32), objective=loss_of, data=(X, Y))
    coded = analyze(
        run, size=3, engine=PLAIN, progress=False, name="live", objective=live, snapshots=Snapshots(**options)
    )
    np.testing.assert_allclose(coded.loss, surface.loss, rtol=1e-5)
    assert t.doubts == ()


def test_an_objective_with_other_integers_is_refused(tmp_path):
    torch.manual_seed(0)
    train(quantized("buffer"), tmp_path / "run.zarr")
    other = quantized("buffer")
    other["body"].packed += 1
    with pytest.raises(LayoutError, match=r"another tensor 'body\.packed'"):
        analyze(
            tmp_path / "run.zarr", size=3, engine=PLAIN, progress=False,
            objective=Objective.of(other, objective=loss_of, data=(X, Y)),
        )  # fmt: skip


def test_integers_that_change_are_in_doubt(tmp_path):
    model = quantized("buffer")
    recorder = record(model, None, tmp_path / "run.zarr", every=1)
    model["body"].packed += 1
    recorder.step()
    with pytest.warns(RecordingWarning, match=r"'body\.packed' of integers changed"):
        recorder.close()
    (doubt,) = Trajectory.open(tmp_path / "run.zarr").doubts
    assert doubt.kind == "fixed"


def test_counters_and_indices_are_none_of_them(tmp_path):
    """They may change in an ordinary loop: what a queue or a BatchNorm counts."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
    model.register_buffer("index", torch.zeros(4, 4, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with record(model, None, tmp_path / "run.zarr", every=1) as recorder:
            model(torch.randn(4, 3))
            model.queue_ptr += 1
            recorder.step()
    t = Trajectory.open(tmp_path / "run.zarr")
    assert len(t.fixed) == 0
    assert "fixed" not in t.root
