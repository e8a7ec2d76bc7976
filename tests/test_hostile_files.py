"""PLY files, loss graphs, view strings and command lines that a stranger (or a slip) wrote: a result or a sentence."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from landscape_hooks import record
from landscape_hooks.errors import LandscapeError, ObjectiveError, PlyError, RunError
from landscape_hooks.export.ply import write_ply
from landscape_hooks.export.ply_reader import read_ply
from landscape_hooks.objective.graph.graph import LossGraph
from landscape_hooks.objective.graph.operations import ARITHMETIC
from landscape_hooks.viewer.replay.camera import Camera
from tests import hostile
from tests.hostile import Broken
from tests.landscapes import surface

QUICK = settings(derandomize=True, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
                 suppress_health_check=list(HealthCheck))  # fmt: skip
MANY = 10**18


# -- PLY ---------------------------------------------------------------------------------------------------
def header(*lines, form="ascii"):
    return "\n".join(["ply", f"format {form} 1.0", *lines, "end_header", ""]).encode("utf-8", "surrogateescape")


POINT = ("property float x", "property float y", "property float z")
FACES = "property list uchar int vertex_indices"
CORNERS = b"0 0 0\n0 1 0\n1 0 1\n"
PLY = {
    "10^18 vertices": header(f"element vertex {MANY}", *POINT, "element face 1", FACES) + CORNERS,
    "10^18 vertices, binary": header(f"element vertex {MANY}", *POINT, form="binary_little_endian") + bytes(100),
    "10^9 vertices": header(f"element vertex {10**9}", *POINT, "element face 1", FACES) + CORNERS,
    "10^9 vertices, binary": header(f"element vertex {10**9}", *POINT, form="binary_big_endian") + bytes(100),
    "10^18 faces": header("element vertex 3", *POINT, f"element face {MANY}", FACES) + CORNERS + b"3 0 1 2\n",
    "a negative count": header("element vertex -3", *POINT, "element face 1", FACES) + CORNERS,
    "rows of nothing": header(f"element vertex {10**12}", "element face 1", FACES) + b"3 0 1 2\n",
    "rows of nothing, binary": header(f"element vertex {10**12}", form="binary_little_endian"),
    "a list of 4 10^9": header("element vertex 3", *POINT, "element face 1", "property list uint int vertex_indices",
                               form="binary_little_endian") + bytes(36) + b"\xff\xff\xff\xef" + bytes(12),
    "a negative list": header("element vertex 3", *POINT, "element face 1", "property list char int vertex_indices",
                              form="binary_little_endian") + bytes(36) + b"\xfd" + bytes(12),
    "a negative list in words": header("element vertex 3", *POINT, "element face 1", FACES) + CORNERS + b"-3 0 1 2\n",
    "a list with fractional length": header("element vertex 3", *POINT, "element face 1",
                                            "property list float int vertex_indices") + CORNERS + b"3.5 0 1 2\n",
    "a negative vertex": header("element vertex 3", *POINT, "element face 1", FACES) + CORNERS + b"3 0 1 -1\n",
    "a vertex beyond": header("element vertex 3", *POINT, "element face 1", FACES) + CORNERS + b"3 0 1 9\n",
    "a vertex of 2^40": header("element vertex 3", *POINT, "element face 1", FACES) + CORNERS
    + b"3 0 1 1099511627776\n",
    "fractional vertices": header("element vertex 3", *POINT, "element face 1",
                                  "property list uchar float vertex_indices") + CORNERS + b"3 0 1.5 nan\n",
    "two corners": header("element vertex 3", *POINT, "element face 1", FACES) + CORNERS + b"2 0 1\n",
    "x is a list": header("element vertex 1", "property list uchar float x", *POINT[1:], "element face 1", FACES)
    + b"2 0 0 0 0\n3 0 0 0\n",
    "faces are numbers": header("element vertex 3", *POINT, "element face 1", "property int vertex_indices")
    + CORNERS + b"3\n",
    "a property twice": header("element vertex 1", *POINT, *POINT, "element face 1", FACES) + b"0 0 0 0 0 0\n3 0 0 0\n",
    "an element twice": header("element vertex 1", *POINT, "element vertex 1", *POINT) + b"0 0 0\n0 0 0\n",
    "an unknown type": header("element vertex 1", "property quaternion x"),
    "an unknown format": header("element vertex 1", *POINT, form="base64") + b"0 0 0\n",
    "no end": b"ply\nformat ascii 1.0\nelement vertex 1\n",
    "a line of ten megabytes": b"ply\nformat ascii 1.0\ncomment " + b"x" * 10**7,
    "letters for numbers": header("element vertex 3", *POINT, "element face 1", FACES) + b"a b c\n" * 3 + b"3 0 1 2\n",
    "a header that is no ASCII": b"ply\nformat ascii 1.0\ncomment \xff\xfe\nelement vertex 1\nend_header\n",
    "NaN everywhere": header("element vertex 3", *POINT, "element face 1", FACES) + b"nan nan nan\n" * 3 + b"3 0 1 2\n",
    "huge coordinates": header("element vertex 3", "property double x", "property double y", "property double z",
                               "element face 1", FACES) + b"1e308 -1e308 0\n-1e308 1e308 1\n0 0 1e308\n3 0 1 2\n",
    "all in one point": header("element vertex 3", *POINT, "element face 1", FACES) + b"1 1 1\n" * 3 + b"3 0 1 2\n",
}  # fmt: skip


def see(path):
    """What a user does with a PLY file."""
    out = path.parent / "out"
    return [
        hostile.library(lambda: read_ply(path)),
        hostile.library(lambda: hostile.read_picture(path)),
        hostile.command("export", path, "--ply", out / "g.ply", "--glb", out / "g.glb"),
    ]


@pytest.mark.parametrize("case", PLY)
def test_a_hostile_ply_ends_in_a_mesh_or_a_sentence(tmp_path, case):
    (tmp_path / "f.ply").write_bytes(PLY[case])
    assert all(see(tmp_path / "f.ply"))


def ours(**wrong):
    """A file of ours whose JSON line says something else."""

    def act(path):
        raw = path.read_bytes()
        start = raw.index(b"comment landscape_hooks ") + len(b"comment landscape_hooks ")
        stop = raw.index(b"\n", start)
        about = {**json.loads(raw[start:stop]), **wrong}
        path.write_bytes(raw[:start] + json.dumps(about).encode() + raw[stop:])

    return act


OURS = {
    "10^12 rows": ours(alpha={"start": 0, "stop": 1, "num": 10**12}),
    "10^9 rows of 10^9": ours(alpha={"start": 0, "stop": 1, "num": 10**9}, beta={"start": 0, "stop": 1, "num": 10**9}),
    "a negative number of rows": ours(alpha={"start": 0, "stop": 1, "num": -1}),
    "rows are a text": ours(alpha="many"),
    "other options of linspace": ours(alpha={"start": 0, "stop": 1, "num": 3, "dtype": "O"}),
    "no axes": ours(alpha=[], beta=[]),
    "axes of axes": ours(alpha=[[0, 1], [2, 3]]),
    "infinite axes": ours(alpha=[float("-inf"), *range(19), float("inf")]),
    "descending axes": ours(alpha={"start": 1, "stop": 0, "num": 21}),
    "one share": ours(explained_variance_ratio=[0.5]),
    "shares are texts": ours(explained_variance_ratio=["a", "b"]),
    "attributes are a list": ours(attrs=[1]),
    "labels are a number": ours(attrs={"labels": 7}),
    "labels with line breaks": ours(attrs={"labels": ["a\nelement vertex 9", "b\r\nend_header"]}),
    "a report of numbers": ours(attrs={"report": [1]}),
    "an unknown kind": ours(kind="sculpture"),
    "a name of a megabyte": ours(name="x" * 10**6),
}


@pytest.mark.everyday(6)
@pytest.mark.parametrize("case", OURS)
def test_a_file_that_says_it_is_ours_is_not_believed(tmp_path, case):
    path = write_ply(surface(), tmp_path / "f.ply")[0]
    OURS[case](path)
    assert all(see(path))


def test_a_label_cannot_write_into_the_header(tmp_path):
    path = write_ply(surface(), tmp_path / "f.ply")[0]
    OURS["labels with line breaks"](path)
    write_ply(read_ply(path), tmp_path / "g.ply")
    assert read_ply(tmp_path / "g.ply").shape == surface().shape


def random_ply(tmp_path, examples):
    whole = write_ply(surface(5, 4, holes=False), tmp_path / "f.ply")[0].read_bytes()
    path = (tmp_path / "f_path.ply").read_bytes()
    end = whole.index(b"end_header")

    @settings(QUICK, max_examples=examples)
    @given(st.integers(0, len(whole)), st.integers(0, end), st.binary(max_size=8), st.integers(0, 3))
    def check(cut, place, content, kind):
        raw = [whole[:cut], whole[:place] + content + whole[place + len(content) :], whole[:place] + content
               + whole[place:], whole][kind]  # fmt: skip
        (tmp_path / "f.ply").write_bytes(raw)
        at = place % len(path)
        (tmp_path / "f_path.ply").write_bytes(path[:at] + content + path[at + len(content) :])
        see(tmp_path / "f.ply")

    check()


def test_ply_files_damaged_at_random(tmp_path):
    random_ply(tmp_path, 40)


# -- the loss graph ----------------------------------------------------------------------------------------
def loss(*nodes, outputs=None, inputs=()):
    plain = {"inputs": [["x", "data", "0"], *inputs], "outputs": outputs or [{"ref": nodes[-1]["name"]}],
             "nodes": list(nodes)}  # fmt: skip
    return json.dumps(plain)


def call(op, *args, name="y", **kwargs):
    return {"name": name, "op": op, "args": list(args), "kwargs": kwargs}


X = {"ref": "x"}
REFUSED = {
    "a file": call("aten.from_file.default", "/etc/passwd"),
    "another library": call("prims.add.default", X, X),
    "a module": call("os.system", "true"),
    "an attribute": call("aten.__class__.mro"),
    "an internal operation": call("aten._embedding_bag_backward.default", X),
    "a Fourier transform that crashes": call("aten._fft_r2c.default", X, [0], 0, True),
    "a remainder that ends the process": call("aten.remainder.int", 1, 0),
    "a seed": call("aten.manual_seed.default", 0),
    "a reduction that trusts its offsets": call("aten.segment_reduce.default", X, "sum", offsets=X),
    "a result written somewhere": call("aten.neg.out", X, out=X),
    "raw memory": call("aten.set_.source_Storage", X, 0),
    "a generator": call("aten.normal_.default", X, 0.0, 1.0, generator=None),
    "a value of later": call("aten.add.Tensor", {"ref": "y"}, X),
    "a value of nowhere": call("aten.add.Tensor", {"ref": "z"}, X),
    "a name twice": call("aten.neg.default", X, name="x"),
    "a kind of argument": call("aten.neg.default", {"code": "import os"}),
    "arguments that are none": {"name": "y", "op": "aten.neg.default", "args": 3, "kwargs": {}},
    "a context for nothing": {**call("scope.autocast", X, device_type="pickle", dtype=None, enabled=True,
                                     cache_enabled=None), "scope": {"inputs": [], "nodes": [], "outputs": []}},
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_graph_of_anything_else_is_refused_when_it_is_read(case):
    with pytest.raises(ObjectiveError, match="cannot be read"):
        LossGraph.from_json(loss(REFUSED[case]))


FAILING = {
    "10^10 to the 10^10": [call("operator.pow", 10**10, 10**10)],
    "a number that grows": [call("operator.mul", 2**62, 2**62)],
    "a text times 10^9": [call("operator.mul", "a", 10**9)],
    "a list times 10^9": [call("operator.mul", [1], 10**9)],
    "a negative size": [call("aten.zeros.default", [-5])],
    "a size of 2^62": [call("aten.zeros.default", [2**62])],
    "10^15 repeats": [call("aten.repeat.default", X, [10**15])],
    "a reshape that does not fit": [call("aten.view.default", X, [7, 7, 7])],
    "a dimension beyond": [call("aten.sum.dim_IntList", X, [99])],
    "division by zero": [call("operator.floordiv", 1, 0)],
    "an index beyond": [call("operator.getitem", X, 10**6)],
    "a text for a tensor": [call("aten.add.Tensor", "x", "x")],
}


@pytest.mark.parametrize("label", [10**9, -(10**9), 4])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_labels_that_are_no_classes_are_not_looked_up(label, dimensions):
    """torch's CTC loss reads the memory beyond: a crash, or another number each time."""
    node = call("aten.ctc_loss.IntList", X, {"ref": "t"}, [5, 5], [3, 2])
    graph = LossGraph.from_json(loss(node, inputs=[["t", "data", "1"]]))
    torch.manual_seed(0)
    odds = torch.randn(5, 2, 4).log_softmax(-1)
    targets = torch.tensor([[1, 2, 3], [2, 1, label]])  # the last one lies after the end of its target
    sound = targets if dimensions == 2 else torch.tensor([1, 2, 3, 2, 1])
    found = graph({}, [odds, sound])
    torch.testing.assert_close(found, torch.nn.functional.ctc_loss(odds, sound, (5, 5), (3, 2)))
    hostile_ones = sound.clone()
    hostile_ones.view(-1)[1] = label
    with pytest.raises(ObjectiveError, match="labels of ctc_loss"):
        graph({}, [odds, hostile_ones])


