"""Offscreen: a replay as a file, without a display.

In: a run, a PLY file or a Surface. Out: a picture, or an animation in which the marker follows the path.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError
from landscape_hooks.export.outfile import whole_file
from landscape_hooks.progress import counted
from landscape_hooks.viewer.gl import context
from landscape_hooks.viewer.replay.landscape import Source
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay
from landscape_hooks.viewer.several.opening import Beside, open_replay
from landscape_hooks.viewer.several.panes import panes

Pixels = NDArray[np.uint8]

STILLS = (".png", ".webp")
ANIMATIONS = (".gif", ".webp", ".mp4")
PALETTE_PIXELS = 300_000
"""Pixels from which the colours of a GIF are chosen: all of six frames take half a minute, and choose no better."""

LARGEST = 8192


class Canvas:
    """Draws replays into memory at one size. Needs no display; uses the process's OpenGL context."""

    def __init__(self, size: tuple[int, int], *, supersample: int = 2, samples: int = 4) -> None:
        context.offscreen()
        from landscape_hooks.viewer.gl.gpu import Framebuffer
        from landscape_hooks.viewer.gl.overlay import Overlay
        from landscape_hooks.viewer.several.pictures import Pictures

        self.size, self._supersample = size, supersample
        self._frame = Framebuffer(size[0] * supersample, size[1] * supersample, samples)
        self._overlay = Overlay()
        self._pictures = Pictures()

    def draw(self, replay: Replay) -> Pixels:
        """(height, width, 4) the picture of the replay at its present moment, with straight alpha."""
        context.offscreen()
        scale = self._supersample * _unit(panes(1 + len(replay.beside), self.size)[0].size)
        self._pictures.draw(replay, self._frame, self.size, scale=self._supersample, line_scale=scale)
        if replay.look.captions:
            self._overlay.frame(self.size, self._supersample)
            self._pictures.caption(replay, self._overlay.font, self.size)
            self._overlay.draw()
        return _smaller(self._frame.pixels(), self._supersample)

    def close(self) -> None:
        """Delete all OpenGL objects."""
        self._pictures.delete()
        self._overlay.delete()
        self._frame.delete()


def _unit(size: tuple[int, int]) -> float:
    """Factor on the widths of lines and markers, which are given for a height of 720 pixels."""
    return float(np.clip(min(size[1] / 720, size[0] / 1000), 0.6, 8.0))


def _smaller(pixels: Pixels, factor: int) -> Pixels:
    """Mean over factor x factor pixels, then straight alpha."""
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    total = np.zeros((height, width, 4), dtype=np.uint16)
    for row in range(factor):
        for column in range(factor):
            total += pixels[row : factor * height : factor, column : factor * width : factor]
    mean = total / factor**2
    alpha = mean[..., 3:]
    if alpha.min() == 255:
        return np.rint(mean, out=mean).astype(np.uint8)
    mean[..., :3] = np.where(alpha > 0, mean[..., :3] * 255 / np.where(alpha > 0, alpha, 1), 0)
    return np.round(np.clip(mean, 0, 255)).astype(np.uint8)


def render(
    source: Source,
    output: str | Path,
    *,
    size: tuple[int, int] = (1280, 720),
    name: str | None = None,
    view: str = "",
    look: Look | None = None,
    supersample: int = 2,
    frames: int = 72,
    fps: int = 18,
    turn: float = 20.0,
    at: float = 1.0,
    clock: str = "step",
    progress: bool = False,
    beside: Beside | None = None,
) -> Path:
    """Draw `source` into `output`: .png a picture, .gif or .mp4 the replay, .webp the replay (a picture if frames=1).

    Parameters
    ----------
    source
        a run (path, URL or Zarr store), a PLY file, or a Surface.
    output
        the file; its suffix decides the format.
    size
        width and height in pixels.
    name
        the surface of the run; None is the latest.
    view
        the camera, as the window's key V prints it.
    look
        the options of the picture.
    supersample
        pixels drawn for each pixel of the file, along each side.
    frames, fps
        number of frames of an animation, and frames per second.
    turn
        degrees by which the camera turns during an animation.
    at
        the moment of the replay that a picture shows, from 0 (start) to 1 (end).
    clock
        what advances evenly: "step", "epoch" or "arc length".
    progress
        whether to show a progress bar.
    beside
        other surfaces in the same picture: side by side, blended, or as a difference.

    Raises
    ------
    RunError, SurfaceError, PlyError
        there is nothing to draw in the source.
    DisplayError
        OpenGL 3.3 is not available.
    LandscapeError
        the format or an option is not known.
    """
    output = Path(output)
    suffix = output.suffix.lower()
    animated = suffix in ANIMATIONS and not (suffix == ".webp" and frames == 1)
    if not animated and suffix not in STILLS:
        raise LandscapeError(
            f"Found the output '{output.name}'",
            expected=f"a name that ends in {', '.join(sorted({*STILLS, *ANIMATIONS}))}",
        )
    if not all(16 <= side <= LARGEST for side in size):
        raise LandscapeError(f"Found the size {size[0]}x{size[1]}", expected=f"16 to {LARGEST} pixels each way")
    if frames < 1 or not 0 < fps <= 100:
        raise LandscapeError(f"Found {frames} frames at {fps} a second", expected="at least one, and 1 to 100 a second")
    if not (0 <= at <= 1 and np.isfinite(turn)):
        raise LandscapeError(f"Found at = {at:g} and turn = {turn:g}", expected="a share from 0 to 1, and degrees")
    if suffix == ".mp4":
        _check_mp4(size)
    look = replace(look or Look(), plain=suffix == ".gif")
    replay = open_replay(source, look, name=name, view=view, size=size, beside=beside)
    replay.timeline.use(clock)
    replay.timeline.scrub(at)
    canvas = Canvas(size, supersample=supersample)
    try:
        with whole_file(output) as file:
            if animated:
                pictures = frames_of(canvas, replay, frames, turn)
                drawn = counted(pictures, frames, shown=progress, what="render", unit="picture")
                _write_animation(file, drawn, fps, look)
            else:
                _write_still(file, canvas.draw(replay), look)
    finally:
        canvas.close()
    return output


