"""fastai, recorded by one added line.

pip install 'landscape-hooks[fastai]'
python examples/trainers/fastai_digits.py --out runs/fastai.zarr
landscape-hooks analyze runs/fastai.zarr
landscape-hooks view runs/fastai.zarr
"""

import argparse

import torch
from fastai.basics import CrossEntropyLossFlat, DataLoader, DataLoaders, Learner, accuracy, set_seed
from fastai.callback.schedule import fit_one_cycle  # noqa: F401  (gives Learner its fit_one_cycle)
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from landscape_hooks.integrations.fastai import LandscapeCallback


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/fastai.zarr")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()

    set_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    train, val = train_test_split(list(zip(images, labels, strict=True)), test_size=0.2, random_state=0)
    dls = DataLoaders(DataLoader(train, bs=64, shuffle=True), DataLoader(val, bs=256))
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    learn = Learner(
        dls,
        model,
        CrossEntropyLossFlat(),
        metrics=accuracy,
        cbs=LandscapeCallback(arguments.out),  # <- the added line
    )
    learn.fit_one_cycle(arguments.epochs, 1e-2)


if __name__ == "__main__":
    main()