@pytest.mark.parametrize("case", FAILING)
def test_a_graph_that_cannot_be_computed_is_an_error_of_ours(case):
    graph = LossGraph.from_json(loss(*FAILING[case]))
    with pytest.raises(ObjectiveError, match="cannot be computed"):
        graph({}, [torch.ones(3, 2)])


def test_a_loss_larger_than_the_machine_is_not_begun(tmp_path):
    """Expanded first, so that the memory is asked for only in the middle."""
    from tests.test_hostile_runs import graph

    run = hostile.honest(tmp_path / "run.zarr")

    def wide(nodes):
        given = {"ref": nodes[0]["args"][0]["ref"]}
        more = [
            call("aten.sum.default", given, name="s"),
            call("aten.expand.default", {"ref": "s"}, [2**45], name="e"),
            call("aten.clone.default", {"ref": "e"}, name="c"),
        ]
        return [*more, *nodes]

    graph(nodes=wide)(run)
    assert "memory" in hostile.library(lambda: hostile.load_objective(run))
    assert "memory" in hostile.command("analyze", run, "--size", "2", "--no-tune", "--quiet", "--name", "again")


def test_nested_graphs_end():
    deep = '{"inputs":[],"nodes":' * 3000
    with pytest.raises(ObjectiveError, match="cannot be read"):
        LossGraph.from_json(deep)
    with pytest.raises(ObjectiveError, match="cannot be read"):
        LossGraph.from_json(loss(call("aten.neg.default", json.loads("[" * 500 + "]" * 500))))


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from([2**31, 2**62, -(2**40)]), st.floats(),
              st.text(max_size=3), st.just(X), st.sampled_from([{"dtype": "float64"}, {"device": True}])),
    lambda inner: st.lists(inner, max_size=3), max_leaves=4,
)  # fmt: skip
SOUND = ["add.Tensor", "mul.Tensor", "sum.default", "mean.dim", "view.default", "reshape.default", "cat.default",
         "linear.default", "relu.default", "softmax.int", "cross_entropy_loss.default", "matmul.default",
         "where.self",
         "permute.default", "expand.default", "arange.default", "zeros.default", "one_hot.default",
         "pow.Tensor_Scalar",
         "conv2d.default", "max_pool2d.default", "layer_norm.default", "embedding.default",
         "gather.default"]  # fmt: skip


