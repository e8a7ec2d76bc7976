"""How much of a surface is computed, and how long: quality, budget, estimate, samples; what a failure leaves."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Effort, Local, Objective, Ray, Surface, analyze, contour_figure, landscape, record, verify
from landscape_hooks.analysis import analyze as room
from landscape_hooks.analysis import commits, filling
from landscape_hooks.cli.description import describe, description_text
from landscape_hooks.errors import LandscapeError, ObjectiveError, PlaneError, RunError
from landscape_hooks.evaluation import effort
from landscape_hooks.evaluation.effort import Budget, UsedUp, parse_effort
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.sampling import NOISE, choose
from landscape_hooks.objective.kernels import Tuning
from landscape_hooks.objective.probe import Group, Probe
from landscape_hooks.store.run import open_run

PLAIN = {"engine": Local(tune=False), "progress": False}


def recorded(store, *, noise, samples=512, steps=12, batches=False):
    """A run of a linear model: losses of single samples scatter by `noise` about a square of the weights."""
    generator = torch.Generator().manual_seed(0)
    x = torch.eye(3).repeat(samples // 3 + 1, 1)[:samples] * torch.randn(samples, 1, generator=generator).sign()
    y = x.sum(dim=1) + noise * torch.randn(samples, generator=generator)
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)

    def loss(model, batch):
        each = (model(batch[0]).squeeze(1) - batch[1]).square()
        return each.mean() if batches else each

    data = list(zip(x.split(16), y.split(16), strict=True)) if batches else (x, y)
    with record(model, optimizer, store, every=1, objective=loss, data=data, samples=samples, verbose=False):
        for _ in range(steps):
            optimizer.zero_grad()
            (model(x).squeeze(1) - y).square().mean().backward()
            optimizer.step()
    return str(store)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("effort") / "run.zarr", noise=0.05)


# -- the object ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("2m", 120),
        ("90s", 90),
        ("90", 90),
        (90, 90),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1h 2m 3s", 3723),
        (None, math.inf),
    ],
)
def test_a_budget_is_a_time(given, seconds):
    assert Effort(budget=given).seconds == seconds


@pytest.mark.parametrize("wrong", ["", "2x", "m2", "-5s", "2m!", 0, -1, math.nan, math.inf, True, [3]])
def test_what_is_no_time_is_refused(wrong):
    with pytest.raises(PlaneError, match="Found the budget"):
        Effort(budget=wrong)


def test_a_word_is_a_quality():
    assert parse_effort("draft") == Effort("draft")
    assert parse_effort(None) == Effort() == Effort("normal")
    for wrong in ("best", 3, ["draft"]):
        with pytest.raises(PlaneError, match="Found"):
            parse_effort(wrong)


def test_a_quality_is_a_tolerance_samples_and_a_grid():
    assert (Effort().tolerance, Effort().samples, Effort().shape((25, 9))) == (None, None, (25, 9))
    assert (Effort("draft").samples, Effort("draft").shape((25, 1))) == ("auto", (25, 1))
    assert (Effort("fine").tolerance, Effort("fine").shape((25, 1))) == (0.01, (97, 1))
    assert set(np.linspace(-1, 1, 25).round(9)) <= set(np.linspace(-1, 1, 97).round(9))


def test_analyze_takes_runs_and_few_options(run):
    assert len(inspect.signature(analyze).parameters) <= 18
    with pytest.raises(RunError, match="Found no run"):
        analyze(size=3)
    with pytest.raises(PlaneError, match="--quality"):
        analyze(run, effort="draft", part="1/2", **PLAIN)


# -- the budget ---------------------------------------------------------------------------------------------
def test_a_budget_tells_what_is_done_and_ends_with_the_first_loss_after_it(monkeypatch):
    now, told = [100.0], []
    monkeypatch.setattr(effort.time, "monotonic", lambda: now[0])
    budget = Budget(10.0).counting(told.append)
    budget(3)
    now[0] = 110.0
    budget(0)  # nothing was computed
    with pytest.raises(UsedUp):
        budget(2)
    assert told == [3, 0, 2]


@pytest.fixture
def clock(monkeypatch):
    """A loss takes a second of the budget's clock; each is committed by itself or with what waits."""
    now, real = [0.0], filling.evaluate

    def slow(loss, points, **options):
        for tile in real(loss, points, **options):
            now[0] += len(tile.index)
            yield tile

    monkeypatch.setattr(filling, "evaluate", slow)
    monkeypatch.setattr(effort, "time", type("clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    return now


@pytest.mark.everyday(1)
@pytest.mark.parametrize("adaptive", [None, 0.01])
def test_an_analysis_ends_with_its_budget_and_is_gone_on_with(run, clock, adaptive):
    whole = analyze(run, name="whole", size=25, adaptive=adaptive, **PLAIN)
    parts = []
    for _ in range(12):
        clock[0] = 0.0
        parts.append(analyze(run, name="part", size=25, adaptive=adaptive, effort=Effort(budget=130), **PLAIN))
        if parts[-1].complete and "used up" not in parts[-1].attrs["report"][0]:
            break
    first = parts[0]
    assert 130 <= first.evaluated.sum() <= 131
    (said,) = first.attrs["report"]
    assert said.startswith("The budget is used up; there are ")
    assert "of 25 × 25 points" in said
    assert said.endswith("The same command goes on with it.")
    assert [p.evaluated.sum() for p in parts] == sorted(p.evaluated.sum() for p in parts)
    assert Surface.open(run).name == "part"  # what was asked for last is what is looked at
    for key in ("loss", "loss_stderr", "path_loss", "path_plane_loss"):
        np.testing.assert_array_equal(getattr(parts[-1], key), getattr(whole, key))
    assert parts[-1].attrs["report"] == whole.attrs["report"]


def test_what_a_budget_leaves_is_a_picture_that_says_so(run, clock):
    surface = analyze(run, name="early", fresh=True, effort=Effort(budget=60), engine=Local(tune=False), progress=False)
    words = " ".join(text.get_text() for text in contour_figure(surface).axes[0].texts).replace("\n", " ")
    assert surface.evaluated.sum() == 60
    assert "so far:" in words
    assert "60 of 625 points so far" in description_text(describe(run))


def test_a_part_ends_with_its_budget_too(run, clock):
    part = analyze(run, name="shared", size=9, part="2/3", effort=Effort(budget=5), **PLAIN)
    assert part.evaluated.sum() == 5
    clock[0] = 0.0
    part = analyze(run, name="shared", size=9, part="2/3", **PLAIN)
    assert part.evaluated.sum() == 27


@pytest.mark.more
# -- what is said before ------------------------------------------------------------------------------------
def test_the_estimate_is_of_what_is_left(run, capsys, monkeypatch):
    plan = Plan(workers=2, tuning=Tuning(chunk=256), seconds=0.5)
    monkeypatch.setattr(room, "_plan", lambda *_: plan)
    quiet = {"engine": Local(tune=False), "size": 9}
    part = analyze(run, name="told", part="1/3", **quiet)
    said = capsys.readouterr().err.splitlines()[0]
    assert said == (
        "27 losses to compute over 512 samples, about 14 s; 60 bytes of memory for weights, and in each of 2 processes "
        "what the network makes of 256 samples at a time."
    )
    assert part.evaluated.sum() == 27
    analyze(run, name="told", **quiet)
    err = capsys.readouterr().err
    assert err.startswith(f"{81 - 27 + 26} losses to compute over 512 samples, about 40 s; ")
    assert "view RUN --follow" in err.splitlines()[0]
    analyze(run, name="told", **quiet)
    assert "to compute" not in capsys.readouterr().err
    analyze(run, name="quick", adaptive=0.1, **quiet)
    assert capsys.readouterr().err.startswith("Up to 107 losses")
    loss = type("Loss", (), {"plan": plan, "objective": loss_of(run), "plane": torch.zeros(3)})()
    monkeypatch.setattr(filling, "_memory", lambda loss: "memory")
    said = filling.estimate(10, loss, most=False, beside=90, cluster=True)
    assert said.startswith("10 losses and 90 values of metrics to compute over 512 samples, about 50 s of one worker;")


def loss_of(run):
    return Objective.load(open_run(run))


# -- what a failure leaves ----------------------------------------------------------------------------------
def broken(monkeypatch, after, error):
    real, done = filling.evaluate, 0

    def failing(loss, points, **options):
        nonlocal done
        for tile in real(loss, points, **options):
            if done >= after:
                raise error
            done += len(tile.index)
            yield tile

    monkeypatch.setattr(filling, "evaluate", failing)
    monkeypatch.setattr(commits, "COMMIT_SECONDS", 0.0)


@pytest.mark.everyday(1)
@pytest.mark.parametrize("error", [ObjectiveError("Found a trouble"), OSError(28, "No space left"), MemoryError()])
def test_a_failed_analysis_without_a_point_leaves_nothing(run, monkeypatch, capsys, error):
    analyze(run, name="good", size=3, **PLAIN)
    broken(monkeypatch, 0, error)
    with pytest.raises(type(error)):
        analyze(run, name="bad", size=5, engine=Local(tune=False))
    assert "0 of" not in capsys.readouterr().err
    found = describe(run)
    assert "bad" not in {each["name"] for each in found["surfaces"]}
    assert "0 of 25" not in description_text(found)
    assert Surface.open(run).name == "good"


def test_an_interruption_before_the_first_loss_leaves_nothing_and_keeps_the_path_after_it(run, monkeypatch):
    def interrupt(loss, engine):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(room, "check_repeatable", interrupt)
        with pytest.raises(KeyboardInterrupt):
            analyze(run, name="early2", size=4, **PLAIN)
    assert "early2" not in {each["name"] for each in describe(run)["surfaces"]}
    broken(monkeypatch, 0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        analyze(run, name="early2", size=4, **PLAIN)
    assert Surface.open(run, "early2").paths[0].evaluated.sum() == 2


def test_a_failed_analysis_with_points_is_gone_on_with(run, monkeypatch):
    whole = analyze(run, name="whole5", size=5, **PLAIN)
    with monkeypatch.context() as patch:
        broken(patch, 7, ObjectiveError("Found a trouble"))
        with pytest.raises(ObjectiveError):
            analyze(run, name="cut", size=5, **PLAIN)
    assert Surface.open(run, "cut").evaluated.sum() == 7
    np.testing.assert_array_equal(analyze(run, name="cut", size=5, **PLAIN).loss, whole.loss)


def test_a_loss_that_does_not_repeat_leaves_nothing(run, monkeypatch):
    def refuse(loss, engine):
        raise ObjectiveError("The loss at the same weights was 1.0 and then 2.0")

    monkeypatch.setattr(room, "check_repeatable", refuse)
    with pytest.raises(ObjectiveError, match="and then"):
        analyze(run, name="random", size=4, **PLAIN)
    assert "random" not in {each["name"] for each in describe(run)["surfaces"]}


# -- samples by need ----------------------------------------------------------------------------------------
def probe(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    groups = [
        Group([torch.randn(sum(part), width, generator=generator), torch.zeros(2)], (True, False), part)
        for width, part in enumerate(sizes, 1)
    ]
    return Probe(groups, ["[0]", "[1]"], "")


@pytest.mark.parametrize("whole", [False, True])
def test_drawn_samples_are_nested_and_those_of_the_seed(whole):
    made = probe([[5, 5, 3], [4, 4], [6]])
    before: set = set()
    for count in (1, 4, 9, 16, 32):
        part = made.drawn(count, 3, whole=whole)
        rows = {tuple(row) for group in part.groups for row in group.leaves[0].tolist()}
        assert before <= rows
        assert len(rows) == part.samples >= min(count, made.samples)
        assert whole or part.samples == min(count, made.samples)
        assert part.digest == made.drawn(count, 3, whole=whole).digest
        before = rows
        kept = {size for group in made.groups for size in group.sizes}
        assert not whole or {size for group in part.groups for size in group.sizes} <= kept
    assert made.drawn(32, 3).samples == made.samples
    assert made.drawn(8, 3).digest != made.drawn(8, 4).digest


def test_the_fewest_samples_whose_standard_error_is_small_against_the_contrast():
    class Loss:
        def __init__(self, samples):
            self.samples = samples

        def drawn(self, count, seed):
            return Loss(count)

    objective = Loss(4096)

    def measure(spread):
        return lambda part: (np.array([1.0, 3.0]), np.full(2, spread / math.sqrt(part.samples)))

    contrast = 2.0
    for spread in (0.01, 0.5, 1.0, 1.7):
        needed = (spread / (NOISE * contrast)) ** 2
        chosen = choose(objective, measure(spread), 0)
        assert chosen.drawn is not None
        assert chosen.drawn.count == max(64, 2 ** math.ceil(math.log2(needed)))
    assert choose(objective, measure(10.0), 0).drawn is None
    assert choose(objective, lambda part: (np.ones(2), np.zeros(2)), 0).drawn is None  # no contrast
    assert choose(objective, lambda part: (np.array([1.0, np.nan]), np.zeros(2)), 0).drawn is None
    assert "fewer would have" in choose(objective, measure(10.0), 0).said
    assert "no contrast" in choose(objective, lambda part: (np.ones(2), np.zeros(2)), 0).said


def test_samples_by_need_are_stated_stored_and_verified(run):
    surface = analyze(run, name="auto", size=4, samples="auto", seed=5, **PLAIN)
    every = analyze(run, name="every", size=4, **PLAIN)
    count = surface.attrs["samples"]
    assert 64 <= count < 512 == every.attrs["samples"]
    assert (surface.attrs["samples_of"], surface.attrs["samples_seed"]) == (512, 5)
    assert (every.attrs["samples_of"], every.attrs["samples_seed"]) == (None, None)
    said = [sentence for sentence in surface.attrs["report"] if "were drawn" in sentence]
    assert len(said) == 1
    assert said[0].startswith(f"{count} of 512 probe samples were drawn (seed 5)")
    words = " ".join(text.get_text() for text in contour_figure(surface).axes[0].texts).replace("\n", " ")
    assert f"{count} of 512 probe samples" in words
    contrast = np.ptp(every.path_loss)
    assert np.abs(surface.path_loss - every.path_loss).max() < 4 * NOISE * contrast
    assert (surface.paths[0].loss_stderr <= 1.5 * NOISE * contrast).all()
    assert verify(run, "auto").surfaces[0].verdict == "holds"
    again = analyze(run, name="auto", size=4, samples="auto", seed=5, **PLAIN)
    np.testing.assert_array_equal(again.loss, surface.loss)
    assert (
        analyze(run, name="other", size=4, samples="auto", seed=6, **PLAIN).attrs["data_digest"]
        != again.attrs["data_digest"]
    )


def test_noise_takes_all_samples_and_whole_batches_stay_whole(tmp_path):
    loud = recorded(tmp_path / "loud.zarr", noise=30.0, steps=4)
    surface = analyze(loud, size=4, samples="auto", **PLAIN)
    assert surface.attrs["samples"] == 512
    assert any(sentence.startswith("All 512 probe samples were taken") for sentence in surface.attrs["report"])
    batched = recorded(tmp_path / "batched.zarr", noise=0.05, steps=4, batches=True)
    surface = analyze(batched, size=4, samples="auto", **PLAIN)
    assert surface.attrs["samples"] % 16 == 0


@pytest.mark.more
def test_a_draft_is_interpolated_over_few_samples(run, monkeypatch):
    monkeypatch.setattr(filling, "FEW", 3)
    draft = analyze(run, name="draft", size=33, effort="draft", **PLAIN)
    assert draft.attrs["samples"] < 512
    assert draft.attrs["adaptive"] == Effort("draft").tolerance
    assert draft.interpolated is not None
    assert draft.interpolated.sum() > draft.evaluated.sum()
    assert np.flatnonzero(draft.paths[0].evaluated).tolist() == [0, 4, 8, 12]
    assert "the losses of the path are those of 4 of 13 snapshots" in " ".join(draft.attrs["report"])
    report = " ".join(draft.attrs["report"])
    assert f"a pure random walk of {len(draft.steps)} snapshots" in report
    assert "nan" not in report
    full = analyze(run, name="draft3", size=33, **PLAIN)
    assert np.median(np.abs(draft.loss - full.loss)) < 0.05 * np.ptp(full.path_loss)
    exact = analyze(run, name="draft2", size=33, effort="draft", adaptive=0.2, samples=512, **PLAIN)
    assert (exact.attrs["samples"], exact.attrs["adaptive"]) == (512, 0.2)


def test_workers_elsewhere_must_know_the_samples(run):
    with pytest.raises(ObjectiveError, match="cluster"):
        analyze(run, samples="auto", engine=Ray(), progress=False)
    for wrong in (0, -1, "many", 1.5):
        with pytest.raises(LandscapeError, match="samples"):
            analyze(run, samples=wrong, **PLAIN)


def test_the_command_has_the_same_words(run):
    from click.testing import CliRunner

    from landscape_hooks.cli.analyze import analyze as command

    words = [run, "--size", "5", "--no-tune", "--quiet", "--name", "cli"]
    done = CliRunner().invoke(command, [*words, "--budget", "0.001s"])
    assert done.exit_code == 0, done.output
    assert "The budget is used up" in done.output
    done = CliRunner().invoke(command, [*words, "--samples", "auto", "--quality", "normal"])
    assert "were drawn" in done.output
    for wrong in (["--samples", "none"], ["--samples", "0"], ["--quality", "best"]):
        assert CliRunner().invoke(command, [*words, *wrong]).exit_code == 2
    assert isinstance(CliRunner().invoke(command, [*words, "--budget", "long"]).exception, PlaneError)


def test_without_a_latest_surface_a_finished_one_is_looked_at(run, monkeypatch):
    analyze(run, name="finished", size=3, **PLAIN)
    with monkeypatch.context() as patch:
        broken(patch, 3, ObjectiveError("Found a trouble"))
        with pytest.raises(ObjectiveError):
            analyze(run, name="zz", size=5, **PLAIN)
    open_run(run, mode="r+")["surfaces"].attrs["latest"] = "gone"
    assert Surface.open(run).attrs["report"]
    assert Surface.open(run, "zz").evaluated.sum() == 3


def test_a_landscape_takes_an_effort():
    data = torch.ones(8, 2), torch.zeros(8, 1)
    surface = landscape(nn.Linear(2, 1), criterion=nn.MSELoss(), data=data, size=9, effort="draft", **PLAIN)
    assert surface.attrs["adaptive"] == Effort("draft").tolerance
    assert surface.attrs["samples"] == 8
