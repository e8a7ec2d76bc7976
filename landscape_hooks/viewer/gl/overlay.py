"""Overlay: Dear ImGui on top of the scene, in the window and in files alike.

imgui-bundle lays out text, panels and widgets into triangles; this draws them with the OpenGL functions of pyglet
(its own backends would need a second OpenGL binding that has to be told of EGL before it is imported). Protocol:
the notes on backends in Dear ImGui, docs/BACKENDS.md, with textures made on demand (1.92).
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from imgui_bundle import imgui
from pyglet import gl

from landscape_hooks.viewer.gl.gpu import new_name, program

FONT_SIZE = 15.0


class _Buffer(Protocol):
    """A vector of imgui: its length, and where it lies in memory."""

    def size(self) -> int: ...

    def data_address(self) -> int: ...


class Overlay:
    """One imgui context. Needs a current OpenGL context; `frame` … `draw` for every picture."""

    def __init__(self) -> None:
        self._begun = False
        self.context = imgui.create_context()
        imgui.set_current_context(self.context)
        io = imgui.get_io()
        io.set_ini_filename("")
        io.backend_flags |= imgui.BackendFlags_.renderer_has_textures.value
        self.font = self._font(io)
        most = gl.GLint()
        gl.glGetIntegerv(gl.GL_MAX_TEXTURE_SIZE, ctypes.byref(most))
        platform = imgui.get_platform_io()
        platform.renderer_texture_max_width = platform.renderer_texture_max_height = most.value
        self._program = program("overlay")
        self._textures: dict[int, Any] = {}
        self._vertices, self._indices, self._array = (
            new_name(gl.glGenBuffers),
            new_name(gl.glGenBuffers),
            new_name(gl.glGenVertexArrays),
        )
        self._layout()

    @staticmethod
    def _font(io: imgui.IO) -> imgui.ImFont:
        """DejaVu Sans of matplotlib, which has the Greek letters; imgui's own font where it is not found."""
        spec = find_spec("matplotlib")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            file = Path(folder) / "mpl-data/fonts/ttf/DejaVuSans.ttf"
            if file.is_file():
                return io.fonts.add_font_from_file_ttf(str(file), FONT_SIZE)
        return io.fonts.add_font_default()

    def _layout(self) -> None:
        gl.glBindVertexArray(self._array)
        gl.glBindBuffer(gl.GL_ARRAY_BUFFER, self._vertices)
        for name, count, kind, scaled, offset in (
            ("place", 2, gl.GL_FLOAT, False, imgui.VERTEX_BUFFER_POS_OFFSET),
            ("uv", 2, gl.GL_FLOAT, False, imgui.VERTEX_BUFFER_UV_OFFSET),
            ("tone", 4, gl.GL_UNSIGNED_BYTE, True, imgui.VERTEX_BUFFER_COL_OFFSET),
        ):
            location = gl.glGetAttribLocation(self._program.id, name.encode())
            gl.glEnableVertexAttribArray(location)
            gl.glVertexAttribPointer(location, count, kind, scaled, imgui.VERTEX_SIZE, ctypes.c_void_p(offset))
        gl.glBindVertexArray(0)

    def frame(self, size: tuple[float, float], scale: float, seconds: float = 1 / 60) -> Any:
        """Begin a picture of `size`, drawn at `scale` framebuffer pixels each; returns the imgui module."""
        imgui.set_current_context(self.context)
        io = imgui.get_io()
        io.display_size = imgui.ImVec2(*size)
        io.display_framebuffer_scale = imgui.ImVec2(scale, scale)
        io.delta_time = max(seconds, 1e-4)
        if self._begun:  # a picture that failed half-way must not take the next one with it
            imgui.end_frame()
        imgui.new_frame()
        self._begun = True
        return imgui

    def draw(self) -> None:
        """End the picture and draw it into the bound framebuffer."""
        imgui.render()
        self._begun = False
        data = imgui.get_draw_data()
        for texture in imgui.get_platform_io().textures:
            self._update(texture)
        io = imgui.get_io()
        scale = io.display_framebuffer_scale.x
        width, height = io.display_size.x, io.display_size.y
        gl.glDisable(gl.GL_DEPTH_TEST)
        gl.glDisable(gl.GL_CULL_FACE)
        gl.glEnable(gl.GL_BLEND)
        gl.glBlendFunc(gl.GL_ONE, gl.GL_ONE_MINUS_SRC_ALPHA)
        gl.glEnable(gl.GL_SCISSOR_TEST)
        gl.glActiveTexture(gl.GL_TEXTURE0)
        self._program.use()
        self._program["size"] = (width, height)
        self._program["glyphs"] = 0
        gl.glBindVertexArray(self._array)
        kind = gl.GL_UNSIGNED_SHORT if imgui.INDEX_SIZE == 2 else gl.GL_UNSIGNED_INT
        for commands in data.cmd_lists:
            self._upload(gl.GL_ARRAY_BUFFER, self._vertices, commands.vtx_buffer, imgui.VERTEX_SIZE)
            self._upload(gl.GL_ELEMENT_ARRAY_BUFFER, self._indices, commands.idx_buffer, imgui.INDEX_SIZE)
            for command in commands.cmd_buffer:
                x, y, z, w = (round(v * scale) for v in command.clip_rect)
                if z <= x or w <= y:
                    continue
                gl.glScissor(max(x, 0), max(round(height * scale) - w, 0), z - max(x, 0), w - y)
                gl.glBindTexture(gl.GL_TEXTURE_2D, command.tex_ref.get_tex_id())
                start = ctypes.c_void_p(command.idx_offset * imgui.INDEX_SIZE)
                gl.glDrawElements(gl.GL_TRIANGLES, command.elem_count, kind, start)
        gl.glBindVertexArray(0)
        gl.glDisable(gl.GL_SCISSOR_TEST)
        gl.glDisable(gl.GL_BLEND)

    @staticmethod
    def _upload(kind: int, name: ctypes.c_uint, buffer: _Buffer, size: int) -> None:
        gl.glBindBuffer(kind, name)
        gl.glBufferData(kind, buffer.size() * size, ctypes.c_void_p(buffer.data_address()), gl.GL_STREAM_DRAW)

    def _update(self, texture: imgui.ImTextureData) -> None:
        """Make, fill or remove a texture as imgui asks for it."""
        status = imgui.ImTextureStatus
        if texture.status == status.want_create:
            name = new_name(gl.glGenTextures)
            gl.glBindTexture(gl.GL_TEXTURE_2D, name)
            for key in (gl.GL_TEXTURE_MIN_FILTER, gl.GL_TEXTURE_MAG_FILTER):
                gl.glTexParameteri(gl.GL_TEXTURE_2D, key, gl.GL_LINEAR)
            for key in (gl.GL_TEXTURE_WRAP_S, gl.GL_TEXTURE_WRAP_T):
                gl.glTexParameteri(gl.GL_TEXTURE_2D, key, gl.GL_CLAMP_TO_EDGE)
            self._textures[name.value] = name
            texture.set_tex_id(name.value)
        if texture.status in (status.want_create, status.want_updates):
            gl.glBindTexture(gl.GL_TEXTURE_2D, texture.get_tex_id())
            gl.glPixelStorei(gl.GL_UNPACK_ALIGNMENT, 1)
            pixels = texture.get_pixels_array()
            shape = (texture.width, texture.height, 0, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE)
            gl.glTexImage2D(gl.GL_TEXTURE_2D, 0, gl.GL_RGBA8, *shape, ctypes.c_void_p(pixels.ctypes.data))
            texture.status = status.ok
        elif texture.status == status.want_destroy:
            name = self._textures.pop(texture.get_tex_id(), None)
            if name is not None:
                gl.glDeleteTextures(1, ctypes.byref(name))
            texture.set_tex_id(0)
            texture.status = status.destroyed

    def delete(self) -> None:
        """End the context; its textures go with it."""
        imgui.set_current_context(self.context)
        for texture in imgui.get_platform_io().textures:
            texture.set_tex_id(0)
            texture.status = imgui.ImTextureStatus.destroyed
        for name in self._textures.values():
            gl.glDeleteTextures(1, ctypes.byref(name))
        imgui.get_io().backend_flags &= ~imgui.BackendFlags_.renderer_has_textures.value
        imgui.destroy_context(self.context)