def random_graphs(examples):
    @settings(QUICK, max_examples=examples)
    @given(st.lists(st.tuples(st.sampled_from([f"aten.{o}" for o in SOUND] + list(ARITHMETIC)),
                              st.lists(VALUES, max_size=4)), min_size=1, max_size=3))  # fmt: skip
    def check(calls):
        nodes = [call(op, *args, name=f"n{number}") for number, (op, args) in enumerate(calls)]
        try:
            graph = LossGraph.from_json(loss(*nodes))
            size = torch.ones(3, 2, device="meta")
            graph({}, [size])  # shapes alone: nobody fills the memory of the tests
        except LandscapeError:
            pass

    check()


def test_graphs_at_random():
    random_graphs(100)


# -- view strings and command lines --------------------------------------------------------------------------
WORDS = st.sampled_from(["az", "el", "d", "at", "fov", "ortho", "top", ""])
NUMBERS = st.one_of(st.text("0123456789.:-einfa²", max_size=9), st.floats().map(str))


@settings(QUICK, max_examples=300)
@given(st.lists(st.one_of(st.text(max_size=6), st.builds("{}={}".format, WORDS, NUMBERS)), max_size=4))
@example(["at=1:2"])
@example(["az=1e400"])
@example(["d=²"])
def test_view_strings(parts):
    try:
        camera = Camera.parse(",".join(parts))
    except LandscapeError:
        return
    assert np.isfinite(camera.matrix(1.5)).all()
    assert Camera.parse(camera.text).text == camera.text


