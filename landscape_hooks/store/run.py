"""Run: creates, opens and deletes a run's Zarr store. Errors say why something is no run. Imports no torch."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeGuard, TypeVar

import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.common import JSON, AccessModeLiteral
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, StoreLike

from landscape_hooks.errors import LandscapeError, RunError, printable
from landscape_hooks.store import schema
from landscape_hooks.store.folder import WHOLE, DurableStore, Put, RunFolder, put_files
from landscape_hooks.store.schema import FORMAT
from landscape_hooks.version import __version__

KEY = "landscape_hooks"

RunLike = StoreLike | os.PathLike[str] | zarr.Group
"""What names a run: a path, a URL, a Zarr store, or its opened group."""

P = ParamSpec("P")
R = TypeVar("R")


def writes(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: a failed write (a full or read-only disk, a lost connection) is a RunError, not an OSError."""

    @functools.wraps(function)
    def explained(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and "read-only" not in str(error):  # how zarr says it
                raise
            raise RunError(
                f"The run cannot be written ({type(error).__name__}: {error})",
                mend="Free space, or get the right to write there, and run it again. What was committed is intact",
            ) from error

    return explained


@writes
def create_run(store: RunLike, attributes: dict[str, Any] | None = None, *, finished: bool = True) -> zarr.Group:
    """Create an empty run at a path, URL or Zarr store, which must be empty.

    With `finished=False` it is marked as being created until `finish_creation`. A process that is killed in between
    leaves an incomplete store, which `open_run` refuses and `prepare` removes.
    """
    mark = {"format": FORMAT, "version": __version__, **({} if finished else {"creating": True})}
    return zarr.create_group(_address(store), zarr_format=3, attributes={KEY: mark, **(attributes or {})})


@writes
def finish_creation(root: zarr.Group) -> None:
    """Remove the mark that a run is being created."""
    mark: Any = root.attrs[KEY]
    root.attrs[KEY] = {key: value for key, value in mark.items() if key != "creating"}


def open_run(store: RunLike, *, mode: AccessModeLiteral = "r", creating: bool = False) -> zarr.Group:
    """Open the run at a path, URL, Zarr store or opened group; `creating` also accepts one that is being created.

    Raises
    ------
    RunError
        nothing is there, it is no run, or its format is newer than this version reads.
    """
    if isinstance(store, zarr.Group):
        return store
    address = _address(store)
    try:
        # read-only first: opening for writing would create a folder where there is none
        root = zarr.open_group(_inside(address, read_only=True), mode="r", zarr_format=3)
        mark = root.attrs.get(KEY)
        if mode != "r" and isinstance(mark, dict):
            root = zarr.open_group(_inside(address), mode=mode, zarr_format=3)
    except LandscapeError:
        raise
    except Exception as error:  # any error that zarr raises for metadata of unknown origin
        # zarr's frames hold the error, the error its frames, and these their callers, with a model and its optimizers
        traceback.clear_frames(error.__traceback__)
        if mode != "r" and isinstance(error, ValueError) and "read-only" in str(error):  # how zarr says it
            raise RunError(f"{store} cannot be written: it was opened read-only", mend="Open it for writing") from error
        missing = isinstance(address, str) and "://" not in address and not _holds_anything(Path(address))
        raise RunError(
            f"There is nothing at {store}" if missing else f"{store} is not a run ({type(error).__name__}: {error})",
            expected="a folder that landscape_hooks.record wrote (a Zarr group)",
            mend="Check the path, or record a run first",
        ) from error
    if not isinstance(mark, dict) or type(mark.get("format")) is not int or mark["format"] < 1:
        raise RunError(
            f"{store} is a Zarr group, but not a run",
            expected=f"the attribute '{KEY}' with the number of the format",
            mend="Point at the folder that landscape_hooks.record wrote",
        )
    if mark.get("creating") and not creating:
        raise RunError(
            f"{store} is a run that is being created, or whose creation was interrupted",
            mend="Wait for record() to return, or record again (nothing was recorded here yet)",
        )
    if mark["format"] > FORMAT:
        raise RunError(
            f"{store} has format {mark['format']}",
            expected=f"a format up to {FORMAT}",
            mend="Upgrade: pip install -U landscape-hooks",
        )
    return root


def format_of(root: zarr.Group) -> int:
    """Version of the on-disk format of an opened run."""
    mark: Any = root.attrs[KEY]
    return int(mark["format"])


def prepare(store: RunLike, if_exists: str) -> bool:
    """Prepare a place for a run: True if there is a run to resume, False if the place is empty (now).

    Raises
    ------
    RunError
        there is a run and `if_exists` is "error", or there is something else, which is never deleted.
    """
    if _is_free(store):
        remove_partial(store)
        return False
    open_run(store)
    if if_exists == "error":
        check_no_run(store)
    if if_exists == "overwrite":
        clear(store)
        return False
    remove_partial(store)
    return True


def check_no_run(store: RunLike) -> None:
    """Refuse a place that holds a run.

    Raises
    ------
    RunError
        there is a run.
    """
    try:
        open_run(store)
    except RunError:
        return
    raise RunError(
        f"There is a run at {store} already",
        mend='Choose another path, or pass if_exists="resume" (go on with it) or if_exists="overwrite" (delete it)',
    )


def _is_free(store: RunLike) -> bool:
    """Whether nothing is there, or an incomplete store of a process that was killed while it created a run."""
    address = _address(store)
    if is_local(address):
        path = Path(address)
        if not path.exists() or (path.is_dir() and all(p.suffix == ".partial" for p in path.iterdir())):
            return True
    try:
        mark = zarr.open_group(_inside(address, read_only=True), mode="r", zarr_format=3).attrs.get(KEY)
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        # something else where it is neither; open_run says what
        return isinstance(error, FileNotFoundError | KeyError) and not is_local(address)
    if isinstance(mark, dict) and mark.get("creating"):
        clear(store)
        return True
    return False


def free_bytes(store: RunLike) -> int | None:
    """Free bytes on the disk of a local run, which need not exist yet; None for other stores."""
    address = _address(store)
    if not is_local(address):
        return None
    folder = next(p for p in (Path(address).absolute(), *Path(address).absolute().parents) if p.exists())
    return shutil.disk_usage(folder).free


def named(store: RunLike) -> str:
    """A run as a message calls it: a local path as seen from the working directory, a URL, or the store in words."""
    folder = local_folder(store)
    if folder is None:
        return store if isinstance(store, str) else str(store)
    full = os.path.abspath(folder)
    try:
        short = os.path.relpath(full)
    except (OSError, ValueError):  # the working directory is gone, or on another drive
        return full
    return full if short.startswith(os.pardir) else short


def size_of(store: RunLike) -> int | None:
    """Bytes of the files of a local run; None for other stores, and where they cannot be counted."""
    folder, total, waiting = local_folder(store), 0, []
    if folder is None:
        return None
    try:
        waiting = [str(folder)]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        return None
    return total


def is_local(address: object) -> TypeGuard[str]:
    """Whether an address is a path of this machine."""
    return isinstance(address, str) and "://" not in address


def local_folder(store: RunLike) -> Path | None:
    """The folder of a run of this machine; None for other stores."""
    address = _address(store)
    if isinstance(address, LocalStore):
        return address.root
    return Path(address) if is_local(address) else None


@writes
def clear(store: RunLike) -> None:
    """Delete the run at a path, URL or Zarr store. Of a local run an empty folder stays, which may be locked.

    The run is first marked as incomplete, and the file with that mark is deleted last. So an interrupted deletion
    leaves an incomplete store, which `record` may reuse.
    """
    root = zarr.open_group(_address(store), mode="a", zarr_format=3)
    target = root.store
    root.attrs[KEY] = {"format": FORMAT, "creating": True}

    async def delete() -> None:
        # FsspecStore.clear stops at a folder whose last file it has just removed
        await asyncio.gather(*[target.delete(key) async for key in target.list() if key != "zarr.json"])
        await target.delete("zarr.json")

    if isinstance(target, LocalStore):
        # zarr.json last: an interrupted deletion can be started again
        for path in sorted(target.root.iterdir(), key=lambda path: path.name == "zarr.json"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    else:
        sync(target.clear() if isinstance(target, MemoryStore) else delete())


@writes
def remove_group(root: zarr.Group, path: str) -> None:
    """Delete a group of a run. Its attributes go first, so that an interrupted deletion leaves no complete group."""
    if path in root:
        root[path].attrs.put({})
        del root[path]


def _holds_anything(path: Path) -> bool:
    """Whether there is a file, or a folder that is not empty: record() creates the folder before what is in it."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def put_array(root: zarr.Group, path: str, values: NDArray[Any]) -> None:
    """Create the array `path` of a run as the table says, in one chunk.

    The array appears with all its values, because its metadata are written last.
    """
    aside = zarr.create_group(MemoryStore(), zarr_format=3)
    chunks = tuple(max(1, n) for n in values.shape)
    schema.create(aside, path, values.shape, at="values", chunks=chunks, config=WHOLE)[...] = values
    root.require_group(path.rpartition("/")[0])

    async def copy() -> None:
        keys = [key async for key in aside.store.list_prefix("values/")]
        for key in sorted(keys, key=lambda key: key.endswith("zarr.json")):
            content = await aside.store.get(key, default_buffer_prototype())
            assert content is not None
            await root.store.set(f"{root.path}/{path}{key.removeprefix('values')}".lstrip("/"), content)

    sync(copy())


def remove_partial(store: RunLike) -> None:
    """Remove the unfinished files of a killed writer; they were never part of the run."""
    address = _address(store)
    if is_local(address):
        for path in Path(address).rglob("*.partial"):
            # an analysis may be writing these
            if path.relative_to(address).parts[0] not in ("surfaces", "gram", "curvature"):
                path.unlink(missing_ok=True)


def _inside(address: StoreLike, *, read_only: bool = False) -> StoreLike:
    """A local path as a RunFolder, whose keys stay inside it; anything else unchanged."""
    return RunFolder(address, read_only=read_only) if is_local(address) else address


def durable_store(store: RunLike) -> DurableStore:
    """The local folder `store` as a `DurableStore`.

    Raises
    ------
    LandscapeError
        it is not a local folder.
    """
    address = _address(store)
    if not is_local(address):
        raise LandscapeError(
            f'Found durability="fsync" for {store}',
            expected="a folder of this machine",
            mend="Leave it out: object stores keep what they have confirmed",
        )
    return DurableStore(Path(address))


def put_attribute(group: zarr.Group, key: str, value: JSON) -> None:
    """Set one attribute of an opened group. `group.attrs[key] = value` does the same, but slower."""
    group.metadata.attributes[key] = value
    ((name, content),) = group.metadata.to_buffer_dict(default_buffer_prototype()).items()
    put_files(group.store, [Put(f"{group.path}/{name}".lstrip("/"), content.as_numpy_array())])


def label_of(store: RunLike) -> str:
    """The name of a run in a legend: its folder's name without `.zarr`."""
    if isinstance(store, zarr.Group):
        store = store.store_path
    return printable(str(store).rstrip("/").rpartition("/")[2].removesuffix(".zarr"))


def absolute(store: RunLike) -> RunLike:
    """The same place, a local path in full: the working directory may change before it is used again."""
    address = _address(store)
    return os.path.abspath(address) if is_local(address) else store


def _address(store: RunLike) -> Any:
    if store == "":  # zarr would use the working directory
        raise RunError(
            "The run's path is empty",
            expected="a folder or a URL",
            mend="Check the variable that it comes from; '.' is the working directory",
        )
    return str(store) if isinstance(store, os.PathLike) else store
