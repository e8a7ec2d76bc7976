"""A small language model, with batches that are dictionaries and a loss of its own.

A transformer of two layers learns to continue the documentation strings of Python's own standard library, character by
character. Its batches are {"characters": (N, L), "mask": (N, L)}, so the loss is given as `objective(model, batch)`;
that loss, not a copy of it, is what the surface shows. Input and output embedding are one tensor (tied weights), which
counts once in the trajectory.

    python examples/language_model.py --out runs/language_model
    landscape-hooks view runs/language_model/docstrings.zarr
"""

import argparse
import ast
import random
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from landscape_hooks import analyze, contour_figure, record, write_ply
from landscape_hooks.viewer.offscreen import render

VOCABULARY = 128  # ASCII; 0 begins a text and fills it up
LENGTH = 96

Batch = dict[str, Tensor]


def docstrings() -> Iterator[str]:
    """The documentation strings of the modules, classes and functions of the standard library, module by module."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    random.Random(0).shuffle(files)
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield text


def texts(count: int) -> list[Batch]:
    """The beginnings of `count` documentation strings, mixed."""
    found = list(islice((text[:LENGTH] for text in docstrings() if text.isascii() and len(text) > 20), count))
    random.Random(0).shuffle(found)
    characters = [torch.tensor(list(text.encode())) for text in found]
    filled = [F.pad(text, (0, LENGTH - len(text))) for text in characters]
    return [{"characters": text, "mask": (text > 0).float()} for text in filled]


class LanguageModel(nn.Module):
    """A decoder of causal transformer layers: characters (N, L) in, logits (N, L, VOCABULARY) of the next ones out."""

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.position = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.head.weight = self.embedding.weight
        self.register_buffer("causal", torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, characters: Tensor) -> Tensor:
        features = self.embedding(characters) + self.position
        for layer in self.layers:
            features = layer(features, src_mask=self.causal)
        return self.head(self.norm(features))


def objective(model: nn.Module, batch: Batch) -> Tensor:
    """(N,) each text's cross-entropy a character given those before it, in nats; the filling does not count."""
    before = F.pad(batch["characters"], (1, 0))[:, :-1]
    losses = F.cross_entropy(model(before).transpose(1, 2), batch["characters"], reduction="none")
    return (losses * batch["mask"]).sum(dim=1) / batch["mask"].sum(dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/language_model"), help="where to write (%(default)s)")
    parser.add_argument("--texts", type=int, default=2000, help="documentation strings to learn from (%(default)s)")
    parser.add_argument("--epochs", type=int, default=4, help="passes over them (%(default)s)")
    parser.add_argument("--samples", type=int, default=64, help="texts on which the loss is drawn (%(default)s)")
    parser.add_argument("--size", type=int, default=25, help="points along each axis of the surface (%(default)s)")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    data = texts(arguments.texts)
    loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    probe = DataLoader(data, batch_size=32)
    model = LanguageModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    store = arguments.out / "docstrings.zarr"

    with record(
        model, optimizer, store, objective=objective, data=probe, samples=arguments.samples, keep=60
    ) as recorder:
        for epoch in range(arguments.epochs):
            for batch in loader:
                optimizer.zero_grad()
                loss = objective(model, batch).mean()
                loss.backward()
                recorder.log(loss=loss, epoch=epoch)
                optimizer.step()
            print(f"epoch {epoch + 1}: {loss.item():.3f} nats a character", flush=True)

    surface = analyze(store, size=arguments.size)
    print(*surface.attrs["report"], sep="\n")
    stem = arguments.out / "docstrings"
    write_ply(surface, stem.with_suffix(".ply"))
    contour_figure(surface).savefig(f"{stem}_contours.png")
    render(surface, stem.with_suffix(".png"))


if __name__ == "__main__":
    main()
