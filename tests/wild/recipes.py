"""Recipes: loops that are composed at random of the parts beside this file.

A `Recipe` is a few words and numbers; printing one says how to repeat it. `recipes()` is hypothesis' way of drawing
them, `Recipe.train(watch)` the loop.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.wild.batches import LOADERS, STRUCTURES, cut
from tests.wild.edits import EDITS, ENDINGS
from tests.wild.losses import IGNORED, LOSSES, Kind
from tests.wild.models import MODELS
from tests.wild.updates import OPTIMIZERS, UPDATES, Update
from tests.wild.watch import Stored, Watch

SAMPLES = 22
ONCE = ("infinite", "cycle")
"""Loaders that can be read only once."""
IN_ORDER = ("list", "in order", "epochs")
"""Loaders whose batches are the same in every epoch, in whatever order."""
ANY_SIZE = ("list", "in order", "shuffled", "batch sampler", "own generator", "epochs")
"""Loaders of which every epoch has every sample once."""


class Crash(Exception):
    """The training is killed."""


@dataclass(frozen=True)
class Recipe:
    """A loop, in words.

    Attributes
    ----------
    size
        samples in a batch.
    every, keep
        as for `record`; one of them.
    accumulate
        batches in an iteration.
    crash
        the iteration of the checkpoint, and the one in which the training is killed; None: it is not.
    own_data
        whether `record` is given the training's loader as data, else a list of batches.
    kept
        `samples` of `record`.
    """

    seed: int = 0
    model: str = "mlp"
    loss: str = "cross-entropy"
    structure: str = "pair"
    loader: str = "list"
    size: int = 8
    optimizer: str = "sgd"
    update: str = "plain"
    edit: str = "nothing"
    ending: str = "nothing"
    iterations: int = 6
    accumulate: int = 1
    every: int | None = 1
    keep: int | None = None
    crash: tuple[int, int] | None = None
    own_data: bool = False
    kept: int = 1024

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `record` that say when."""
        return {"every": self.every} if self.every is not None else {"keep": self.keep}

    @property
    def judged(self) -> dict[str, Any]:
        """What the oracle has to know of the loop."""
        return {"swaps": ENDINGS[self.ending].swaps, **self.options}

    @property
    def ordinary(self) -> bool:
        """Whether nothing is to be said of this loop but of its end."""
        # a mean by labels times a number of the batch is no mean that can be taken over batches
        weighed = self.structure in ("numbers", "nested") and LOSSES[self.loss].weigh is not Kind.weigh
        return LOSSES[self.loss].ordinary and not weighed and not (self.loader in ONCE and self.own_data)

    # -- the loop ------------------------------------------------------------------------------------------------------
    def train(self, watch: Watch) -> None:
        """The loop, from the seeds to the end; killed and resumed where the recipe says so."""
        torch.manual_seed(self.seed)
        np.random.seed(self.seed)  # noqa: NPY002
        random.seed(self.seed)
        x, y = torch.randn(SAMPLES, 4), torch.randint(0, 3, (SAMPLES,))
        if LOSSES[self.loss].holes:
            y[torch.rand(SAMPLES) < 0.3] = IGNORED
        if self.model == "double":
            x = x.double()
        training = _Training(self, watch, x, y)
        if self.crash is None:
            training.run(0, self.iterations)
        else:
            try:
                training.run(0, self.crash[1], checkpoint=self.crash[0], crash=True)
            except Crash:
                if watch.recorder is not None:
                    watch.recorder.finish("The training ended with an exception")
            saved = training.saved
            training = _Training(self, watch, x, y, saved)
            training.run(self.crash[0], self.iterations)
        training.end()


