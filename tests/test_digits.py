"""Labels, read-outs and the report tell losses apart that differ."""

import numpy as np
import pytest

from landscape_hooks.surface.digits import Labels, percent, place_text, text_of, texts_of


@pytest.mark.parametrize(
    ("losses", "texts"),
    [
        ([0.01, 0.1, 1, 10, 2e4], ["0.01", "0.1", "1", "10", "2e+04"]),
        ([5.0738, 5.07385, 5.0739], ["5.0738", "5.07385", "5.0739"]),
        ([300.0, 200.0, 1234.0], ["300", "200", "1234"]),
        ([1e-6, 1.5e-6, -1e-6], ["1e-06", "1.5e-06", "-1e-06"]),
        ([1e6, 1e6 + 1], ["1000000", "1000001"]),
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


def test_a_scale_far_from_zero_has_an_offset():
    ticks = 5.07 + 1e-10 * np.arange(1, 5)
    labels = Labels.between(ticks[0], ticks[-1])
    assert labels.name("loss") == "loss - 5.07"
    assert labels.texts(ticks) == ["1e-10", "2e-10", "3e-10", "4e-10"]
    assert Labels.between(-5.07 - 1e-9, -5.07 + 1e-9).name("loss") == "loss + 5.07"
    assert Labels.between(5.0738, 5.0740).offset == Labels.between(-1, 1).offset == Labels.between(2, 2).offset == 0
    assert Labels.between(-1e308, 1e308).offset == Labels.between(np.nan, 1).offset == 0


@pytest.mark.parametrize("offset", [5.07, -5.07, 1e6, 123.456, 1 / 3])
@pytest.mark.parametrize("span", [1e-3, 1e-6, 1e-9])
def test_label_and_offset_together_are_the_number(offset, span):
    ticks = offset + span * np.arange(-2, 4)
    labels = Labels.between(ticks[0], ticks[-1])
    texts = labels.texts(ticks)
    assert len(set(texts)) == len(ticks)
    assert max(map(len, texts)) <= 12
    found = np.array([float(text) for text in texts]) + labels.offset
    np.testing.assert_allclose(found, ticks, rtol=1e-15, atol=0.2 * span)


def test_shares_near_all_and_near_none_are_no_round_number():
    assert [percent(s) for s in (0.999997, 0.5, 1.0, 0.0, 3e-6, 2e-12)] == [
        "99.9997%", "50.0%", "100%", "0%", "0.0003%", "2e-10%",
    ]  # fmt: skip


def test_a_place_has_the_digits_of_its_plane():
    assert [place_text(v, 0.01) for v in (1.23456, -0.001, 12.0)] == ["1.23", "0", "12"]
    assert place_text(1.2343e-7, 1e-10) == "1.234e-07"
