"""Every operation that a stored graph may call, called with random hostile arguments in child processes.

    python tests/fuzz/operations.py [--seconds 600] [--sequences] [--seed 0] [--only NAME,NAME]

Arguments begin as those of torch's own samples (`torch.testing`) or as random ones, and one to three of them are
replaced: by tensors of other shapes, types, strides and values (NaN, the least whole number, indices far away), by odd
numbers and lists. A call ends in a value or in an exception; where it ends the process, the call is printed. With
`--sequences` calls take the results of calls before them, 160 in a row. Calls that would take more than 256 MB are
passed over as `rehearse` does it, and a call that takes more than 10 seconds counts as slow.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import mmap
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from landscape_hooks.errors import LandscapeError
from landscape_hooks.objective import rehearsal
from landscape_hooks.objective.graph.operations import ARITHMETIC, resolve
from landscape_hooks.objective.graph.permitted import EMPTY, PERMITTED, check_kinds

DTYPES = [torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64,
          torch.bfloat16, torch.float16, torch.int8]  # fmt: skip
SHAPES = [(), (0,), (1,), (3,), (2, 3), (3, 3), (4, 2), (2, 0, 3), (2, 3, 4), (1, 2, 5, 5), (2, 2, 4, 4, 3)]
NUMBERS = [0, 1, -1, 2, 3, -2, 5, 7, 64, -100, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63), 2**63 - 1]
REALS = [0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, 1e308, float("inf"), float("-inf"), float("nan"), -0.0, 3.7]
LONGEST, MOST_BYTES, SPACE = 10, 2**28, 12 * 2**30
ROW = 160


# -- what is called --------------------------------------------------------------------------------------------------
def operations(only: str) -> dict[str, list[str]]:
    """Names of operations -> the permitted ones of their overloads, as a graph has them."""
    found: dict[str, list[str]] = {}
    for name in only.split(",") if only else [*PERMITTED, *EMPTY]:
        for overload in getattr(torch.ops.aten, name).overloads() if hasattr(torch.ops.aten, name) else ():
            with contextlib.suppress(ValueError):
                resolve(f"aten.{name}.{overload}")
                found.setdefault(name, []).append(f"aten.{name}.{overload}")
    return found if only else {**found, **{op: [op] for op in ARITHMETIC}}


def samples(names: Any, most: int) -> dict[str, list[tuple[Any, Any]]]:
    """Arguments that make sense, of torch's own tests."""
    try:
        from torch.testing._internal.common_methods_invocations import op_db
    except Exception:
        return {}
    found: dict[str, list[tuple[Any, Any]]] = collections.defaultdict(list)
    for info in op_db:
        if info.aten_name not in names or len(found[info.aten_name]) >= 4 * most:
            continue
        for dtype in (torch.float32, torch.int64):
            if dtype not in info.dtypes:
                continue
            with contextlib.suppress(Exception):
                for _, sample in zip(range(most), info.sample_inputs("cpu", dtype), strict=False):
                    found[info.aten_name].append(((sample.input, *sample.args), sample.kwargs))
    return found


