"""Which models and losses a run can store: one line `record(...)`, and the stored loss against the model's own.

    python benchmarks/coverage.py [--only torchvision,timm] [--every 1] [--limit 120] [--results FILE] [--table]

One model of every family in torchvision (classification, segmentation, detection), timm (the smallest by name of each
of its modules), transformers (tiny configurations of every architecture with one of the heads of HEADS), the layers of
torch_geometric, and the losses of torch. A library that is not installed is passed over. Each model is recorded in a
process of its own:

right   the stored loss is the model's own at the start's weights and at two perturbed ones
told    no loss is stored, and one sentence says so; `way` is whether the way out that it names gives the model's loss
wrong   another number, and nobody was told
failed  an exception, or more than --limit seconds
skipped the library itself cannot make this model or compute its loss here

Rows are appended to --results as lines of JSON, and what is there already is not done again. `--every 3` takes every
third member of each group; `--table` prints the table for docs/coverage.md from the results alone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

F = nn.functional
Case = tuple[nn.Module, Callable[..., Any], Any]
"""A model, objective(model, batch), and a batch."""
OUTCOMES = ("right", "told", "wrong", "failed", "skipped")


class Skipped(Exception):
    """The library cannot make this model, or compute its loss, here."""


# -- torchvision -----------------------------------------------------------------------------------------------------
def torchvision_members() -> Iterator[str]:
    """The smallest model of each of torchvision's modules."""
    from torchvision import models

    found: dict[str, tuple[int, str]] = {}
    for name in models.list_models():
        builder = models.get_model_builder(name)
        if (
            "quantization" in builder.__module__
            or ".video" in builder.__module__
            or "optical_flow" in builder.__module__
        ):
            continue
        size = models.get_model_weights(name).DEFAULT.meta["num_params"]
        key = f"{builder.__module__}.{name if 'detection' in builder.__module__ else ''}"
        found[key] = min(found.get(key, (size, name)), (size, name))
    yield from sorted(name for _, name in found.values())


def torchvision_case(name: str) -> Case:
    from torchvision import models

    module = models.get_model_builder(name).__module__
    if "detection" in module:
        model = models.get_model(name, weights=None, weights_backbone=None, num_classes=3)
        boxes = torch.tensor([[5.0, 5.0, 40.0, 40.0], [10.0, 20.0, 50.0, 60.0]])
        target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": torch.ones(2, 64, 64, dtype=torch.uint8),
                  "keypoints": torch.rand(2, 17, 3) * 40}  # fmt: skip
        return model, detection_loss, ([torch.rand(3, 64, 64)] * 2, [target] * 2)
    if "segmentation" in module:
        model = models.get_model(name, weights=None, weights_backbone=None, num_classes=3)
        return model, lambda m, b: F.cross_entropy(m(b[0])["out"], b[1]), (
            torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64)))  # fmt: skip
    model = models.get_model(name, weights=None, num_classes=3)
    return sized(model, (64, 75, 224))


def detection_loss(model: nn.Module, batch: Any) -> Tensor:
    model.train()
    return sum(model(*batch).values())  # type: ignore[return-value]


def sized(model: nn.Module, sizes: tuple[int, ...]) -> Case:
    """The first size of images that a classifier takes."""
    model.eval()
    for size in sizes:
        batch = torch.randn(2, 3, size, size), torch.tensor([0, 2])
        with contextlib.suppress(Exception), torch.no_grad():
            classify(model, batch)
            return model, classify, batch
    raise Skipped(f"it takes no images of the sizes {sizes}")


def classify(model: nn.Module, batch: Any) -> Tensor:
    out = model(batch[0])
    out = getattr(out, "logits", out[0] if isinstance(out, tuple | list) else out)
    return F.cross_entropy(out, batch[1])


# -- timm ------------------------------------------------------------------------------------------------------------
SMALL = ("atto", "femto", "pico", "zepto", "nano", "test", "050", "035", "xxt", "xxs", "xt", "xs", "tiny", "_t",
         "small", "_s", "lite", "_0", "_b0", "18", "_mini")  # fmt: skip


