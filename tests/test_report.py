"""The report says what the numbers say, and warns where a picture would mislead."""

from dataclasses import replace

import numpy as np
import pytest

from landscape_hooks.surface.report import random_walk_ratio, sentences
from landscape_hooks.surface.surface import Path, Surface


def surface(*, ratio=(0.9, 0.08), distance=0.1, gap=0.0, count=20, width=10.0, loss=None, **attrs):
    t = np.linspace(1, 0, count)
    true = 0.1 + 2 * t**2
    path = Path(
        coordinates=np.stack([-5 * t, t * (1 - t)], axis=1),
        step=np.arange(count),
        loss=true,
        plane_loss=true + gap * t,
        distance=distance * t,
        epoch=t,
        learning_rate=t,
        loss_stderr=np.full(count, 0.01),
        label="sgd",
    )
    loss = np.ones((4, 3)) if loss is None else loss
    return Surface(
        alpha=np.linspace(-width, width, 4), beta=np.linspace(-width, width, 3), loss=loss,
        loss_stderr=np.full((4, 3), 0.02), evaluated=np.ones((4, 3), bool), explained_variance_ratio=np.array(ratio),
        paths=(path,), attrs={"directions": "pca", "samples": 100, "batch_norm": "batch", **attrs},
    )  # fmt: skip


def said(**options):
    return " ".join(sentences(surface(**options)))


def test_expected_variance_of_a_random_walk_is_that_of_random_walks():
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(60, 30_000))
    walk = steps.cumsum(axis=0)
    values = np.linalg.svd(walk - walk.mean(axis=0), compute_uv=False) ** 2
    np.testing.assert_allclose(random_walk_ratio(60), (values / values.sum())[:2], atol=0.01)
    assert random_walk_ratio(60) == pytest.approx((0.607, 0.153), abs=0.002)  # Antognini & Sohl-Dickstein


@pytest.mark.parametrize("length", [3, 4, 17, 60])
def test_the_closed_form_of_a_random_walk_is_its_scatter_decomposed(length):
    summed = np.tril(np.ones((length, length)))
    values = np.linalg.svd(summed - summed.mean(axis=0), compute_uv=False) ** 2
    np.testing.assert_allclose(
        random_walk_ratio(length, 3)[: length - 1], (values / values.sum())[: min(3, length - 1)]
    )
    assert random_walk_ratio(10**6) == pytest.approx((6 / np.pi**2, 6 / np.pi**2 / 4))  # no matrix of that size


def test_drift_is_called_drift():
    assert "a pure random walk of 20 snapshots would show" in said()
    assert "drift" not in said()
    assert "no more than drift" in said(ratio=(0.6, 0.16))


def test_a_surface_that_does_not_carry_the_path_says_so():
    assert "carries the path" in said()
    words = said(gap=1.0)
    assert "does not show the true loss" in words
    assert "at step 0: 2.1 against 3.1" in words


def test_what_is_hidden_is_said():
    assert "leaves the plane by up to 2.5" in said(distance=2.5)
    assert "the path is a dot" in said(width=1000.0)
    assert "the path is a dot" not in said()
    hole = np.ones((4, 3))
    hole[0, 0], hole[1, 1] = np.nan, np.inf
    assert "2 of 12 losses are NaN or infinite" in said(loss=hole)


def test_policies_say_what_they_hide():
    assert "statistics of each batch" in said()
    assert "final running statistics" in said(batch_norm="fixed")
    assert "Running" not in said(batch_norm="none")


def test_a_run_of_one_snapshot_goes_nowhere():
    text = said(count=1)
    assert "The run has one snapshot, with a loss of" in text
    assert "goes from" not in text


def changed_path(**fields):
    """The surface above with another path: true losses and those of the plane."""
    made = surface(**fields.pop("attrs", {}))
    return replace(made, paths=(replace(made.paths[0], **fields),))


@pytest.mark.parametrize(
    ("true", "error", "precision", "carries"),
    [
        (5.0738 + 2e-4 * np.linspace(1, 0, 20), 2e-5 * 5, "float32", False),  # half of the change, 2e-5 of the loss
        (5.0738 + 2e-4 * np.linspace(1, 0, 20), 1e-6, "float32", True),
        (5.07 + 1e-9 * np.linspace(1, 0, 20), 1e-9, "float64", False),
        (-1e6 + 5 * np.linspace(1, 0, 20), 3, "float64", False),
        (np.linspace(1, -1, 20), 0.05, "float32", True),  # through zero: no share of the loss counts there
        (1e-6 * np.linspace(1, 0.1, 20), 1e-7 * 5, "float32", False),
    ],
)
def test_carrying_the_path_is_measured_by_what_the_loss_changed(true, error, precision, carries):
    made = changed_path(loss=true, plane_loss=true + error, loss_stderr=np.abs(true), attrs={"precision": precision})
    words = " ".join(sentences(made))
    assert ("carries the path" in words) == carries
    assert ("does not show the true loss" in words) != carries


def test_a_loss_that_does_not_change_carries_nothing():
    still = np.full(20, 2.0)
    assert "whether the surface carries the path is open" in " ".join(
        sentences(changed_path(loss=still, plane_loss=still))
    )


def test_a_projection_without_a_finite_loss_is_a_difference():
    lost = np.linspace(2, 1, 20)
    lost[3] = np.inf
    words = " ".join(sentences(changed_path(loss=np.linspace(2, 1, 20), plane_loss=lost)))
    assert "At 1 of 20 snapshots" in words
    assert "against inf on the plane" in words


def test_no_error_is_nan():
    made = changed_path(loss_stderr=np.full(20, np.nan))
    error = made.loss_stderr.copy()
    error[0, 0] = np.nan
    loss = made.loss.copy()
    loss[0, 0] = 0.5
    words = " ".join(sentences(replace(made, loss=loss, loss_stderr=error)))
    assert "nan" not in words
    assert "its standard error is not known" in words
