"""Scene: a landscape drawn with OpenGL into whatever framebuffer is bound; the window and the files share it.

In: Landscape, Look, Camera and a position of the replay. Out: pixels. It keeps buffers on the GPU and rebuilds only
what a changed option touches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyglet import gl

from landscape_hooks.mesh import colors
from landscape_hooks.mesh.contours import levels
from landscape_hooks.mesh.stage import Stage
from landscape_hooks.viewer.gl import arrays as geometry
from landscape_hooks.viewer.gl.gpu import Indices, Part, Table, Uniform, Vertices, program, set_uniforms
from landscape_hooks.viewer.replay.camera import Camera
from landscape_hooks.viewer.replay.landscape import Landscape
from landscape_hooks.viewer.replay.look import Look

COARSE = 20_000
"""Triangles of the mesh that is drawn while the camera moves on a slow driver."""

LIFT = 0.004
WHOLE = 1e9


class Scene:
    """Needs a current OpenGL context."""

    def __init__(self, landscape: Landscape, look: Look) -> None:
        self._programs = {name: program(name) for name in ("surface", "line", "ball", "flat")}
        self._parts: dict[str, Vertices] = {}
        self._tables: dict[str, Table] = {}
        self._blank = Vertices(self._programs["flat"], np.zeros(3, dtype=[("corner", "f4", 2)]))
        self.landscape, self.look = landscape, look
        self._kept: Any = None
        self._build_all()

    # -- what is drawn ---------------------------------------------------------------------------------
    def show(self, landscape: Landscape, look: Look) -> None:
        """Take another landscape or look."""
        old, self.look = self.look, look
        if landscape is not self.landscape or look != old:
            self._kept = None
        if landscape is not self.landscape and landscape.mesh.faces is self.landscape.mesh.faces:
            self.landscape = landscape  # the same surface with longer paths
            self._build_paths()
        if landscape is not self.landscape or (look.exaggeration, look.aspect) != (old.exaggeration, old.aspect):
            self.landscape = landscape
            self._build_all()
            return
        if (look.colormap, look.theme) != (old.colormap, old.theme):
            self._build_colors()
            self._build_lines()

    def _build_all(self) -> None:
        self.stage = Stage.of(self.landscape.mesh, self.look.exaggeration, self.look.aspect)
        mesh = self.landscape.mesh
        array = geometry.surface_array(mesh, self.stage)
        self._part("surface", "surface", array, geometry.coarser(mesh, COARSE))
        self._drop("lid")
        lid = geometry.lid_array(mesh, self.stage)
        if lid is not None:
            self._part("lid", "surface", *lid)
        self._build_colors()
        self._build_lines()
        self._build_paths()

    def _build_colors(self) -> None:
        self._table("colors", colors.table(self.look.line_colormap))
        mesh = self.landscape.mesh
        losses, index = levels(mesh.height) if mesh.grid is not None else (np.empty(0), np.empty(0, dtype=bool))
        self._levels = len(losses)
        if self._levels:
            self._table("level_of", geometry.level_tables(mesh, losses))
            self._table("index_lines", index.astype(np.float32), smooth=False)

    def _build_lines(self) -> None:
        theme, mesh = self.look.colors, self.landscape.mesh
        self._part("floor", "line", geometry.floor_array(self.stage, theme.faint))
        for name in ("contours", "shadow"):
            self._drop(name)
        if mesh.grid is not None:
            ink = (0.02, 0.03, 0.05) if self.look.colormap != "wireframe" else theme.ink
            lines, stage = self.landscape.lines, self.stage
            self._part("contours", "line", geometry.contour_array(lines, mesh, stage, color=ink, floor=False))
            shadow = geometry.contour_array(lines, mesh, stage, colormap=self.look.line_colormap, floor=True)
            if self.landscape.difference is not None:  # the colours say something else than the loss
                shadow = geometry.contour_array(lines, mesh, stage, color=theme.faint, floor=True)
            self._part("shadow", "line", shadow)

    def _build_paths(self) -> None:
        for name in [
            name for name in self._parts if name.split()[0] in ("path", "true", "stems", "ends", "marks", "critical")
        ]:
            self._drop(name)
        landscape = self.landscape
        for number, (path, drape) in enumerate(zip(landscape.paths, landscape.drapes, strict=True)):
            color = colors.rgb(colors.path_color(number))
            array = geometry.path_array(drape, path, self.stage, color, landscape.lengths[number])
            self._part(f"path {number}", "line", array)
            line, stems = geometry.true_loss_arrays(path, landscape.mesh, self.stage, (1.0, 1.0, 1.0))
            self._part(f"true {number}", "line", line)
            self._part(f"stems {number}", "line", stems)
            ends = [self.stage.place(drape.at(0)), self.stage.place(drape.at(len(path) - 1))] if len(path) else []
            balls = np.concatenate(
                [
                    geometry.ball_array(ends[:1], (1, 1, 1), color, 5.0),
                    geometry.ball_array(ends[1:], color, (1, 1, 1), 5.0),
                ]
            )
            self._part(f"ends {number}", "ball", balls)
        self._build_critical()
        marks = [
            geometry.ball_array([self.stage.place(point)], (1, 1, 1), colors.rgb(colors.path_color(spot.path)), 6.5)
            for spot, point in zip(landscape.spots, landscape.spot_points, strict=True)
            if not spot.at_end  # the end of a path has a ball already
        ]
        if marks:
            self._part("marks", "ball", np.concatenate(marks))

    def _build_critical(self) -> None:
        """Small balls: dark for minima, light for saddles."""
        landscape, dark, light = self.landscape, (0.10, 0.12, 0.16), (0.97, 0.97, 0.97)
        balls = [
            geometry.ball_array([self.stage.place(at)], *((dark, light) if p.kind == "minimum" else (light, dark)), 4.0)
            for p, at in zip(landscape.critical, landscape.critical_places, strict=True)
        ]
        if balls:
            self._part("critical", "ball", np.concatenate(balls))

    def _part(self, name: str, kind: str, data: NDArray[Any], indices: Indices = None) -> None:
        self._drop(name)
        self._parts[name] = Vertices(self._programs[kind], data, indices, instanced=kind != "surface")

    def _drop(self, name: str) -> None:
        if name in self._parts:
            self._parts.pop(name).delete()

    def _table(self, name: str, data: NDArray[Any], *, smooth: bool = True) -> None:
        if name in self._tables:
            self._tables.pop(name).delete()
        self._tables[name] = Table(data, smooth=smooth)

    def delete(self) -> None:
        """Give everything back to the GPU."""
        for name in list(self._parts):
            self._drop(name)
        for table in self._tables.values():
            table.delete()
        self._blank.delete()

    # -- drawing ---------------------------------------------------------------------------------------
    def marker(self, position: float, number: int = 0) -> NDArray[np.float64]:
        """(3,) scene point of the marker of run `number`, whose own replay goes along with the first one's."""
        drape = self.landscape.drapes[number]
        return self.stage.place(drape.at(self.own_position(position, number)))

    def own_position(self, position: float, number: int) -> float:
        """The position of run `number` at the share of the replay at which the first run is at `position`."""
        last = max(len(self.landscape.paths[0]) - 1, 1)
        return position / last * max(len(self.landscape.paths[number]) - 1, 0)

    def draw(
        self,
        camera: Camera,
        target: Part,
        position: float,
        *,
        line_scale: float = 1.0,
        coarse: bool = False,
        still: Part | None = None,
    ) -> None:
        """Draw into `target`; `line_scale` is its pixels a pixel of the picture.

        With `still`, the same part of a second framebuffer, all that the replay does not move is drawn there, once for
        as long as neither camera nor look changes: only the path is drawn for every moment.
        """
        if still is None:
            target.bind()
            self._draw_still(camera, target, line_scale, coarse)
        else:
            key = (camera, self.look, id(self.landscape), id(still.frame), still.corner, still.size, line_scale, coarse)
            if self._kept != key:
                still.bind()
                self._draw_still(camera, still, line_scale, coarse)
                self._kept = key
            still.copy_to(target)
            target.bind()
        self._set_common(camera, target, line_scale)
        self._blend(True)
        self._draw_marks()
        self._draw_paths(position)
        self._blend(False)

    def _draw_still(self, camera: Camera, target: Part, line_scale: float, coarse: bool) -> None:
        """Background, surface, floor and contour lines."""
        target.clear()
        self._set_common(camera, target, line_scale)
        self._draw_background()
        gl.glEnable(gl.GL_DEPTH_TEST)
        gl.glDepthFunc(gl.GL_LEQUAL)
        self._draw_surface(camera, coarse)
        self._blend(True)
        if self.look.floor:
            self._lines("floor", lift=0.0)
            self._lines("shadow", lift=0.0)
        if self.look.contours == "marching squares":
            self._lines("contours")
        self._blend(False)

    def _set_common(self, camera: Camera, target: Part, line_scale: float) -> None:
        size = target.size
        common: dict[str, Uniform] = {
            "matrix": camera.matrix(size[0] / size[1]),
            "viewport": (float(size[0]), float(size[1])),
            "origin": (float(target.corner[0]), float(target.corner[1])),
            "eye": camera.eye if not camera.orthographic else np.asarray(camera.target) - 50 * camera.forward,
            "forward": camera.forward,
            "orthographic": int(camera.orthographic),
            "line_scale": float(line_scale),
            "dash": 0.0,
        }
        for each in self._programs.values():
            each.use()
            set_uniforms(each, **common)

    @staticmethod
    def _blend(on: bool) -> None:
        """Blending of colours that are multiplied by their alpha, over a depth that stays as it is."""
        if on:
            gl.glEnable(gl.GL_DEPTH_TEST)
            gl.glEnable(gl.GL_BLEND)
            gl.glBlendFunc(gl.GL_ONE, gl.GL_ONE_MINUS_SRC_ALPHA)
        else:
            gl.glDisable(gl.GL_BLEND)
        gl.glDepthMask(not on)

    def _draw_background(self) -> None:
        if self.look.transparent:
            return
        flat = self._programs["flat"]
        flat.use()
        theme = self.look.colors
        middle = tuple((a + b) / 2 for a, b in zip(theme.top, theme.bottom, strict=True))
        top, bottom = (middle, middle) if self.look.plain else (theme.top, theme.bottom)
        set_uniforms(flat, top=top, bottom=bottom)
        gl.glDisable(gl.GL_DEPTH_TEST)
        self._blank.draw(gl.GL_TRIANGLES)

    def _draw_surface(self, camera: Camera, coarse: bool) -> None:
        target, look, mesh = self._programs["surface"], self.look, self.landscape.mesh
        target.use()
        mode = {"hypsometric": 1, "grey": 2, "wireframe": 3}.get(look.colormap, 0)
        if (
            mode == 0 and mesh.colors is not None and look.colormap == "viridis"
        ) or self.landscape.difference is not None:
            mode = 4
        light = 0.75 * camera.up - 0.55 * camera.right - 0.35 * camera.forward + np.array([0, 0, 0.55])
        set_uniforms(
            target,
            color_mode=mode,
            contour_mode=int(look.contours == "shader"),
            has_grid=int(mesh.grid is not None),
            shading=float(look.shading),
            light=light / np.linalg.norm(light),
            paper=look.colors.bottom,
            table_size=256.0,
            contour_ink=-1.0 if look.colormap != "wireframe" else 1.0,
            level_count=self._levels,
            colors=0,
            level_of=1,
            index_lines=2,
        )
        for unit, name in enumerate(("colors", "level_of", "index_lines")):
            if name in self._tables:
                self._tables[name].bind(unit)
        gl.glEnable(gl.GL_POLYGON_OFFSET_FILL)
        gl.glPolygonOffset(1.0, 1.0)
        self._parts["surface"].draw(gl.GL_TRIANGLES, level=int(coarse))
        if mode == 3 and mesh.grid is None:  # its edges are those of the triangles
            set_uniforms(target, color_mode=0)
            gl.glPolygonMode(gl.GL_FRONT_AND_BACK, gl.GL_LINE)
            gl.glDisable(gl.GL_POLYGON_OFFSET_FILL)
            self._parts["surface"].draw(gl.GL_TRIANGLES)
            gl.glPolygonMode(gl.GL_FRONT_AND_BACK, gl.GL_FILL)
        if "lid" in self._parts:
            set_uniforms(target, color_mode=5, hatch=look.colors.faint)
            self._parts["lid"].draw(gl.GL_TRIANGLES)
        gl.glDisable(gl.GL_POLYGON_OFFSET_FILL)

    def _lines(self, name: str, **uniforms: Uniform) -> None:
        part = self._parts.get(name)
        if part is None:
            return
        target = self._programs["line"]
        target.use()
        settings: dict[str, Uniform] = {
            "opacity": 1.0,
            "grow": 0.0,
            "paint": (0.0,) * 4,
            "tail": -1.0,
            "head": WHOLE,
            "lift": LIFT,
        }
        set_uniforms(target, **(settings | uniforms))
        part.draw(gl.GL_TRIANGLE_STRIP)

    def _balls(self, part: Vertices, **uniforms: Uniform) -> None:
        target = self._programs["ball"]
        target.use()
        set_uniforms(target, **({"opacity": 1.0, "lift": 3 * LIFT} | uniforms))
        part.draw(gl.GL_TRIANGLE_STRIP)

    def _draw_paths(self, position: float) -> None:
        casing = (*self.look.colors.casing, 1.0)
        for number in range(len(self.landscape.paths)):
            head = self.own_position(position, number)
            if self.look.xray:  # what a hill hides shines through
                gl.glDepthFunc(gl.GL_GREATER)
                self._lines(f"path {number}", opacity=0.30, head=head)
                gl.glDepthFunc(gl.GL_LEQUAL)
            self._lines(f"path {number}", opacity=0.28, tail=head)
            if self.look.true_loss:
                gl.glDepthFunc(gl.GL_GREATER)  # it may lie below the surface: the plane then shows too high a loss
                self._lines(f"stems {number}", opacity=0.35, head=head)
                self._lines(f"true {number}", opacity=0.55, head=head, lift=0.0)
                gl.glDepthFunc(gl.GL_LEQUAL)
                self._lines(f"stems {number}", opacity=0.8, head=head)
                self._lines(f"true {number}", head=head, lift=1.5 * LIFT)
            self._lines(f"path {number}", grow=2.6, paint=casing, opacity=0.85, head=head, lift=2 * LIFT)
            self._lines(f"path {number}", head=head, lift=2.2 * LIFT)
            if f"ends {number}" in self._parts:
                self._balls(self._parts[f"ends {number}"])
            self._draw_marker(position, number)

    def _draw_marks(self) -> None:
        for name in ("critical", "marks"):
            if name not in self._parts or (name == "critical" and not self.look.critical):
                continue
            if self.look.xray:
                gl.glDepthFunc(gl.GL_GREATER)
                self._balls(self._parts[name], opacity=0.35)
                gl.glDepthFunc(gl.GL_LEQUAL)
            self._balls(self._parts[name])

    def _draw_marker(self, position: float, number: int) -> None:
        point = self.marker(position, number)
        if not np.isfinite(point).all():
            return
        color = colors.rgb(colors.path_color(number))
        ball = Vertices(
            self._programs["ball"], geometry.ball_array([point], (1.0, 0.98, 0.9), color, 8.5), instanced=True
        )
        if self.look.xray:
            gl.glDepthFunc(gl.GL_GREATER)
            self._balls(ball, opacity=0.35)
            gl.glDepthFunc(gl.GL_LEQUAL)
        self._balls(ball, lift=4 * LIFT)
        ball.delete()
