"""Alignment and barriers: reordered copies by hand, independent trainings, operations that are not understood."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import LandscapeError, Snapshots, Trajectory, align, analyze, barrier, record
from landscape_hooks.analysis.alignment import align as align_module
from landscape_hooks.analysis.alignment.axes import (
    Product,
    Sum,
    atoms,
    cut,
    free,
    known,
    order_of,
    regroup,
    size,
    unify,
)
from landscape_hooks.cli import main
from landscape_hooks.objective.objective import Objective


class Block(nn.Module):
    def __init__(self, taken, made, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(taken, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made)
        self.conv2, self.norm2 = nn.Conv2d(made, made, 3, 1, 1, bias=False), nn.BatchNorm2d(made)
        short = nn.Sequential(nn.Conv2d(taken, made, 1, stride, bias=False), nn.BatchNorm2d(made))
        self.short = nn.Identity() if taken == made else short

    def forward(self, x):
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(inner + self.short(x))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.place = nn.Embedding(11, 8), nn.Parameter(torch.randn(1, 5, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, words):
        return self.head(self.layer(self.table(words) + self.place).mean(1))


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))


def vgg():
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 3),
    )  # fmt: skip


def resnet():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), Block(4, 4, 1), Block(4, 6, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


NETWORKS = {
    # how the units of each group are numbered: (tensor, dimension, how many entries of it belong to a unit)
    "mlp": (mlp, [
        [("0.weight", 0), ("0.bias", 0), ("2.weight", 1)],
        [("2.weight", 0), ("2.bias", 0), ("4.weight", 1)],
    ]),
    "vgg": (vgg, [
        [("0.weight", 0), ("0.bias", 0), ("3.weight", 1)],
        [("3.weight", 0), ("3.bias", 0), ("7.weight", 1, 4)],
        [("7.weight", 0), ("7.bias", 0), ("10.weight", 1)],
    ]),
    "resnet": (resnet, [
        [("0.weight", 0), ("0.bias", 0), *[(f"1.{n}", 0) for n in ("weight", "bias", "running_mean", "running_var")],
         ("3.conv1.weight", 1), ("3.conv2.weight", 0),
         *[(f"3.norm2.{n}", 0) for n in ("weight", "bias", "running_mean", "running_var")],
         ("4.conv1.weight", 1), ("4.short.0.weight", 1)],
        [("3.conv1.weight", 0), ("3.conv2.weight", 1),
         *[(f"3.norm1.{n}", 0) for n in ("weight", "bias", "running_mean", "running_var")]],
        [("4.conv1.weight", 0), ("4.conv2.weight", 1),
         *[(f"4.norm1.{n}", 0) for n in ("weight", "bias", "running_mean", "running_var")]],
        [("4.conv2.weight", 0), ("4.short.0.weight", 0), ("7.weight", 1),
         *[(f"4.{m}.{n}", 0) for m in ("norm2", "short.1") for n in ("weight", "bias", "running_mean", "running_var")]],
    ]),
    "words": (Words, [
        [("table.weight", 1), ("place", 2), ("layer.self_attn.in_proj_weight", 1),
         ("layer.self_attn.out_proj.weight", 0), ("layer.self_attn.out_proj.bias", 0), ("layer.linear1.weight", 1),
         ("layer.linear2.weight", 0), ("layer.linear2.bias", 0), ("head.weight", 1),
         *[(f"layer.norm{k}.{n}", 0) for k in (1, 2) for n in ("weight", "bias")]],
        [("layer.linear1.weight", 0), ("layer.linear1.bias", 0), ("layer.linear2.weight", 1)],
    ]),
}  # fmt: skip


def randomised(model, seed):
    """Weights and running statistics that are all different."""
    torch.manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else 0.4 * torch.randn_like(tensor))
    return model


def reordered(model, groups, seed):
    """A copy with the units of each group in another order."""
    other, rng = copy.deepcopy(model), np.random.default_rng(seed)
    state = other.state_dict()
    for group in groups:
        count = state[group[0][0]].shape[group[0][1]]
        order = torch.as_tensor(rng.permutation(count))
        for name, dim, *inner in group:
            each = inner[0] if inner else 1
            places = (order[:, None] * each + torch.arange(each)).ravel()
            state[name].copy_(state[name].index_select(dim, places))
    return other


def recorded(folder, name, model, data=None, criterion=None, steps=1, lr=0.0):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    loss = {"criterion": criterion or nn.CrossEntropyLoss(), "data": data} if data is not None else {}
    with record(model, optimizer, folder / f"{name}.zarr", **loss):
        for _ in range(steps):
            optimizer.step()
    return folder / f"{name}.zarr"


def batch(kind, count=16):
    torch.manual_seed(7)
    inputs = {
        "mlp": torch.randn(count, 6), "words": torch.randint(0, 11, (count, 5))
    }.get(kind, torch.randn(count, 2, 8, 8))  # fmt: skip
    return [(inputs, torch.randint(0, 3, (count,)))]


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Name of a network -> its run and that of its reordered copy; made when asked for."""
    folder, made = tmp_path_factory.mktemp("copies"), {}

    def get(kind):
        if kind not in made:
            make, groups = NETWORKS[kind]
            model = randomised(make(), 1)
            model.eval()
            one = recorded(folder, f"{kind}-a", model, batch(kind))
            made[kind] = one, recorded(folder, f"{kind}-b", reordered(model, groups, 2))
        return made[kind]

    return get


