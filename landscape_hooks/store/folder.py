"""Folder: a local run. Files are replaced as a whole, and every key stays inside the folder."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import stat
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

from landscape_hooks.errors import RunError

WHOLE: Any = {"write_empty_chunks": True}
"""Configuration of arrays that also write chunks of nothing but fill values."""


SMALL = 2**18
"""Size in bytes up to which a file is read and written at once, without handing it to another thread."""

METADATA_BYTES = 2**25
"""Largest metadata document, in bytes: JSON takes some twenty times its size in memory."""


Bytes = bytes | bytearray | memoryview | NDArray[np.uint8]

HOLES_FROM = 2**28
"""Size in bytes from which a file must occupy space on the disk, and not consist of holes."""


class RunFolder(LocalStore):
    """A local run. Links that lead out of the run, pipes and devices are refused, not followed.

    An archive of unknown origin may contain such links. The run's folder itself may be a link.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._sound: set[str] = set()

    def check(self, key: str) -> None:
        """Check every part of a key's path. Folders that were found sound are not checked again."""
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

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As LocalStore does."""
        self.check(key)
        return super().get_sync(key, prototype=prototype, byte_range=byte_range)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As LocalStore does, a small file without another thread: that costs more than the file."""
        self.check(key)
        if self._is_small(key):
            return super().get_sync(key, prototype=prototype, byte_range=byte_range)
        return await super().get(key, prototype, byte_range)

    def _is_small(self, key: str) -> bool:
        try:
            return os.stat(self.root / key).st_size <= SMALL
        except OSError:
            return True

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """As LocalStore does."""
        wanted = list(key_ranges)
        for key, _ in wanted:
            self.check(key)
        return await super().get_partial_values(prototype, wanted)

    async def exists(self, key: str) -> bool:
        """As LocalStore does."""
        self.check(key)
        return (self.root / key).is_file()

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """As LocalStore does."""
        self.check(prefix)
        return super().list_dir(prefix)

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """As LocalStore does."""
        self.check(prefix)
        return super().list_prefix(prefix)

    def set_sync(self, key: str, value: Buffer) -> None:
        """As LocalStore does."""
        self.check(key)
        with _said_how_full(self.root / key, len(value)):
            super().set_sync(key, value)

    async def _set(self, key: str, value: Buffer, exclusive: bool = False) -> None:
        self.check(key)
        with _said_how_full(self.root / key, len(value)):
            if exclusive or not isinstance(value, Buffer) or len(value) > SMALL:
                await super()._set(key, value, exclusive)
            else:
                super().set_sync(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """As LocalStore does, which starts a thread to find that a group is there already."""
        if not await self.exists(key):
            await super().set_if_not_exists(key, value)

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


class DurableStore(RunFolder):
    """A local folder that has each file on the disk (fsync) before the next one is begun.

    zarr's LocalStore survives the end of the process; this store also survives a loss of power.
    """

    async def _set(self, key: str, value: Buffer, exclusive: bool = False) -> None:
        if not self._is_open:
            await self._open()
        self._check_writable()
        self.check(key)
        if exclusive and (self.root / key).exists():
            # zarr's set_if_not_exists relies on this: creating an array must not reset its parents' attributes
            raise FileExistsError(self.root / key)
        await asyncio.to_thread(_replace, self.root / key, value.as_buffer_like(), fsync=True)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write the file; it and every new folder are on the disk when this returns."""
        self.check(key)
        _replace(self.root / key, value.as_buffer_like(), fsync=True)


@contextlib.contextmanager
def _said_how_full(path: Path, size: int) -> Iterator[None]:
    """Add the free space to the error if the disk is full while `size` bytes are written to `path`.

    Quotas are not queried: every file system has another way to do that.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        folder = next(folder for folder in path.parents if folder.exists())
        found = f"{size:,} bytes were to be written, {shutil.disk_usage(folder).free:,} are free"
        raise OSError(error.errno, f"{os.strerror(errno.ENOSPC)}: {found}", str(path)) from error


def _replace(path: Path, data: Bytes, *, fsync: bool = False) -> None:
    """Write a file under a temporary name, and rename it over the one that may be there."""
    with _said_how_full(path, len(data)):
        _put_in_place(path, data, fsync)


def _put_in_place(path: Path, data: Bytes, fsync: bool) -> None:
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


def _overwrite(path: Path, data: Bytes, fresh: slice) -> bool:
    """Write the bytes `fresh` into the existing file; False if there is no file of this length.

    This uses the blocks on the disk and the cached pages of the file, so it is several times as fast as replacing it.
    """
    try:
        with open(path, "r+b", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != len(data):
                return False
            file.seek(fresh.start)
            with _said_how_full(path, len(data[fresh])):
                _write(file, data[fresh])
            return True
    except FileNotFoundError:
        return False


def _write(file: RawIOBase, data: Bytes) -> None:
    rest = memoryview(data)  # type: ignore[arg-type]  # numpy has no __buffer__ before Python 3.12
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


def check_there(store: Store) -> None:
    """Refuse to write into a local run whose folder was removed: zarr would create it again, empty.

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
        the bytes that no commit record counts yet; if the file exists, the others are in it already. These bytes may be
        written in place, and need not appear at once. None: a reader has to see the old file or the new one.
    """

    key: str
    data: NDArray[np.uint8]
    fresh: slice | None = None


def put_files(store: Store, puts: Sequence[Put]) -> None:
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
    # a store in memory keeps the array that it gets, also through a wrapper, and the caller will reuse that array
    keeps = not isinstance(store, FsspecStore)
    values = [(put.key, buffer.from_array_like(put.data.copy() if keeps else put.data)) for put in puts]

    async def put_all() -> None:
        await asyncio.gather(*(store.set(key, value) for key, value in values))

    sync(put_all())
