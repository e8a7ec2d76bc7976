"""benchmarks/gpu.py runs, every line of it, without a GPU; what fails or takes too long is a row that says why."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.more

FILE = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FILE)
    module = sys.modules["gpu_benchmark"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_part_has_a_figure(bench, tmp_path, capsys):
    file = tmp_path / "rows.json"
    rows = bench.main(["--cpu", "--tiny", "--here", "--only", "stall,resnet,gpt,grid,pca", "--json", str(file)])
    assert [row for row in rows if row.value is None] == []
    assert {row.part for row in rows} == {"stall", "resnet", "gpt", "grid", "pca"}
    assert json.loads(file.read_text())["rows"][0]["part"] == "stall"
    assert "| grid | small, batch: points |" in capsys.readouterr().out
    assert sum(bench.SECONDS.values()) < 300


def test_the_gpt_has_124_million_parameters(bench):
    import torch

    with torch.device("meta"):
        model = bench.GPT(50304, 1024, 768, 12, 12)
    assert bench.parameters_of(model) == pytest.approx(124e6, rel=0.01)


def test_a_part_in_a_process_of_its_own_ends_with_its_time(bench, monkeypatch):
    rows = bench.main(["--cpu", "--tiny", "--only", "egl"])
    assert next(row.what for row in rows) in ("context", "failed")  # without EGL it says why
    monkeypatch.setitem(bench.SECONDS, "stall", 0.01)
    (row,) = bench.main(["--cpu", "--tiny", "--only", "stall"])
    assert (row.value, row.note.partition(";")[0]) == (None, "ended after 0.01 s")


def test_a_part_that_fails_is_a_row(bench, monkeypatch):
    def broken(made):
        made.add("stall", "first", 1.0, "ms")
        raise RuntimeError("CUDA error: an illegal address\nand more")

    monkeypatch.setitem(bench.PARTS, "stall", broken)
    rows = bench.main(["--cpu", "--tiny", "--here", "--only", "stall,pca"])
    assert rows[1].note == "RuntimeError: CUDA error: an illegal address"
    assert rows[-1].part == "pca"
