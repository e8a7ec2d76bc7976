"""What a stored graph may call: a list, and everything else is refused by name; and a loss that ends the process."""

import json
import os
import signal

import pytest
import torch
import zarr
from torch import nn

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.evaluation.sources import resolve_objective
from landscape_hooks.objective.capture import capture
from landscape_hooks.objective.graph import permitted
from landscape_hooks.objective.graph.graph import LossGraph
from landscape_hooks.objective.graph.operations import resolve
from landscape_hooks.trajectory.trajectory import Trajectory
from tests import hostile

X = {"ref": "x"}


def graph(op, *args, **kwargs):
    node = {"name": "y", "op": op, "args": list(args), "kwargs": kwargs}
    return LossGraph.from_json(
        json.dumps({"inputs": [["x", "data", "0"], ["z", "data", "1"]], "nodes": [node], "outputs": [{"ref": "y"}]})
    )


def test_every_name_on_the_list_is_an_operation_of_torch_that_draws_nothing():
    forms = 0
    for name in permitted.PERMITTED:
        for overload in getattr(torch.ops.aten, name).overloads():
            try:
                resolve(f"aten.{name}.{overload}")
            except ValueError:
                continue
            forms += 1
            tags = getattr(getattr(torch.ops.aten, name), overload).tags
            # what may draw has a check
            assert torch.Tag.nondeterministic_seeded not in tags or permitted.PERMITTED[name] is not None, name
    assert forms > 900


@pytest.mark.parametrize(
    "name",
    ["rand_like.default", "bernoulli.default", "resize_.default", "set_.source_Tensor", "empty_strided.default",
     "lu_unpack.default", "linalg_ldl_solve.default", "_embedding_bag.default", "_fft_r2c.default", "to_sparse.default",
     "quantize_per_tensor.default", "_nested_tensor_from_mask.default", "segment_reduce.default", "add.out",
     "sum.dim_DimnameList", "normal_.default", "as_strided_.default", "record_stream.default", "hash_tensor.default",
     "cudnn_convolution.default", "_reshape_alias.default", "backward.default", "to.prim_Device"],
)  # fmt: skip
def test_what_is_not_on_the_list_is_refused_by_name(name):
    with pytest.raises(ObjectiveError, match=f"aten.{name}' is not on the list"):
        graph(f"aten.{name}", X)


@pytest.mark.parametrize(
    ("op", "args", "kwargs"),
    [
        ("zeros_like.default", [X], {"dtype": 5}),
        ("view.dtype", [X, -1], {}),
        ("blackman_window.periodic", [3, False], {"layout": 0}),
        ("clone.default", [X], {"memory_format": {"ref": "x"}}),
        ("zeros.default", [[2]], {"device": "cuda:7"}),
        ("zeros.default", [[2]], {"dtype": {"dtype": "quint8"}}),
    ],
)
def test_numbers_in_place_of_names_of_types_are_refused(op, args, kwargs):
    """torch takes a number for the name of a type, and some numbers end the process."""
    with pytest.raises(ObjectiveError, match="cannot be read"):
        graph(f"aten.{op}", *args, **kwargs)


