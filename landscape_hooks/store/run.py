"""A run's Zarr store: create it, open it, say clearly why something is not one. No torch here."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from landscape_hooks.errors import LandscapeError, RunError
from landscape_hooks.store import schema
from landscape_hooks.store.schema import FORMAT
from landscape_hooks.version import __version__

KEY = "landscape_hooks"
WHOLE: Any = {"write_empty_chunks": True}
"""How arrays are opened whose chunks of nothing but fill values are to be files, too."""

P = ParamSpec("P")
R = TypeVar("R")


def writes(function: Callable[P, R]) -> Callable[P, R]:
    """What a store refuses to take (a full or read-only disk, a lost connection) is a RunError, not an OSError."""

    @functools.wraps(function)
    def explained(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and "read-only" not in str(error):  # how zarr says it
                raise
            raise RunError(
                f"The run cannot be written ({type(error).__name__}: {error})",
                mend="Make room or get the right to write there, and do the same again: what was committed is intact",
            ) from error

    return explained


@writes
def create_run(store: Any, attributes: dict[str, Any] | None = None, *, finished: bool = True) -> Any:
    """Create an empty run at a path, URL or Zarr store; whatever lies there must have been cleared before.

    With `finished=False` it is marked as being created until `finish_creation`: a process that is killed in
    between leaves something that nobody takes for a run.
    """
    mark = {"format": FORMAT, "version": __version__, **({} if finished else {"creating": True})}
    return zarr.create_group(_address(store), zarr_format=3, attributes={KEY: mark, **(attributes or {})})


@writes
def finish_creation(root: Any) -> None:
    """From here on it is a run."""
    root.attrs[KEY] = {key: value for key, value in root.attrs[KEY].items() if key != "creating"}


def open_run(store: Any, *, mode: Any = "r", creating: bool = False) -> Any:
    """Open the run at a path, URL, Zarr store or already opened group; `creating` takes one that is not finished, too.

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
    except Exception as error:  # whatever zarr makes of metadata that anybody may have written
        if mode != "r" and isinstance(error, ValueError) and "read-only" in str(error):  # how zarr says it
            raise RunError(f"{store} cannot be written: it was opened read-only", mend="Open it for writing") from error
        missing = isinstance(address, str) and "://" not in address and not Path(address).exists()
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