# -- reordered copies ------------------------------------------------------------------------------------------
@pytest.mark.everyday(2)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_reordered_copy_is_put_in_order_again(copies, kind):
    one, other = copies(kind)
    found = align(one, other, progress=False)
    end = Trajectory.open(one)[-1]
    np.testing.assert_array_equal(found.weights, end.weights)
    np.testing.assert_array_equal(found.buffers, end.buffers)
    assert found.distance == 0 < found.distance_before
    assert found.loss == pytest.approx(found.loss_before, rel=1e-5)
    assert found.not_understood == ()
    assert {group.size for group in found.groups} >= {len(g) for g in sizes(kind)}


def sizes(kind):
    make, groups = NETWORKS[kind]
    state = make().state_dict()
    return [range(state[group[0][0]].shape[group[0][1]]) for group in groups]


@pytest.mark.parametrize("kind", ["mlp", "resnet"])
def test_the_barrier_to_a_reordered_copy_falls_to_0(copies, kind):
    one, other = copies(kind)
    before = barrier(one, other, points=5, progress=False)
    after = barrier(one, other, points=5, align=True, progress=False)
    assert np.abs(before.excess).max() > 1e-3
    assert np.abs(after.excess).max() <= 1e-5
    assert before.batch_norm == ("batch" if kind == "resnet" else "none")
    assert "reordered" in after.said


def test_heads_are_reordered_as_a_whole(copies, tmp_path):
    one, _ = copies("words")
    model = randomised(Words(), 1)
    state = model.state_dict()
    swap = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])
    for name in ("in_proj_weight", "in_proj_bias"):
        tensor = state[f"layer.self_attn.{name}"]
        tensor.copy_(tensor.unflatten(0, (3, 8))[:, swap].flatten(0, 1))
    out = state["layer.self_attn.out_proj.weight"]
    out.copy_(out[:, swap])
    found = align(one, recorded(tmp_path, "swapped", model), progress=False)
    np.testing.assert_array_equal(found.weights, Trajectory.open(one)[-1].weights)
    assert sorted(group.moved for group in found.groups)[-1] == 2


# -- the barrier -------------------------------------------------------------------------------------------------
def test_the_barrier_is_its_definition_with_the_error_of_paired_samples(copies):
    one, other = copies("mlp")
    found = barrier(one, other, points=5, progress=False)
    a, b = (Trajectory.open(run)[-1].weights for run in (one, other))
    model, (inputs, labels) = mlp().double(), batch("mlp")[0]

    def each(t):
        torch.nn.utils.vector_to_parameters(torch.from_numpy((1 - t) * a + t * b).double(), model.parameters())
        with torch.no_grad():
            return nn.functional.cross_entropy(model(inputs.double()), labels, reduction="none").numpy()

    excess = np.array([each(t) - (1 - t) * each(0) - t * each(1) for t in found.t])
    np.testing.assert_allclose(found.excess, excess.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.excess_stderr[1:-1], excess[1:-1].std(axis=1, ddof=1) / 4, rtol=1e-4)
    assert found.height == found.excess.max()
    assert found.at == found.t[excess.mean(axis=1).argmax()]
    assert found.said.startswith("Barrier between the ends of mlp-a and mlp-b: ")


def test_a_network_has_no_barrier_to_itself(copies):
    one, other = copies("mlp")
    with pytest.raises(LandscapeError, match="twice"):
        barrier(one, one, progress=False)
    found = barrier(one, other, points=3, align=True, progress=False)
    assert found.height <= 1e-6
    assert "none within its error" in found.said


def test_the_statistics_of_one_end_are_refused(copies):
    with pytest.raises(LandscapeError, match="fixed"):
        barrier(*copies("resnet"), batch_norm="fixed", progress=False)
    for policy in ("recalibrate", "interpolate"):
        found = barrier(*copies("resnet"), batch_norm=policy, points=3, align=True, progress=False)
        assert abs(found.height) <= 1e-4


# -- what is not understood ----------------------------------------------------------------------------------------
class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.cell, self.after = nn.Linear(6, 10), nn.GRU(10, 5), nn.Linear(5, 9)
        self.head = nn.Linear(9, 3)

    def forward(self, x):
        out, _ = self.cell(torch.relu(self.before(x))[None])
        return self.head(torch.relu(self.after(out[0])))


