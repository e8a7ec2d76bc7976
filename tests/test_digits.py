"""Labels, read-outs and the report tell losses apart that differ."""

import numpy as np
import pytest

from landscape_hooks.surface.digits import text_of, texts_of


@pytest.mark.parametrize(
    ("losses", "texts"),
    [
        ([0.01, 0.1, 1, 10, 2e4], ["0.01", "0.1", "1", "10", "2e+04"]),
        ([5.0738, 5.07385, 5.0739], ["5.0738", "5.07385", "5.0739"]),
        ([300.0, 200.0], ["300", "200"]),
        ([-5.0738, -5.0739], ["-5.0738", "-5.0739"]),
        ([1.0, 1.0, np.nan], ["1", "1", "nan"]),
    ],
)
def test_losses_that_differ_read_differently(losses, texts):
    assert texts_of(losses) == texts


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("step", [1e-1, 1e-3, 1e-5])
def test_neighbours_keep_apart_at_any_size(size, step):
    losses = size * (1 + step * np.arange(8))
    assert len(set(texts_of(losses))) == 8
    assert float(text_of(losses[3], size * step)) == pytest.approx(losses[3], abs=size * step / 2)
