"""Adapters of PEFT for real: tiny models under LoRA, trained by transformers' Trainer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from landscape_hooks import Local, Parameters, Snapshots, Trajectory, analyze
from landscape_hooks.errors import RunError

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
peft = pytest.importorskip("peft")

from landscape_hooks.integrations.transformers import LandscapeCallback  # noqa: E402

PLAIN = {"size": 3, "engine": Local(tune=False), "progress": False}


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3,
        max_position_embeddings=16,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


KINDS = {
    "llama": (llama, "CAUSAL_LM", ["q_proj", "v_proj"]),
    "bert": (bert, "SEQ_CLS", ["query", "value"]),
}


def rows(causal):
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(16):
        tokens = torch.randint(0, 20, (8,), generator=generator)
        labels = tokens.clone() if causal else tokens[0] % 3
        found.append({"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels})
    return found


def adapted(kind, dtype):
    make, task, modules = KINDS[kind]
    torch.manual_seed(1)
    config = peft.LoraConfig(task_type=task, r=2, lora_alpha=4, target_modules=modules, lora_dropout=0.1)
    return peft.get_peft_model(make().to(dtype), config)


def train(kind, path, dtype=torch.float32, **options):
    model, causal = adapted(kind, dtype), kind == "llama"
    arguments = transformers.TrainingArguments(
        path / "out", num_train_epochs=2, per_device_train_batch_size=4, per_device_eval_batch_size=8, use_cpu=True,
        report_to="none", save_strategy="no", eval_strategy="epoch", learning_rate=0.02, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=rows(causal), eval_dataset=rows(causal),
        callbacks=[LandscapeCallback(str(path / "run.zarr"), every=1, **options)],
    )  # fmt: skip
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer.train()
    return trainer, start


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_adapters_has_the_base_once_and_its_loss(kind, dtype, tmp_path):
    trainer, start = train(kind, tmp_path, dtype)
    t = Trajectory.open(tmp_path / "run.zarr")
    trained = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert set(t.layout.names) == set(trained)
    assert all("lora" in name or "modules_to_save" in name for name in trained)
    assert set(t.fixed) == set(start) - set(trained)
    name = next(name for name in start if name.endswith("base_layer.weight"))
    np.testing.assert_array_equal(t.fixed[name], start[name].float().numpy())
    assert t.root["fixed/0"].dtype == ("uint16" if dtype is torch.bfloat16 else "float32")
    assert t.steps.tolist() == list(range(9))
    live = dict(trainer.model.named_parameters())
    for entry in t.layout:
        np.testing.assert_array_equal(t[-1].weights[entry.slice], live[entry.name].detach().float().numpy().ravel())
    assert t.doubts == ()
    surface = analyze(tmp_path / "run.zarr", **PLAIN)
    own = trainer.evaluate()["eval_loss"]
    assert surface.path_loss[-1] == pytest.approx(own, rel=2e-2 if dtype is torch.bfloat16 else 1e-4)


def test_a_base_by_reference_comes_from_the_hub_folder(tmp_path):
    llama().save_pretrained(tmp_path / "hub")
    train("llama", tmp_path, parameters=Parameters(frozen="reference"))
    t = Trajectory.open(tmp_path / "run.zarr")
    assert sum(f.stat().st_size for f in Path(tmp_path / "run.zarr" / "fixed").rglob("*")) < 30_000
    with pytest.raises(RunError, match="--base"):
        analyze(tmp_path / "run.zarr", **PLAIN)
    found = analyze(tmp_path / "run.zarr", **PLAIN, snapshots=Snapshots(base=tmp_path / "hub"))
    (tmp_path / "whole").mkdir()
    train("llama", tmp_path / "whole")
    whole = analyze(tmp_path / "whole" / "run.zarr", **PLAIN)
    np.testing.assert_array_equal(found.path_loss, whole.path_loss)
    assert t.doubts == ()


def test_a_pattern_means_the_adapters_of_a_layer(tmp_path):
    train("bert", tmp_path, parameters=Parameters("lora_*", "classifier.*"))
    t = Trajectory.open(tmp_path / "run.zarr")
    assert any("modules_to_save" in name or "classifier" in name for name in t.layout.names)
    part = analyze(tmp_path / "run.zarr", **PLAIN, snapshots=Snapshots(tensors="layer.1.*lora_*"), name="part")
    assert part.definition.parameters
    assert all("layer.1." in name and "lora_" in name for name in part.definition.parameters)