class _Training:
    """One process of a training."""

    def __init__(self, recipe: Recipe, watch: Watch, x: Tensor, y: Tensor, saved: Any = None) -> None:
        self.recipe, self.watch, self.saved = recipe, watch, saved
        self.kind, self.structure = LOSSES[recipe.loss], STRUCTURES[recipe.structure]
        torch.manual_seed(recipe.seed + 1)
        self.model = MODELS[recipe.model]()
        self.loss, beside = self.kind.make()
        if saved is not None:
            self.model.load_state_dict(saved["model"])
        self.loader = LOADERS[recipe.loader](x, y, recipe.size, self.structure)
        self.held = cut(x, y, recipe.size, self.structure)
        edit = EDITS[recipe.edit]
        if recipe.edit == "thawed":  # before the line: what is frozen is stored once
            self.update = self._update(beside)
            self.after = edit.make(self.model, watch, self.update)
        else:
            self.update = self._update(beside)
        self._record()
        if recipe.edit != "thawed":
            self.after = edit.make(self.model, watch, self.update)
        watch.reloaded = watch.reloaded or recipe.crash is not None
        self.best = copy.deepcopy(self.model.state_dict())
        if saved is not None:
            for optimizer, state in zip(self.update.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            torch.set_rng_state(saved["random"])

    def _update(self, beside: Any) -> Update:
        own = [p for p in self.model.parameters() if p.requires_grad]
        parameters = own + [p for module in beside for p in module.parameters()]
        return UPDATES[self.recipe.update](self.model, parameters, OPTIMIZERS[self.recipe.optimizer])

    def _record(self) -> None:
        recipe, watch = self.recipe, self.watch
        more = {}
        if self.saved is not None:
            more = {"if_exists": "resume"}
            watch.goes_on_from(recipe.crash[0])  # type: ignore[index]
        recorder = watch.record(self.model, self.update.given, self._stored(), **more)
        if recorder is not None and self.saved is not None:
            recorder.load_state_dict(self.saved["recorder"])

    def _stored(self) -> Stored:
        recipe = self.recipe
        read = self.structure.read

        def objective(model: Any, batch: Any) -> Tensor:
            x, y, scale = read(batch)
            return self.loss(model, model(x), torch.as_tensor(y)) * scale

        def weigh(batch: Any) -> float:
            x, y, _ = read(batch)
            return self.kind.weigh(x, torch.as_tensor(y))

        if self.kind.criterion is not None and recipe.structure in ("pair", "list"):
            given: dict[str, Any] = {"criterion": self.kind.criterion}
        else:
            given = {"objective": objective}
        given |= {"data": self.loader if recipe.own_data else self.held, "samples": recipe.kept}
        return Stored(objective, given, self._kept(), weigh)

    def _kept(self) -> list[Any]:
        found, left = [], self.recipe.kept
        for batch in self.held:
            if left > 0:
                found.append(batch)
                left -= len(self.structure.read(batch)[1])
        return found

    # -- iterations ----------------------------------------------------------------------------------------------------
    def run(self, start: int, stop: int, *, checkpoint: int = -1, crash: bool = False) -> None:
        """The iterations start:stop."""
        batches = self._batches()
        if self.saved is not None:  # the loader goes on where it was
            for _ in range(start * self.recipe.accumulate):
                next(batches)
            torch.set_rng_state(self.saved["random"])
        for n in range(start, stop):
            drawn = [self.watch.saw(next(batches)) for _ in range(self.recipe.accumulate)]
            self.update.take(self.watch, lambda drawn=drawn: self._backward(drawn))
            self.after(n)
            if n == 0:
                self.best = copy.deepcopy(self.model.state_dict())
            if n + 1 == checkpoint:
                self._save()
        if crash:
            raise Crash

    def _batches(self) -> Iterator[Any]:
        if isinstance(self.loader, Iterator):
            yield from self.loader
        while True:
            yield from self.loader

    def _backward(self, drawn: list[Any]) -> Tensor:
        for p in self.model.parameters():
            p.grad = None
        assert self.watch.stored is not None
        total = torch.zeros(())
        for batch in drawn:
            loss = self.watch.stored.loss(self.model, batch) / len(drawn)
            loss.backward()
            total = total + loss.detach()
        return total

    def _save(self) -> None:
        self.saved = {
            "model": copy.deepcopy(self.model.state_dict()),
            "optimizers": [copy.deepcopy(o.state_dict()) for o in self.update.optimizers],
            "random": torch.get_rng_state(),
            "recorder": None if self.watch.recorder is None else self.watch.recorder.state_dict(),
        }

    def end(self) -> None:
        """What happens after the last iteration."""
        self.watch.ends()
        ENDINGS[self.recipe.ending].act(self.model, self.watch, self.best)
        self.watch.close()


# -- drawing -----------------------------------------------------------------------------------------------------------
@st.composite
def recipes(draw: Any, *, stored: bool = False) -> Recipe:
    """Loops that make sense: what cannot stand together in a real script does not stand together here.

    With `stored` the loops are of those whose loss can be computed by hand on the batches that the run keeps.
    """
    update = draw(st.sampled_from(list(UPDATES)))
    # a flush between the two optimizers' steps would commit the iteration that they have in common
    edit = draw(st.sampled_from([name for name in EDITS if (update, name) != ("second phase", "talked to")]))
    resumable = update in ("plain", "closure", "holder") and EDITS[edit].stateless
    iterations = draw(st.integers(1, 9))
    loader = draw(st.sampled_from(list(LOADERS)))
    loss = draw(st.sampled_from(list(LOSSES)))
    crash = None
    if resumable and iterations >= 3 and loader in ("list", "in order") and draw(st.booleans()):
        at = draw(st.integers(1, iterations - 1))
        crash = (at, draw(st.integers(at, iterations)))
    thinned = draw(st.booleans())
    structure = draw(st.sampled_from(list(STRUCTURES)))
    own = draw(st.booleans())
    optimizer = draw(st.sampled_from(list(OPTIMIZERS)))
    real = update == "scaler" or optimizer == "fused"  # torch has neither for complex numbers
    single = loss == "class weights"  # they are of 32 bits
    models = [n for n in MODELS if not (real and "complex" in n) and not (single and n == "double")]
    model = draw(st.sampled_from(models))
    if stored and own:
        own = loader in ONCE or (
            loader in (IN_ORDER if model == "batch norm" else ANY_SIZE)
            and loss not in ("sum", "InfoNCE", "triplets", "contrastive")
            and structure not in ("numbers", "nested")
        )
    return Recipe(
        seed=draw(st.integers(0, 2**16)),
        model=model,
        loss=loss,
        structure=structure,
        loader=loader,
        size=draw(st.sampled_from([4, 8, 11, 22])),
        optimizer=optimizer,
        update=update,
        edit=edit,
        ending=draw(st.sampled_from(list(ENDINGS))),
        iterations=iterations,
        accumulate=1 if update == "one a parameter" else draw(st.sampled_from([1, 1, 2])),
        every=None if thinned else draw(st.sampled_from([1, 2, 3])),
        keep=draw(st.sampled_from([3, 4, 6, 200])) if thinned else None,
        crash=crash,
        own_data=own,
        kept=1024 if own else draw(st.sampled_from([1024, 12])),
    )
