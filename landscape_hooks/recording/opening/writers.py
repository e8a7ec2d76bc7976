"""Writers: a trajectory created for a model, or opened again and compared with it.

In: an Order, and the group to write into. Out: a `TrajectoryWriter`; what goes on fits what is there.
"""

from __future__ import annotations

from dataclasses import replace

import zarr

from landscape_hooks.errors import RunError, warn_of_recording
from landscape_hooks.recording.opening.order import Order
from landscape_hooks.recording.opening.sorting import in_packed_layers, integers_to_store, to_store
from landscape_hooks.recording.watch.fixed import FixedTensors
from landscape_hooks.store import checked
from landscape_hooks.store.lock import RunLock
from landscape_hooks.store.run import RunLike, check_no_run, format_of, put_attribute, writes
from landscape_hooks.trajectory.doubts import drop_doubts, set_closing
from landscape_hooks.trajectory.modules import unwrap
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.rows.fixed import Fixed
from landscape_hooks.trajectory.rows.late import read_late
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.trajectory.writer import TrajectoryWriter


@writes
def locked(store: RunLike, if_exists: str) -> RunLock:
    if if_exists == "error":
        check_no_run(store)  # the plainer thing to say, where both are true
    return RunLock.take(store)


def begin(root: zarr.Group, order: Order) -> None:
    """The run is being recorded: it will be compared with the training (anew, if it is resumed) when that ends.

    What it says of the optimizers holds for all its steps: where it goes on with others, they have no common rule.

    Where that cannot be written it is said, and the training goes on.
    """
    try:
        drop_doubts(root)
        set_closing(root, "recording")
        known, own = root.attrs.get("optimizers"), order.attributes["optimizers"]
        if known is not None and known != own:
            put_attribute(root, "optimizers", [{"name": "different optimizers one after the other", "rule": "other"}])
    except RunError as error:
        warn_of_recording(f"The run could not be marked as one that is being recorded. {error}")


def watched(order: Order, still: ParameterLayout, stored: Fixed, resumed: bool) -> FixedTensors | None:
    """The parameters that stand still, watched; None where all are recorded."""
    if not still:
        return None
    joins = not order.parameters.patterns
    return FixedTensors(unwrap(order.model), still, stored, resumed=resumed, joins=joins)


def watched_beside(order: Order, stored: Fixed, resumed: bool) -> tuple[FixedTensors | None, FixedTensors | None]:
    """The buffers that stand still, and the tensors of integers, watched; None where there are none."""
    inner = unwrap(order.model)
    buffers = integers = None
    if order.still_buffers:
        whole = set(order.still_buffers.names) - in_packed_layers(inner)
        buffers = FixedTensors(inner, order.still_buffers, stored, resumed=resumed, whole=whole)
    if stored.others:
        integers = FixedTensors(inner, stored.others, stored, resumed=resumed, joins=False)
    return buffers, integers


def create_trajectory(
    root: zarr.Group,
    order: Order,
    layout: ParameterLayout,
    buffers: ParameterLayout,
    still: ParameterLayout,
    others: ParameterLayout,
) -> TrajectoryWriter:
    """The layouts are those of what this process writes; the type is that of the whole model."""
    return TrajectoryWriter.create(
        root,
        layout,
        buffers,
        groups=order.groups,
        slots=order.plan.limit or 0,
        dtype=order.dtype,
        compress=order.storage.compress,
        checksum=order.storage.checksum,
        fixed=to_store(unwrap(order.model), still),
        others=integers_to_store(unwrap(order.model), others),
        fixed_buffers=to_store(unwrap(order.model), order.still_buffers),
        reference=order.parameters.frozen == "reference",
    )


def reopen(root: zarr.Group, order: Order) -> TrajectoryWriter:
    writer, slots = TrajectoryWriter(root), order.plan.limit or 0
    dtype = order.dtype if order.format >= 2 else order.storage.dtype or order.layout.dtype
    if writer.slots != slots:
        raise RunError(
            f"The run keeps {writer.slots or 'every snapshot'}, this recorder {slots or 'every snapshot'}",
            expected="the same schedule when resuming",
            mend="Pass the same every=, keep= or schedule= as before",
        )
    if writer.dtypes[0] != dtype:
        raise RunError(
            f"The run stores weights as {writer.dtypes[0]}, this recorder would as {dtype}",
            mend="Pass the dtype of the run (storage=Storage(dtype=...)), and the model as it was",
        )
    if order.storage.checksum and not writer.has_checksums:
        raise RunError(
            "The run has no checksums, this recorder would store them",
            mend="Leave checksum= out to go on with the run, or record into another one",
        )
    return writer


def as_in(root: zarr.Group, order: Order) -> Order:
    """The order for going on with a run: what moved in it goes on being recorded, what stood still is watched on.

    Raises
    ------
    LayoutError
        the model has other parameters or buffers.
    """
    order = replace(order, format=format_of(root))
    if not checked.has(root, "fixed"):
        _check_same(root, order)
        return order
    trajectory, fixed = Trajectory(root), Fixed(root)
    moving, still = trajectory.layout, trajectory.fixed_layout
    ParameterLayout.in_order([*moving, *still]).check_set(order.layout)
    trajectory.buffer_layout.check(order.buffers)
    if order.parameters.patterns:
        _check_patterns(order, moving)
    return replace(order, layout=moving, still=still, others=fixed.others, still_buffers=_still_buffers(root, fixed))


def _still_buffers(root: zarr.Group, fixed: Fixed) -> ParameterLayout:
    """The buffers of a run that are stored once and have not begun to move."""
    joined = {e.name for late in read_late(checked.group(root, "trajectory"), fixed) for e in late.layout}
    return fixed.buffers.picked([entry for entry in fixed.buffers if entry.name not in joined])


def _check_patterns(order: Order, moving: ParameterLayout) -> None:
    """What was asked for is what the run records."""
    wanted = set(order.sorted_out().layout.names)
    other = sorted(wanted.symmetric_difference(moving.names))
    if other:
        verb = "does not record" if other[0] in wanted else "records"
        raise RunError(
            f"The run {verb} '{other[0]}', this recorder {'would' if other[0] in wanted else 'would not'}",
            expected="the same parameters when resuming",
            mend="Pass the same parameters= as before",
        )


def _check_same(root: zarr.Group, order: Order) -> None:
    for key, mine, kind in (("layout", order.layout, "parameter"), ("buffer_layout", order.buffers, "buffer")):
        ParameterLayout.from_json(checked.attribute(root, key, list, "the run"), kind=kind).check(mine)