# -- hostile values --------------------------------------------------------------------------------------------------
class Hostile:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.pool: list[Tensor] = []

    def tensor(self) -> Tensor:
        r = self.random
        if self.pool and r.random() < 0.7:
            return r.choice(self.pool)
        shape, dtype = r.choice(SHAPES), r.choice(DTYPES[: r.choice([1, 3, len(DTYPES)])])
        return self.values(torch.zeros(shape, dtype=dtype))

    def values(self, like: Tensor) -> Tensor:
        r = self.random
        if like.dtype.is_floating_point or like.dtype.is_complex:
            made = torch.randn(like.shape).to(like.dtype)
        else:
            made = torch.randint(-1, 4, like.shape).to(like.dtype)
        if made.numel() and r.random() < 0.5:
            odd = r.choice(REALS if made.is_floating_point() or made.is_complex() else NUMBERS)
            with contextlib.suppress(Exception):
                made.view(-1)[r.randrange(made.numel())] = odd
        return made

    def changed(self, value: Any) -> Any:
        """Another value of about the same kind."""
        r = self.random
        if isinstance(value, Tensor):
            value = value.detach()
            way = r.randrange(8)
            with contextlib.suppress(Exception):
                if way == 0:
                    return self.values(value)
                if way == 1:
                    return value.to(r.choice(DTYPES))
                if way == 2:
                    return value.transpose(0, -1)
                if way == 3:
                    return value[:0]
                if way == 4:
                    return value.unsqueeze(r.choice([0, -1]))
                if way == 5:
                    return value[0]
                if way == 6:
                    return value.flatten()[:1].expand(value.shape)
            return self.tensor()
        if isinstance(value, bool) or value is None:
            return r.choice([True, False, None])
        if isinstance(value, int):
            return r.choice(NUMBERS)
        if isinstance(value, float):
            return r.choice(REALS)
        if isinstance(value, list | tuple):
            made = [self.changed(v) if r.random() < 0.5 else v for v in value]
            return r.choice([made, made[:-1], [*made, r.choice(NUMBERS)], made * 2])
        return r.choice([None, r.choice(NUMBERS), "sum", "mean", torch.float32, torch.int64])

    def argument(self, kind: str) -> Any:
        r = self.random
        if kind.startswith("Optional"):
            return None if r.random() < 0.5 else self.argument(kind[9:-1])
        if kind.startswith("List"):
            return [self.argument(kind[5:-1]) for _ in range(r.randrange(5))]
        if kind == "Tensor":
            return self.tensor()
        if kind in ("int", "SymInt"):
            return r.choice(NUMBERS[: r.choice([4, 8, len(NUMBERS)])])
        if kind == "float":
            return r.choice(REALS)
        if kind in ("number", "Scalar"):
            return r.choice([*NUMBERS, *REALS, 1j, True])
        if kind == "bool":
            return r.random() < 0.5
        return r.choice([None, "sum", "mean", "bilinear", torch.float32, torch.int64, torch.strided, 0, 6])

    def call(self, ops: list[str], known: list[tuple[Any, Any]]) -> tuple[str, list[Any], dict[str, Any]]:
        r = self.random
        op = r.choice(ops)
        if op in ARITHMETIC:
            pick: Callable[[], Any] = lambda: r.choice([*NUMBERS, *REALS, self.tensor(), [1, 2]])  # noqa: E731
            return op, [pick() for _ in range(r.choice([1, 2, 2, 3]))], {}
        if known and r.random() < 0.8:
            args, kwargs = r.choice(known)
            leaves, spec = tree_flatten((list(args), dict(kwargs)))
            for _ in range(r.choice([0, 1, 1, 2, 3])):
                if leaves:
                    place = r.randrange(len(leaves))
                    leaves[place] = self.changed(leaves[place])
            args, kwargs = tree_unflatten(leaves, spec)
            return op, list(args), {k: self.changed(v) if r.random() < 0.2 else v for k, v in kwargs.items()}
        _, name, overload = op.split(".")
        args, kwargs = [], {}
        for argument in getattr(getattr(torch.ops.aten, name), overload)._schema.arguments:
            if argument.has_default_value() and r.random() < 0.6:
                continue
            value = self.argument(str(argument.type))
            if argument.kwarg_only or len(args) < len(kwargs):
                kwargs[argument.name] = value
            else:
                args.append(value)
        return op, args, kwargs


