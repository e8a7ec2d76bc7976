"""The few OpenGL objects the scene needs: shader programs, vertex arrays, look-up textures, framebuffers.

Vertex arrays take numpy arrays by one `glBufferData`: for a large mesh that is ten times as fast as a vertex list.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pyglet import gl

from landscape_hooks.viewer.several.panes import Pane

if TYPE_CHECKING:
    from pyglet.graphics.shader import ShaderProgram

Uniform = float | Sequence[float] | NDArray[Any]
"""The value of a uniform: a number, a vector, or a matrix (4, 4)."""

HEADER = "#version 330 core\n"
"""The first line of every shader here; in a browser it is another one."""

_TYPES = {"f4": gl.GL_FLOAT, "u1": gl.GL_UNSIGNED_BYTE}


def program(name: str) -> ShaderProgram:
    """The program of `shaders/NAME.vert` and `shaders/NAME.frag`, which the page in a browser draws with as well."""
    from pyglet.graphics.shader import Shader, ShaderProgram

    folder = resources.files("landscape_hooks.viewer.gl") / "shaders"
    stages = {"vertex": "vert", "fragment": "frag"}
    return ShaderProgram(
        *(Shader(HEADER + (folder / f"{name}.{suffix}").read_text("utf-8"), stage) for stage, suffix in stages.items())  # type: ignore[arg-type]
    )


def set_uniforms(target: ShaderProgram, **values: Uniform) -> None:
    """Set uniforms that the program has; a matrix (4, 4) is given row by row. The compiler may have dropped some."""
    for name, value in values.items():
        if name not in target.uniforms:
            continue
        if isinstance(value, np.ndarray):
            value = value.T.ravel().tolist() if value.ndim == 2 else value.ravel().tolist()
        target[name] = value


def new_name(generate: Callable[..., None]) -> ctypes.c_uint:
    name = gl.GLuint()
    generate(1, ctypes.byref(name))
    return name


Indices = NDArray[Any] | Sequence[NDArray[Any]] | None
"""Indices of the triangles: one array, one for each level of detail, or none."""


class Vertices:
    """A vertex array: one structured numpy array, optionally with indices or one element an instance.

    A field of the dtype is an attribute of that name; uint8 fields are normalised to 0 … 1.
    """

    def __init__(
        self, target: ShaderProgram, data: NDArray[Any], indices: Indices = None, *, instanced: bool = False
    ) -> None:
        self.count = len(data)
        self._instanced = instanced
        self._array, self._buffer = new_name(gl.glGenVertexArrays), new_name(gl.glGenBuffers)
        gl.glBindVertexArray(self._array)
        gl.glBindBuffer(gl.GL_ARRAY_BUFFER, self._buffer)
        self._fill(gl.GL_ARRAY_BUFFER, data)
        for name in data.dtype.names or ():
            place = gl.glGetAttribLocation(target.id, name.encode())
            if place < 0:
                continue
            kind, offset = data.dtype.fields[name][:2]  # type: ignore[index]
            base = kind.base
            gl.glEnableVertexAttribArray(place)
            gl.glVertexAttribPointer(
                place,
                int(np.prod(kind.shape, dtype=int)),
                _TYPES[base.str[1:]],
                base.kind == "u",
                data.dtype.itemsize,
                ctypes.c_void_p(offset),
            )
            gl.glVertexAttribDivisor(place, int(instanced))
        self._indices: list[tuple[Any, int]] = []
        for one in [] if indices is None else [indices] if isinstance(indices, np.ndarray) else indices:
            element = new_name(gl.glGenBuffers)
            gl.glBindBuffer(gl.GL_ELEMENT_ARRAY_BUFFER, element)
            self._fill(gl.GL_ELEMENT_ARRAY_BUFFER, np.ascontiguousarray(one, dtype=np.uint32))
            self._indices.append((element, one.size))
        gl.glBindVertexArray(0)

    @staticmethod
    def _fill(kind: int, data: NDArray[Any]) -> None:
        data = np.ascontiguousarray(data)
        gl.glBufferData(kind, data.nbytes, ctypes.c_void_p(data.ctypes.data), gl.GL_STATIC_DRAW)

    def draw(self, mode: int, *, level: int = 0, vertices: int = 4) -> None:
        """Draw all; `level` picks one of several index arrays, `vertices` is the count an instance."""
        if not self.count:
            return
        gl.glBindVertexArray(self._array)
        if self._indices:
            element, count = self._indices[min(level, len(self._indices) - 1)]
            gl.glBindBuffer(gl.GL_ELEMENT_ARRAY_BUFFER, element)
            gl.glDrawElements(mode, count, gl.GL_UNSIGNED_INT, None)
        elif self._instanced:
            gl.glDrawArraysInstanced(mode, 0, vertices, self.count)
        else:
            gl.glDrawArrays(mode, 0, self.count)
        gl.glBindVertexArray(0)

    def delete(self) -> None:
        """Give the memory back."""
        gl.glDeleteVertexArrays(1, ctypes.byref(self._array))
        for name in (self._buffer, *(element for element, _ in self._indices)):
            gl.glDeleteBuffers(1, ctypes.byref(name))


class Table:
    """A look-up texture of one row: (N, 3) uint8 colours, or (N,) float32 numbers."""

    def __init__(self, data: NDArray[Any], *, smooth: bool = True) -> None:
        self._name = new_name(gl.glGenTextures)
        gl.glBindTexture(gl.GL_TEXTURE_2D, self._name)
        data = np.ascontiguousarray(data)
        pointer = ctypes.c_void_p(data.ctypes.data)
        gl.glPixelStorei(gl.GL_UNPACK_ALIGNMENT, 1)
        if data.dtype == np.uint8:
            layout = (gl.GL_RGB8, len(data), 1, 0, gl.GL_RGB, gl.GL_UNSIGNED_BYTE)
        else:
            layout = (gl.GL_R32F, len(data), 1, 0, gl.GL_RED, gl.GL_FLOAT)
        gl.glTexImage2D(gl.GL_TEXTURE_2D, 0, *layout, pointer)
        filtering = gl.GL_LINEAR if smooth else gl.GL_NEAREST
        for key, value in (
            (gl.GL_TEXTURE_MIN_FILTER, filtering),
            (gl.GL_TEXTURE_MAG_FILTER, filtering),
            (gl.GL_TEXTURE_WRAP_S, gl.GL_CLAMP_TO_EDGE),
            (gl.GL_TEXTURE_WRAP_T, gl.GL_CLAMP_TO_EDGE),
        ):
            gl.glTexParameteri(gl.GL_TEXTURE_2D, key, value)

    def bind(self, unit: int) -> None:
        """Put the texture on a texture unit."""
        gl.glActiveTexture(gl.GL_TEXTURE0 + unit)
        gl.glBindTexture(gl.GL_TEXTURE_2D, self._name)

    def delete(self) -> None:
        """Give the memory back."""
        gl.glDeleteTextures(1, ctypes.byref(self._name))


class Framebuffer:
    """A picture of any size with a depth, smoothed by `samples` (fewer where the driver has fewer)."""

    def __init__(self, width: int, height: int, samples: int = 0) -> None:
        self.size = (width, height)
        most = gl.GLint()
        gl.glGetIntegerv(gl.GL_MAX_SAMPLES, ctypes.byref(most))
        self.samples = min(samples, most.value)
        self._parts: list[tuple[Any, Any, Any]] = []
        self._draw = self._make(self.samples)
        self._read = self._make(0) if self.samples else self._draw

    def _make(self, samples: int) -> ctypes.c_uint:
        frame, color, depth = (
            new_name(gl.glGenFramebuffers),
            new_name(gl.glGenRenderbuffers),
            new_name(gl.glGenRenderbuffers),
        )
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, frame)
        for name, kind, place in (
            (color, gl.GL_RGBA8, gl.GL_COLOR_ATTACHMENT0),
            (depth, gl.GL_DEPTH24_STENCIL8, gl.GL_DEPTH_STENCIL_ATTACHMENT),
        ):
            gl.glBindRenderbuffer(gl.GL_RENDERBUFFER, name)
            gl.glRenderbufferStorageMultisample(gl.GL_RENDERBUFFER, samples, kind, *self.size)
            gl.glFramebufferRenderbuffer(gl.GL_FRAMEBUFFER, place, gl.GL_RENDERBUFFER, name)
        self._parts.append((frame, color, depth))
        return frame

    def bind(self) -> None:
        """Draw into it from here on."""
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._draw)
        gl.glViewport(0, 0, *self.size)

    def fill(self, color: Sequence[float]) -> None:
        """Paint all of it with a colour (red, green, blue), and put it far away."""
        self.bind()
        _clear((*color, 1.0))

    def part(self, pane: Pane) -> Part:
        """A rectangle of it, counted from the top left."""
        return Part(self, (pane.x, self.size[1] - pane.y - pane.height), pane.size)

    def resolve(self) -> None:
        """Bring the samples together; reading and showing need it."""
        if self._draw is self._read:
            return
        self._blit(self._draw, self._read, gl.GL_COLOR_BUFFER_BIT | gl.GL_DEPTH_BUFFER_BIT)

    def show(self, frame: int = 0) -> None:
        """Copy the picture to the window's own framebuffer."""
        self.resolve()
        self._blit(self._read, frame, gl.GL_COLOR_BUFFER_BIT)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, frame)

    def copy_to(
        self, other: Framebuffer, corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None
    ) -> None:
        """Copy picture and depth, with their samples, into another framebuffer of the same size and samples.

        With `size`, only the rectangle at `corner`, counted from the lower left.
        """
        (left, low), (width, height) = corner, self.size if size is None else size
        area = (left, low, left + width, low + height)
        self._blit(self._draw, other._draw, gl.GL_COLOR_BUFFER_BIT | gl.GL_DEPTH_BUFFER_BIT, area)

    def _blit(
        self,
        source: ctypes.c_uint | int,
        target: ctypes.c_uint | int,
        mask: int,
        area: tuple[int, int, int, int] | None = None,
    ) -> None:
        area = (0, 0, *self.size) if area is None else area
        gl.glBindFramebuffer(gl.GL_READ_FRAMEBUFFER, source)
        gl.glBindFramebuffer(gl.GL_DRAW_FRAMEBUFFER, target)
        gl.glDisable(gl.GL_SCISSOR_TEST)
        gl.glBlitFramebuffer(*area, *area, mask, gl.GL_NEAREST)

    def pixels(self) -> NDArray[np.uint8]:
        """(height, width, 4) the picture, top row first; colours are multiplied by alpha."""
        self.resolve()
        width, height = self.size
        data = np.empty((height, width, 4), dtype=np.uint8)
        gl.glBindFramebuffer(gl.GL_READ_FRAMEBUFFER, self._read)
        gl.glPixelStorei(gl.GL_PACK_ALIGNMENT, 1)
        gl.glReadPixels(0, 0, width, height, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, ctypes.c_void_p(data.ctypes.data))
        return data[::-1]

    def depth(self, x: int, y: int) -> float:
        """Depth (0 near … 1 far) at a pixel from the top left; 1 where nothing was drawn."""
        self.resolve()
        value = gl.GLfloat()
        gl.glBindFramebuffer(gl.GL_READ_FRAMEBUFFER, self._read)
        place = (int(np.clip(x, 0, self.size[0] - 1)), int(np.clip(self.size[1] - 1 - y, 0, self.size[1] - 1)))
        gl.glReadPixels(*place, 1, 1, gl.GL_DEPTH_COMPONENT, gl.GL_FLOAT, ctypes.byref(value))
        return float(value.value)

    def delete(self) -> None:
        """Give the memory back."""
        for frame, *buffers in self._parts:
            gl.glDeleteFramebuffers(1, ctypes.byref(frame))
            for name in buffers:
                gl.glDeleteRenderbuffers(1, ctypes.byref(name))


@dataclass(frozen=True)
class Part:
    """A rectangle of a framebuffer, into which a scene draws as if it were a whole one.

    `corner` is its lower left, from the framebuffer's lower left.
    """

    frame: Framebuffer
    corner: tuple[int, int]
    size: tuple[int, int]

    def bind(self) -> None:
        """Draw into it from here on."""
        self.frame.bind()
        gl.glViewport(*self.corner, *self.size)

    def clear(self) -> None:
        """Empty it, and leave the rest of the framebuffer as it is."""
        gl.glEnable(gl.GL_SCISSOR_TEST)
        gl.glScissor(*self.corner, *self.size)
        _clear((0.0, 0.0, 0.0, 0.0))
        gl.glDisable(gl.GL_SCISSOR_TEST)

    def copy_to(self, other: Part) -> None:
        """Copy picture and depth into the same rectangle of another framebuffer."""
        self.frame.copy_to(other.frame, self.corner, self.size)


def _clear(color: Sequence[float]) -> None:
    """Set the colour and the depth of what is bound."""
    gl.glDepthMask(True)
    gl.glClearColor(*color)
    gl.glClear(gl.GL_COLOR_BUFFER_BIT | gl.GL_DEPTH_BUFFER_BIT)
