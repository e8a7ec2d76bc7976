"""Runs that a stranger wrote, or that broke on the way: a valid result or one of our sentences, and nothing else.

The table holds what somebody thought of; hypothesis changes metadata and bytes at random. `pytest -m slow
tests/test_hostile_runs.py` tries many more; tests/fuzz/fuzz.py lets the code's own branches lead the way.
"""

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from landscape_hooks import Surface, Trajectory
from landscape_hooks.errors import LandscapeError, RunError
from landscape_hooks.store.folder import RunFolder
from tests import hostile
from tests.hostile import change

HUGE = 10**15


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return hostile.honest(tmp_path_factory.mktemp("honest") / "run.zarr")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return hostile.sharded(tmp_path_factory.mktemp("sharded") / "run.zarr")


def test_an_honest_run_passes_everything(honest, sharded, tmp_path):
    run = shutil.copytree(honest, tmp_path / "run.zarr")
    assert set(hostile.visit(run, tmp_path, figure=True)) == {"ok"}
    assert len(Trajectory.open(sharded)[3].weights) == 16


def attributes(node, key, value):
    return lambda run: change(run, node, ["attributes", key], value)


def committed(**wrong):
    return attributes("trajectory", "committed", lambda old: {**old, **wrong})


def entry(number, **wrong):
    return lambda run: change(run, "", ["attributes", "layout", number], lambda old: {**old, **wrong})


def surface(key, value):
    return attributes("surfaces/pca", key, value)


def shape(array, value, chunk=None):
    def act(run):
        change(run, array, ["shape"], value)
        if chunk is not None:
            change(run, array, ["chunk_grid", "configuration", "chunk_shape"], chunk)

    return act


def codecs(array, value):
    return lambda run: change(run, array, ["codecs"], value)


def text(node, content):
    return lambda run: (run / node / "zarr.json").write_bytes(content)


def gone(path):
    def act(run):
        target = run / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return act


def chunk(array, content):
    """The first file of an array, replaced or changed."""

    def act(run):
        file = next(p for p in sorted((run / array / "c").rglob("*")) if p.is_file())
        file.write_bytes(content(file.read_bytes()) if callable(content) else content)

    return act


def node(path, like):
    """A node of another kind."""
    return lambda run: shutil.copytree(run / like, run / path, dirs_exist_ok=True)


def graph(**wrong):
    """The loss graph with other parts."""

    def act(run):
        text = (run / "objective/graphs/loss/c/0").read_bytes()
        from numcodecs import Zstd

        document = json.loads(bytes(Zstd().decode(text)))
        for key, value in wrong.items():
            document[key] = value(document[key]) if callable(value) else value
        raw = json.dumps(document).encode()
        change(run, "objective/graphs/loss", ["shape"], [len(raw)])
        change(run, "objective/graphs/loss", ["chunk_grid", "configuration", "chunk_shape"], [len(raw)])
        (run / "objective/graphs/loss/c/0").write_bytes(Zstd().encode(raw))

    return act


NESTED = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
STORED = [{"name": "bytes", "configuration": {"endian": "little"}}]
STRING = {"data_type": "string", "fill_value": "", "codecs": [{"name": "vlen-utf8", "configuration": {}}]}


def data_type(array, **wrong):
    def act(run):
        for key, value in wrong.items():
            change(run, array, [key], value)

    return act


