"""What a training lets go of is gone: no frame of ours, or of zarr's, keeps its model and optimizers alive."""

import gc
import weakref

import pytest
import torch

from landscape_hooks import record


@pytest.fixture
def no_collection():
    """Without Python's search for circles, which would hide them."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("there", [False, True])
def test_an_optimizer_goes_when_the_training_lets_go_of_it(tmp_path, no_collection, there):
    model = torch.nn.Linear(4, 3)
    if there:
        record(model, None, tmp_path / "run.zarr").close()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    known = weakref.ref(optimizer)
    with record(model, optimizer, tmp_path / "run.zarr", every=1, if_exists="overwrite" if there else "error"):
        optimizer.step()
        del optimizer
        assert known() is None


def test_a_second_optimizer_begins_an_iteration_of_its_own_when_the_first_is_gone(tmp_path, no_collection):
    model = torch.nn.Linear(4, 3)
    with record(model, (optimizer := torch.optim.SGD(model.parameters(), 0.1)), tmp_path / "run.zarr") as recorder:
        for number in range(1, 5):
            if number == 3:
                optimizer = torch.optim.SGD(model.parameters(), 0.01)
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            assert recorder.current_step == number
