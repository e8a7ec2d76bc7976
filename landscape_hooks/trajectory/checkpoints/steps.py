"""Steps of checkpoints: said by the user, by the checkpoints themselves, or by their names.

In: names, and what the files say. Out: one step a checkpoint, all of them told in the same way, so that they can be
compared with one another.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from typing import Any

from landscape_hooks.errors import CheckpointError, printable
from landscape_hooks.trajectory.checkpoints.checkpoint import Facts

_NUMBER = r"(\d+)([kKmM]?)(?![\d.]*\d)(?![A-Za-z])"
_WORDS = (
    re.compile(rf"(?<![a-z])(?:global[_-]?)?(?:steps?|iterations?|iters?|it|updates?|batch)[\s=_.-]*{_NUMBER}", re.I),
    re.compile(rf"(?<![a-z])(?:epochs?|ep|e)[\s=_.-]*{_NUMBER}", re.I),
    re.compile(rf"(?<![a-z])(?:checkpoints?|ckpts?|chkpts?|cp|snapshots?)[\s=_.-]*{_NUMBER}", re.I),
)
"""Numbers after a word for what is counted, the most telling first."""

_PIECES = re.compile(r"\d+\.\d+|\d+")
_TIMES = {"": 1, "k": 10**3, "m": 10**6}


def steps_of(
    names: Sequence[str], labels: Sequence[Sequence[str]], facts: Sequence[Facts], given: Sequence[Any] | None
) -> list[int]:
    """One step a checkpoint.

    Parameters
    ----------
    names
        what messages call the checkpoints.
    labels
        of each, the names in which a step may be written: of the file, of its folder.
    facts
        what each says itself.
    given
        the steps, if the user says them.

    Raises
    ------
    CheckpointError
        steps are not known of all, or two have the same.
    """
    if given is not None:
        return _distinct(names, _given(names, given))
    for found in _ways(labels, facts):
        if None not in found:
            return _distinct(names, [step for step in found if step is not None])
    if len(names) == 1:
        return [0]
    known = max(_ways(labels, facts), key=lambda found: len(names) - found.count(None))
    lacking = [name for name, step in zip(names, known, strict=True) if step is None]
    raise CheckpointError(
        f"Nothing says of which step {_listed(lacking)} {'is' if len(lacking) == 1 else 'are'}",
        expected="a step in every checkpoint (global_step, step, epoch), or a number in every name",
        mend="Say them, in the order of the checkpoints: --steps 0,100,200",
    )


def _ways(labels: Sequence[Sequence[str]], facts: Sequence[Facts]) -> list[list[int | None]]:
    """Steps as each way of telling them has it; None where it tells nothing."""
    epochs = [int(f.epoch) if math.isfinite(f.epoch) and f.epoch == int(f.epoch) >= 0 else None for f in facts]
    ways: list[list[int | None]] = [[fact.step for fact in facts]]
    depth = max((len(each) for each in labels), default=0)
    columns = [[each[level] if level < len(each) else "" for each in labels] for level in range(depth)]
    by_step = [[_after(_WORDS[0], label) for label in column] for column in columns]
    by_others = [[_after(word, label) for label in column] for word in _WORDS[1:] for column in columns]
    plain = [[_last(column[0])] if len(labels) == 1 else _varying(column) for column in columns]
    return [*ways, *by_step, epochs, *by_others, *plain]


def _after(word: re.Pattern[str], label: str) -> int | None:
    found = list(word.finditer(label))
    return int(found[-1][1]) * _TIMES[found[-1][2].lower()] if found else None


def _last(label: str) -> int | None:
    found = re.search(r"(?:^|[-_.=])(\d+)$", label)
    return int(found[1]) if found else None


def _varying(labels: Sequence[str]) -> list[int | None]:
    """The one number that differs between names that are otherwise alike, or the only number of each name."""
    pieces = [_PIECES.findall(label) for label in labels]
    texts = {tuple(_PIECES.split(label)) for label in labels}
    place = 0
    if len(texts) == 1:
        differing = [i for i in range(len(pieces[0])) if len({own[i] for own in pieces}) > 1]
        if len(differing) != 1:
            return [None] * len(labels)
        place = differing[0]
    return [
        int(own[place]) if (len(texts) == 1 or len(own) == 1) and own[place].isdecimal() else None for own in pieces
    ]


def _given(names: Sequence[str], given: Sequence[Any]) -> list[int]:
    try:
        steps = [operator.index(step) for step in given]
        if any(not 0 <= step < 2**53 for step in steps) or any(isinstance(step, bool) for step in given):
            raise TypeError
    except TypeError as error:
        raise CheckpointError(f"Found the steps {printable(given)}", expected="whole numbers from 0 on") from error
    if len(steps) != len(names):
        raise CheckpointError(f"Found {len(steps)} steps for {len(names)} checkpoints", expected="one for each")
    return steps


def _distinct(names: Sequence[str], steps: list[int]) -> list[int]:
    first: dict[int, str] = {}
    for name, step in zip(names, steps, strict=True):
        if step in first:
            raise CheckpointError(
                f"{first[step]} and {name} are both of step {step}",
                expected="one checkpoint a step",
                mend="Leave one of them out, or say the steps: --steps 0,100,200",
            )
        first[step] = name
    return steps


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
