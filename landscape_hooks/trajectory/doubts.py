"""Doubts: what a run cannot vouch for, and how its recording ended. Attributes of the root group; no torch here.

In: sentences, with the numbers they are about, from a comparison of the run with the training. Out: the same, for
everybody who shows numbers of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import zarr
from zarr.core.common import JSON

from landscape_hooks.errors import printable
from landscape_hooks.store import checked
from landscape_hooks.store.folder import check_there
from landscape_hooks.store.run import put_attribute, writes

State = Literal["recording", "checked", "unchecked"]
"""How a recording ended: it has not, it was compared with the training, or it could not be."""

STATES: tuple[str, ...] = get_args(State)
MOST = 1000
"""Doubts that a reader takes from one run."""

OF_THE_LOSS = "parameters"
"""The kind of doubts about the loss as it is stored once: recording on leaves it as it is."""

_KEY, _CLOSING = "doubts", "closing"


@dataclass(frozen=True)
class Doubt:
    """Something that the run says of the training and that may not be so.

    Attributes
    ----------
    kind
        one word for what is in doubt: `loss`, `last_snapshot`, `steps`, ...
    said
        a sentence for people.
    numbers
        what the sentence is about, by name; NaN and infinities are allowed.
    """

    kind: str
    said: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.said


def read_doubts(root: zarr.Group) -> tuple[Doubt, ...]:
    """What is in doubt about a run, oldest first; empty for runs that were never compared with their training.

    Raises
    ------
    DamagedRunError
        the attribute is not what the format says.
    """
    own = _read_own(root)
    group = checked.group(root, "trajectory")
    ranks = checked.whole(group.attrs.get("ranks", 0), "The number of ranks") if group is not None else 0
    for rank in range(1, ranks):  # each rank of a sharded training has compared its own shards
        shard = checked.group(root, f"ranks/{rank}")
        if shard is None:  # whatever the attribute says: there are no further ones
            break
        own += tuple(doubt for doubt in _read_own(shard) if doubt not in own)
    return own


def _read_own(root: zarr.Group) -> tuple[Doubt, ...]:
    found = root.attrs.get(_KEY, [])
    if not isinstance(found, list) or len(found) > MOST:
        raise checked.damaged(f"The attribute '{_KEY}' of the run is no list of up to {MOST} doubts")
    return tuple(_read_one(entry) for entry in found)


def add_doubt(root: zarr.Group, doubt: Doubt) -> None:
    """Write a doubt into a run. One of the same kind and the same sentence is replaced."""
    others = [known for known in _read_own(checked.fresh(root)) if (known.kind, known.said) != (doubt.kind, doubt.said)]
    _put(root, _KEY, [_to_json(each) for each in (*others[-MOST + 1 :], doubt)])


def drop_doubts(root: zarr.Group, kind: str | None = None) -> None:
    """Take doubts of a kind from a run. Left out: all that a resumed training is compared for anew, so not those about
    the stored loss itself (`OF_THE_LOSS`).
    """
    known = _read_own(checked.fresh(root))
    kept = [doubt for doubt in known if (doubt.kind != kind if kind is not None else doubt.kind == OF_THE_LOSS)]
    if len(kept) < len(known):
        _put(root, _KEY, [_to_json(doubt) for doubt in kept])


def closing_state(root: zarr.Group) -> tuple[State, str]:
    """(state, why it is unchecked) of a run's recording.

    "unchecked" with an empty sentence is what runs of format 1 are, which never were compared with their training.

    Raises
    ------
    DamagedRunError
        the attribute is not what the format says.
    """
    found = root.attrs.get(_CLOSING, {"state": "unchecked"})
    said = found.get("said", "") if isinstance(found, dict) else ""
    if not isinstance(found, dict) or found.get("state") not in STATES or not isinstance(said, str):
        raise checked.damaged(f"The attribute '{_CLOSING}' of the run is not a state and a sentence")
    return found["state"], printable(said)


def set_closing(root: zarr.Group, state: State, said: str = "") -> None:
    """Write how the recording ended; `said` is the sentence why it is unchecked."""
    if state not in STATES:
        raise ValueError(f"{state!r} is none of {', '.join(STATES)}")
    _put(root, _CLOSING, {"state": state, "said": said})


@writes
def _put(root: zarr.Group, key: str, value: JSON) -> None:
    check_there(root.store)
    # an opened group remembers the attributes it was opened with: what was written since has to stay
    root.metadata.attributes.update(checked.fresh(root).attrs)
    put_attribute(root, key, value)


def _to_json(doubt: Doubt) -> dict[str, Any]:
    numbers = {name: checked.spell(value) for name, value in doubt.numbers.items()}
    return {"kind": doubt.kind, "said": doubt.said, "numbers": numbers}


def _read_one(entry: object) -> Doubt:
    found = entry if isinstance(entry, dict) else {}
    kind, said, numbers = found.get("kind"), found.get("said"), found.get("numbers", {})
    if not isinstance(kind, str) or not isinstance(said, str) or not isinstance(numbers, dict) or len(numbers) > MOST:
        raise checked.damaged(
            f"The attribute '{_KEY}' of the run holds something that is no doubt",
            expected="a kind, a sentence and numbers",
        )
    read = {printable(name): checked.number(value, "A number of a doubt") for name, value in numbers.items()}
    return Doubt(printable(kind), printable(said), read)