def prepare(store: Any, if_exists: str) -> bool:
    """Make way for a run: True if there is one to go on with, False if the place is free (now).

    Raises
    ------
    RunError
        there is a run and `if_exists` is "error", or there is something that is not a run, which is never deleted.
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


def check_no_run(store: Any) -> None:
    """Refuse a place where there is a run.

    Raises
    ------
    RunError
        there is one.
    """
    try:
        open_run(store)
    except RunError:
        return
    raise RunError(
        f"There is a run at {store} already",
        mend='Choose another path, or pass if_exists="resume" (go on with it) or if_exists="overwrite" (delete it)',
    )


def _is_free(store: Any) -> bool:
    """Whether nothing is there, or only what a process left that was killed while it created a run."""
    address = _address(store)
    if is_local(address):
        path = Path(address)
        if not path.exists() or (path.is_dir() and all(p.suffix == ".partial" for p in path.iterdir())):
            return True
    try:
        mark = zarr.open_group(_inside(address, read_only=True), mode="r", zarr_format=3).attrs.get(KEY)
    except (FileNotFoundError, KeyError):
        return not is_local(address)
    except Exception:  # something else, which open_run calls by its name
        return False
    if isinstance(mark, dict) and mark.get("creating"):
        clear(store)
        return True
    return False


def free_bytes(store: Any) -> int | None:
    """Space left on the disk that a local run lies (or is going to lie) on; None for other stores."""
    address = _address(store)
    if not is_local(address):
        return None
    folder = next(p for p in (Path(address).absolute(), *Path(address).absolute().parents) if p.exists())
    return shutil.disk_usage(folder).free


def is_local(address: Any) -> bool:
    """Whether an address is a path of this machine."""
    return isinstance(address, str) and "://" not in address


def local_folder(store: Any) -> Path | None:
    """The folder of a run of this machine; None for other stores."""
    address = _address(store)
    if isinstance(address, LocalStore):
        return address.root
    return Path(address) if is_local(address) else None


@writes
def clear(store: Any) -> None:
    """Delete the run at a path, URL or Zarr store; of a local one an empty folder stays, which may be locked.

    First it ceases to be a run, and the record of that goes last: what an interruption leaves is taken for no run, and
    is in nobody's way.
    """
    root = zarr.open_group(_address(store), mode="a", zarr_format=3)
    target = root.store
    root.attrs[KEY] = {"format": FORMAT, "creating": True}

    async def delete() -> None:
        # FsspecStore.clear stops half-way at a folder whose last file it has just removed
        await asyncio.gather(*[target.delete(key) async for key in target.list() if key != "zarr.json"])
        await target.delete("zarr.json")

    if isinstance(target, LocalStore):
        # what makes it a run goes last: deleting may be interrupted, and then begun again
        for path in sorted(target.root.iterdir(), key=lambda path: path.name == "zarr.json"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    else:
        sync(target.clear() if isinstance(target, MemoryStore) else delete())


@writes
def remove_group(root: Any, path: str) -> None:
    """Delete a group of a run. First it ceases to count: what an interruption leaves is taken for nothing whole."""
    if path in root:
        root[path].attrs.put({})
        del root[path]


def put_array(root: Any, path: str, values: Any) -> None:
    """Create the array `path` of a run as the table says, in one chunk. It is there at once, and with all its values:
    the document that makes the chunk one of an array is written last.
    """
    aside = zarr.create_group(MemoryStore(), zarr_format=3)
    schema.create(aside, path, values.shape, chunks=tuple(max(1, n) for n in values.shape), config=WHOLE)[...] = values
    root.require_group(path.rpartition("/")[0])

    async def copy() -> None:
        keys = [key async for key in aside.store.list_prefix(f"{path}/")]
        for key in sorted(keys, key=lambda key: key.endswith("zarr.json")):
            await root.store.set(
                f"{root.path}/{key}".lstrip("/"), await aside.store.get(key, default_buffer_prototype())
            )

    sync(copy())


def remove_partial(store: Any) -> None:
    """Remove what a killed writer left of files it had not finished (they were never part of the run)."""
    address = _address(store)
    if is_local(address):
        for path in Path(address).rglob("*.partial"):
            # an analysis may be at work, and its files on their way
            if path.relative_to(address).parts[0] not in ("surfaces", "gram"):
                path.unlink(missing_ok=True)


METADATA_BYTES = 2**25
"""A metadata document may be this large: JSON takes some twenty times its size in memory."""

HOLES_FROM = 2**28
"""A file of at least this size has to be on the disk, not consist of holes."""


class RunFolder(LocalStore):
    """A local run, out of which no key leads: links to other places, pipes and devices are refused, not followed.

    An archive from a stranger may hold such links. Where the run itself lies may be a link.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._sound: set[str] = set()

    def check(self, key: str) -> None:
        """Look at every step of a key's path; folders that were sound once are not looked at again."""
        path = str(self.root)
        for part in key.split("/"):
            if part == "..":
                raise RunError(f"Found the key '{key}' in a run", expected="a path inside of it")
            path = os.path.join(path, part)
            if path not in self._sound and not self._is_sound(path):
                return  # nothing there

    def _is_sound(self, path: str) -> bool:
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                real, home = os.path.realpath(path), os.path.realpath(self.root)
                if os.path.commonpath([real, home]) != home:
                    raise RunError(
                        f"{path} is a link that leads out of the run, to {real}",
                        expected="a run that holds its own files",
                        mend="If you trust it, copy it with what its links lead to: cp -rL RUN COPY",
                    )
                status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if stat.S_ISDIR(status.st_mode):
            self._sound.add(path)
            return True
        if not stat.S_ISREG(status.st_mode):
            raise RunError(f"{path} is neither a file nor a folder", expected="a run of plain files")
        size, held = status.st_size, getattr(status, "st_blocks", status.st_size) * 512
        if (path.endswith("zarr.json") and size > METADATA_BYTES) or (size > HOLES_FROM and held < size // 64):
            raise RunError(f"{path} says that it has {size} bytes", expected="a file of the size of its content")
        return True

    def get_sync(self, key: str, **options: Any) -> Any:
        """As LocalStore does."""
        self.check(key)
        return super().get_sync(key, **options)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """As LocalStore does."""
        self.check(key)
        return await super().get(key, prototype, byte_range)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        """As LocalStore does."""
        wanted = list(key_ranges)
        for key, _ in wanted:
            self.check(key)
        return await super().get_partial_values(prototype, wanted)

    async def exists(self, key: str) -> bool:
        """As LocalStore does."""
        self.check(key)
        return await super().exists(key)

    def list_dir(self, prefix: str) -> Any:
        """As LocalStore does."""
        self.check(prefix)
        return super().list_dir(prefix)

    def list_prefix(self, prefix: str) -> Any:
        """As LocalStore does."""
        self.check(prefix)
        return super().list_prefix(prefix)

    def set_sync(self, key: str, value: Any) -> None:
        """As LocalStore does."""
        self.check(key)
        super().set_sync(key, value)

    async def _set(self, key: str, value: Any, exclusive: bool = False) -> None:
        self.check(key)
        await super()._set(key, value, exclusive)

    def delete_sync(self, key: str) -> None:
        """As LocalStore does."""
        self.check(key)
        super().delete_sync(key)

    async def delete(self, key: str) -> None:
        """As LocalStore does."""
        self.check(key)
        await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """As LocalStore does."""
        self.check(prefix)
        await super().delete_dir(prefix)


def _inside(address: Any, *, read_only: bool = False) -> Any:
    """A local path as a store that does not lead out of it; anything else as it is."""
    return RunFolder(address, read_only=read_only) if is_local(address) else address


class DurableStore(RunFolder):
    """A local folder whose files are on the disk, not only on their way there, before the next one is begun.

    zarr's own LocalStore survives a kill of the process; this one survives a loss of power, too.
    """

    async def _set(self, key: str, value: Any, exclusive: bool = False) -> None:
        if not self._is_open:
            await self._open()
        self._check_writable()
        self.check(key)
        if exclusive and (self.root / key).exists():
            # what zarr's set_if_not_exists counts on: creating an array must not reset its parents' attributes
            raise FileExistsError(self.root / key)
        await asyncio.to_thread(_replace, self.root / key, value.as_buffer_like(), fsync=True)

    def set_sync(self, key: str, value: Any) -> None:
        """The file and every folder made for it are on the disk when this returns."""
        self.check(key)
        _replace(self.root / key, value.as_buffer_like(), fsync=True)


def _replace(path: Path, data: Any, *, fsync: bool = False) -> None:
    """Write a file that appears at once, in place of the one that may be there."""
    partial = f"{path}.{os.urandom(8).hex()}.partial"
    try:
        if not path.parent.exists():
            _make_folder(path.parent, fsync)
        with open(partial, "xb", buffering=0) as file:
            _write(file, data)
            if fsync:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    if fsync:
        _sync_folder(path.parent)


def _overwrite(path: Path, data: Any, fresh: slice) -> bool:
    """Write the bytes `fresh` of a file into the file where it lies; False if there is none of this length.

    Neither other files' places on the disk nor other pages of memory are taken, which makes it several times
    as fast as replacing the file.
    """
    try:
        with open(path, "r+b", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != len(data):
                return False
            file.seek(fresh.start)
            _write(file, data[fresh])
            return True
    except FileNotFoundError:
        return False


def _write(file: Any, data: Any) -> None:
    rest = memoryview(data)
    while len(rest):  # the kernel takes at most 2 GiB at a time
        rest = rest[file.write(rest) :]


def _make_folder(path: Path, fsync: bool) -> None:
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in made if fsync else ():
        _sync_folder(folder.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def durable(store: Any) -> Any:
    """The local folder `store` as a `DurableStore`.

    Raises
    ------
    LandscapeError
        it is not a local folder.
    """
    if not is_local(_address(store)):
        raise LandscapeError(
            f'Found durability="fsync" for {store}',
            expected="a folder of this machine",
            mend="Leave it out: object stores keep what they have confirmed",
        )
    return DurableStore(Path(store))


def check_there(store: Any) -> None:
    """Refuse to write into a local run whose folder was removed; zarr would make it anew, without what it held.

    Raises
    ------
    RunError
        the folder is gone.
    """
    if isinstance(store, LocalStore) and not (store.root / "zarr.json").exists():
        raise RunError(f"The run's folder {store.root} is gone", expected="it to stay while it is written")


@dataclass(frozen=True)
class Put:
    """A file for a store.

    Attributes
    ----------
    key
        its name in the store.
    data
        (bytes,) the whole content.
    fresh
        the bytes that nobody counts on yet; the others lie in the store already, if the file does. They may be written
        without the rest, and need not appear at once. None: a reader has to see the old file or the new one.
    """

    key: str
    data: NDArray[np.uint8]
    fresh: slice | None = None


def put_files(store: Any, puts: Sequence[Put]) -> None:
    """Put files into an opened Zarr store."""
    if isinstance(store, LocalStore):
        fsync = isinstance(store, DurableStore)
        for put in puts:
            if isinstance(store, RunFolder):
                store.check(put.key)
            path = store.root / put.key
            if fsync or put.fresh is None or not _overwrite(path, put.data, put.fresh):
                _replace(path, put.data, fsync=fsync)
        return
    buffer = default_buffer_prototype().buffer
    # what a store in memory is given it keeps, also through a wrapper; the caller's array will be written again
    keeps = not isinstance(store, FsspecStore)
    values = [(put.key, buffer.from_array_like(put.data.copy() if keeps else put.data)) for put in puts]

    async def put_all() -> None:
        await asyncio.gather(*(store.set(key, value) for key, value in values))

    sync(put_all())


def put_attribute(group: Any, key: str, value: Any) -> None:
    """Set one attribute of an opened group, as `group.attrs[key] = value` does, without its detour."""
    group.metadata.attributes[key] = value
    ((name, content),) = group.metadata.to_buffer_dict(default_buffer_prototype()).items()
    put_files(group.store, [Put(f"{group.path}/{name}".lstrip("/"), content.as_numpy_array())])


def label_of(store: Any) -> str:
    """What a legend calls a run: its folder's name without `.zarr`."""
    if isinstance(store, zarr.Group):
        store = store.store_path
    return str(store).rstrip("/").rpartition("/")[2].removesuffix(".zarr")


def _address(store: Any) -> Any:
    if store == "":  # which zarr would take for the working directory
        raise RunError(
            "The run's path is empty",
            expected="a folder or a URL",
            mend="Check the variable that it comes from; '.' is the working directory",
        )
    return str(store) if isinstance(store, os.PathLike) else store
