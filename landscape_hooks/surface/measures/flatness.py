"""Flatness: how flat the end of a run lies, in the measures that papers report, as the run stores them.

In: the attributes of the group `flatness` of a run. Out: a table. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import zarr

from landscape_hooks.errors import SurfaceError, printable
from landscape_hooks.store import checked
from landscape_hooks.store.run import RunLike, open_run, remove_group, writes
from landscape_hooks.surface.digits import text_of, with_error

GROUP = "flatness"
TEXTS = ("name", "definition", "source", "said")


@dataclass(frozen=True)
class Measured:
    """One measure of flatness.

    Attributes
    ----------
    name
        "lambda_max", "trace", "sam", "asam" or "radius".
    value, error
        NaN where there is none; what the error is, the definition says.
    definition, source
        what is measured, in a sentence, and who defined it.
    said
        what is to be said of this value; often nothing.
    """

    name: str
    value: float
    error: float
    definition: str
    source: str
    said: str = ""

    @property
    def text(self) -> str:
        """Value and error, as a table has them."""
        return with_error(self.value, self.error)


@dataclass(frozen=True)
class Flatness:
    """The flatness of one snapshot, the last finite one of a run.

    Attributes
    ----------
    step, loss
        of the snapshot.
    rows
        the measures.
    attrs
        what defines them, as JSON.
    """

    step: int
    loss: float
    rows: tuple[Measured, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Measured:
        """The measure of a name.

        Raises
        ------
        KeyError
            there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @classmethod
    def open(cls, store_or_path: RunLike) -> Flatness:
        """Read the flatness of a run.

        Raises
        ------
        RunError
            the store is not a run.
        SurfaceError
            it has none.
        """
        found = read(open_run(store_or_path))
        if found is None:
            raise SurfaceError("The run has no flatness", mend="Compute it: landscape-hooks analyze RUN --flatness")
        return found

    def lines(self) -> list[str]:
        """The table: each value with its definition, and the source beneath."""
        found = [f"Flatness at step {self.step} (loss {text_of(self.loss)}):"]
        width = max((len(row.name) for row in self.rows), default=0)
        values = max((len(row.text) for row in self.rows), default=0)
        for row in self.rows:
            found.append(f"  {row.name:<{width}}  {row.text:<{values}}  {row.definition}")
            found += [f"  {'':<{width + values + 2}}  {words}" for words in (row.source, row.said) if words]
        return found

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON; NaN and inf are texts, as attributes of a run spell them."""
        rows = [
            {"value": checked.spell(row.value), "error": checked.spell(row.error)}
            | {key: getattr(row, key) for key in TEXTS}
            for row in self.rows
        ]
        return {"step": self.step, "loss": checked.spell(self.loss), "rows": rows, **self.attrs}


def read(root: zarr.Group) -> Flatness | None:
    """The flatness of an opened run; None where there is none.

    Raises
    ------
    DamagedRunError
        it is not what the format says.
    """
    group = checked.group(root, GROUP)
    if group is None or group.attrs.get("complete") is not True:
        return None
    attrs = dict(group.attrs)
    listed = attrs.pop("rows", None)
    if not isinstance(listed, list) or len(listed) > 100:
        raise checked.damaged("The flatness of the run has no rows", expected="a list")
    return Flatness(
        checked.whole(attrs.pop("step", None), "The step of the flatness"),
        checked.number(attrs.pop("loss", None), "The loss of the flatness"),
        tuple(_row(entry) for entry in listed),
        attrs,
    )


def _row(entry: object) -> Measured:
    found = entry if isinstance(entry, dict) else {}
    texts = {key: printable(found.get(key, "")) for key in TEXTS}
    numbers = [checked.number(found.get(key), f"The {key} of a measure of flatness") for key in ("value", "error")]
    return Measured(value=numbers[0], error=numbers[1], **texts)


@checked.guard(GROUP)
@writes
def put(root: zarr.Group, step: int, loss: float, rows: Sequence[Measured], attrs: Mapping[str, Any]) -> None:
    """Store a flatness in place of the one that is there."""
    remove_group(root, GROUP)
    found = Flatness(step, loss, tuple(rows), attrs)
    root.require_group(GROUP).update_attributes({**found.to_json(), "complete": True})
