"""The long form of tests/wild: python tests/wild/long.py --loops 10000 [--seed 0] [--stored 0.05] [--minutes 30]

Composes loops at random and holds each to the three invariants of oracle.py. `--stored` is the share of loops whose
loss is stored and compared with the one by hand, which takes some seconds a loop. A loop that fails is printed as a
recipe: `python tests/wild/long.py --only "Recipe(...)"` repeats it, `--stored 1` with its loss.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.wild.oracle import judge
from tests.wild.recipes import Recipe, recipes


def held(recipe: Recipe, stored: bool) -> tuple[str, str]:
    """(what came of a loop in a word, the sentence that says what is wrong)."""
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


def main() -> int:
    """Returns the exit code: 1 if a loop failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stored", type=float, default=0.05)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--only", help="a recipe")
    options = parser.parse_args()
    if options.only:
        word, said = held(eval(options.only, {"Recipe": Recipe}), options.stored == 1)
        print(word, said)
        return int(word == "wrong")
    return compose(options)


def _drawn(one: Callable[[Recipe, bool], None], stored: bool, count: int, number: int) -> None:
    """`one(recipe, stored)` for so many recipes."""

    @seed(number)
    @settings(max_examples=count, phases=[Phase.generate], database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(recipes(stored=stored))
    def each(recipe: Recipe) -> None:
        one(recipe, stored)

    each()


def compose(options: argparse.Namespace) -> int:
    """Composes loops until there are enough; prints a line of progress and a table."""
    began = time.monotonic()
    counts: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    failed: list[str] = []

    def one(recipe: Recipe, stored: bool) -> None:
        if time.monotonic() - began > 60 * options.minutes:
            return
        word, said = held(recipe, stored)
        counts[stored][word] += 1
        if word == "wrong":
            failed.append(f"{recipe!r}, stored={stored}\n    {said}")
            print(f"\n{failed[-1]}", file=sys.stderr, flush=True)
        done = sum(map(Counter.total, counts.values()))
        print(f"\r{done} loops, {len(failed)} wrong, {time.monotonic() - began:.0f} s", end="", file=sys.stderr)

    block = 100
    for number in range(-(-options.loops // block)):
        for stored in (False, True):
            share = round(block * (options.stored if stored else 1 - options.stored))
            if share and time.monotonic() - began < 60 * options.minutes:
                _drawn(one, stored, share, (options.seed << 32) + number)
    print("\nthe loss is     loops    silent      told     wrong")
    for stored, found in counts.items():
        row = [found.total(), *(found[word] for word in ("silent", "told", "wrong"))]
        print(f"{'stored' if stored else 'not stored':12}" + "".join(f"{n:10}" for n in row))
    for text in failed:
        print(text)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