def timm_members() -> Iterator[str]:
    """Of each module the model whose name says that it is small."""
    import timm

    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            rank = lambda name: (next((i for i, s in enumerate(SMALL) if s in name), len(SMALL)), len(name), name)  # noqa: E731
            yield min(names, key=rank)


def timm_case(name: str) -> Case:
    import timm

    model = timm.create_model(name, pretrained=False, num_classes=3)
    size = model.default_cfg.get("input_size", (3, 224, 224))[-1]
    if sum(p.numel() for p in model.parameters()) > 100_000_000:
        raise Skipped("more than 100 million parameters")
    return sized(model, (64, 128, size) if size > 128 else (size,))


# -- transformers ----------------------------------------------------------------------------------------------------
HEADS = {
    "classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "sequences": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "images": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "audio": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
}
TINY = {
    "vocab_size": 99, "hidden_size": 32, "d_model": 32, "dim": 32, "n_embd": 32, "embed_dim": 32, "embedding_size": 32,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2, "num_attention_heads": 4, "num_heads": 4, "n_head": 4, "n_heads": 4,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "d_kv": 8,
    "intermediate_size": 64, "d_ff": 64, "ffn_dim": 64, "hidden_dim": 64, "n_inner": 64, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "moe_intermediate_size": 32, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok":
    2, "shared_expert_intermediate_size": 32, "max_position_embeddings": 128, "image_size": 32, "patch_size": 8,
    "num_labels": 3, "attention_window": 8, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    "decoder_start_token_id": 0, "max_source_positions": 128, "max_target_positions": 128, "sliding_window": 16,
    "pooler_hidden_size": 32,
}  # fmt: skip


def transformers_members() -> Iterator[str]:
    from transformers.models.auto import modeling_auto

    for head, mapping in HEADS.items():
        seen = set()
        for kind, classes in getattr(modeling_auto, mapping).items():
            one = classes[0] if isinstance(classes, tuple) else classes
            if one not in seen:
                seen.add(one)
                yield f"{head}:{kind}:{one}"


def transformers_case(name: str) -> Case:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    head, kind, one = name.split(":")
    config = tiny(CONFIG_MAPPING[kind]())
    with torch.device("meta"):  # a configuration that stayed large is seen before it takes memory
        shadow = getattr(transformers, one)(config)
    if sum(p.numel() for p in shadow.parameters()) > 20_000_000:
        raise Skipped("its tiny configuration is not tiny")
    model = getattr(transformers, one)(config)
    labels = torch.tensor([0, 2])
    if head == "images":
        size = getattr(config, "image_size", 64)
        batch: dict[str, Tensor] = {"pixel_values": torch.randn(2, getattr(config, "num_channels", 3), size, size)}
    elif head == "audio":
        batch = {model.main_input_name: torch.randn(2, 1600)}
    else:
        batch = {"input_ids": torch.randint(3, 90, (2, 12)), "attention_mask": torch.ones(2, 12, dtype=torch.long)}
        labels = labels if head == "classification" else batch["input_ids"]
    return model, lambda m, b: m(**b).loss, {**batch, "labels": labels}


def tiny(config: Any) -> Any:
    for part in (config, *(v for v in vars(config).values() if hasattr(v, "to_dict"))):
        for key, value in TINY.items():
            if isinstance(getattr(part, key, None), int) and not isinstance(getattr(part, key), bool):
                with contextlib.suppress(Exception):
                    setattr(part, key, value)
        depth = getattr(part, "num_hidden_layers", None)
        types = getattr(part, "layer_types", None)
        if isinstance(types, list) and isinstance(depth, int):
            part.layer_types = [*dict.fromkeys(types), *types][:depth]
    return config


# -- graphs ----------------------------------------------------------------------------------------------------------
CONVOLUTIONS = ("GCNConv", "GATConv", "SAGEConv", "GINConv", "ChebConv", "GraphConv", "TransformerConv", "TAGConv")


def torch_geometric_members() -> Iterator[str]:
    yield from CONVOLUTIONS