CASES = {
    # -- metadata
    "no json": text("", b"\x00\xff\xfe garbage"),
    "empty metadata": text("trajectory", b""),
    "nested metadata": text("", NESTED),
    "nested metadata below": text("trajectory/step", NESTED),
    "metadata is a list": text("surfaces", b"[]"),
    "metadata is a number": text("trajectory/weights", b"3"),
    "other zarr format": lambda run: change(run, "trajectory", ["zarr_format"], 2),
    "unknown zarr format": lambda run: change(run, "", ["zarr_format"], 17),
    "unknown node": lambda run: change(run, "surfaces/pca", ["node_type"], "matrix"),
    "newer format": attributes("", "landscape_hooks", {"format": 99}),
    "negative format": attributes("", "landscape_hooks", {"format": -1}),
    "format is a text": attributes("", "landscape_hooks", {"format": "1"}),
    "format is true": attributes("", "landscape_hooks", {"format": True}),
    "no layout": attributes("", "layout", None),
    "layout is a text": attributes("", "layout", "weights"),
    "layout of numbers": attributes("", "layout", [1, 2, 3]),
    "buffer layout is an object": attributes("", "buffer_layout", {"a": 1}),
    # -- manifests
    "negative offset": entry(0, offset=-12),
    "huge offset": entry(1, offset=HUGE),
    "overlapping offsets": entry(1, offset=4),
    "shape does not multiply": entry(0, shape=[3, 3]),
    "negative shape": entry(0, shape=[-4, -3]),
    "fractional shape": entry(0, shape=[4.5, 3]),
    "shape is a text": entry(0, shape="43"),
    "shape of many dimensions": entry(0, shape=[1] * 100_000 + [12]),
    "shape of huge numbers": entry(0, shape=[10**300, 10**300], size=10**600),
    "huge size": entry(5, shape=[HUGE], size=HUGE),
    "unknown dtype": entry(0, dtype="os.system"),
    "dtype is a list": entry(0, dtype=["float32"]),
    "name is a path": entry(0, name="../../../etc/passwd"),
    "name twice": entry(0, name="0.bias"),
    "name is a list": entry(0, name=["x"]),
    "aliases are numbers": entry(0, aliases=[3]),
    # -- the commit record
    "no commit record": attributes("trajectory", "committed", None),
    "more rows than the arrays": committed(rows=10**6, order=None),
    "10^15 rows": committed(rows=HUGE, order=None),
    "negative rows": committed(rows=-1),
    "rows is a text": committed(rows="4"),
    "duplicate places": committed(order=[0, 0, 1, 2]),
    "negative places": committed(order=[-1, 0, 1, 2]),
    "places beyond": committed(order=[0, 1, 2, HUGE]),
    "fewer places than rows": committed(order=[0]),
    "places out of order": committed(order=[3, 2, 1, 0]),
    "places are texts": committed(order=["0", "1", "2", "3"]),
    "order is an object": committed(order={"0": 0}),
    "10^15 slots": attributes("trajectory", "slots", HUGE),
    "negative generation": committed(generation=-5),
    "ranks that are not there": attributes("trajectory", "ranks", 3),
    "10^15 ranks": attributes("trajectory", "ranks", HUGE),
    "ranks is a text": attributes("trajectory", "ranks", "2"),
    # -- arrays
    "10^15 rows declared": shape("trajectory/weights", [HUGE, 34]),
    "10^15 parameters declared": shape("trajectory/weights", [4, HUGE], [1, HUGE]),
    "10^15 steps in one chunk": shape("trajectory/step", [HUGE], [HUGE]),
    "10^15 points of a surface": shape("surfaces/pca/loss", [HUGE, 3]),
    "10^15 snapshots of a path": shape("surfaces/pca/paths/0/step", [HUGE], [HUGE]),
    "millions of chunks": shape("surfaces/pca/alpha", [30_000_000], [1]),
    "a chunk of 10^12": shape("surfaces/pca/alpha", [3], [10**12]),
    "chunks of zero": shape("surfaces/pca/alpha", [3], [0]),
    "other number of dimensions": shape("surfaces/pca/alpha", [3, 1], [3, 1]),
    "negative dimension": shape("surfaces/pca/alpha", [-3]),
    "axes that do not fit": shape("surfaces/pca/alpha", [2]),
    "metrics that do not fit": lambda run: shutil.copytree(
        run / "surfaces/pca/alpha", run / "surfaces/pca/metrics/accuracy"
    ),
    "texts for steps": data_type("trajectory/step", **STRING),
    "texts for losses": data_type("surfaces/pca/loss", **STRING),
    "complex losses": data_type("surfaces/pca/loss", data_type="complex128", fill_value=[0.0, 0.0]),
    "integers for weights": data_type("trajectory/weights", data_type="int32", fill_value=0),
    "half precision steps": data_type("trajectory/step", data_type="float16", fill_value="NaN"),
    "samples of dates": data_type("objective/data/0/0", data_type={"name": "numpy.datetime64", "configuration":
                                  {"unit": "s", "scale_factor": 1}}, fill_value=0),
    "unknown data type": data_type("surfaces/pca/loss", data_type="float1024"),
    "fill value of another type": data_type("surfaces/pca/loss", fill_value="many"),
    "unknown codec": codecs("surfaces/pca/loss", [*STORED, {"name": "pickle", "configuration": {}}]),
    "an installed codec": codecs("surfaces/pca/loss", [*STORED, {"name": "gzip", "configuration": {"level": 1}}]),
    "compressed twice": codecs("surfaces/pca/loss", [*STORED, *[{"name": "zstd", "configuration":
                               {"level": 1, "checksum": False}}] * 2]),
    "no codecs": codecs("surfaces/pca/loss", []),
    "codecs are numbers": codecs("surfaces/pca/loss", [1]),
    "no arrays": gone("trajectory/weights"),
    "no trajectory": gone("trajectory"),
    "an array for a group": lambda run: shutil.copy(run / "trajectory/step/zarr.json", run / "trajectory/zarr.json"),
    "a group for an array": lambda run: shutil.copy(run / "zarr.json", run / "surfaces/pca/loss/zarr.json"),
    # -- chunks
    "a missing row": gone("trajectory/weights/c/2"),
    "no steps": gone("trajectory/step/c"),
    "no points": gone("surfaces/pca/alpha/c"),
    "a cut row": chunk("trajectory/weights", lambda raw: raw[: len(raw) // 2]),
    "an empty row": chunk("trajectory/weights", b""),
    "a longer row": chunk("trajectory/weights", lambda raw: raw * 3),
    "a cut surface": chunk("surfaces/pca/loss", lambda raw: raw[:9]),
    "a surface of noise": chunk("surfaces/pca/loss", bytes(range(256)) * 4),
    "a frame that unfolds to 2^60 bytes": chunk(
        "surfaces/pca/loss", b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**60)
    ),
    "a frame that does not say its size": chunk("surfaces/pca/loss", b"\x28\xb5\x2f\xfd\x00\x58" + bytes(20)),
    "samples of noise": chunk("objective/data/0/0", lambda raw: bytes(len(raw))),
    "a graph of noise": chunk("objective/graphs/loss", lambda raw: raw[::-1]),
    "a Gram matrix of noise": chunk("gram/matrix", lambda raw: raw[:20]),
    "a Gram matrix of another size": shape("gram/matrix", [3, 4]),
    # -- names
    "latest leads out": attributes("surfaces", "latest", "../../../../etc"),
    "latest is a list": attributes("surfaces", "latest", ["pca"]),
    "a surface with an odd name": node("surfaces/a b;rm -rf", "surfaces/pca"),
    "a surface whose name is no UTF-8": lambda run: shutil.copytree(
        run / "surfaces/pca", run / "surfaces" / os.fsdecode(b"\xff\xfe")
    ),
    "a metric with an odd name": lambda run: shutil.copytree(
        run / "surfaces/pca/loss", run / "surfaces/pca/metrics/..a"
    ),
    "a constant that leads out": graph(inputs=lambda old: [*old, ["c", "constant", "../../data/0/0"]]),
    # -- attributes of a surface
    "labels are a number": surface("labels", 3),
    "labels of one": surface("labels", ["x"]),
    "labels that command the terminal": surface("labels", ["\x1b]0;owned\x07", "a\nelement vertex 9"]),
    "labels that are formulas": surface("labels", ["$\\frac{", "$x_"]),
    "labels with half a character": surface("labels", ["\ud800", "y"]),
    "a report of numbers": surface("report", [1, 2]),
    "a report of a megabyte": surface("report", ["x" * 10**6]),
    "NaN attributes": surface("samples", float("nan")),
    "10^15 paths": surface("path_count", HUGE),
    "negative paths": surface("path_count", -1),
    "paths are a text": surface("path_count", "1"),
    "a policy that is a list": surface("batch_norm", ["batch"]),
    "a plan of a million workers": surface("plan", lambda old: {**old, "workers": 10**6}),
    "a plan with other fields": surface("plan", {"workers": 1, "os": "system"}),
    "a plan that is a text": surface("plan", "fast"),
    "a chunk of no samples": surface("plan", lambda old: {**old, "chunk": 0}),
    # -- the objective
    "samples that do not add up": attributes("objective/data", "groups", [{"sizes": [HUGE], "per_sample": [True] * 2}]),
    "no samples": attributes("objective/data", "groups", []),
    "negative samples": attributes("objective/data", "groups", [{"sizes": [-12], "per_sample": [True, True]}]),
    "groups are texts": attributes("objective/data", "groups", ["a"]),
    "names are missing": attributes("objective/data", "names", None),
    "per_sample is a text": attributes("objective", "per_sample", "yes"),
    "complete is a text": attributes("objective", "complete", "yes"),
    "an objective without attributes": lambda run: change(run, "objective", ["attributes"], {"complete": True}),
    "a graph without nodes": graph(nodes=[]),
    "a graph that is given other parameters": graph(inputs=lambda old: [["x", "parameter", "nothing"], *old]),
    "a graph with two results": graph(outputs=lambda old: old * 2),
    "a graph whose result is a number": graph(outputs=[3]),
    "a graph whose nodes are numbers": graph(nodes=[1, 2]),
    "inputs of another form": graph(inputs=[["x"]]),
}  # fmt: skip


COMPUTED = ("sample", "graph", "Gram", "plan", "objective", "names are", "per_sample", "constant", "10^15 p",
            "a cut row", "texts for losses", "10^15 slots", "policy")  # fmt: skip
"""The everyday form computes with the runs in which that is what breaks; at random it does with any."""


@pytest.mark.everyday(6)
@pytest.mark.parametrize("case", CASES)
def test_a_damaged_run_ends_in_a_result_or_a_sentence(honest, tmp_path, case):
    run = shutil.copytree(honest, tmp_path / "run.zarr")
    CASES[case](run)
    compute = any(word in case for word in COMPUTED)
    outcomes = hostile.visit(run, tmp_path, compute=compute, figure="label" in case)
    assert all(outcomes), outcomes


SHARDED = {
    "a piece beyond its tensor": lambda old: [{**old[0], "corner": [3, 0]}, *old[1:]],
    "a huge piece": lambda old: [{**old[0], "shape": [HUGE, HUGE]}, *old[1:]],
    "a negative corner": lambda old: [{**old[0], "corner": [-1, 0]}, *old[1:]],
    "a piece of nothing": lambda old: [{**old[0], "name": "gone"}, *old[1:]],
    "a piece of other dimensions": lambda old: [{**old[0], "corner": [0], "shape": [6]}, *old[1:]],
    "a piece twice": lambda old: [*old, old[0]],
    "pieces are numbers": [1],
    "no pieces": None,
}


@pytest.mark.parametrize("case", SHARDED)
def test_pieces_that_lie_are_refused(sharded, tmp_path, case):
    run = shutil.copytree(sharded, tmp_path / "run.zarr")
    change(run, "ranks/0", ["attributes", "pieces"], SHARDED[case])
    with pytest.raises(LandscapeError):
        Trajectory.open(run)
    assert "ok" not in hostile.visit(run, tmp_path, compute=False)


FROZEN = {
    "a fixed tensor of another type": data_type("fixed/0", data_type="float32", fill_value=0.0),
    "a fixed tensor of 10^15 numbers": shape("fixed/0", [HUGE], [HUGE]),
    "a fixed tensor of two dimensions": shape("fixed/0", [4, 3], [4, 3]),
    "a fixed tensor that is cut": chunk("fixed/0", b"\x01"),
    "a fixed tensor that is gone": gone("fixed/0"),
    "bits of another type": attributes("trajectory/weights", "torch_dtype", "float8_e5m2"),
    "bits without a type": attributes("trajectory/weights", "torch_dtype", None),
    "a manifest of texts": attributes("fixed", "layout", ["0.weight"]),
    "a manifest that is no list": attributes("fixed", "layout", {"0.weight": 3}),
    "a manifest of 10^15 numbers": lambda run: change(
        run, "fixed", ["attributes", "layout", 0], lambda old: {**old, "shape": [HUGE], "size": HUGE}
    ),
    "no manifest": gone("fixed"),
    "late columns of other tensors": lambda run: change(
        run, "trajectory/late/0", ["attributes", "layout", 0, "name"], "nothing"
    ),
    "late columns from a text on": attributes("trajectory/late/0", "from_step", "4"),
    "late columns from below 0 on": attributes("trajectory/late/0", "from_step", -1),
    "late columns that were only begun": attributes("trajectory/late/0", "from_step", None),
    "late columns of 10^15 numbers": shape("trajectory/late/0/weights", [1024, HUGE], [1, HUGE]),
    "late columns of other numbers": lambda run: shutil.copytree(run / "trajectory/late/0", run / "trajectory/late/x"),
    "late columns that are gone": gone("trajectory/late/0/weights"),
    "late columns of integers": data_type("trajectory/late/0/weights", data_type="int32", fill_value=0),
    "late rows of noise": chunk("trajectory/late/0/weights", lambda raw: raw[::-1]),
    "a mark of a text": attributes("marks/best", "loss", "low"),
    "a mark of 10^15 weights": shape("marks/best/weights", [HUGE], [HUGE]),
    "a mark of other buffers": lambda run: shutil.copytree(
        run / "marks/best/weights", run / "marks/best/buffers", dirs_exist_ok=True
    ),
    "a mark with an odd name": node("marks/..b", "marks/best"),
    "a mark without weights": gone("marks/best/weights"),
    "doubts are a text": attributes("", "doubts", "none"),
    "10^5 doubts": attributes("", "doubts", [{"kind": "a", "said": "b"}] * 10**5),
    "a doubt that commands the terminal": attributes("", "doubts", [{"kind": "\x1b[2J", "said": "\x1b]0;x\x07"}]),
    "a doubt of a megabyte": attributes("", "doubts", [{"kind": "a", "said": "b" * 10**6}]),
    "a doubt of texts": attributes("", "doubts", [{"kind": "a", "said": "b", "numbers": {"c": "d"}}]),
    "a closing of numbers": attributes("", "closing", [1]),
    "a closing of another state": attributes("", "closing", {"state": "sure"}),
    "momenta of texts": data_type("trajectory/momentum", **STRING),
}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    return hostile.frozen(tmp_path_factory.mktemp("frozen") / "run.zarr")


FROZEN_COMPUTED = ("cut", "begun", "noise", "bits without")


@pytest.mark.everyday(3)
@pytest.mark.parametrize("case", FROZEN)
def test_what_is_stored_once_marks_and_doubts_of_a_stranger(frozen, tmp_path, case):
    run = shutil.copytree(frozen, tmp_path / "run.zarr")
    FROZEN[case](run)
    compute = any(word in case for word in FROZEN_COMPUTED)
    outcomes = hostile.visit(run, tmp_path, compute=compute)
    assert all(outcomes), outcomes
    assert not any("\x1b" in outcome for outcome in outcomes)


@pytest.mark.more
def test_a_run_of_all_that_format_2_has_is_visited(frozen, tmp_path):
    assert set(hostile.visit(shutil.copytree(frozen, tmp_path / "run.zarr"), tmp_path)) == {"ok"}


# -- nothing outside of the run --------------------------------------------------------------------------------
LINKS = ["trajectory", "trajectory/weights", "trajectory/step/zarr.json", "trajectory/weights/c", "surfaces",
         "surfaces/pca", "surfaces/pca/loss/c/0/0", "objective/data/0/0", "gram"]  # fmt: skip


@pytest.mark.everyday(3)
@pytest.mark.parametrize("link", LINKS)
def test_links_out_of_a_run_are_neither_read_nor_written(honest, tmp_path, link):
    run = shutil.copytree(honest, tmp_path / "run.zarr")
    outside = tmp_path / "outside"
    shutil.move(run / link, outside)
    (run / link).symlink_to(outside)
    before = {p: p.read_bytes() for p in [outside, *outside.rglob("*")] if p.is_file()}
    outcomes = hostile.visit(run, tmp_path)
    assert any("leads out of the run" in outcome for outcome in outcomes)
    assert {p: p.read_bytes() for p in [outside, *outside.rglob("*")] if p.is_file()} == before


def test_a_link_to_a_run_and_links_inside_of_it_are_followed(honest, tmp_path):
    run = shutil.copytree(honest, tmp_path / "run.zarr")
    shutil.move(run / "surfaces/pca/alpha", run / "axis")
    (run / "surfaces/pca/alpha").symlink_to(run / "axis")
    (tmp_path / "latest.zarr").symlink_to(run)
    assert Surface.open(tmp_path / "latest.zarr").shape == (3, 3)
    with pytest.raises(RunError, match="inside of it"):
        RunFolder(run).get_sync("surfaces/../../outside")


def test_a_pipe_in_a_run_is_not_waited_for(honest, tmp_path):
    run = shutil.copytree(honest, tmp_path / "run.zarr")
    (run / "surfaces/pca/loss/c/0/0").unlink()
    os.mkfifo(run / "surfaces/pca/loss/c/0/0")
    assert any("neither a file nor a folder" in outcome for outcome in hostile.visit(run, tmp_path))


def test_a_file_of_holes_is_not_read(honest, tmp_path):
    run = shutil.copytree(honest, tmp_path / "run.zarr")
    with (run / "surfaces/pca/loss/c/0/0").open("r+b") as file:
        file.truncate(2**40)
    assert any("the size of its content" in outcome for outcome in hostile.visit(run, tmp_path))


# -- memory --------------------------------------------------------------------------------------------------
CHILD = """
import resource, sys
from pathlib import Path
from landscape_hooks import Surface, Trajectory
from landscape_hooks.objective.objective import Objective
from landscape_hooks.store.run import open_run
from landscape_hooks.errors import LandscapeError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for act in (lambda run: Trajectory.open(run)[0], Surface.open, lambda run: Objective.load(open_run(run))):
    for run in sys.argv[1:]:
        try:
            act(run)
        except LandscapeError:
            pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.more
def test_memory_is_what_the_files_account_for(interpreters, honest, tmp_path):
    """Peak memory of a process that opens one such run after the other: the constant of checked.py at most."""
    from landscape_hooks.store import checked

    cases = [
        "10^15 rows declared", "10^15 parameters declared", "10^15 steps in one chunk", "10^15 points of a surface",
        "10^15 snapshots of a path", "a chunk of 10^12", "a frame that unfolds to 2^60 bytes",
    ]  # fmt: skip
    runs = [shutil.copytree(honest, tmp_path / str(number)) for number in range(len(cases) + 1)]
    for case, run in zip(cases, runs, strict=False):
        CASES[case](run)
    bomb(runs[-1])
    done = interpreters.run(CHILD, *runs)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < checked.FREE + 2 * sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())


def bomb(run: Path) -> None:
    """A surface of two gigabytes of zeros, a few kilobytes compressed."""
    from numcodecs import Zstd

    side = 16_000
    zeros = Zstd().encode(np.zeros((side, side), "f8"))
    for name in ("loss", "loss_stderr"):
        shape(f"surfaces/pca/{name}", [side, side], [side, side])(run)
        (run / f"surfaces/pca/{name}/c/0/0").write_bytes(zeros)


# -- at random -------------------------------------------------------------------------------------------------
WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.sampled_from([0, -1, 1, 2**31, 2**63, HUGE]),
    st.floats(), st.text(max_size=8), st.sampled_from(["../x", "/etc/passwd", "\x00", "float16", "NaN", "zstd"]),
    st.lists(st.integers(-3, 3), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def places(value, at=()):
    """The paths to every value inside of a JSON document."""
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


@st.composite
def damage(draw, files):
    """A change of one file of a run: (name, what happens, with what)."""
    documents = [name for name in files if name.endswith("zarr.json")]
    name = draw(st.sampled_from(documents) if draw(st.integers(0, 3)) else st.sampled_from(sorted(files)))
    if name.endswith("zarr.json") and draw(st.integers(0, 5)):
        where = draw(st.sampled_from(list(places(json.loads(files[name])))[1:]))
        return name, where, draw(WRONG)
    size = len(files[name])
    cut, flip = draw(st.integers(0, size)), draw(st.binary(max_size=12))
    return name, None, files[name][:cut] + flip + files[name][cut + len(flip) :][: draw(st.integers(0, size))]


def damaged_at_random(honest, examples, compute):
    """Run hypothesis over damaged copies of a run; each is visited as a user would."""
    files = {str(p.relative_to(honest)): p.read_bytes() for p in sorted(honest.rglob("*")) if p.is_file()}
    home = honest.parent / "copies"

    @settings(max_examples=examples, derandomize=True, deadline=None, database=None,
              phases=[Phase.generate],  # a failure is shown as it was found: to shrink it would take minutes
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.lists(damage(files), min_size=1, max_size=3), st.booleans())
    def check(changes, remove):
        shutil.rmtree(home, ignore_errors=True)
        run = shutil.copytree(honest, home / "run.zarr")
        for name, where, value in changes:
            if where is None:
                (run / name).write_bytes(value)
                continue
            try:
                document = inner = json.loads((run / name).read_bytes())
                for key in where[:-1]:
                    inner = inner[key]
                if remove:
                    del inner[where[-1]]
                else:
                    inner[where[-1]] = value
            except (KeyError, IndexError, TypeError, ValueError):
                continue  # an earlier change took the place away
            (run / name).write_text(json.dumps(document))
        hostile.visit(run, home, compute=compute)

    check()


def test_runs_damaged_at_random(honest):
    damaged_at_random(honest, 6, compute=False)


@pytest.mark.more
def test_runs_damaged_at_random_are_computed_with(honest):
    damaged_at_random(honest, 3, compute=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_runs_damaged_at_random(honest):
    damaged_at_random(honest, int(os.environ.get("HOSTILE_EXAMPLES", "3000")), compute=True)