def test_what_goes_into_an_unknown_operation_stays_and_is_named(tmp_path):
    model = randomised(Recurrent(), 3)
    one = recorded(tmp_path, "a", model, batch("mlp"))
    last = [[("after.weight", 0), ("after.bias", 0), ("head.weight", 1)]]
    found = align(one, recorded(tmp_path, "b", reordered(model, last, 4)), progress=False)
    assert found.not_understood == ("gru",)
    assert [(group.name, group.size) for group in found.groups] == [("after.weight, dimension 0", 9)]
    assert found.distance == 0
    assert "gru" in found.said[1]


def test_a_wrong_permutation_is_refused(copies, monkeypatch):
    def wrong(groups, blocks, seed, tell):
        return {groups[0]: np.roll(np.arange(groups[0].size), 1)}

    one, other = copies("mlp")
    monkeypatch.setattr(align_module, "match", wrong)
    assert align(one, other, progress=False).groups[0].moved == 16  # any permutation of a group is right
    real = align_module.symmetry_of

    def broken(*args):
        found = real(*args)
        found.axes["2.weight"][1] = free(16)  # as if the units were not those of the layer before
        return found

    monkeypatch.setattr(align_module, "symmetry_of", broken)
    with pytest.raises(LandscapeError, match="has another loss"):
        align(one, other, progress=False)


