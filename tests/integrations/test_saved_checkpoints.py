"""Checkpoints that trainers wrote: the run that is made of them has the rows of the run that was recorded meanwhile."""

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Local, Trajectory, analyze, import_checkpoints, record

ENGINE = Local(workers=1, tune=False)


def same_rows(found, recorded):
    """The same snapshots; `recorded` may have more of them."""
    recorded = Trajectory.open(recorded)
    places = np.flatnonzero(np.isin(recorded.steps, found.steps))
    assert found.steps.tolist() == recorded.steps[places].tolist()
    assert found.layout.names == recorded.layout.names
    assert found.block().tobytes() == recorded.block()[places].tobytes()
    assert found.buffers().tobytes() == recorded.buffers()[places].tobytes()
    assert found.fixed.keys() == recorded.fixed.keys()
    assert all(found.fixed[name].tobytes() == recorded.fixed[name].tobytes() for name in found.fixed)
    return places, recorded


# -- transformers, PEFT ----------------------------------------------------------------------------------------------
def bert():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3,
        max_position_embeddings=16,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def llama():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def adapted_llama():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", use_dora=True)
    return peft.get_peft_model(llama(), config)


def adapted_bert():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", modules_to_save=["classifier"])
    return peft.get_peft_model(bert(), config)


def rows(count, causal):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 20, (count, 8), generator=generator)
    return [
        {"input_ids": each, "attention_mask": torch.ones_like(each), "labels": each.clone() if causal else each[0] % 3}
        for each in tokens
    ]


def loss(model, batch):
    return model(**batch).loss


@pytest.mark.parametrize("make", [bert, llama, adapted_llama, adapted_bert], ids=lambda make: make.__name__)
def test_checkpoints_of_transformers_trainer(make, tmp_path):
    transformers = pytest.importorskip("transformers")
    model, data = make(), rows(16, "llama" in make.__name__)
    options = transformers.TrainingArguments(
        tmp_path / "out", num_train_epochs=2, per_device_train_batch_size=4, use_cpu=True, report_to="none",
        save_strategy="steps", save_steps=2, logging_steps=1, learning_rate=0.01, disable_tqdm=True, weight_decay=0,
    )  # fmt: skip
    trainer = transformers.Trainer(model, options, train_dataset=data)
    trainer.create_optimizer()
    with record(model, trainer.optimizer, tmp_path / "a.zarr", every=1):
        trainer.save_model(str(tmp_path / "out" / "checkpoint-0"))
        trainer.train()
    batches = torch.utils.data.DataLoader(data, batch_size=4, collate_fn=transformers.default_data_collator)
    fresh = make()
    with torch.no_grad():
        for parameter in fresh.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    found = import_checkpoints(
        tmp_path / "b.zarr", fresh, tmp_path / "out", objective=loss, data=batches, progress=False
    )
    assert found.steps.tolist() == [0, 2, 4, 6, 8]
    same_rows(found, tmp_path / "a.zarr")
    logged = {entry["step"]: entry for entry in trainer.state.log_history if "loss" in entry}
    assert found.epochs[1:].tolist() == [0.5, 1, 1.5, 2]
    assert found.losses[1:].tolist() == [logged[step]["loss"] for step in (2, 4, 6, 8)]
    assert found.learning_rates[1:, 0].tolist() == [logged[step]["learning_rate"] for step in (2, 4, 6, 8)]
    surface = analyze(tmp_path / "b.zarr", size=3, engine=ENGINE, progress=False)
    with torch.no_grad():
        model.eval()
        own = np.mean([loss(model, batch).item() for batch in batches])
    assert surface.path_loss[-1] == pytest.approx(own, rel=1e-4)


def test_sharded_safetensors_of_transformers(tmp_path):
    model = llama()
    for step in range(3):
        with torch.no_grad():
            model.lm_head.weight.add_(step)
        model.save_pretrained(tmp_path / "out" / f"checkpoint-{step}", max_shard_size="2kB")
    assert (tmp_path / "out" / "checkpoint-2" / "model.safetensors.index.json").is_file()
    found = import_checkpoints(tmp_path / "run.zarr", llama(), tmp_path / "out", progress=False)
    np.testing.assert_array_equal(
        found[2].weights[: model.lm_head.weight.numel()], model.lm_head.weight.detach().ravel()
    )


# -- Lightning ---------------------------------------------------------------------------------------------------------
def test_checkpoints_of_lightning(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    data = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(16, 1)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.save_hyperparameters({"anything": 1})
            self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

        def training_step(self, batch, number):
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

        def on_train_start(self):
            self.recorder = record(self.net, self.optimizers(), tmp_path / "a.zarr", every=1)

        def on_train_end(self):
            self.recorder.close()

    saving = lightning.callbacks.ModelCheckpoint(tmp_path / "out", every_n_train_steps=2, save_top_k=-1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=4)
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", callbacks=[saving], logger=False,
                                enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(Module(), loader)
    for place, model in enumerate((Module().net, Module())):
        found = import_checkpoints(tmp_path / f"{place}.zarr", model, tmp_path / "out", progress=False)
        assert found.steps.tolist() == [2, 4, 6, 8]
        assert found.learning_rates[:, 0].tolist() == [0.01] * 4
        assert found.momenta[:, 0].tolist() == [0.9] * 4
        if not place:
            same_rows(found, tmp_path / "a.zarr")


# -- timm, fastai ------------------------------------------------------------------------------------------------------
def test_a_list_of_timms_checkpoints(tmp_path):
    timm = pytest.importorskip("timm")
    from argparse import Namespace

    from timm.utils import CheckpointSaver, ModelEmaV3

    def make():
        torch.manual_seed(0)
        return timm.create_model("test_vit", num_classes=3, img_size=32)

    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    averaged = ModelEmaV3(model)
    saver = CheckpointSaver(model, optimizer, args=Namespace(model="test_vit", lr=0.01), model_ema=averaged,
                            checkpoint_dir=str(tmp_path), max_history=9)  # fmt: skip
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    with record(model, optimizer, tmp_path / "a.zarr", every=1):
        for epoch in range(1, 4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            averaged.update(model)
            saver.save_checkpoint(epoch, metric=float(epoch))
    files = sorted(tmp_path.glob("checkpoint-*.pth.tar"))
    assert len(files) == 3
    found = import_checkpoints(tmp_path / "b.zarr", make(), files[::-1], progress=False)
    assert found.steps.tolist() == [1, 2, 3]
    same_rows(found, tmp_path / "a.zarr")


def test_checkpoints_of_fastai(tmp_path):
    fastai = pytest.importorskip("fastai.basics")
    data = [(torch.full((3,), n / 8), torch.tensor([n / 4])) for n in range(16)]

    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    model = make()
    loaders = fastai.DataLoaders.from_dsets(data, data, bs=4, device="cpu")
    learner = fastai.Learner(loaders, model, loss_func=nn.MSELoss(), path=tmp_path, model_dir="models")
    for epoch in range(3):
        learner.fit(1, 0.1)
        learner.save(f"epoch_{epoch}", with_opt=True)
    found = import_checkpoints(tmp_path / "run.zarr", make(), tmp_path / "models", progress=False)
    assert found.steps.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(found[2].weights, torch.cat([p.detach().cpu().ravel() for p in model.parameters()]))
