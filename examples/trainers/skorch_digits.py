"""skorch, recorded by one added line.

pip install 'landscape-hooks[skorch]'
python examples/trainers/skorch_digits.py --out runs/skorch.zarr
landscape-hooks analyze runs/skorch.zarr
landscape-hooks view runs/skorch.zarr
"""

import argparse

import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn

from landscape_hooks.integrations.skorch import LandscapeCallback


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/skorch.zarr")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    digits = load_digits()
    net = NeuralNetClassifier(
        nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=3e-3,
        max_epochs=arguments.epochs,
        iterator_train__shuffle=True,
        callbacks=[LandscapeCallback(arguments.out)],  # <- the added line
    )
    net.fit(digits.data.astype("float32") / 16, digits.target)


if __name__ == "__main__":
    main()
