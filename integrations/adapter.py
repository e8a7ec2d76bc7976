"""Recording: what every adapter holds: the options of `record` until the fit begins, the recorder while it runs.

In: the adapter's arguments, then the model, the optimizer and the step at which the trainer begins. Out: one
`Recorder`. What is the same for every trainer is here: who records of several processes, when a run is gone on
with, how a loss found by the adapter gets into the run, and what is said where a framework is not installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from landscape_hooks.errors import LandscapeError, RecordingWarning

Found = Mapping[str, Any]
"""A loss and its data, as `record` takes them: criterion or objective, and data."""


class Recording:
    """The recorder of one fit, or the wish for one.

    Parameters
    ----------
    store
        where to, as for `record`.
    options
        everything else that `record` takes.
    """

    def __init__(self, store: Any, **options: Any) -> None:
        self.store = store
        self.options = options
        self.recorder: Any = None
        self.found = False
        self.last_step = 0
        self._model: Any = None
        self._batches: list[Any] = []
        self._said = 0
        self._state: dict[str, Any] | None = None

    def begin(
        self,
        model: Any,
        optimizer: Any,
        *,
        step: int = 0,
        epoch: float | None = None,
        counter: Callable[[], int] | None = None,
        main: bool = True,
        find: Callable[[], Iterable[Found]] | None = None,
    ) -> None:
        """Start the recorder, or go on with the run where the trainer goes on.

        `step` is how many optimizer steps the trainer has behind it; more than 0, or a state from its checkpoint,
        means that it resumes, and so does the run. `main` is whether this process is rank zero. `find` yields losses
        to try, the best first; it is asked only where the user gave none.
        """
        if not main and not _is_sharded(model):
            return
        from landscape_hooks.recording.record import record

        state, self._state = self._state, None
        options = dict(self.options)
        resuming = step > 0 or state is not None
        if resuming:
            options["if_exists"] = "resume"
        start = None if state is not None or not resuming else step
        self._model = model  # an adapter may have made it for this
        self.recorder = record(model, optimizer, self.store, step=start, counter=counter, **options)
        if state is not None:
            self.recorder.load_state_dict({**state, "step": step or state["step"]})
        self._batches, self._said = [], self.recorder.current_step
        if epoch is not None:
            self.recorder.log(epoch=epoch, step=step)
        if find is not None and not self.gives_loss and not self.has_loss:
            self.capture(find)

    @property
    def gives_loss(self) -> bool:
        """Whether the user said which loss to draw."""
        return any(self.options.get(name) is not None for name in ("criterion", "objective"))

    @property
    def has_loss(self) -> bool:
        """Whether the run carries one already."""
        root = None if self.recorder is None else self.recorder.root
        return root is not None and "objective" in root and bool(root["objective"].attrs.get("complete"))

    def capture(self, find: Callable[[], Iterable[Found]]) -> None:
        """Store the first of the losses found that can be; one warning where none can. Training always goes on."""
        troubles = []
        try:
            for found in find():
                if self.options.get("data") is not None:
                    found = {**found, "data": self.options["data"]}
                try:
                    self.recorder.stored_loss.take(**found, samples=self.options.get("samples", 1024))
                    self.found = True
                    return
                except LandscapeError as error:
                    troubles.append(str(error))
                except Exception as error:  # what the user's own code raises; the next loss may do
                    troubles.append(f"{type(error).__name__}: {error}")
        except Exception as error:  # the trainer's or the user's own code, run earlier than they expect
            troubles.append(f"{type(error).__name__}: {error}")
        why = troubles[0] if troubles else "The trainer shows no loss and no data."
        text = (
            f"The loss could not be stored in the run; recording goes on without it. {why} Give objective= and data=."
        )
        warnings.warn(RecordingWarning(text), stacklevel=3)

    # -- while it runs ---------------------------------------------------------------------------------
    def log(self, **values: Any) -> None:
        """As `Recorder.log`; nothing where this process records nothing."""
        if self.recorder is not None:
            self.recorder.log(**values)

    def log_batch(self, *, loss: Any, epoch: float | None = None) -> None:
        """A batch is over and its loss is said: it completes the snapshot of the step that the batch ended with.

        Of batches that were accumulated for one step, the mean counts.
        """
        if self.recorder is None:
            return
        self._batches.append(loss)
        step = self.recorder.current_step
        if step != self._said:
            self.recorder.log(loss=sum(self._batches) / len(self._batches), epoch=epoch, step=step)
            self._batches, self._said = [], step

    def hold(self) -> None:
        """As `Recorder.hold`."""
        if self.recorder is not None:
            self.recorder.hold()

    def close(self, error: BaseException | None = None) -> None:
        """Commit everything and let the recorder go; safe to call twice. `error` is what ended the training early."""
        recorder, self.recorder = self.recorder, None
        self._model = None
        if recorder is not None:
            self.last_step = recorder.current_step
            recorder.finish("" if error is None else f"The training ended with an exception ({type(error).__name__})")

    # -- in the trainer's checkpoint ---------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """The recorder's state, everything before it committed; what was loaded, before the fit begins."""
        if self.recorder is not None:
            return self.recorder.state_dict()
        return dict(self._state or {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Kept until the fit begins, where it has not yet."""
        if self.recorder is not None and state:
            self.recorder.load_state_dict(dict(state))
        else:
            self._state = dict(state) if state else None


def missing(framework: str, extra: str, error: ImportError) -> type:
    """A base class in place of the framework's, which says on use what to install."""

    class Missing:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise LandscapeError(
                f"{framework} cannot be imported ({error})", mend=f"pip install 'landscape-hooks[{extra}]'"
            ) from error

    return Missing


def probe_loader(loader: Any) -> Any:
    """A loader of the same batches for the probe: no workers, nothing that training holds is touched.

    In the order of the dataset, or shuffled by a fixed seed where the loader shuffles (its data may be sorted by
    class). A sampler that says which samples there are (a subset, weights) is kept.
    """
    from torch import Generator
    from torch.utils.data import (
        BatchSampler,
        DataLoader,
        DistributedSampler,
        IterableDataset,
        RandomSampler,
        SequentialSampler,
    )

    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader
    dataset, batches = loader.dataset, loader.batch_sampler
    size = loader.batch_size or getattr(batches, "batch_size", None)
    order = getattr(batches, "sampler", loader.sampler)
    plain = isinstance(order, SequentialSampler | RandomSampler | DistributedSampler)
    if size is None or not plain or (batches is not None and type(batches) is not BatchSampler):
        return DataLoader(dataset, batch_sampler=batches, collate_fn=loader.collate_fn) if batches else loader
    sampler: Any = SequentialSampler(dataset)
    if isinstance(order, RandomSampler) or getattr(order, "shuffle", False):
        sampler = RandomSampler(dataset, generator=Generator().manual_seed(0))
    return DataLoader(dataset, batch_size=size, sampler=sampler, collate_fn=loader.collate_fn)


class FirstBatches:
    """Batches until they hold `samples` samples, of an iterator without other users; random states stay as they were.

    They are taken when this is made, so that they can be read more than once.
    """

    def __init__(self, batches: Iterable[Any], samples: int) -> None:
        from landscape_hooks.objective.data.batches import flatten_portable
        from landscape_hooks.objective.data.states import states_kept
        from landscape_hooks.objective.probe import samples_of

        self._kept: list[Any] = []
        count = 0
        with states_kept():
            for batch in batches:
                self._kept.append(batch)
                count += samples_of(flatten_portable(batch).leaves)
                if count >= samples:
                    break

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept)


def _is_sharded(model: Any) -> bool:
    return any(hasattr(p, "full_tensor") for p in model.parameters())
