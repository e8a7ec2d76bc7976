"""landscape-hooks: record the optimizer's path, draw the loss surface it descended, replay it.

This module is the map of every public name. Names are resolved on first use, so that importing the
package imports neither torch nor anything else that is heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from landscape_hooks.version import __version__

if TYPE_CHECKING:
    from landscape_hooks.analysis.alignment.align import Alignment as Alignment
    from landscape_hooks.analysis.alignment.align import align as align
    from landscape_hooks.analysis.alignment.barrier import Barrier as Barrier
    from landscape_hooks.analysis.alignment.barrier import barrier as barrier
    from landscape_hooks.analysis.analyze import analyze as analyze
    from landscape_hooks.analysis.curvature.curvature import curvature as curvature
    from landscape_hooks.analysis.curvature.flatness import flatness as flatness
    from landscape_hooks.analysis.landscape import landscape as landscape
    from landscape_hooks.analysis.verification import Check as Check
    from landscape_hooks.analysis.verification import SurfaceVerification as SurfaceVerification
    from landscape_hooks.analysis.verification import Verification as Verification
    from landscape_hooks.analysis.verification import verify as verify
    from landscape_hooks.errors import LandscapeError as LandscapeError
    from landscape_hooks.errors import RecordingWarning as RecordingWarning
    from landscape_hooks.evaluation.effort import Effort as Effort
    from landscape_hooks.evaluation.engines import Local as Local
    from landscape_hooks.evaluation.engines import Ray as Ray
    from landscape_hooks.export.curves.curvature import curvature_figure as curvature_figure
    from landscape_hooks.export.curves.sheet import Drawn as Drawn
    from landscape_hooks.export.figure import contour_figure as contour_figure
    from landscape_hooks.export.figure import loss_figure as loss_figure
    from landscape_hooks.export.figure import surface_figure as surface_figure
    from landscape_hooks.export.glb import write_glb as write_glb
    from landscape_hooks.export.panels import contours_figure as contours_figure
    from landscape_hooks.export.ply import write_ply as write_ply
    from landscape_hooks.export.ply_reader import read_ply as read_ply
    from landscape_hooks.export.tables import write_csv as write_csv
    from landscape_hooks.export.tables import write_heightmap as write_heightmap
    from landscape_hooks.export.vtu import write_vtu as write_vtu
    from landscape_hooks.objective.objective import Evaluation as Evaluation
    from landscape_hooks.objective.objective import Objective as Objective
    from landscape_hooks.plane.directions.hessian import Hessian as Hessian
    from landscape_hooks.plane.directions.pca import PCA as PCA
    from landscape_hooks.plane.directions.points import Points as Points
    from landscape_hooks.plane.directions.random import Random as Random
    from landscape_hooks.recording.importing.checkpoints import import_checkpoints as import_checkpoints
    from landscape_hooks.recording.record import record as record
    from landscape_hooks.recording.recorder import Recorder as Recorder
    from landscape_hooks.recording.schedule import AtSteps as AtSteps
    from landscape_hooks.recording.schedule import Every as Every
    from landscape_hooks.recording.schedule import LogSpaced as LogSpaced
    from landscape_hooks.recording.schedule import Schedule as Schedule
    from landscape_hooks.recording.schedule import Thinning as Thinning
    from landscape_hooks.recording.schedule import When as When
    from landscape_hooks.recording.storage import Parameters as Parameters
    from landscape_hooks.recording.storage import Storage as Storage
    from landscape_hooks.surface.critical import CriticalPoint as CriticalPoint
    from landscape_hooks.surface.critical import critical_points as critical_points
    from landscape_hooks.surface.critical import lowest_pass as lowest_pass
    from landscape_hooks.surface.measures.curvature import Curvature as Curvature
    from landscape_hooks.surface.measures.flatness import Flatness as Flatness
    from landscape_hooks.surface.report import random_walk_ratio as random_walk_ratio
    from landscape_hooks.surface.surface import Path as Path
    from landscape_hooks.surface.surface import Surface as Surface
    from landscape_hooks.trajectory.parameters import ParameterEntry as ParameterEntry
    from landscape_hooks.trajectory.parameters import ParameterLayout as ParameterLayout
    from landscape_hooks.trajectory.rows.checksum import Damage as Damage
    from landscape_hooks.trajectory.selection import Snapshots as Snapshots
    from landscape_hooks.trajectory.trajectory import Snapshot as Snapshot
    from landscape_hooks.trajectory.trajectory import Trajectory as Trajectory
    from landscape_hooks.viewer.offscreen import render as render
    from landscape_hooks.viewer.replay.look import Look as Look
    from landscape_hooks.viewer.web.html import write_html as write_html
    from landscape_hooks.viewer.web.server import serve as serve
    from landscape_hooks.viewer.window import view as view

_HOME = {
    "record": "recording.record",
    "import_checkpoints": "recording.importing.checkpoints",
    "Recorder": "recording.recorder",
    "Storage": "recording.storage",
    "Parameters": "recording.storage",
    "Schedule": "recording.schedule",
    "Every": "recording.schedule",
    "AtSteps": "recording.schedule",
    "LogSpaced": "recording.schedule",
    "When": "recording.schedule",
    "Thinning": "recording.schedule",
    "Trajectory": "trajectory.trajectory",
    "Snapshot": "trajectory.trajectory",
    "ParameterLayout": "trajectory.parameters",
    "ParameterEntry": "trajectory.parameters",
    "Damage": "trajectory.rows.checksum",
    "Objective": "objective.objective",
    "Evaluation": "objective.objective",
    "analyze": "analysis.analyze",
    "curvature": "analysis.curvature.curvature",
    "flatness": "analysis.curvature.flatness",
    "landscape": "analysis.landscape",
    "align": "analysis.alignment.align",
    "Alignment": "analysis.alignment.align",
    "barrier": "analysis.alignment.barrier",
    "Barrier": "analysis.alignment.barrier",
    "PCA": "plane.directions.pca",
    "Random": "plane.directions.random",
    "Hessian": "plane.directions.hessian",
    "Points": "plane.directions.points",
    "Effort": "evaluation.effort",
    "Local": "evaluation.engines",
    "Ray": "evaluation.engines",
    "Snapshots": "trajectory.selection",
    "Surface": "surface.surface",
    "Path": "surface.surface",
    "Curvature": "surface.measures.curvature",
    "Flatness": "surface.measures.flatness",
    "critical_points": "surface.critical",
    "lowest_pass": "surface.critical",
    "CriticalPoint": "surface.critical",
    "random_walk_ratio": "surface.report",
    "verify": "analysis.verification",
    "Verification": "analysis.verification",
    "SurfaceVerification": "analysis.verification",
    "Check": "analysis.verification",
    "write_csv": "export.tables",
    "write_heightmap": "export.tables",
    "write_glb": "export.glb",
    "write_ply": "export.ply",
    "write_vtu": "export.vtu",
    "read_ply": "export.ply_reader",
    "Drawn": "export.curves.sheet",
    "curvature_figure": "export.curves.curvature",
    "contour_figure": "export.figure",
    "contours_figure": "export.panels",
    "surface_figure": "export.figure",
    "loss_figure": "export.figure",
    "render": "viewer.offscreen",
    "view": "viewer.window",
    "Look": "viewer.replay.look",
    "write_html": "viewer.web.html",
    "serve": "viewer.web.server",
    "LandscapeError": "errors",
    "RecordingWarning": "errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
