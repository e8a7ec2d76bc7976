"""ignite, recorded by one added line.

pip install 'landscape-hooks[ignite]'
python examples/trainers/ignite_digits.py --out runs/ignite.zarr
landscape-hooks analyze runs/ignite.zarr
landscape-hooks view runs/ignite.zarr
"""

import argparse

import torch
from ignite.engine import Events, create_supervised_trainer
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_hooks.integrations.ignite import LandscapeHandler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/ignite.zarr")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
    loader = DataLoader(data, 64, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    trainer = create_supervised_trainer(model, optimizer, criterion)

    LandscapeHandler(model, optimizer, arguments.out, criterion=criterion, data=loader).attach(trainer)  # <- added

    @trainer.on(Events.EPOCH_COMPLETED)
    def report(engine):
        print(f"epoch {engine.state.epoch}: loss {engine.state.output:.4f}")

    trainer.run(loader, max_epochs=arguments.epochs)


if __name__ == "__main__":
    main()
