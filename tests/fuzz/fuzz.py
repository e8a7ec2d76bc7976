"""Coverage-guided fuzzing of everything that is read, with atheris (libFuzzer): its branches lead the way.

    pip install atheris
    python tests/fuzz/fuzz.py TARGET [--seconds 60]        one of: ply, graph, view, options, run, or all

Each input ends in a valid result or in a LandscapeError; anything else is a finding: it is printed, and the input that
led to it is kept in the working directory as crash-...; `python tests/fuzz/fuzz.py TARGET --input crash-...` does it
again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
with atheris.instrument_imports(include=["landscape_hooks", "plyfile"]):
    from landscape_hooks.errors import LandscapeError
    from landscape_hooks.export import ply
    from landscape_hooks.objective.graph import graph
    from landscape_hooks.plane import grid
    from landscape_hooks.store import checked
    from landscape_hooks.surface import surface
    from landscape_hooks.trajectory import parameters, sharding, trajectory
    from landscape_hooks.trajectory.rows import commit, part
    from landscape_hooks.viewer.replay import camera
    from landscape_hooks.viewer.replay import landscape as source
    from tests import hostile
    from tests.landscapes import surface as bowl

INSTRUMENTED = (checked, commit, graph, grid, parameters, part, ply, sharding, surface, trajectory, camera, source)


def fuzz_ply(folder: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    file = folder / "f.ply"
    seeds = [path.read_bytes() for path in ply.write_ply(bowl(3, 3), file)]
    seeds.append(b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
                 b"element face 1\nproperty list uchar int vertex_indices\nend_header\n"
                 b"0 0 0\n0 1 0\n1 0 0\n3 0 1 2\n")  # fmt: skip

    def one(data: bytes) -> None:
        file.write_bytes(data)
        source.load(file)

    return one, seeds


def fuzz_graph(folder: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    import torch

    run = hostile.honest(folder / "run.zarr")
    root = hostile.open_run(run)
    text = checked.read(root, "objective/graphs/loss").tobytes()
    layouts = [parameters.ParameterLayout.from_json(root.attrs[key]) for key in ("layout", "buffer_layout")]
    weights = {entry.name: torch.ones(entry.shape, device="meta") for layout in layouts for entry in layout}
    data = [torch.ones(12, 3, device="meta"), torch.ones(12, dtype=torch.int64, device="meta")]

    def one(raw: bytes) -> None:
        read = graph.LossGraph.from_json(raw)
        read.check_inputs(parameters=weights, buffers=weights, constants={}, data=2)
        read(weights, data)  # on shapes alone: numbers would fill the memory

    return one, [text]


def fuzz_view(folder: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    def one(data: bytes) -> None:
        view = camera.Camera.parse(data.decode("utf-8", "surrogateescape"))
        assert camera.Camera.parse(view.text).text == view.text

    return one, [b"az=30,el=20,d=4,at=0:0:1,ortho", b"top", b"iso,fov=40"]


def fuzz_options(folder: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    def one(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        for read in (grid.parse_size, grid.parse_extent):
            try:
                read(text)
            except LandscapeError:
                continue

    return one, [b"25", b"25x40", b"auto", b"-1,1,-2.5,2", b"1e308,2"]


def fuzz_run(folder: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    """A file of a run, chosen by the first byte, has other content; metadata are changed as text."""
    honest = hostile.honest(folder / "honest.zarr")
    names = sorted(str(path.relative_to(honest)) for path in honest.rglob("*") if path.is_file())
    seeds = [bytes([number]) + (honest / name).read_bytes() for number, name in enumerate(names[:256])]
    run = folder / "run.zarr"
    shutil.copytree(honest, run)

    def one(data: bytes) -> None:
        name = names[data[0] % len(names)] if data else names[0]
        try:
            (run / name).write_bytes(data[1:])
            hostile.visit(run, folder, compute=False)
        finally:
            (run / name).write_bytes((honest / name).read_bytes())

    return one, seeds


TARGETS = {"ply": fuzz_ply, "graph": fuzz_graph, "view": fuzz_view, "options": fuzz_options, "run": fuzz_run}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("target", choices=[*TARGETS, "all"])
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--input", help="do one input again")
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.folder is not None:
        fuzz(given.target, given.seconds, given.input, given.folder)
    for name in TARGETS if given.target == "all" else [given.target]:
        command = [sys.executable, __file__, name, "--seconds", str(given.seconds)]
        command += ["--input", given.input] if given.input else []
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:  # libFuzzer ends its process without tidying up
            status = subprocess.run([*command, "--folder", folder]).returncode
        if status:
            sys.exit(status)


def fuzz(target: str, seconds: int, again: str | None, folder: Path) -> None:
    """Hand the process over to libFuzzer, which ends it."""
    one, seeds = TARGETS[target](folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)

    def attempt(data: bytes) -> None:
        with contextlib.suppress(LandscapeError):
            one(data)

    print(json.dumps({"target": target, "seeds": len(seeds), "seconds": seconds}), flush=True)
    limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", f"-max_len={max(map(len, seeds)) * 2}"]
    atheris.Setup([sys.argv[0], *([again] if again else [str(corpus), *limits])], attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
