"""Colours: heights to RGB by matplotlib's colour maps, for the PLY writer, the viewer and the figures."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError
from landscape_hooks.mesh.backend import load_matplotlib
from landscape_hooks.mesh.mesh import Mesh

PATHS = ("#ff5a36", "#22c7f0", "#f7c531", "#d45cf5", "#57d977", "#ff8fb3", "#a5adff", "#c9a37a")
"""Colours of the paths, first run first; they stand out against the colour maps."""


HYPSOMETRIC = ("#16325c", "#23679a", "#3fa0a5", "#6fbf85", "#b5d17c", "#ecdf9a", "#d6a765", "#a86a42", "#6f3f33")
"""Hypsometric tints, from low to high, as in an atlas."""

VIRIDIS = bytes.fromhex(
    "44015444025544035745055845065a45085b46095c460b5e460c5f460e61470f6247116347126547146647156747166947186a48196b"
    "481a6c481c6e481d6f481e70482071482172482273482374472575472676472777472878472a79472b7a472c7b462d7c462f7c46307d"
    "46317e45327f45347f453580453681443781443982433a83433b83433c84423d84423e854240854141864142864043874044873f4587"
    "3f47883e48883e49893d4a893d4b893d4c893c4d8a3c4e8a3b508a3b518a3a528b3a538b39548b39558b38568b38578c37588c37598c"
    "365a8c365b8c355c8c355d8c345e8d345f8d33608d33618d32628d32638d31648d31658d31668d30678d30688d2f698d2f6a8d2e6b8e"
    "2e6c8e2e6d8e2d6e8e2d6f8e2c708e2c718e2c728e2b738e2b748e2a758e2a768e2a778e29788e29798e287a8e287a8e287b8e277c8e"
    "277d8e277e8e267f8e26808e26818e25828e25838d24848d24858d24868d23878d23888d23898d22898d228a8d228b8d218c8d218d8c"
    "218e8c208f8c20908c20918c1f928c1f938b1f948b1f958b1f968b1e978a1e988a1e998a1e998a1e9a891e9b891e9c891e9d881e9e88"
    "1e9f881ea0871fa1871fa2861fa38620a48520a58521a68521a78422a78423a88323a98224aa8225ab8126ac8127ad8028ae7f29af7f"
    "2ab07e2bb17d2cb17d2eb27c2fb37b30b47a32b57a33b67935b77836b87738b97639b9763bba753dbb743ebc7340bd7242be7144be70"
    "45bf6f47c06e49c16d4bc26c4dc26b4fc36951c46853c56755c66657c66559c7645bc8625ec96160c96062ca5f64cb5d67cc5c69cc5b"
    "6bcd596dce5870ce5672cf5574d05477d05279d1517cd24f7ed24e81d34c83d34b86d44988d5478bd5468dd64490d64392d74195d73f"
    "97d83e9ad83c9dd93a9fd938a2da37a5da35a7db33aadb32addc30afdc2eb2dd2cb5dd2bb7dd29bade27bdde26bfdf24c2df22c5df21"
    "c7e01fcae01ecde01dcfe11cd2e11bd4e11ad7e219dae218dce218dfe318e1e318e4e318e7e419e9e419ece41aeee51bf1e51cf3e51e"
    "f6e61ff8e621fae622fde724"
)
"""matplotlib's colour map of that name, (256, 3): a picture in the default colours does not import matplotlib, which
takes a quarter of a second."""


@lru_cache(maxsize=32)
def table(name: str) -> NDArray[np.uint8]:
    """(256, 3) the colours of matplotlib's colour map `name`, or the hypsometric tints, lowest first.

    Raises
    ------
    LandscapeError
        there is no such colour map.
    """
    if name == "hypsometric":
        tints = np.array([rgb(tint) for tint in HYPSOMETRIC]) * 255
        place = np.linspace(0, len(tints) - 1, 256)
        return np.stack([np.interp(place, np.arange(len(tints)), tints[:, k]) for k in range(3)], 1).astype(np.uint8)
    if name == "viridis":
        return np.frombuffer(VIRIDIS, dtype=np.uint8).reshape(256, 3)
    load_matplotlib()
    from matplotlib import colormaps

    if not is_known(name):
        raise LandscapeError(
            f"Found the colour map '{name}'", expected="a name that matplotlib knows, such as viridis or magma"
        )
    return np.asarray(colormaps[name](np.arange(256), bytes=True)[:, :3])


def is_known(name: str) -> bool:
    """Whether `table` has the colour map `name`."""
    if name in ("hypsometric", "viridis"):
        return True
    load_matplotlib()
    from matplotlib import colormaps

    return name in colormaps


def of_mesh(mesh: Mesh, name: str = "viridis") -> NDArray[np.uint8]:
    """(V, 3) the colour of every vertex by its height; the map spans the bounds of the height."""
    low, high = mesh.height.bounds
    share = (mesh.vertices[:, 2] - low) / (high - low) if high > low else np.zeros(len(mesh.vertices))
    return table(name)[np.clip(share * 256, 0, 255).astype(np.intp)]


def rgb(text: str) -> tuple[float, float, float]:
    """(r, g, b) in 0 … 1 of "#rrggbb"."""
    red, green, blue = (int(text[k : k + 2], 16) / 255 for k in (1, 3, 5))
    return red, green, blue


def path_color(number: int) -> str:
    """The colour "#rrggbb" of run `number`."""
    return PATHS[number % len(PATHS)]
