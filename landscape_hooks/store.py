"""A run's Zarr store: create it, open it, say clearly why something is not one. No torch here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import zarr

from landscape_hooks.errors import RunError
from landscape_hooks.schema import FORMAT
from landscape_hooks.version import __version__

KEY = "landscape_hooks"


def create_run(store: Any, attributes: dict[str, Any] | None = None) -> Any:
    """Create an empty run at a path, URL or Zarr store; whatever lies there must have been cleared before."""
    root = zarr.create_group(_address(store), zarr_format=3)
    root.attrs.put({KEY: {"format": FORMAT, "version": __version__}, **(attributes or {})})
    return root


def open_run(store: Any, *, mode: Any = "r") -> Any:
    """Open the run at a path, URL, Zarr store or already opened group.

    Raises
    ------
    RunError
        nothing is there, it is no run, or its format is newer than this version reads.
    """
    if isinstance(store, zarr.Group):
        return store
    address = _address(store)
    try:
        root = zarr.open_group(address, mode=mode, zarr_format=3)
        mark = root.attrs.get(KEY)
    except (FileNotFoundError, NotADirectoryError, KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
        missing = isinstance(address, str) and "://" not in address and not Path(address).exists()
        raise RunError(
            f"There is nothing at {store}" if missing else f"{store} is not a run ({type(error).__name__}: {error})",
            expected="a folder that landscape_hooks.record wrote (a Zarr group)",
            mend="Check the path, or record a run first",
        ) from error
    if not isinstance(mark, dict) or not isinstance(mark.get("format"), int):
        raise RunError(
            f"{store} is a Zarr group, but not a run",
            expected=f"the attribute '{KEY}' with the number of the format",
            mend="Point at the folder that landscape_hooks.record wrote",
        )
    if mark["format"] > FORMAT:
        raise RunError(
            f"{store} has format {mark['format']}",
            expected=f"a format up to {FORMAT}",
            mend="Upgrade: pip install -U landscape-hooks",
        )
    return root


def _address(store: Any) -> Any:
    return str(store) if isinstance(store, Path) else store