def frames_of(canvas: Canvas, replay: Replay, frames: int, turn: float) -> Iterator[Pixels]:
    """The frames of an animation: the marker follows the path while the camera turns, then the end is held."""
    start = replay.camera
    hold = frames // 6 if frames > 6 else 0
    moving = max(frames - hold, 1)
    for k in range(frames):
        share = min(k / max(moving - 1, 1), 1.0)
        replay.timeline.scrub(share)
        replay.camera = start.orbit(turn * (0.5 - 0.5 * np.cos(np.pi * k / max(frames - 1, 1)) - 0.5), 0)
        yield canvas.draw(replay)
    replay.camera = start


def _write_still(output: Path, pixels: Pixels, look: Look) -> None:
    from PIL import Image

    image = Image.fromarray(pixels)
    (image if look.transparent else image.convert("RGB")).save(output, compress_level=6)


def _write_animation(output: Path, pictures: Iterable[Pixels], fps: int, look: Look) -> None:
    suffix = output.suffix.lower()
    if suffix == ".mp4":
        _write_mp4(output, pictures, fps)
    elif suffix == ".webp":
        _write_webp(output, pictures, fps, look)
    else:
        _write_gif(output, pictures, fps)


def _write_webp(output: Path, pictures: Iterable[Pixels], fps: int, look: Look) -> None:
    from PIL import Image

    mode = "RGBA" if look.transparent else "RGB"
    images = [Image.fromarray(pixels).convert(mode) for pixels in pictures]
    images[0].save(
        output, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0, quality=82, method=3
    )


def _write_gif(output: Path, pictures: Iterable[Pixels], fps: int) -> None:
    """A GIF with one palette for all frames: with a palette for each, the background would flicker."""
    from PIL import Image

    images = [Image.fromarray(pixels).convert("RGB") for pixels in pictures]
    some = np.concatenate([np.asarray(image) for image in images[:: max(1, len(images) // 6)]])
    stride = max(1, math.isqrt(some.shape[0] * some.shape[1] // PALETTE_PIXELS))
    sample = Image.fromarray(np.ascontiguousarray(some[::stride, ::stride]))
    palette = sample.quantize(255, method=Image.Quantize.MEDIANCUT, kmeans=1)
    small = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    small[0].save(
        output, save_all=True, append_images=small[1:], duration=max(round(1000 / fps), 20), loop=0, optimize=False
    )


def _write_mp4(output: Path, pictures: Iterable[Pixels], fps: int) -> None:
    """An MP4 file: H.264 in the pixel format that every player supports."""
    import av

    with av.open(str(output), "w") as container:
        stream: Any = None
        for pixels in pictures:
            if stream is None:
                stream = container.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "medium"})
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[..., :3]), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        if stream is not None:
            for packet in stream.encode():
                container.mux(packet)


def _check_mp4(size: tuple[int, int]) -> None:
    """Check, before frames are drawn, that PyAV is installed and that H.264 supports the size."""
    if size[0] % 2 or size[1] % 2:
        raise LandscapeError(
            f"Found the size {size[0]}x{size[1]} for an MP4", expected="even numbers: H.264 halves its colours"
        )
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise LandscapeError(
            "An MP4 needs PyAV, which is not installed",
            mend="Install it: pip install 'landscape-hooks[video]', or render a GIF or WebP",
        ) from error
