"""Lightning, recorded by one added line.

pip install 'landscape-hooks[lightning]'
python examples/trainers/lightning_digits.py --out runs/lightning.zarr
landscape-hooks analyze runs/lightning.zarr
landscape-hooks view runs/lightning.zarr
"""

import argparse

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from landscape_hooks.integrations.lightning import LandscapeCallback


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/lightning.zarr")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()

    lightning.seed_everything(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
    train, val = random_split(data, [0.8, 0.2])
    trainer = lightning.Trainer(
        max_epochs=arguments.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[LandscapeCallback(arguments.out)],  # <- the added line
    )
    trainer.fit(Digits(), DataLoader(train, 64, shuffle=True), DataLoader(val, 256))


if __name__ == "__main__":
    main()
