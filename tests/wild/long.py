"""The long form of tests/wild: python tests/wild/long.py --loops 10000 [--seed 0] [--stored 0.05] [--out FOLDER]

Composes loops at random and holds each to the three invariants of oracle.py. `--stored` is the share of loops whose
loss is stored and compared with the one by hand, which takes some seconds a loop. A loop that fails is printed as a
recipe: `python tests/wild/long.py --only "Recipe(...)"` repeats it, `--stored 1` with its loss.

Loops are drawn in blocks of 100, each from a seed of its own. A child process takes a few blocks after each other;
FOLDER gets a line for every finished block, so that the same command goes on where it was ended. A child that dies or
hangs is a finding: its exit code is kept with the loop that it was in, and the next child takes the next block.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

BLOCK, BLOCKS_A_CHILD = 100, 5
LONGEST = 300
"""Seconds after which a loop is said to hang."""
WORDS = ("silent", "told", "wrong")


# -- one loop ------------------------------------------------------------------------------------------------
def held(recipe: Any, stored: bool) -> tuple[str, str]:
    """(what came of a loop in a word, the sentence that says what is wrong)."""
    from tests.wild.oracle import judge

    with tempfile.TemporaryDirectory() as folder:
        try:
            verdict = judge(recipe.train, Path(folder) / "run.zarr", store_loss=stored, **recipe.judged)
        except AssertionError as error:
            return "wrong", str(error)
        except Exception:
            return "wrong", traceback.format_exc()
    if not verdict.told:
        return "silent", ""
    if recipe.ordinary and verdict.plain_end:
        return "wrong", f"An ordinary loop was told: {verdict.told}"
    return "told", ""


# -- a child: some blocks ------------------------------------------------------------------------------------
def drawn(one: Callable[[Any, bool], None], stored: bool, count: int, number: int) -> None:
    """`one(recipe, stored)` for so many recipes."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from tests.wild.recipes import recipes

    @seed(number)
    @settings(max_examples=count, phases=[Phase.generate], database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(recipes(stored=stored))
    def each(recipe: Any) -> None:
        one(recipe, stored)

    each()


def take_blocks(options: argparse.Namespace, folder: Path) -> None:
    """Take the blocks start:stop; write a line for each."""
    for number in range(*options.blocks):
        began = time.monotonic()
        counts = {"stored": Counter[str](), "not stored": Counter[str]()}
        wrong: list[str] = []

        def one(recipe: Any, stored: bool, counts: Any = counts, wrong: list[str] = wrong) -> None:
            (folder / "now.txt").write_text(f"{recipe!r}, stored={stored}")
            faulthandler.dump_traceback_later(LONGEST, exit=True)
            word, said = held(recipe, stored)
            faulthandler.cancel_dump_traceback_later()
            counts["stored" if stored else "not stored"][word] += 1
            if word == "wrong":
                wrong.append(f"{recipe!r}, stored={stored}\n    {said}")
                print(f"\n{wrong[-1]}", file=sys.stderr, flush=True)

        for stored in (False, True):
            share = round(BLOCK * (options.stored if stored else 1 - options.stored))
            if share:
                drawn(one, stored, share, (options.seed << 32) + number)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        seconds = round(time.monotonic() - began, 1)
        put_line(folder, {"block": number, **counts, "wrong": wrong, "seconds": seconds, "MB": memory})


def put_line(folder: Path, line: dict[str, Any]) -> None:
    """Add a block to those that are done."""
    with (folder / "blocks.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def lines_of(folder: Path) -> dict[int, dict[str, Any]]:
    """The blocks that are done, by number."""
    file = folder / "blocks.jsonl"
    lines = map(json.loads, file.read_text().splitlines() if file.exists() else [])
    return {line["block"]: line for line in lines}


# -- the parent ------------------------------------------------------------------------------------------------
def compose(options: argparse.Namespace, folder: Path) -> int:
    """Have children take all blocks; print a line of progress and a table."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks, deadline = -(-options.loops // BLOCK), time.monotonic() + 60 * options.minutes
    while time.monotonic() < deadline:
        done = lines_of(folder)
        start = next((n for n in range(blocks) if n not in done), None)
        if start is None:
            break
        stop = next((n for n in range(start, min(blocks, start + BLOCKS_A_CHILD)) if n in done),
                    min(blocks, start + BLOCKS_A_CHILD))  # fmt: skip
        code = take_in_child(options, folder, start, stop)
        done = lines_of(folder)
        died = next((n for n in range(start, stop) if n not in done), None)
        if died is not None:
            recipe = (folder / "now.txt").read_text() if (folder / "now.txt").exists() else "before the first loop"
            put_line(folder, {"block": died, "wrong": [f"{recipe}\n    its process ended with {code}"]})
        done = lines_of(folder)
        loops, wrong = sum(map(loops_of, done.values())), sum(len(line["wrong"]) for line in done.values())
        print(f"{loops} loops, {wrong} wrong, block {max(done)} of {blocks}", file=sys.stderr, flush=True)
    return show(lines_of(folder))


def take_in_child(options: argparse.Namespace, folder: Path, start: int, stop: int) -> int:
    """The exit code of a process that takes the blocks start:stop."""
    command = [sys.executable, "-X", "faulthandler", __file__, "--out", str(folder), "--seed", str(options.seed),
               "--stored", str(options.stored), "--blocks", str(start), str(stop)]  # fmt: skip
    with (folder / "log.txt").open("a") as log:
        return subprocess.run(command, stdout=log, stderr=log, check=False).returncode


def loops_of(line: dict[str, Any]) -> int:
    """The loops of a block that was finished."""
    return sum(sum(line.get(kind, {}).values()) for kind in ("stored", "not stored"))


def show(done: dict[int, dict[str, Any]]) -> int:
    """Print what came of all blocks; the exit code: 1 if a loop failed."""
    print("the loss is     loops    silent      told     wrong")
    for kind in ("not stored", "stored"):
        found = sum((Counter(line.get(kind, {})) for line in done.values()), Counter[str]())
        print(f"{kind:12}" + "".join(f"{n:10}" for n in [found.total(), *(found[word] for word in WORDS)]))
    failed = [text for line in done.values() for text in line["wrong"]]
    for text in failed:
        print(text)
    return int(bool(failed))


def main() -> int:
    """Returns the exit code: 1 if a loop failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stored", type=float, default=0.05)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, help="where progress is kept (left out: in a temporary folder)")
    parser.add_argument("--only", help="a recipe")
    parser.add_argument("--blocks", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        from tests.wild.recipes import Recipe

        word, said = held(eval(options.only, {"Recipe": Recipe}), options.stored == 1)
        print(word, said)
        return int(word == "wrong")
    if options.blocks:
        take_blocks(options, options.out)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return compose(options, options.out or Path(folder))


if __name__ == "__main__":
    sys.exit(main())