# -- in a child process ----------------------------------------------------------------------------------------------
def child(seed: int, seconds: float, sequences: bool, only: str, log: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    file = open(log, "r+b")  # noqa: SIM115
    slate = mmap.mmap(file.fileno(), 2**16)
    hostile, chosen = Hostile(seed), operations(only)
    torch.manual_seed(seed)
    known = samples(chosen, 12)
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
    names, until, calls, values = [*chosen], time.monotonic() + seconds, 0, 0
    functions = {op: resolve(op) for ops in chosen.values() for op in ops}
    order = iter(())
    while time.monotonic() < until:
        name = next(order, None)
        if name is None:
            order = iter(hostile.random.sample(names, len(names)))
            continue
        if sequences and calls % ROW == 0:
            hostile.pool = [torch.randn(3, 2), torch.randn(2, 3, 4), torch.arange(6), torch.randn(4, 4)]
        op, args, kwargs = hostile.call(chosen[name], known.get(name, []))
        calls += 1
        note = f"{calls} {values} {op} {shown(args)} {shown(kwargs)}".encode()[: 2**16 - 1]
        slate[: len(note) + 1] = note + b"\0"
        with contextlib.suppress(Exception):
            check_kinds(op, args, kwargs, None)
            signal.alarm(LONGEST)
            if too_large(functions[op], args, kwargs):
                continue
            out = functions[op](
                *[a.clone() if isinstance(a, Tensor) and name.endswith("_") else a for a in args], **kwargs
            )
            values += 1
            if sequences:
                hostile.pool += [t for t in tree_flatten(out)[0] if isinstance(t, Tensor) and t.numel() < 10**5]
                hostile.pool = hostile.pool[-40:]
        signal.alarm(0)
    slate[:40] = f"{calls} {values} done".ljust(39).encode() + b"\0"


def too_large(function: Any, args: Any, kwargs: Any) -> bool:
    """As `rehearse`: whether the call asks for too much, found by shapes alone."""
    away = tree_map(lambda v: v.to("meta") if isinstance(v, Tensor) else v, (args, kwargs))
    try:
        with torch.no_grad(), rehearsal._Allocations(MOST_BYTES):
            function(*away[0], **away[1])
    except rehearsal._TooLarge:
        return True
    except (Exception, LandscapeError):
        return False
    return False


def shown(value: Any) -> str:
    if isinstance(value, Tensor):
        values = value.detach().flatten()[:12].tolist() if value.layout is torch.strided else "?"
        return f"T({tuple(value.shape)},{str(value.dtype)[6:]},{value.stride()},{values})"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {shown(v)}" for k, v in value.items()) + "}"
    return repr(value)


# -- the children ----------------------------------------------------------------------------------------------------
def scan(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each child: calls, those that gave a value, and the call that ended it."""
    until, seed = time.monotonic() + options.seconds, options.seed
    while (left := until - time.monotonic()) > 5:
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(2**16)
            command = [
                sys.executable,
                __file__,
                "--child",
                str(seed),
                "--seconds",
                str(min(left, 120)),
                "--log",
                file.name,
            ]
            command += ["--only", options.only] if options.only else []
            command += ["--sequences"] if options.sequences else []
            ended = subprocess.run(command, capture_output=True, text=True)
            note = Path(file.name).read_bytes().partition(b"\0")[0].decode(errors="replace")
        calls, values, *call = note.split(" ", 2) if note else ("0", "0")
        yield {"seed": seed, "calls": int(calls), "values": int(values), "status": ended.returncode,
               "call": "" if not ended.returncode else (call or [ended.stderr[-300:]])[0]}  # fmt: skip
        seed += 1


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--sequences", action="store_true")
    options.add_argument("--only", default="")
    options.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options.add_argument("--log", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child is not None:
        return child(given.child, given.seconds, given.sequences, given.only, given.log)
    total: collections.Counter[str] = collections.Counter()
    for row in scan(given):
        slow = row["status"] == -signal.SIGALRM
        total.update(calls=row["calls"], values=row["values"], slow=slow, ends=bool(row["status"]) and not slow)
        if row["status"]:
            print(json.dumps(row), flush=True)
    print(json.dumps(total), flush=True)
    return sys.exit(1 if total["ends"] else 0)


if __name__ == "__main__":
    main()
