"""Matching: which tensor of a checkpoint is which of a model, by name, whatever wrapped the model when it was saved.

In: names that a model has, and names in a checkpoint. Out: one for the other. Wrappers put prefixes before names
(`module.`, `_orig_mod.`, `model.`, ...), which are taken off (or put on) where that finds more tensors. PEFT leaves the
adapter's name out of its files (`lora_A.weight` is `lora_A.default.weight` of the model) and calls what it wraps
`base_layer`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from landscape_hooks.trajectory.checkpoints.checkpoint import is_average

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_flat_param")
"""Parts of names that are no user's."""

OUTER = ("module.", "model.", "_forward_module.")
"""Prefixes that are taken off where every name has them and no model says better."""

_ADAPTED = re.compile(
    r"(lora|ia3|hada|lokr|loha|oft|boft|vera|adalora|hra|vblora|fourierft|randlora|shira|c3a|bone|miss|road)_\w+"
    r"|modules_to_save|trainable_tokens_\w+"
)
"""Parts of PEFT's names, after which the adapter's name follows."""

PROBES = 16


@dataclass(frozen=True)
class Match:
    """Names of a model's tensors and those of a checkpoint.

    Attributes
    ----------
    names
        name in the checkpoint, by name in the model.
    missing
        names of the model that the checkpoint lacks.
    unexpected
        names of the checkpoint that the model lacks.
    prefixes
        what the names in the checkpoint begin with besides; of several, nothing says which one is meant.
    """

    names: Mapping[str, str]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ("",)


def match(wanted: Sequence[tuple[str, ...]], have: Iterable[str]) -> Match:
    """Find a model's tensors (each a name and its aliases) among the names of a checkpoint."""
    plain = _without_wrappers(have)
    adapters = _adapters(wanted)
    spelled = [_spellings(names, adapters) for names in wanted]
    tried = {prefix: _matched(spelled, plain, prefix) for prefix in ("", *_prefixes(spelled, plain))}
    own = {prefix: found for prefix, found in tried.items() if found and not is_average(prefix)} or tried
    most = max(len(found) for found in own.values())
    best = [prefix for prefix, found in own.items() if len(found) == most]
    if "" in best:
        best = [""]
    found = tried[best[0]]
    used = set(found.values())  # and further names of tensors that are tied in the model
    used |= {plain[name] for place in found for each in spelled[place] if (name := _prefixed(best[0], each)) in plain}
    return Match(
        names={names[0]: found[place] for place, names in enumerate(wanted) if place in found},
        missing=tuple(names[0] for place, names in enumerate(wanted) if place not in found),
        unexpected=tuple(name for name in plain.values() if name not in used),
        prefixes=tuple(best),
    )


def bare(names: Sequence[str]) -> dict[str, str]:
    """Names of a checkpoint without their wrappers -> as they are saved, where no model says what they are to be."""
    plain = _without_wrappers(names)
    while plain and (prefix := next((p for p in OUTER if all(n.startswith(p) and n != p for n in plain)), None)):
        plain = {name.removeprefix(prefix): saved for name, saved in plain.items()}
    return plain


def _without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Names without the parts that are no user's -> as they are."""
    given = list(names)
    found: dict[str, str] = {}
    for name in given:
        short = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        found[name if not short or short in found else short] = name
    return found


def _matched(spelled: Sequence[Sequence[str]], plain: Mapping[str, str], prefix: str) -> dict[int, str]:
    """Place of each tensor that is found -> its name in the checkpoint; no name serves two tensors."""
    found: dict[int, str] = {}
    used: set[str] = set()

    def look(place: int, spellings: Sequence[str]) -> None:
        for spelling in spellings:
            name = plain.get(_prefixed(prefix, spelling))
            if place not in found and name is not None and name not in used:
                found[place] = name
                used.add(name)

    for place, spellings in enumerate(spelled):
        look(place, spellings[:1])
    # a file of adapters calls a layer that was trained in full as a file of the base calls the layer itself
    for place, spellings in sorted(enumerate(spelled), key=lambda each: _is_base(each[1][0])):
        look(place, spellings[1:])
    return found


def _is_base(name: str) -> bool:
    """Whether PEFT wraps this tensor, or keeps it beside the one that is trained."""
    return not {"base_layer", "original_module"}.isdisjoint(name.split("."))


def _prefixed(prefix: str, name: str) -> str:
    """A model's name as the checkpoint has it: with a prefix, or (`-prefix`) without one that the model has."""
    if prefix.startswith("-"):
        return name.removeprefix(prefix[1:]) if name.startswith(prefix[1:]) else f"\0{name}"
    return prefix + name


def _prefixes(spelled: Sequence[Sequence[str]], plain: Mapping[str, str]) -> list[str]:
    """Prefixes with which some of the longest names are found."""
    found: dict[str, None] = {}
    probes = sorted((each for each in spelled), key=lambda each: -len(each[0]))[:PROBES]
    for spellings in probes:
        for spelling in spellings:
            ending = f".{spelling}"
            found |= dict.fromkeys(name[: -len(spelling)] for name in plain if name.endswith(ending))
            parts = spelling.split(".")
            found |= dict.fromkeys(
                f"-{'.'.join(parts[:cut])}." for cut in range(1, len(parts)) if ".".join(parts[cut:]) in plain
            )
    return list(found)


def _spellings(names: Sequence[str], adapters: frozenset[str]) -> list[str]:
    """How a checkpoint may spell a tensor, the likeliest first."""
    found = list(names)
    for name in names:
        parts = name.split(".")
        if adapters & set(parts):
            short = [part for part in parts if part not in adapters]
            found += [".".join(short), ".".join(part for part in short if part != "modules_to_save")]
            found.append(".".join(short[:-1] if short[-2:] == ["lora_magnitude_vector", "weight"] else short))
        elif _is_base(name):
            found.append(".".join(part for part in parts if part not in ("base_layer", "original_module")))
    return list(dict.fromkeys(found))


def _adapters(wanted: Sequence[tuple[str, ...]]) -> frozenset[str]:
    """Names of a model's adapters: what follows PEFT's own parts of names."""
    found = set()
    for names in wanted:
        parts = names[0].split(".")
        after = (part for before, part in itertools.pairwise(parts) if _ADAPTED.fullmatch(before))
        found |= {part for part in after if part not in ("weight", "bias") and not _ADAPTED.fullmatch(part)}
    return frozenset(found)
