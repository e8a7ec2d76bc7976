"""Refinement: few evaluations where the surface is smooth, as many as it takes where it is not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape_hooks.analysis.adaptive import Refinement, first_stride, held_back, lattice


def valley(a, b):
    return 0.07 + (8 * a * a + 2 * b * b) * np.exp(1.5 * a) + 0.05 * np.sin(6 * a) * np.sin(5 * b)


SURFACES = {
    "kink": lambda a, b: 0.02 + np.abs(a + 0.3 * b) + 0.3 * np.maximum(0, b - 0.2) ** 2,
    "rough": lambda a, b: 1.2 + np.sin(40 * a) * np.cos(37 * b),
    "hole": lambda a, b: np.where((a - 0.3) ** 2 + (b + 0.2) ** 2 < 0.05, np.nan, 0.1 + a * a + b * b),
    "wall": lambda a, b: np.where(a > 0.4, np.inf, 0.1 + a * a + b * b),
    "negative": lambda a, b: a * a - b * b + 0.1 * a,
    "zero": lambda a, b: 0 * a * b,
}


def truth(function, shape):
    a, b = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape)
    return function(a[:, None], b[None]).astype(float)


def refine(full, tolerance):
    """Evaluate what is asked for until nothing is."""
    loss, have = np.full(full.shape, np.nan), np.zeros(full.shape, bool)
    while len(todo := Refinement(loss, have, tolerance).needed()):
        assert not have.ravel()[todo].any()  # nothing is asked for twice
        loss.ravel()[todo], have.ravel()[todo] = full.ravel()[todo], True
    return Refinement(loss, have, tolerance).filled(), have


def errors(filled, full, have):
    scale = np.maximum(np.abs(full), 1e-3 * np.nanmax(np.abs(np.where(np.isfinite(full), full, 0)))) + 1e-300
    with np.errstate(invalid="ignore"):
        return (np.abs(filled.loss - full) / scale)[~have]


def test_a_smooth_surface_takes_a_fortieth_of_the_evaluations():
    full = truth(valley, (201, 201))
    filled, have = refine(full, 0.01)
    found = errors(filled, full, have)
    assert have.mean() < 1 / 40
    assert np.median(found) < 1e-3
    assert np.quantile(found, 0.95) < 1e-2
    np.testing.assert_array_equal(filled.loss[have], full[have])
    assert (filled.error[have] == 0).all()
    assert len(filled.judged) > 30
    assert np.quantile(filled.judged, 0.95) < 1e-2


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("shape", [(101, 101), (64, 97)])
def test_a_rough_surface_takes_more_and_keeps_the_tolerance(name, shape):
    full = truth(SURFACES[name], shape)
    filled, have = refine(full, 0.02)
    found = errors(filled, full, have)
    if len(found):
        assert np.isfinite(found).all()  # no hole is missed, none is invented
        assert np.quantile(found, 0.95) < 0.02
    assert (np.isnan(filled.loss) == np.isnan(full)).all()
    assert (np.isinf(filled.loss) == np.isinf(full)).all()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_any_shape_is_filled(rows, columns, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=2)
    full = truth(lambda x, y: np.exp(a * x + b * y) + x * x + 0 * y, (rows, columns))
    filled, have = refine(full, 0.01)
    assert np.isfinite(filled.loss).all()
    assert np.quantile(errors(filled, full, have), 0.95) < 0.01 if (~have).any() else True


@pytest.mark.everyday(1)
@pytest.mark.parametrize("name", ["hole", "kink"])
@given(st.sampled_from([(65, 50), (40, 97), (33, 1)]), st.integers(0, 2**31))
@settings(max_examples=8, deadline=None)
def test_interrupted_anywhere_the_decisions_are_the_same(name, shape, seed):
    """Of what is asked for, only a part is evaluated before the next look: the end is the same bit for bit."""
    full, rng = truth(SURFACES[name], shape), np.random.default_rng(seed)
    whole, have = refine(full, 0.01)
    loss, evaluated = np.full(shape, np.nan), np.zeros(shape, bool)
    while len(todo := Refinement(loss, evaluated, 0.01).needed()):
        done = rng.permutation(todo)[: rng.integers(1, len(todo) + 1)]
        loss.ravel()[done], evaluated.ravel()[done] = full.ravel()[done], True
    resumed = Refinement(loss, evaluated, 0.01).filled()
    np.testing.assert_array_equal(evaluated, have)
    np.testing.assert_array_equal(resumed.loss, whole.loss)
    np.testing.assert_array_equal(resumed.error, whole.error)


@given(st.integers(1, 500), st.sampled_from([1, 2, 4, 8, 16]))
def test_lattices_are_nested_and_hold_both_ends(count, stride):
    coarse = lattice(count, stride)
    assert coarse[0] == 0
    assert coarse[-1] == count - 1
    assert set(coarse) <= set(lattice(count, max(1, stride // 2)))


def test_small_grids_are_evaluated_whole_and_judges_are_few():
    assert first_stride((10, 8)) == 1
    assert first_stride((201, 201)) == 16
    assert len(held_back((10, 8))) == 0
    assert len(held_back((201, 201))) == 64
    full = truth(valley, (10, 8))
    assert refine(full, 0.01)[1].all()