# -- operations ----------------------------------------------------------------------------------------------------
class Mixed(nn.Module):
    """Concatenated, split, padded, grouped, gated, normalised and embedded channels."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 6, 3, padding=1)
        self.norm, self.depth = nn.GroupNorm(3, 6), nn.Conv2d(10, 20, 3, padding=1, groups=10)
        self.gate, self.up = nn.Conv2d(20, 12, 1), nn.ConvTranspose2d(6, 4, 2, 2)
        self.slope, self.last = nn.PReLU(4), nn.utils.parametrizations.weight_norm(nn.Linear(8, 10))
        self.mix = nn.Parameter(torch.randn(2, 5, 3))

    def forward(self, x):
        both = torch.cat([torch.relu(self.left(x)), self.right(x)], dim=1)
        first, second = self.gate(nn.functional.silu(self.depth(both))).chunk(2, dim=1)
        high = self.slope(self.up(self.norm(first * torch.sigmoid(second))))
        pooled = nn.functional.pad(high.mean((2, 3)), (1, 3))
        units = torch.relu(self.last(pooled)).view(-1, 2, 5)
        return torch.einsum("bgi,gio->bo", units, self.mix) + units[:, :, 1:3].amax(-1).sum(-1, keepdim=True)


class Heads(nn.Module):
    """Separate projections, rotated, scaled by hand; a gated layer, tied tables, and RMS norm."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))
        self.up, self.gate, self.down = nn.Linear(8, 20), nn.Linear(8, 20), nn.Linear(20, 8)
        self.norm = nn.RMSNorm(8)

    def forward(self, words):
        x = self.table(words)
        q, k, v = (part(self.norm(x)).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = ((q @ k.transpose(-1, -2)) / 2).tril().softmax(-1) @ v
        x = x + self.o(mixed.transpose(1, 2).flatten(-2))
        x = x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return (x[:, -1] @ self.table.weight.T)[:, :3]


@pytest.mark.everyday(1)
@pytest.mark.parametrize(
    ("make", "kind", "known_groups"),
    [(Mixed, "image", [2, 2, 2, 2, 2, 3, 3, 4, 4, 6]), (Heads, "words", [2, 4, 4, 8, 20])],
)
def test_any_permutation_of_the_groups_leaves_the_loss_as_it_is(tmp_path, monkeypatch, make, kind, known_groups):
    def any_order(groups, blocks, seed, tell):
        rng = np.random.default_rng(seed)
        return {group: rng.permutation(group.size) for group in groups}

    monkeypatch.setattr(align_module, "match", any_order)
    model = randomised(make(), 5).eval()
    one = recorded(tmp_path, "a", model, batch(kind))
    other = recorded(tmp_path, "b", randomised(make(), 6).eval())
    for seed in range(3):
        found = align(one, other, seed=seed, progress=False)  # compares the losses, sample by sample
    assert sorted(group.size for group in found.groups) == known_groups
    assert found.not_understood == ()


# -- axes -------------------------------------------------------------------------------------------------------------
def test_axes_are_split_where_they_have_to_be():
    flat, channels = free(24), free(4)
    unify(flat, Product((channels, free(6))))
    rows, columns = regroup([flat], [8, 3])
    assert [size(a) for a in atoms(known(rows))] == [4, 2]
    assert size(columns) == 3
    joined = free(10)
    unify(joined, Sum((free(4), free(6))))
    one, two, three = cut(joined, [2, 5, 3])
    assert [size(a) for a in atoms(joined)] == [2, 2, 3, 3]
    assert [size(each) for each in (one, two, three)] == [2, 5, 3]
    odd = free(6)
    unify(Product((odd, free(4))), Product((free(4), free(6))))
    assert all(atom.pinned for atom in atoms(odd))  # no common parts: nothing moves


def test_the_order_of_a_product_and_a_sum_is_that_of_its_parts():
    two, three = free(2), free(3)
    order = order_of(Sum((Product((two, three)), two)), {two: np.array([1, 0]), three: np.array([2, 0, 1])})
    assert order.tolist() == [5, 3, 4, 2, 0, 1, 7, 6]


# -- in a surface ------------------------------------------------------------------------------------------------------
def test_an_aligned_run_is_drawn_where_the_first_one_is(copies):
    one, other = copies("resnet")
    plain = analyze(one, other, size=(5, 1), directions="points", name="plain", progress=False)
    drawn = analyze(
        one, other, size=3, extent=(-1, 1, -1, 1), directions="random", name="aligned", progress=False,
        snapshots=Snapshots(align=True),
    )  # fmt: skip
    np.testing.assert_allclose(drawn.paths[1].coordinates, 0, atol=1e-6)
    np.testing.assert_allclose(drawn.paths[1].distance, 0, atol=1e-6)
    np.testing.assert_allclose(drawn.paths[1].loss, plain.paths[1].loss, rtol=1e-5)
    assert drawn.definition.alignment.startswith("weight matching")
    assert any("reordered" in sentence for sentence in drawn.attrs["report"])
    assert any(sentence.startswith("Barrier between the ends") for sentence in plain.attrs["report"])
    assert plain.definition.alignment == ""


def test_one_run_alone_cannot_be_aligned(copies):
    with pytest.raises(LandscapeError, match="one run"):
        analyze(copies("mlp")[0], snapshots=Snapshots(align=True), progress=False)


def test_the_command_aligns(copies, capsys):
    one, other = copies("mlp")
    main(
        [
            "analyze",
            str(one),
            str(other),
            "--directions",
            "random",
            "--size",
            "2",
            "--name",
            "command",
            "--align",
            "--quiet",
        ]
    )
    said = capsys.readouterr().out
    assert "are reordered, so that its end lies nearest to that of mlp-a: distance 0" in said
    assert "its hidden units reordered: " in said
    assert "none within its error" in said


def test_a_view_of_an_aligned_run_has_its_columns_in_order(copies):
    from landscape_hooks.analysis.alignment.aligned import AlignedTrajectory

    one, other = copies("mlp")
    moved = AlignedTrajectory.of(Trajectory.open(other), align(one, other, progress=False).orders)
    end = Trajectory.open(one)[-1].weights
    for start, stop in ((0, None), (0, 7), (50, 200), (300, 301), (5, 5)):
        np.testing.assert_array_equal(moved.block(slice(-1, None), slice(start, stop))[0], end[start:stop])
    chosen = moved.select(np.array([len(moved) - 1])).only(["2.weight"], moved[-1], np.zeros(0, dtype=bool))
    np.testing.assert_array_equal(chosen[0].weights, end[moved.layout["2.weight"].slice])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Two trainings of a small network on digits, from other weights and in another order."""
    from sklearn.datasets import load_digits

    folder, (pixels, labels) = tmp_path_factory.mktemp("digits"), load_digits(return_X_y=True)
    inputs, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        loss = {"criterion": nn.CrossEntropyLoss(), "data": (inputs[:256], labels[:256])} if seed == 0 else {}
        with record(model, optimizer, folder / f"seed{seed}.zarr", **loss):
            for _ in range(150):
                picked = torch.randint(len(inputs), (128,))
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[picked]), labels[picked]).backward()
                optimizer.step()
        runs.append(folder / f"seed{seed}.zarr")
    return runs


def test_aligning_lowers_the_barrier_between_two_trainings(digits):
    before = barrier(*digits, points=11, progress=False)
    after = barrier(*digits, points=11, align=True, progress=False)
    assert before.height > 3 * before.stderr
    assert after.height < 0.7 * before.height
    assert after.alignment.distance < after.alignment.distance_before


def test_live_code_has_no_axes(copies):
    one, other = copies("mlp")
    made = Objective.of(mlp(), criterion=nn.CrossEntropyLoss(), data=batch("mlp"))
    with pytest.raises(LandscapeError, match="live code"):
        barrier(one, other, objective=made, align=True, progress=False)
    found = barrier(one, other, objective=made, points=3, progress=False)
    assert found.loss.tolist() == barrier(one, other, points=3, progress=False).loss.tolist()
