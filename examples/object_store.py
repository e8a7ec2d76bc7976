"""Recording to an object store: the same line, with a URL in place of a folder.

    python examples/object_store.py                                        (memory, which needs no server)
    python examples/object_store.py --store s3://BUCKET/digits.zarr        (pip install 'landscape-hooks[s3]')

Credentials and endpoint of S3 are taken from where every S3 client takes them: AWS_PROFILE, AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, ... The other commands take the URL as well: landscape-hooks view s3://BUCKET/digits.zarr. What
lies in memory:// is gone with the process; so this script analyzes the run itself and writes the picture to --out.
"""

import argparse
from pathlib import Path

import torch
from digits import accuracy, digits, shuffled
from torch import nn

from landscape_hooks import analyze, contour_figure, record, write_ply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="memory://landscapes/digits.zarr", help="where the run goes (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/object_store"), help="where pictures go (%(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the 1,437 images (%(default)s)")
    parser.add_argument("--size", type=int, default=25, help="points along each axis of the surface (%(default)s)")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    images, unseen = digits()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=3e-3)

    # a snapshot is one object, sent in the background; every=5 keeps their number small
    with record(model, optimizer, arguments.store, criterion=criterion, data=images, every=5):
        for epoch in range(arguments.epochs):
            for inputs, targets in shuffled(images, 64, seed=epoch):
                optimizer.zero_grad()
                criterion(model(inputs), targets).backward()
                optimizer.step()
    print(f"{accuracy(model, unseen):.1%} of the test images right; the run is at {arguments.store}")

    surface = analyze(arguments.store, size=arguments.size)
    print(*surface.attrs["report"], sep="\n")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_ply(surface, arguments.out / "digits.ply")
    contour_figure(surface).savefig(arguments.out / "digits.png")


if __name__ == "__main__":
    main()
