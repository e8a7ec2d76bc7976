"""Description of a run: as plain data, and as text. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import zarr

from landscape_hooks.errors import SurfaceError, printable
from landscape_hooks.store import checked
from landscape_hooks.store.run import KEY, RunLike, open_run
from landscape_hooks.surface import surface as surfaces
from landscape_hooks.surface.measures import curvature as curvatures
from landscape_hooks.surface.measures import flatness
from landscape_hooks.surface.measures.curvature import Curvature
from landscape_hooks.surface.surface import Surface
from landscape_hooks.trajectory.doubts import closing_state
from landscape_hooks.trajectory.marks import read_marks
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.trajectory import Trajectory

OBJECTIVE = ("loss", "samples", "batch_size", "torch", "left_out")
"""What is told of the stored loss."""


def describe(store: RunLike) -> dict[str, Any]:
    """The content of the run at `store`, as data that JSON can hold.

    Raises
    ------
    RunError
        the store is not a run.
    """
    root = open_run(store)
    mark: Any = root.attrs[KEY]
    trajectory = Trajectory.open(root)
    times = trajectory.wall_times
    losses = trajectory.losses
    fixed = trajectory.fixed
    beside = [entry for entry in trajectory.buffer_layout if entry.name in trajectory.still_buffers]
    fixed_bytes = fixed.nbytes + sum(e.size * bits.stored_type(e.dtype).itemsize for e in beside)
    stored = checked.group(root, "objective")
    objective = dict(stored.attrs) if stored is not None else {}
    return {
        "run": str(store),
        "format": mark["format"],
        "written_by": mark.get("version"),
        "snapshots": len(trajectory),
        "first_step": int(trajectory.steps[0]) if len(trajectory) else None,
        "last_step": int(trajectory.steps[-1]) if len(trajectory) else None,
        "parameters": trajectory.layout.size,
        "buffers": trajectory.buffer_layout.size,
        "tensors": len(trajectory.layout),
        "dtype": trajectory.stored_dtype,
        "bytes": trajectory.nbytes,
        "fixed": {"tensors": len(fixed) + len(beside), "bytes": fixed_bytes, "by_reference": fixed.by_reference},
        "started": _time(times[0]) if len(times) else None,
        "ended": _time(times[-1]) if len(times) else None,
        "last_logged_loss": next((float(x) for x in losses[::-1] if not math.isnan(x)), None),
        "closing": dict(zip(("state", "said"), closing_state(root), strict=True)),
        "doubts": [{"kind": d.kind, "said": d.said, "numbers": dict(d.numbers)} for d in trajectory.doubts],
        "imported": _imported(root),
        "marks": {name: mark.step for name, mark in read_marks(root).items()},
        "objective": _describe_objective(objective) if objective.get("complete") is True else None,
        "awaited": "" if objective.get("complete") is True else printable(objective.get("awaited", "")),
        "surfaces": [_describe_surface(surface) for surface in _surfaces(root)],
        "curvature": [_describe_curvature(root, name) for name in curvatures.names(root)],
        "flatness": None if (flat := flatness.read(root)) is None else flat.to_json() | {"text": flat.lines()},
    }  # fmt: skip


def _describe_objective(attributes: dict[str, Any]) -> dict[str, Any]:
    notes = attributes.get("notes")
    said = {"notes": [str(note) for note in notes] if isinstance(notes, list) else []}
    return {key: attributes[key] for key in OBJECTIVE if key in attributes} | said


def _imported(root: zarr.Group) -> list[str]:
    """Names of the checkpoints that the run was made of, in order of steps; none of a run that was recorded."""
    found = root.attrs.get("imported")
    entries = list(found.values()) if isinstance(found, dict) else []
    return [printable(entry.get("name", "?")) for entry in entries if isinstance(entry, dict)]


def _surfaces(root: zarr.Group) -> Iterator[Surface]:
    """All surfaces of a run, without one that an analysis removes meanwhile."""
    for name in surfaces.names(root):
        try:
            found = Surface.open(root, name)
        except SurfaceError:
            if name in surfaces.names(root):
                raise
            continue
        yield found


def _describe_surface(surface: Surface) -> dict[str, Any]:
    keys = ("directions", "batch_norm", "samples", "seed", "data_digest", "report", "versions")
    loss = surface.loss[surface.present & np.isfinite(surface.loss)]
    return {
        "name": surface.name,
        "size": list(surface.shape),
        "evaluated": int(surface.evaluated.sum()),
        "interpolated": 0 if surface.interpolated is None else int(surface.interpolated.sum()),
        "interpolation": surface.said_of_interpolation(),
        "complete": surface.complete,
        "lowest_loss": float(loss.min()) if loss.size else None,
        "highest_loss": float(loss.max()) if loss.size else None,
        **{key: surface.attrs[key] for key in keys if key in surface.attrs},
    }


def _describe_curvature(root: zarr.Group, name: str) -> dict[str, Any]:
    found = Curvature.open(root, name)
    keys = ("method", "top", "samples", "batch_norm", "seed", "data_digest", "versions")
    return {
        "name": name,
        "snapshots": len(found),
        "evaluated": int(found.evaluated.sum()),
        "report": found.sentences(),
        **{key: found.attrs[key] for key in keys if key in found.attrs},
    }


def description_text(d: dict[str, Any]) -> str:
    """The description as text."""
    lines = [
        f"{d['run']}  (format {d['format']}, written by landscape-hooks {d['written_by']})",
        f"  trajectory  {d['snapshots']} snapshots, steps {d['first_step']} to {d['last_step']}, "
        f"{d['parameters']:,} parameters in {d['tensors']} tensors, {d['buffers']:,} buffer values, "
        f"{d['dtype']}, {_bytes(d['bytes'])}",
    ]
    if (fixed := d["fixed"])["tensors"]:
        how = "by reference: analyze needs --base" if fixed["by_reference"] else "stored once"
        plural = "s" * (fixed["tensors"] != 1)
        lines.append(f"  fixed       {fixed['tensors']} tensor{plural}, {_bytes(fixed['bytes'])}, {how}")
    if d["started"]:
        lines.append(f"  recorded    {d['started']} to {d['ended']} (UTC)")
    if names := d["imported"]:
        shown = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        lines.append(f"  imported    from {len(names)} checkpoint{'s' * (len(names) > 1)}: {shown}")
    if d["objective"]:
        o = d["objective"]
        loss, samples, size = (o.get(key, "?") for key in ("loss", "samples", "batch_size"))
        lines.append(f"  objective   {loss} over {samples} samples in batches of {size}")
        lines += [f"    {note}" for note in o["notes"]]
    else:
        lines.append("  objective   none: analyze needs --objective module:function")
        lines += [f"    {d['awaited']}"] if d["awaited"] else []
    lines += [f"  mark        {name}: step {step}" for name, step in d["marks"].items()]
    lines += [f"  in doubt    {doubt['said']}" for doubt in d["doubts"]]
    lines += _said_of_closing(d["closing"])
    if not d["surfaces"]:
        lines.append(f"  surfaces    none yet: landscape-hooks analyze {d['run']}")
    for s in d["surfaces"]:
        state = "" if s["complete"] else f", {s['evaluated']} of {s['size'][0] * s['size'][1]} points so far"
        policy = f", BatchNorm {s['batch_norm']}" if s.get("batch_norm", "none") != "none" else ""
        guessed = f", {s['interpolation']}" if s["interpolation"] else ""
        lines.append(f"  surface     {s['name']}: {s['size'][0]}×{s['size'][1]}{policy}{state}{guessed}")
        lines += [f"    {sentence}" for sentence in s.get("report", ())]
    for c in d["curvature"]:
        lines.append(f"  curvature   {c['name']}: {c['evaluated']} of {c['snapshots']} snapshots")
        lines += [f"    {sentence}" for sentence in c["report"]]
    if d["flatness"]:
        head, *rows = d["flatness"]["text"]
        lines += [f"  flatness    {head.removeprefix('Flatness ')}", *(f"  {row}" for row in rows)]
    return "\n".join(printable(line) for line in lines)


def _said_of_closing(closing: dict[str, str]) -> list[str]:
    """Whether the run was compared with its training; runs of format 1 were not, and say nothing."""
    if closing["state"] == "recording":
        return ["  unchecked   the recording goes on, or was cut off: nothing was compared with the training"]
    return [f"  unchecked   {closing['said']}"] if closing["state"] == "unchecked" and closing["said"] else []


def plain(value: object) -> Any:
    """`value` as strict JSON has it: a NaN or inf among a run's attributes becomes null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _time(seconds: float) -> str | None:
    if not 0 <= seconds < 2**36:  # NaN, or a time outside the range of datetime
        return None
    return datetime.fromtimestamp(float(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S")


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
