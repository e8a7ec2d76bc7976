"""FaultyStore: a Zarr store in which one operation goes wrong, at a chosen call.

In: any Zarr store, and `Faults`: what goes wrong, and at which call. Out: a store that counts its operations one by
one (a folder is deleted key by key, as a disk does it) and breaks at that one. The store inside stays readable, as it
is after the fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from zarr.storage import WrapperStore

WRITES = ("set", "set_if_not_exists", "delete")
READS = ("get", "exists", "list", "list_prefix", "list_dir")

KINDS = {
    "fails": "the operation is not done and reports an error; all others work",
    "lost": "the operation is done, but its confirmation is lost: it reports an error",
    "torn": "half of a new chunk is written, then an error; what is there already stays",
    "killed": "neither this operation nor any after it is done, as if the process had ended here",
    "hangs": "the operation takes its time, then it is done",
}


def some(numbers: Sequence[int], count: int = 8) -> Sequence[int]:
    """At most so many of them, spread evenly: what everyday tests try."""
    return numbers[:: -(-len(numbers) // count)] if numbers else numbers


class Fault(OSError):
    """The error that is injected."""


class Faults:
    """What goes wrong: a kind of KINDS at call number `at` (from 0) of the operations `among`; "" for nothing."""

    def __init__(self, kind: str = "", at: int = 0, among: Iterable[str] = WRITES, *, metadata_last: bool = True):
        assert not kind or kind in KINDS
        self.kind, self.at, self.among = kind, at, tuple(among)
        self.metadata_last = metadata_last
        self.calls: list[tuple[str, str]] = []
        self.hit = False

    async def meet(self, operation: str, key: str) -> str:
        """The kind of fault that this call meets, "" for none."""
        if self.kind == "killed" and self.hit:
            raise Fault("the process has ended")
        if operation not in self.among:
            return ""
        self.calls.append((operation, key))
        if not self.kind or len(self.calls) != self.at + 1:
            return ""
        self.hit = True
        if self.kind == "hangs":
            await asyncio.sleep(0.03)
            return ""
        if self.kind in ("fails", "killed"):
            raise Fault(f"{operation} {key} failed")
        return self.kind


class FaultyStore(WrapperStore):
    """`store` with `faults`."""

    def __init__(self, store: Any, faults: Faults) -> None:
        super().__init__(store)
        self.faults = faults

    def __str__(self) -> str:
        return "faulty://run.zarr"  # what legends call it, with a fault or without

    def _with_store(self, store: Any) -> FaultyStore:
        return type(self)(store, self.faults)

    async def _write(self, operation: str, key: str, value: Any) -> None:
        met = await self.faults.meet(operation, key)
        if met != "torn":
            await getattr(self._store, operation)(key, value)
        elif not key.endswith("zarr.json") and not await self._store.exists(key):
            await self._store.set(key, value[: len(value) // 2])
        if met:
            raise Fault(f"{operation} {key}: {met}")

    async def set(self, key: str, value: Any) -> None:
        await self._write("set", key, value)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        await self._write("set_if_not_exists", key, value)

    async def _set_many(self, values: Iterable[tuple[str, Any]]) -> None:
        for key, value in values:
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        met = await self.faults.meet("delete", key)
        if met != "torn":
            await self._store.delete(key)
        if met:
            raise Fault(f"delete {key}: {met}")

    async def delete_dir(self, prefix: str) -> None:
        prefix = prefix.rstrip("/")
        keys = sorted([key async for key in self._store.list_prefix(f"{prefix}/" if prefix else "")])
        keys.sort(key=lambda key: key.endswith("zarr.json"), reverse=not self.faults.metadata_last)
        for key in keys:
            await self.delete(key)

    async def clear(self) -> None:
        await self.delete_dir("")

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        await self._read("get", key)
        return await self._store.get(key, prototype, byte_range)

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def _get_many(self, requests: Iterable[tuple[str, Any, Any]]) -> Any:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        await self._read("exists", key)
        return await self._store.exists(key)

    async def list(self) -> AsyncIterator[str]:
        await self._read("list", "")
        async for key in self._store.list():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        await self._read("list_prefix", prefix)
        async for key in self._store.list_prefix(prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        await self._read("list_dir", prefix)
        async for key in self._store.list_dir(prefix):
            yield key

    async def is_empty(self, prefix: str) -> bool:
        await self._read("list_prefix", prefix)
        return await self._store.is_empty(prefix)

    async def _read(self, operation: str, key: str) -> None:
        if await self.faults.meet(operation, key):
            raise Fault(f"{operation} {key} failed")
