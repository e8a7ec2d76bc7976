"""Bad input at the command line: one sentence that says what was found and what mends it, exit status 2."""

import contextlib
import io
import os
import re
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Surface, cli, record
from landscape_hooks.errors import LandscapeError
from tests.forked import COMMAND


def run(*arguments):
    """The command in this process (a new one imports torch for seconds); `--help` and the interrupts have their own."""
    words, out, err = ["landscape-hooks", *map(str, arguments)], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(words[1:]) or 0
        except SystemExit as end:
            code = end.code or 0
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def refused(*arguments) -> str:
    done = run(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def train(store, steps=4, loss=None, objective=True):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    data = (torch.randn(16, 3), torch.randn(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = loss or nn.MSELoss()
    given = {"criterion": criterion, "data": data} if objective else {}
    with record(model, optimizer, store, **given):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(data[0]), data[1]).backward()
            optimizer.step()
    return store


def test_what_is_no_run(tmp_path):
    assert "nothing at" in refused("analyze", tmp_path / "absent.zarr")
    (tmp_path / "folder").mkdir()
    assert "nothing at" in refused("info", tmp_path / "folder")
    (tmp_path / "folder" / "a.txt").touch()
    assert "not a run" in refused("info", tmp_path / "folder")
    text = tmp_path / "notes.txt"
    text.write_text("no run")
    assert "not a run" in refused("analyze", text)


def test_a_run_with_one_snapshot(tmp_path):
    message = refused("analyze", train(tmp_path / "one.zarr", steps=0))
    assert "1 snapshot" in message
    assert "--directions random" in message or "record" in message


def test_a_run_without_objective(tmp_path):
    message = refused("analyze", train(tmp_path / "bare.zarr", objective=False))
    assert "--objective module:function" in message


def test_a_model_that_does_not_fit_the_run(interpreters, tmp_path):
    run_path = train(tmp_path / "bare.zarr", objective=False)
    (tmp_path / "other.py").write_text(
        "import torch, landscape_hooks\n"
        "def make():\n"
        "    return landscape_hooks.Objective.of(torch.nn.Linear(5, 1), criterion=torch.nn.MSELoss(),\n"
        "                                     data=(torch.zeros(4, 5), torch.zeros(4, 1)))\n"
    )
    done = interpreters.run(COMMAND, "analyze", run_path, "--objective", "other:make", cwd=tmp_path)
    assert done.returncode == 2
    assert "weight" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_surface_that_does_not_exist(tmp_path):
    run_path = train(tmp_path / "run.zarr")
    assert "no surface yet" in refused("export", run_path, "--ply", tmp_path / "f.ply")
    assert run("analyze", run_path, "--size", "3", "--name", "mine").returncode == 0
    assert "one of: mine" in refused("export", run_path, "--name", "yours", "--ply", tmp_path / "f.ply")


class Undefined(nn.Module):
    def forward(self, output, target):
        return (output - target).square().mean() * torch.log(-torch.ones(()))


def test_a_loss_that_is_nan_everywhere(tmp_path):
    assert "NaN" in refused("analyze", train(tmp_path / "nan.zarr", loss=Undefined()), "--size", "3")


def test_an_empty_loader(tmp_path):
    model = nn.Linear(3, 1)
    with pytest.raises(LandscapeError, match="empty"):
        record(model, torch.optim.SGD(model.parameters()), tmp_path / "run.zarr", criterion=nn.MSELoss(), data=[])


def test_a_wish_that_is_refused_leaves_the_stored_surface_alone(interpreters, tmp_path):
    run_path = train(tmp_path / "run.zarr")
    assert run("analyze", run_path, "--size", "3").returncode == 0
    assert "cross-entropy" in refused("analyze", run_path, "--size", "5", "--metric", "accuracy")
    (tmp_path / "wide.py").write_text("import torch\ndata = (torch.zeros(4, 9), torch.zeros(4, 1))\n")
    done = interpreters.run(COMMAND, "analyze", run_path, "--data", "wide:data", cwd=tmp_path)
    assert done.returncode == 2
    assert "probe samples" in done.stderr
    assert Surface.open(run_path).complete
    assert Surface.open(run_path).shape == (3, 3)


@pytest.mark.everyday(1)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_saves_and_says_how_to_go_on(interpreters, tmp_path, workers):
    """The interrupt of a terminal reaches the whole group of processes, workers among them."""
    run_path = train(tmp_path / "run.zarr")
    words = ["analyze", run_path, "--size", "300", "--no-tune", "--workers", workers, "--name", "big"]
    # a background shell hands the signal down as ignored
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + COMMAND
    process = interpreters.start(code, *words, session=True)
    done = 0
    while done < 50 and process.poll() is None:
        time.sleep(0.05)
        with contextlib.suppress(LandscapeError, KeyError, FileNotFoundError):
            done = int(Surface.open(run_path, "big").evaluated.sum())
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "the same command continues from there." in said
    assert "Traceback" not in said
    assert re.search(r"surface 'big': [1-9]\d* of 90010 losses", said)  # no terminal: whole lines instead of a bar
    kept = Surface.open(run_path, "big")
    assert 50 <= kept.evaluated.sum() < 90_000
    assert np.isfinite(kept.loss[kept.evaluated]).all()


def test_a_line_is_drawn_as_a_figure(tmp_path):
    run_path = train(tmp_path / "run.zarr")
    assert run("analyze", run_path, "--line", "--size", "7").returncode == 0
    assert "--png" in refused("export", run_path, "--ply", tmp_path / "line.ply")
    assert ".pdf" in refused("export", run_path, "--png", tmp_path / "line.xyz")
    assert run("export", run_path, "--png", tmp_path / "line.png").returncode == 0
    assert (tmp_path / "line.png").stat().st_size > 5000


def test_both_losses_are_an_error_of_the_caller(tmp_path):
    model = nn.Linear(3, 1)
    with pytest.raises(LandscapeError, match="both"):
        record(model, torch.optim.SGD(model.parameters()), tmp_path / "run.zarr", criterion=nn.MSELoss(),
               objective=lambda model, batch: 0, data=[(torch.zeros(4, 3), torch.zeros(4, 1))])  # fmt: skip


def test_a_command_forgotten(tmp_path):
    assert "landscape-hooks info" in refused(train(tmp_path / "run.zarr"))


def test_the_surface_at_the_origin_is_the_last_snapshots_loss(tmp_path):
    run_path = train(tmp_path / "run.zarr")
    assert run("analyze", run_path, "--size", "3x5", "--extent=-1,1,-2,2").returncode == 0
    surface = Surface.open(run_path)
    assert surface.shape == (3, 5)
    assert surface.loss[1, 2] == surface.path_loss[-1]
    assert np.allclose(surface.path[-1], 0, atol=1e-12)