def torch_geometric_case(name: str) -> Case:
    from torch_geometric import nn as layers

    kind = getattr(layers, name)
    if name == "GINConv":
        layer = kind(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    else:
        layer = kind(4, 3, **({"K": 2} if name == "ChebConv" else {}))
    edges = torch.randint(0, 16, (2, 40))
    return layer, lambda m, b: F.cross_entropy(m(b[0], b[1]), b[2]), (
        torch.randn(16, 4), edges, torch.randint(0, 3, (16,)))  # fmt: skip


# -- the losses of torch ---------------------------------------------------------------------------------------------
def torch_members() -> Iterator[str]:
    """Every loss module of torch.nn."""
    yield from sorted(n for n in dir(nn) if n.endswith("Loss") and n not in ("NLLLoss2d", "LinearCrossEntropyLoss"))


def torch_case(name: str) -> Case:
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3), torch.randn(12, 4), torch.randint(0, 3, (12,))
    kind, dense = getattr(nn, name), torch.rand(12, 3)
    signs = torch.where(torch.rand(12, 3) < 0.5, -1.0, 1.0)
    if name == "AdaptiveLogSoftmaxWithLoss":
        both = nn.Sequential(nn.Linear(4, 8), kind(8, 20, cutoffs=[5, 10]))
        return both, lambda m, b: m[1](m[0](b[0]), b[1]).loss, (x, torch.randint(0, 20, (12,)))
    if name == "CTCLoss":
        lengths = torch.full((3,), 4), torch.full((3,), 2)
        return nn.Linear(4, 5), lambda m, b: kind()(m(b[0]).reshape(4, 3, 5).log_softmax(2), b[1], *lengths), (
            x, torch.randint(1, 5, (3, 2)))  # fmt: skip
    if name in ("TripletMarginLoss", "TripletMarginWithDistanceLoss"):
        return model, lambda m, b: kind()(m(b[0]), m(b[1]), m(b[2])), (x, x.flip(0), x.roll(1, 0))
    if name in ("MarginRankingLoss", "CosineEmbeddingLoss"):
        sign = signs[:, 0]
        first = (lambda t: t[:, 0]) if name == "MarginRankingLoss" else (lambda t: t)
        return model, lambda m, b: kind()(first(m(b[0])), first(m(b[1])), b[2]), (x, x.flip(0), sign)
    if name == "GaussianNLLLoss":
        return model, lambda m, b: kind()(m(b[0]), b[1], b[2]), (x, dense, dense + 0.1)
    prepare: Callable[[Tensor], Tensor] = lambda t: t  # noqa: E731
    target: Tensor = dense
    if name in ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss"):
        target, prepare = y, (lambda t: t.log_softmax(1)) if name == "NLLLoss" else prepare
    elif name == "BCELoss":
        prepare = torch.sigmoid
    elif name in ("HingeEmbeddingLoss", "SoftMarginLoss"):
        target = signs
    elif name in ("MultiLabelMarginLoss",):
        target = torch.tensor([[0, 2, -1]]).repeat(12, 1)
    elif name == "KLDivLoss":
        target, prepare = dense.softmax(1), lambda t: t.log_softmax(1)
    elif name == "MultiLabelSoftMarginLoss":
        target = (signs > 0).float()
    return model, lambda m, b: kind()(prepare(m(b[0])), b[1]), (x, target)


# -- one case --------------------------------------------------------------------------------------------------------
GROUPS = ("torch", "torchvision", "timm", "transformers", "torch_geometric")


def members(group: str) -> list[str]:
    if importlib.util.find_spec(group) is None:
        return []
    return list(globals()[f"{group}_members"]())


def judge(group: str, name: str) -> dict[str, Any]:
    """What comes of recording one model with its loss."""
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, objective, batch = globals()[f"{group}_case"](name)
            model.eval()
            own(model, objective, batch)
    except Exception as error:
        return {"outcome": "skipped", "said": f"{type(error).__name__}: {error}"[:200]}
    with tempfile.TemporaryDirectory() as folder:
        try:
            return recorded(model, objective, batch, folder)
        except Exception as error:
            return {"outcome": "failed", "said": f"{type(error).__name__}: {error}"[:300]}


def own(model: nn.Module, objective: Callable[..., Any], batch: Any) -> float:
    torch.manual_seed(0)
    with torch.no_grad():
        return float(objective(model, batch))


