"""log_surface: a surface's figure, replay and numbers, where the curves of the training are.

In: a surface and an experiment tracker: TensorBoard, Weights & Biases or MLflow. Out: a picture of the contours, the
replay as a GIF, the loss of the path by optimizer step, and the report in words, under `landscape/`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from landscape_hooks.errors import LandscapeError
from landscape_hooks.surface.surface import Surface

ANIMATION_SIZE, ANIMATION_FRAMES = (640, 400), 36
TRACKERS = "tensorboard:FOLDER, wandb:PROJECT or mlflow:URI, or a SummaryWriter, a wandb run or the module mlflow"


class Tracker(Protocol):
    """What every tracker can do; steps are optimizer steps."""

    def figure(self, name: str, figure: Any, step: int) -> None: ...
    def animation(self, name: str, gif: Path, step: int) -> None: ...
    def curve(self, name: str, steps: list[int], values: list[float]) -> None: ...
    def text(self, name: str, text: str, step: int) -> None: ...


def log_surface(surface: Surface | Any, to: Any, *, replay: bool = True, prefix: str = "landscape") -> None:
    """Put a surface into an experiment tracker.

    Parameters
    ----------
    surface
        a Surface, or the run whose latest one is meant.
    to
        `"tensorboard:FOLDER"`, `"wandb:PROJECT"`, `"mlflow:URI"` (`"mlflow"`: as configured), or what the training
        itself logs to: a `SummaryWriter`, a wandb run, the module `mlflow`, or a logger that has one as `experiment`.
    replay
        whether to render the animated replay; without OpenGL 3.3 leave it out.
    prefix
        of the names in the tracker, before `/contours`, `/replay`, `/report` and `/path_loss`.

    Raises
    ------
    LandscapeError
        the tracker is not known or not installed.
    """
    from landscape_hooks.export.figure import contour_figure

    if not isinstance(surface, Surface):
        surface = Surface.open(surface)
    step = int(surface.steps[-1])
    name = f"{prefix}/{surface.name}"
    with _opened(to) as tracker:
        tracker.figure(f"{name}/contours", contour_figure(surface), step)
        tracker.text(f"{name}/report", "\n\n".join(surface.attrs.get("report", [])), step)
        for curve, values in (("path_loss", surface.path_loss), ("distance_from_plane", surface.path_distance)):
            tracker.curve(f"{name}/{curve}", [int(s) for s in surface.steps], [float(v) for v in values])
        if replay:
            from landscape_hooks.viewer.offscreen import render

            with tempfile.TemporaryDirectory() as folder:
                animation = render(
                    surface, Path(folder) / "replay.gif", size=ANIMATION_SIZE, frames=ANIMATION_FRAMES, fps=9
                )
                tracker.animation(f"{name}/replay", animation, step)


@contextmanager
def _opened(to: Any) -> Iterator[Tracker]:
    """The tracker behind what the user gave; closed afterwards if it was opened here."""
    if isinstance(to, str):
        kind, _, place = to.partition(":")
        if kind not in _BY_NAME:
            raise LandscapeError(f"Found the tracker '{to}'", expected=TRACKERS)
        try:
            opened = _BY_NAME[kind](place)
        except ImportError as error:
            raise LandscapeError(
                f"{kind} cannot be imported ({error})", mend=f"pip install 'landscape-hooks[{kind}]'"
            ) from error
        with opened as tracker:
            yield tracker
        return
    to = getattr(to, "experiment", to)  # Lightning's loggers
    if isinstance(to, ModuleType) and to.__name__ == "mlflow":
        yield MLflow(to)
    elif type(to).__name__ == "SummaryWriter":
        yield TensorBoard(to)
    elif type(to).__module__.partition(".")[0] == "wandb":
        yield WandB(to)
    else:
        raise LandscapeError(f"Found a {type(to).__module__}.{type(to).__name__} to log to", expected=TRACKERS)


class TensorBoard:
    """A `torch.utils.tensorboard.SummaryWriter`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    @classmethod
    @contextmanager
    def open(cls, folder: str) -> Iterator[TensorBoard]:
        """A writer of its own into the folder of the training's event files."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(folder or "runs") as writer:
            yield cls(writer)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """As an image."""
        self._writer.add_figure(name, figure, step, close=False)

    def animation(self, name: str, gif: Path, step: int) -> None:
        """As an image that moves: TensorBoard shows the bytes of a GIF as they are."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(gif) as first:
            width, height = first.size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif.read_bytes())
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self._writer.file_writer.add_summary(summary, step)

    def curve(self, name: str, steps: list[int], values: list[float]) -> None:
        """As scalars."""
        for step, value in zip(steps, values, strict=True):
            self._writer.add_scalar(name, value, step)

    def text(self, name: str, text: str, step: int) -> None:
        """As text."""
        self._writer.add_text(name, text, step)


class WandB:
    """A run of Weights & Biases, offline ones too."""

    def __init__(self, run: Any) -> None:
        self._run = run

    @classmethod
    @contextmanager
    def open(cls, project: str) -> Iterator[WandB]:
        """The run under way, or one of its own."""
        import wandb

        if wandb.run is not None:
            yield cls(wandb.run)
            return
        with wandb.init(project=project or None) as run:
            yield cls(run)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """As an image."""
        import wandb

        self._run.log({name: wandb.Image(figure)})

    def animation(self, name: str, gif: Path, step: int) -> None:
        """As a video, copied into the run at once."""
        import wandb

        self._run.log({name: wandb.Video(str(gif), format="gif")})

    def curve(self, name: str, steps: list[int], values: list[float]) -> None:
        """As a table of its own steps: the run's have moved on."""
        import wandb

        rows = [[step, value] for step, value in zip(steps, values, strict=True)]
        self._run.log({name: wandb.Table(columns=["step", "value"], data=rows)})

    def text(self, name: str, text: str, step: int) -> None:
        """Into the run's summary."""
        self._run.summary[name] = text


class MLflow:
    """The active run of MLflow (one is started where there is none)."""

    def __init__(self, mlflow: Any) -> None:
        self._mlflow = mlflow

    @classmethod
    @contextmanager
    def open(cls, uri: str) -> Iterator[MLflow]:
        """The run under way, or one of its own at the tracking URI."""
        import mlflow

        if mlflow.active_run() is not None:
            yield cls(mlflow)
            return
        if uri:
            mlflow.set_tracking_uri(uri)
        with mlflow.start_run():
            yield cls(mlflow)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """As an artifact."""
        self._mlflow.log_figure(figure, f"{name}.png")

    def animation(self, name: str, gif: Path, step: int) -> None:
        """As an artifact."""
        folder, _, leaf = name.rpartition("/")
        target = gif.with_name(f"{leaf}.gif")
        self._mlflow.log_artifact(str(gif.rename(target)), folder)

    def curve(self, name: str, steps: list[int], values: list[float]) -> None:
        """As a metric by step; MLflow takes no NaN or inf everywhere, so these stay out."""
        for step, value in zip(steps, values, strict=True):
            if math.isfinite(value):
                self._mlflow.log_metric(name, value, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """As an artifact."""
        self._mlflow.log_text(text, f"{name}.txt")


_BY_NAME: dict[str, Callable[[str], Any]] = {
    "tensorboard": TensorBoard.open,
    "wandb": WandB.open,
    "mlflow": MLflow.open,
}
