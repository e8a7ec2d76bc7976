"""Digits: scikit-learn's 1,797 images of handwritten digits, as tensors. The data of the small examples."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

TRAINING = 1437


def digits() -> tuple[TensorDataset, TensorDataset]:
    """1,437 training and 360 test images (N, 1, 8, 8) with values in [0, 1], and what they show (N,)."""
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
    targets = torch.tensor(raw.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:TRAINING], order[TRAINING:]
    return TensorDataset(images[train], targets[train]), TensorDataset(images[test], targets[test])


def shuffled(data: TensorDataset, batch_size: int, seed: int = 0) -> DataLoader:
    """Whole batches in an order that depends on the seed only, so that runs can be compared."""
    order = torch.Generator().manual_seed(seed)
    return DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True, generator=order)


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """The share of images that the model names rightly, in evaluation mode."""
    images, targets = data.tensors
    training = model.training
    model.eval()
    with torch.no_grad():
        right: Tensor = model(images).argmax(dim=1) == targets
    model.train(training)
    return right.float().mean().item()
