"""Real training loops, in a short form: `python tests/wild/long.py` is the long one (its head says how)."""

from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.wild.edits import EDITS, ENDINGS
from tests.wild.oracle import Broken, judge
from tests.wild.recipes import Recipe, recipes
from tests.wild.table import LOOPS, TOLD
from tests.wild.updates import UPDATES
from tests.wild.watch import Watch

DAILY = {
    "derandomize": True, "deadline": None, "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}  # fmt: skip
STORED_DAILY = ("VQ-VAE", "detector")


def hold(recipe, folder, **more):
    """The three invariants, and silence where nothing is to be said."""
    verdict = judge(recipe.train, Path(mkdtemp(dir=folder)) / "run.zarr", **recipe.judged, **more)
    if recipe.ordinary and verdict.plain_end:
        assert verdict.told == []
    return verdict


@pytest.mark.everyday(6)
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_of_the_table_is_recorded_as_it_is(name, tmp_path):
    verdict = judge(LOOPS[name], tmp_path / "run.zarr", every=1, store_loss=name in STORED_DAILY)
    if name not in TOLD:
        assert verdict.told == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_the_stored_loss_of_a_loop_of_the_table_is_the_one_by_hand(name, tmp_path):
    verdict = judge(LOOPS[name], tmp_path / "run.zarr", every=1, store_loss=True)
    if name not in TOLD:
        assert verdict.told == []


@pytest.mark.everyday(6)
@pytest.mark.parametrize("update", UPDATES)
def test_every_way_of_stepping(update, tmp_path):
    hold(Recipe(update=update, edit="clamped", optimizer="momentum", every=2), tmp_path)


@pytest.mark.everyday(1)
@pytest.mark.parametrize("loss", ["noise", "slopes", "sparse"])
def test_losses_that_torch_export_alone_does_not_trace(loss, tmp_path):
    hold(Recipe(loss=loss, every=2), tmp_path, store_loss=True)


@pytest.mark.everyday(6)
@pytest.mark.parametrize("edit", EDITS)
def test_everything_that_happens_between_steps(edit, tmp_path):
    hold(Recipe(edit=edit, model="batch norm", loader="shuffled", optimizer="adam", every=None, keep=4), tmp_path)


@pytest.mark.everyday(4)
@pytest.mark.parametrize("ending", ENDINGS)
def test_everything_that_happens_when_training_is_over(ending, tmp_path):
    hold(Recipe(ending=ending, model="dropout", every=4), tmp_path)


@pytest.mark.parametrize("update", ["plain", "two kinds", "one a parameter", "sam with a closure"])
def test_weights_swapped_after_a_step_off_the_schedule_end_the_path_in_doubt(update, tmp_path):
    """However fast the steps are: the last one is off the schedule, and there was no time for a look at all weights."""
    recipe = Recipe(update=update, ending="average copied in", iterations=11, every=100)
    verdict = hold(recipe, tmp_path)
    assert len(verdict.told) == 1
    assert "The weights changed after the last optimizer step (11)" in verdict.told[0]


def test_edits_at_the_end_of_every_epoch_are_no_doubt(tmp_path):
    """Edits are seen however rare they are, so that one after the last step is known to be the loop's own."""
    verdict = judge(_edited_by_epochs, tmp_path / "run.zarr", every=100)
    assert verdict.told == []


def test_a_state_loaded_between_the_steps_of_an_iteration_is_no_end(tmp_path):
    """A further step follows: the path ends after it, and not with what was held before the loading."""
    hold(Recipe(update="second phase", edit="set back", iterations=4), tmp_path)


@pytest.mark.parametrize("optimizer", ["sgd", "fused"])
def test_an_edit_after_a_step_that_was_none_belongs_to_the_step_before(optimizer, tmp_path):
    """A fused optimizer is called and steps over infinite gradients itself; others are not called."""
    hold(Recipe(update="scaler", edit="renormalised", optimizer=optimizer, iterations=5, every=2), tmp_path)


@pytest.mark.parametrize("update", ["one a parameter", "two kinds"])
def test_the_best_state_is_loaded_again_by_assignment_without_a_doubt(update, tmp_path):
    hold(Recipe(update=update, model="low rank", ending="loaded again and again", iterations=1, every=2), tmp_path)


def _edited_by_epochs(watch):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch.record(model, optimizer)
    for n in range(12):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        with watch.step():
            optimizer.step()
        if n % 4 == 3:
            model.weight.data.mul_(0.9)
    watch.close()


@settings(max_examples=15, **DAILY)
@given(recipe=recipes())
def test_composed_loops_are_recorded_as_they_are(recipe, tmp_path):
    hold(recipe, tmp_path)


@settings(max_examples=2, **DAILY)
@given(recipe=recipes(stored=True))
def test_the_stored_loss_of_composed_loops_is_the_one_by_hand(recipe, tmp_path):
    hold(recipe, tmp_path, store_loss=True)


def test_a_number_of_the_batch_that_scales_the_loss_is_stored(tmp_path):
    """Traced it is a tensor of 64 bits, so that the stored loss has another type than the training's own."""
    verdict = hold(Recipe(structure="numbers", loss="class weights", size=11, iterations=1), tmp_path, store_loss=True)
    assert verdict.compared == 2
    assert all("no plain mean over its samples" in sentence for sentence in verdict.told)


# -- the oracle itself -------------------------------------------------------------------------------------------------
class Careless(Watch):
    """Records, and does one thing wrong."""

    def __init__(self, *given):
        super().__init__(*given)
        if self.run is not None:
            self.spoil(self)

    spoil = staticmethod(lambda watch: None)


def _draws(watch):
    watch.record = lambda *a, **k: (torch.rand(1), Watch.record(watch, *a, **k))[1]


def _moves(watch):
    close = watch.close
    watch.close = lambda: (watch.found[0].update({n: t + 1 for n, t in watch.found[0].items()}), close())[1]


@pytest.mark.parametrize(
    ("fault", "said"), [(_draws, "The batches differ|'random' differs"), (_moves, "The weights found differ")]
)
def test_the_oracle_finds_faults(fault, said, tmp_path, monkeypatch):
    monkeypatch.setattr(Careless, "spoil", staticmethod(fault))
    monkeypatch.setattr("tests.wild.oracle.Watch", Careless)
    recipe = replace(Recipe(), loader="shuffled", model="dropout")
    with pytest.raises(Broken, match=said):
        judge(recipe.train, tmp_path / "run.zarr", **recipe.judged)


def test_the_oracle_finds_a_loss_that_is_not_the_one_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.wild.oracle.by_hand", lambda *given: 0.0)
    recipe = Recipe(iterations=1)
    with pytest.raises(Broken, match="nobody was told"):
        judge(recipe.train, tmp_path / "run.zarr", store_loss=True, **recipe.judged)
