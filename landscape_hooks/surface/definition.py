"""Definition: everything that a surface is defined by, as its attributes hold it.

In: what an analysis was asked for and what it found. Out: the attributes of `surfaces/NAME`, and from those of a stored
surface the fields again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from landscape_hooks.errors import SurfaceError, printable
from landscape_hooks.store import checked
from landscape_hooks.trajectory.joined import Joined, Only
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.trajectory import Trajectory

OF_THE_RUN = "of the run"
"""What `objective` and `data` are where both are those that the run carries."""

NOT_DEFINING = ("engine", "last_step", "samples_of", "samples_seed", "samples_said")
"""Fields on which no value of the surface depends: any engine goes on with what another one has
begun, and the digest of the samples says which they are."""


@dataclass(frozen=True)
class Divergence:
    """What was left out of a run whose snapshots are not all finite.

    Attributes
    ----------
    run
        which run, as a legend calls it.
    last_finite_step
        the step of the last snapshot whose weights and loss are finite: the end of the path.
    left_out
        how many snapshots after it were left out.
    first_step
        the step of the first of them; None where there is none.
    what
        what is not finite there: "weights", "buffers" or "loss"; "" where nothing was left out after it.
    holes
        steps before the last finite snapshot that were left out, since their weights (or buffers) are not finite.
    """

    run: str
    last_finite_step: int
    left_out: int
    first_step: int | None
    what: str
    holes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Definition:
    """The attributes of a surface; an attribute is called as the field is.

    Attributes
    ----------
    directions
        "pca", "random", "hessian" or "points".
    direction_attrs
        what else defines the directions, as their file in `plane/directions/` gives it.
    labels
        what the two axes are called.
    normalization, centring
        how long the directions are, and what they were fitted about, in words.
    solver
        of the principal components; "" for other directions.
    line
        whether the surface is a line.
    origin, origin_step
        the snapshot at alpha = beta = 0, in words, and its step.
    snapshots
        which snapshots were chosen (`Snapshots.attrs`).
    divergence
        what was left out of each run that diverged.
    only
        patterns of the tensors that the surface is of; () where it is of all that moves.
    parameters
        names of the tensors of its vectors, in order, where they are not those of the first run's rows.
    last_step
        the last step that the first run had when it was analyzed.
    trajectory_digest
        which snapshots the surface is of (`joined.digest_of`).
    extent, extent_rule
        [a0, a1, b0, b1], and where it is from.
    alignment
        how the hidden units of further runs were reordered, in words, with a digest of the permutations; "" where
        they were not.
    batch_norm
        the BatchNorm policy; "none" for a model without running statistics.
    moving_buffers
        names of the buffers that are no running statistics and change along the path.
    objective, data
        where both come from: OF_THE_RUN, an import string, or "given in the call".
    samples, data_digest
        number and SHA-256 of the probe samples.
    samples_of, samples_seed
        of how many they were drawn, and by which seed; None where they were not drawn.
    samples_said
        why they are so many, where that was chosen.
    seed
        of random directions, and of the Hessian's first vector.
    adaptive
        the relative error that interpolated values may have; None where every point is evaluated.
    engine, device, precision
        where and how the loss was computed.
    versions
        name -> version of what the values depend on.
    """

    directions: str = ""
    direction_attrs: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, str] = ("", "")
    normalization: str = ""
    centring: str = ""
    solver: str = ""
    line: bool = False
    origin: str = ""
    origin_step: int = 0
    snapshots: Mapping[str, Any] = field(default_factory=dict)
    divergence: tuple[Divergence, ...] = ()
    only: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    last_step: int | None = None
    trajectory_digest: str = ""
    extent: tuple[float, ...] = ()
    extent_rule: str = ""
    alignment: str = ""
    batch_norm: str = "none"
    moving_buffers: tuple[str, ...] = ()
    objective: str = OF_THE_RUN
    data: str = OF_THE_RUN
    samples: int = 0
    data_digest: str = ""
    samples_of: int | None = None
    samples_seed: int | None = None
    samples_said: str = ""
    seed: int = 0
    adaptive: float | None = None
    engine: str = ""
    device: str = ""
    precision: str = "float32"
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, attrs: Mapping[str, Any]) -> Definition:
        """That of a stored surface; what is not stored has its default.

        Raises
        ------
        RunError
            what is stored of its divergence is not what the format says.
        """
        known = {name: attrs[name] for name in FIELDS if name in attrs}
        for name in ("last_step", "samples_of", "samples_seed"):
            if type(known.get(name)) not in (int, type(None)):
                raise checked.damaged(f"The attribute '{name}' of the surface is no number", expected="a whole number")
        for name in ("only", "parameters"):
            texts = known.get(name, ())
            if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
                raise checked.damaged(f"The attribute '{name}' of the surface is no list of names")
            known[name] = tuple(texts)
        return cls(**{**known, "divergence": _divergence(known.get("divergence", []))})

    def drawn(self, trajectory: Trajectory) -> Trajectory:
        """The first run with the weights that the surface's vectors are of.

        Raises
        ------
        LandscapeError
            the run does not have them, or not the snapshot that the surface is about.
        """
        if not self.parameters:
            return trajectory
        if not self.only:
            entries = [trajectory.entry(name) for name in self.parameters]
            known = sum(entry.size for entry in entries)
            entries += [entry for entry in trajectory.layout if entry.name not in set(self.parameters)]
            return trajectory.view(ParameterLayout.in_order(entries), known)
        place = [n for n, step in enumerate(trajectory.steps.tolist()) if step == self.origin_step]
        points = self.direction_attrs.get("points")
        elsewhere = isinstance(points, list) and points and isinstance(points[0], dict) and points[0].get("run")
        if not place or elsewhere:
            raise SurfaceError(
                f"The surface is about a snapshot (step {self.origin_step}) that the run does not have",
                mend="Analyze the run again",
            )
        return Joined([trajectory]).only(Only(self.parameters, 0, int(trajectory.places[place[0]]))).runs[0]

    def to_attrs(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def defining(self) -> str:
        """The part on which the values of the surface depend, as text."""
        attrs = {name: value for name, value in self.to_attrs().items() if name not in NOT_DEFINING}
        return json.dumps(attrs, sort_keys=True, default=str)


def _divergence(stored: object) -> tuple[Divergence, ...]:
    """Of what is stored, whatever it is."""
    try:
        if not isinstance(stored, list | tuple):
            raise TypeError
        found = tuple(Divergence(**{**each, "holes": tuple(each["holes"])}) for each in stored)
        numbers = [n for d in found for n in (d.last_finite_step, d.left_out, d.first_step or 0, *d.holes)]
        if not all(type(n) is int for n in numbers) or not all(type(t) is str for d in found for t in (d.run, d.what)):
            raise TypeError
    except (TypeError, KeyError) as error:
        raise checked.damaged("The attribute 'divergence' of the surface is of another form") from error
    return tuple(replace(each, run=printable(each.run), what=printable(each.what)) for each in found)


FIELDS = tuple(each.name for each in fields(Definition))
