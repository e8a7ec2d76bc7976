"""The page writes numbers by the same rule as everything else: its JavaScript against Python's, by node."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from landscape_hooks.surface.digits import Labels, place_text, text_of, texts_of

NUMBERS = Path("landscape_hooks/viewer/web/geometry/numbers.js").resolve()
SCRIPT = """
const { Labels, general, placeText, textOf, textsOf } = await import(process.argv[1]);
const chunks = []; for await (const chunk of process.stdin) chunks.push(chunk);
const read = (v) => typeof v === "string" ? Number(v) : v;
const out = JSON.parse(chunks.join("")).map(([values, step]) => {
  const given = values.map(read), finite = given.filter(Number.isFinite);
  const labels = finite.length ? Labels.between(Math.min(...finite), Math.max(...finite)) : new Labels();
  return [textsOf(given), given.map((v) => textOf(v, read(step))), given.map((v) => placeText(v, read(step))),
    given.map((v) => general(v, 2)), labels.texts(given), labels.name("loss")];
});
console.log(JSON.stringify(out));
"""


def cases():
    """Values on scales of every size and offset, ties, and what is not finite."""
    rng = np.random.default_rng(0)
    for offset in (0.0, 5.07, -5.0738, 1e6, -3e5, 1e-6, 123456.789):
        for span in (1e-12, 1e-9, 1e-6, 1e-3, 0.25, 7.0, 3e4):
            yield offset + span * rng.uniform(-1, 1, 7), span / 200
            yield offset + span * np.arange(-2, 3), span
    yield np.array([0.125, 0.375, 2.5, 0.25, 1000.5, 1e4, 9999.0, -0.0, 1e300, 5e-324]), 0.5
    yield np.array([math.nan, math.inf, -math.inf, 1.0, 1.0]), math.inf
    yield np.array([1 - 3e-6, 3e-5, 2_500_000]), 0.0


def test_javascript_writes_numbers_as_python_does():
    if (node := shutil.which("node")) is None:
        pytest.skip("node is not installed")
    given = [([float(v) for v in values], float(step)) for values, step in cases()]
    spelled = [[[v if math.isfinite(v) else _spelled(v) for v in values], step if math.isfinite(step) else "Infinity"]
               for values, step in given]  # fmt: skip
    done = subprocess.run(
        [node, "--input-type=module", "-e", SCRIPT, NUMBERS.as_uri()], input=json.dumps(spelled),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for (values, step), found in zip(given, json.loads(done.stdout), strict=True):
        finite = [v for v in values if math.isfinite(v)]
        labels = Labels.between(min(finite), max(finite)) if finite else Labels()
        assert found == [
            texts_of(values), [text_of(v, step) for v in values], [place_text(v, step) for v in values],
            [f"{v + 0.0:.2g}" for v in values], labels.texts(values), labels.name("loss"),
        ]  # fmt: skip


def _spelled(value):
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