ODD = ["", " ", "0", "-1", "1e400", "nan", "²", "٣", "1,2,3", "1x2x3", "x", "9" * 30, "a\x1b[31m", "\udcff", "../..",
       "..:x", ":", "os:system", "$(id)", "-", "--", "1/0", "2/1", "0,0", "0,1", "inf,inf,inf,inf", "true", ".",
       "/", "run.zarr/zarr.json"]  # fmt: skip
OPTIONS = {
    "analyze": ["--directions", "--size", "--extent", "--batch-norm", "--samples", "--objective", "--data", "--device",
                "--engine", "--seed", "--name", "--solver", "--components", "--points", "--adaptive", "--metric",
                "--part", "--norm", "--workers", "--precision", "--log-to"],
    "export": ["--ply", "--glb", "--png", "--figure", "--name", "--height", "--colormap", "--heightmap", "--width",
               "--style", "--grid"],
    "render": ["--output", "--name", "--size", "--view", "--colormap", "--contours", "--theme", "--height",
               "--exaggeration", "--frames", "--fps", "--turn", "--clock", "--at"],
    "view": ["--name", "--view", "--colormap", "--theme", "--height"],
    "info": ["--name", "--objective", "--data"],
    "demo": ["--size", "--epochs"],
}  # fmt: skip
BASE = {"analyze": ["--size", "2", "--no-tune", "--quiet"], "export": ["--glb", "f.glb"], "render": ["-o", "f.xyz"],
        "info": ["--verify"], "view": ["--no-play"], "demo": ["--no-view"]}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return hostile.honest(tmp_path_factory.mktemp("commands") / "run.zarr")