LEAST = torch.tensor([-(2**63), 4])
ONES = torch.ones(4)
HOSTILE = {
    "the least whole number by -1": ("floor_divide.default", [X, {"ref": "z"}], LEAST, torch.tensor([-1, 1])),
    "the least of 32 bits": ("remainder.Tensor", [X, {"ref": "z"}], LEAST.clamp(-(2**31)).int(),
                             torch.tensor([-1, 1]).int()),
    "a division by 0": ("div.Tensor_mode", [X, {"ref": "z"}], LEAST, torch.tensor([0, 1])),
    "a shift by 64": ("bitwise_left_shift.Tensor", [X, {"ref": "z"}], LEAST, torch.tensor([64, 1])),
    "classes that fill memory": ("one_hot.default", [X], torch.tensor([2**50]), ONES),
    "bins that fill memory": ("bincount.default", [X], torch.tensor([2**50]), ONES),
    "repeats that fill memory": ("repeat_interleave.Tensor", [X], torch.tensor([2**50]), ONES),
    "rows beyond": ("embedding_bag.padding_idx", [X, {"ref": "z"}, {"ref": "z"}, False, 0, False, None, False, -9],
                    torch.ones(3, 2), torch.tensor([0, 99])),
    "statistics of nothing": ("native_batch_norm.default", [X, None, None, None, None, False, 0.1, 1e-5],
                              torch.ones(2, 3), ONES),
    "eigenvalues of NaN": ("linalg_eigvals.default", [X], torch.full((3, 3), torch.nan), ONES),
    "terms without end": ("mvlgamma.default", [X, 2**31 - 1], ONES, ONES),
    "a recurrent network without weights": ("lstm.input", [X, [{"ref": "z"}, {"ref": "z"}], [], False, 1, 0.0, False,
                                            False, False], torch.ones(2, 3, 4), torch.ones(1, 3, 5)),
    "lengths beyond": ("_pack_padded_sequence.default", [X, {"ref": "z"}, True], torch.ones(2, 3, 1),
                       torch.tensor([99, 1])),
    "dropout": ("dropout.default", [X, 0.5, True], ONES, ONES),
    "attention with dropout": ("scaled_dot_product_attention.default", [X, X, X, None, 0.5], torch.ones(1, 1, 2, 4),
                               ONES),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_arguments_that_torch_does_not_look_at_are_looked_at(case):
    op, args, x, z = HOSTILE[case]
    kwargs = {"rounding_mode": "floor"} if "mode" in op else {}
    with pytest.raises(ObjectiveError, match="cannot be computed"):
        graph(f"aten.{op}", *args, **kwargs)({}, [x, z])


def test_sound_arguments_are_let_pass():
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        for more in ({}, {"bidirectional": True}, {"bias": False, "batch_first": True}):
            net, x = kind(4, 5, 2, **more), torch.randn(3, 6, 4)
            given = net._flat_weights
            state = torch.zeros(4 if net.bidirectional else 2, 3 if net.batch_first else 6, 5)
            call = resolve(f"aten.{'rnn_tanh' if kind is nn.RNN else kind.__name__.lower()}.input")
            hidden = [state, state] if kind is nn.LSTM else state
            found = call(x, hidden, given, net.bias, 2, 0.0, False, net.bidirectional, net.batch_first)
            torch.testing.assert_close(found[0], net(x)[0])
    assert resolve("aten.empty.memory_format")([3], pin_memory=False).tolist() == [0, 0, 0]
    torch.testing.assert_close(resolve("aten.floor_divide.default")(LEAST, 2), LEAST // 2)
    table, rows = torch.randn(5, 2), torch.tensor([0, 4, 4])
    found = resolve("aten.embedding_bag.padding_idx")(
        table, rows, torch.tensor([0, 2]), False, 0, False, None, False, 1
    )
    torch.testing.assert_close(found[0], nn.functional.embedding_bag(rows, table, torch.tensor([0, 2]), mode="sum"))


def test_an_operation_that_is_not_permitted_is_named_when_a_loss_is_captured():
    model = nn.Linear(3, 3)
    loss = lambda m, b: torch.special.hermite_polynomial_h(m(b), 2).sum()  # noqa: E731
    with pytest.raises(ObjectiveError, match=r"hermite.*--objective module:function"):
        capture(zarr.group(zarr.storage.MemoryStore()), model, objective=loss, data=torch.ones(4, 3))


def test_a_stored_loss_that_ends_the_process_is_a_sentence(tmp_path, monkeypatch):
    run = hostile.honest(tmp_path / "run.zarr")
    mine = os.getpid()

    def ends(given):
        if not given["input"].is_meta:
            assert os.getpid() != mine, "the loss was computed in this process first"
            os.kill(os.getpid(), signal.SIGSEGV)

    monkeypatch.setitem(permitted.PERMITTED, "linear", ends)
    with pytest.raises(ObjectiveError, match=r"ends the process that computes it \(SIGSEGV\)"):
        resolve_objective(Trajectory.open(run), None, None, None)
    said = hostile.command("analyze", run, "--size", "2", "--quiet", "--name", "again")
    assert "SIGSEGV" in said