def recorded(model: nn.Module, objective: Callable[..., Any], batch: Any, folder: str) -> dict[str, Any]:
    import landscape_hooks as lh
    from landscape_hooks.objective.objective import Objective
    from landscape_hooks.trajectory.parameters import ParameterLayout

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        began = time.perf_counter()
        recorder = lh.record(model, None, f"{folder}/run.zarr", objective=objective, data=[batch])
        seconds = time.perf_counter() - began
        recorder.close()
    said = [str(w.message) for w in caught if issubclass(w.category, lh.errors.RecordingWarning)]
    row: dict[str, Any] = {"seconds": round(seconds, 2), "said": said}
    trajectory = lh.Trajectory.open(f"{folder}/run.zarr")
    if "objective" in trajectory.root:
        stored = Objective.load(trajectory.root, trajectory)
    else:
        stored, row["outcome"] = Objective.of(model, objective=objective, data=[batch]), "told"
    layouts = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    start = [layout.flatten(model) for layout in layouts]
    if "outcome" not in row:
        start = [torch.from_numpy(stored_part.copy()) for stored_part in (trajectory[0].weights, trajectory[0].buffers)]
        layouts = stored.layout, stored.buffer_layout
    pairs = []
    for size in (0.0, 0.01, 0.05):
        moved = start[0] + size * start[0].std() * torch.randn(start[0].shape)
        layouts[0].assign(model, moved)
        layouts[1].assign(model, start[1])
        torch.manual_seed(0)
        pairs.append((stored.evaluate(moved, start[1]).mean, own(model.eval(), objective, batch)))
    right = all(math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-5) or (a != a and b != b) for a, b in pairs)
    row["pairs"] = pairs
    if "outcome" in row:
        return {**row, "way": right}
    return {**row, "outcome": "right" if right else "told" if said else "wrong"}


# -- all of them -----------------------------------------------------------------------------------------------------
def run(options: argparse.Namespace) -> None:
    done = {(row["group"], row["name"]) for row in rows(options.results)}
    for group in options.only.split(","):
        for name in members(group)[:: options.every]:
            if (group, name) in done:
                continue
            command = [sys.executable, __file__, "--one", group, name]
            try:
                ended = subprocess.run(command, capture_output=True, text=True, timeout=options.limit)
                last = ended.stdout.strip().rpartition("\n")[2]
                row = json.loads(last) if last.startswith("{") else {
                    "outcome": "failed", "said": f"exit status {ended.returncode}: {ended.stderr[-300:]}"}  # fmt: skip
            except subprocess.TimeoutExpired:
                row = {"outcome": "failed", "said": f"more than {options.limit} s"}
            row = {"group": group, "name": name, **row}
            with options.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{row['outcome']:8s}{row.get('seconds', 0):7.1f} s  {group} {name}", flush=True)


def rows(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def table(results: Path) -> None:
    """The table, and one line for everything that is not right."""
    found = rows(results)
    print("| library | tried | right | told (way out works) | wrong | failed | `record()`, median | longest |")
    print("|---|---|---|---|---|---|---|---|")
    for group in GROUPS:
        mine = [row for row in found if row["group"] == group and row["outcome"] != "skipped"]
        if not mine:
            continue
        count = {outcome: sum(row["outcome"] == outcome for row in mine) for outcome in OUTCOMES}
        ways = sum(bool(row.get("way")) for row in mine if row["outcome"] == "told")
        times = [row["seconds"] for row in mine if "seconds" in row] or [math.nan]
        print(f"| {group} | {len(mine)} | {count['right']} | {count['told']} ({ways}) | {count['wrong']} | "
              f"{count['failed']} | {statistics.median(times):.1f} s | {max(times):.1f} s |")  # fmt: skip
    print()
    for row in found:
        if row["outcome"] not in ("right", "skipped"):
            said = row["said"][0] if isinstance(row["said"], list) and row["said"] else row["said"]
            print(f"- {row['outcome']}: {row['name']}: {said}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default=",".join(GROUPS))
    options.add_argument("--every", type=int, default=1)
    options.add_argument("--limit", type=float, default=300)
    options.add_argument("--results", type=Path, default=Path("coverage.jsonl"))
    options.add_argument("--table", action="store_true")
    options.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        print("\n" + json.dumps(judge(*given.one)))
    elif given.table:
        table(given.results)
    else:
        run(given)


if __name__ == "__main__":
    main()