def try_options(run, folder, name, values):
    """Every option of a command with odd values; what draws or trains gets values that are refused before."""
    for number, option in enumerate(OPTIONS[name]):
        if name == "view" and option in ("--view", "--height", "--name"):
            continue  # a window would open before these are looked at
        for value in values(number):
            if name == "demo" and value == "٣":
                continue  # a three: it would train
            target = [] if name == "demo" else [str(run)]
            if name == "analyze":
                shutil.rmtree(folder / "copy.zarr", ignore_errors=True)
                target = [str(shutil.copytree(run, folder / "copy.zarr"))]
            hostile.command(name, *target, *BASE[name], f"{option}={value}")


@pytest.mark.everyday(1)
@pytest.mark.parametrize("name", [*OPTIONS])
def test_option_values_end_in_a_result_or_a_sentence(run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    step = {"analyze": 12, "info": 6}.get(
        name, 1
    )  # what computes gets some of them in turn, all of them in the long form
    try_options(run, tmp_path, name, lambda number: ODD[number % step :: step])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["analyze", "info"])
def test_all_option_values_end_in_a_result_or_a_sentence(run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    try_options(run, tmp_path, name, lambda number: ODD)


LINES = [[], ["--nonsense"], ["nonsense"], ["info"], ["info", ""], ["info", "\udcff.zarr"], ["info", "a" * 5000],
         ["export", "x" * 300 + ".ply", "--ply", "f.ply"], ["render", "/dev/null", "-o", "f.png"],
         ["info", "/dev/null"],
         ["info", "s3://"], ["info", "nosuch://x/y"], ["info", "file:///etc"]]  # fmt: skip


@pytest.mark.parametrize("arguments", LINES)
def test_command_lines(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert hostile.command(*arguments)


@pytest.mark.parametrize("option", ["--ply", "--glb", "--png"])
def test_an_export_over_a_file_of_the_run_is_refused(run, option):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert "expected a name that ends in" in hostile.command("export", run, option, run / "zarr.json")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("folder", [".", "/", "empty.ply"])
def test_a_folder_is_no_place_for_a_mesh(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.ply").mkdir()
    with pytest.raises(IsADirectoryError, match=re.escape(f"'{folder}'")):
        write_ply(surface(3, 3), folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty.ply"]


def test_an_empty_path_is_not_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(2, 1)
    with pytest.raises(RunError, match="path is empty"):
        record(model, torch.optim.SGD(model.parameters()), "")
    assert "path is empty" in hostile.command("info", "")
    assert not list(tmp_path.iterdir())


def test_an_honest_mistake_is_not_swallowed():
    """The guard of these tests sees a traceback."""

    def fails():
        raise ValueError("a mistake of ours")

    with pytest.raises(Broken, match="a mistake of ours"):
        hostile.library(fails)


def test_a_hostile_name_is_shown_harmless(tmp_path):
    said = hostile.command("info", f"{tmp_path}/\x1b]0;owned\x07")
    assert "\x1b" not in said
    with pytest.raises(PlyError):
        read_ply(tmp_path / "absent.ply")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_files_damaged_at_random(tmp_path):
    random_ply(tmp_path, 5000)
    random_graphs(20_000)
