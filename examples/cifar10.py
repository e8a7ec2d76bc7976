"""The founding experiment: the loss landscapes of ResNet-50 and VGG-11 on CIFAR-10, side by side.

Trains one of the two networks with the hook attached, then draws two surfaces of 25×25 losses: one in a random
filter-normalised plane around the trained weights (Li et al. 2018), one in the plane of the two main directions of
the training, with the path the optimizer took. Each comes as PLY, as a contour figure and as a picture in 3-D; the
path as an animated replay too. When both networks have been run into the same --out, comparison.html sets their
four surfaces side by side.

    python examples/cifar10.py --model resnet50 --data data --download
    python examples/cifar10.py --model vgg11    --data data
    python examples/cifar10.py --model vgg11    --data data --quick      (minutes on two CPU cores)

--data is the folder in which torchvision finds (or, with --download, puts) CIFAR-10, or one that holds the images
themselves in train/CLASS/ and test/CLASS/. The full settings are meant for a GPU; a run of ResNet-50 then takes
about 9.5 GB on disk (100 snapshots of 23.5 million weights), a quick one 2 GB.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from cifar10_page import write_page
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms
from torchvision.datasets import CIFAR10, ImageFolder
from tqdm import tqdm

from landscape_hooks import Surface, analyze, contour_figure, record, write_ply
from landscape_hooks.export.figure import loss_figure
from landscape_hooks.viewer.offscreen import render


@dataclass(frozen=True)
class Settings:
    """What is trained, and how finely it is looked at."""

    epochs: int = 200
    images: int = 50_000  # training images, at most
    test_images: int = 10_000
    batch: int = 128
    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    keep: int = 100  # snapshots
    samples: int = 1024  # training images, not augmented, on which the loss is drawn
    size: int = 25
    adaptive: float = 0.0  # computes fewer points and interpolates the others within this relative error; 0: all
    frames: int = 72  # of the replay


FULL = Settings()
QUICK = {  # on a CPU ResNet-50 costs twelve times as much an image
    "resnet50": Settings(2, 384, 200, batch=32, rate=0.003, keep=14, samples=12, frames=48),
    "vgg11": Settings(5, 2000, 1000, batch=50, rate=0.02, keep=40, samples=64, adaptive=0.02, frames=48),
}


def resnet50() -> nn.Module:
    """torchvision's ResNet-50 with the stem for small images: 3×3 at stride 1, no pooling."""
    model = torchvision.models.resnet50(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def vgg11() -> nn.Module:
    """torchvision's VGG-11 with BatchNorm; five poolings leave one pixel of 32×32, and a linear layer reads it."""
    model = torchvision.models.vgg11_bn(num_classes=10)
    model.avgpool = nn.Identity()
    model.classifier = nn.Linear(512, 10)
    return model


NETWORKS = {"resnet50": resnet50, "vgg11": vgg11}

PLAIN = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))]
)
AUGMENTED = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), PLAIN])


def images(folder: Path, split: str, transform: transforms.Compose, *, download: bool = False) -> Dataset:
    """The training or the test images, from a folder of pictures or as torchvision keeps CIFAR-10."""
    if (folder / split).is_dir():
        return ImageFolder(folder / split, transform)
    return CIFAR10(folder, train=split == "train", transform=transform, download=download)


def some(data: Dataset, count: int) -> Subset:
    """`count` of the images, mixed over the classes: the same ones every time."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return Subset(data, order[:count].tolist())


def train(model: nn.Module, folder: Path, store: Path, settings: Settings, device: torch.device) -> int:
    """Train the model, recorded into `store`; returns the number of training images."""
    loader = DataLoader(
        some(images(folder, "train", AUGMENTED), settings.images),
        batch_size=settings.batch, shuffle=True, drop_last=True,
        num_workers=4 if device.type == "cuda" else 0, pin_memory=device.type == "cuda",
    )  # fmt: skip
    probe = DataLoader(some(images(folder, "train", PLAIN), settings.images), batch_size=min(256, settings.samples))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * len(loader))

    with record(
        model, optimizer, store, criterion=criterion, data=probe, samples=settings.samples, keep=settings.keep
    ) as recorder:
        model.train()
        for epoch in range(settings.epochs):
            for inputs, targets in tqdm(loader, desc=f"epoch {epoch + 1} of {settings.epochs}", leave=False):
                inputs, targets = inputs.to(device, memory_format=torch.channels_last), targets.to(device)
                optimizer.zero_grad()
                loss = criterion(model(inputs), targets)
                loss.backward()
                recorder.log(loss=loss, epoch=epoch)
                optimizer.step()
                schedule.step()
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}", flush=True)
    return len(loader.dataset)


def accuracy(model: nn.Module, data: Dataset, device: torch.device) -> tuple[float, int]:
    """The share of images named rightly, and how many there are."""
    model.eval()
    right = total = 0
    with torch.no_grad():
        for inputs, targets in DataLoader(data, batch_size=100):
            found = model(inputs.to(device, memory_format=torch.channels_last)).argmax(dim=1).cpu()
            right, total = right + int((found == targets).sum()), total + len(targets)
    return right / total, total


def show(surface: Surface, stem: Path) -> list[Path]:
    """The surface as mesh, as figure and in 3-D; the files."""
    files = [Path(p) for p in write_ply(surface, stem.with_suffix(".ply"))]
    figure, picture = Path(f"{stem}_contours.png"), stem.with_suffix(".png")
    contour_figure(surface).savefig(figure, dpi=150)
    render(surface, picture, size=(1280, 800))
    return [*files, figure, picture]


def main() -> None:
    arguments = parse()
    settings = chosen(arguments)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    stem, store = out / arguments.model, out / f"{arguments.model}.zarr"
    if arguments.quick:
        print("QUICK: a shortened training and few samples. The files are real, but no result about these networks.")

    result = trained(arguments, settings, store, stem.with_suffix(".json"), device)
    seconds: dict[str, float] = {what: result["seconds"][what] for what in ("training", "test")}
    print(f"{result['accuracy']:.1%} of {result['test_images']} test images right")

    files = [store]
    for directions, extent in (("random", (-1, 1, -1, 1)), ("pca", "auto")):
        with timed(seconds, "surfaces"):
            surface = analyze(
                store, directions=directions, extent=extent, size=settings.size, batch_norm=arguments.batch_norm,
                adaptive=settings.adaptive or None,
            )  # fmt: skip
        print(*surface.attrs["report"], sep="\n")
        with timed(seconds, "pictures"):
            files += show(surface, Path(f"{stem}_{directions}"))
    with timed(seconds, "pictures"):
        files += [Path(f"{stem}_loss.png"), Path(f"{stem}_replay.gif")]
        loss_figure(surface).savefig(files[-2], dpi=150)
        render(surface, files[-1], size=(640, 400), frames=settings.frames)

    stem.with_suffix(".json").write_text(json.dumps({**result, "seconds": seconds}, indent=2))
    print("Seconds:", ", ".join(f"{what} {s:.0f}" for what, s in seconds.items()))
    print("Wrote", *files, *write_page(out), sep="\n  ")


def trained(
    arguments: argparse.Namespace, settings: Settings, store: Path, file: Path, device: torch.device
) -> dict[str, Any]:
    """What came out of the training; trains unless `file` says that it is done."""
    if file.exists():
        return json.loads(file.read_text())
    seconds: dict[str, float] = {}
    torch.manual_seed(0)
    model = NETWORKS[arguments.model]().to(device, memory_format=torch.channels_last)
    with timed(seconds, "training"):
        seen = train(model, arguments.data, store, settings, device)
    with timed(seconds, "test"):
        right, tested = accuracy(model, some(images(arguments.data, "test", PLAIN), settings.test_images), device)
    result = {
        "model": arguments.model, "quick": arguments.quick, "settings": asdict(settings), "device": str(device),
        "parameters": sum(p.numel() for p in model.parameters()), "training_images": seen,
        "accuracy": right, "test_images": tested, "seconds": seconds,
    }  # fmt: skip
    file.write_text(json.dumps(result, indent=2))
    return result


@contextmanager
def timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Add the time that a part takes to `seconds`."""
    start = time.perf_counter()
    yield
    seconds[what] = seconds.get(what, 0.0) + time.perf_counter() - start


def chosen(arguments: argparse.Namespace) -> Settings:
    """The quick or the full settings, with what the command line puts in their place."""
    settings = QUICK[arguments.model] if arguments.quick else FULL
    given = {field.name: getattr(arguments, field.name) for field in fields(Settings)}
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


def parse() -> argparse.Namespace:
    """The command line, its errors included."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(NETWORKS), required=True)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the images (default: data)")
    parser.add_argument(
        "--download", action="store_true", help="fetch CIFAR-10 (170 MB) into --data if it is not there"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10"), help="where to write (default: runs/cifar10)")
    parser.add_argument("--quick", action="store_true",
                        help="a shortened training, fewer samples a point: shows that it works, no more")  # fmt: skip
    parser.add_argument("--batch-norm", choices=["batch", "fixed", "recalibrate"], default="batch",
                        help="the statistics of BatchNorm on the surfaces: of each batch, as in training (default), of "
                        "the trained network (fixed, as in Li et al.), or measured anew at each point")  # fmt: skip
    parser.add_argument("--device", help="as torch spells it (default: the GPU where there is one)")
    for field in fields(Settings):
        default = ", ".join(
            [f"{field.default:g}", *(f"quick {name} {getattr(s, field.name):g}" for name, s in QUICK.items())]
        )
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), metavar="N",
                            help=f"replaces the setting ({default})")  # fmt: skip
    arguments = parser.parse_args()
    check_earlier(parser, arguments)
    try:
        for split in ("train", "test"):
            images(arguments.data, split, PLAIN, download=arguments.download)
    except RuntimeError:
        parser.error(f"{arguments.data} holds neither CIFAR-10 nor train/ and test/ with images. "
                     "Name another --data, or add --download.")  # fmt: skip
    return arguments


def check_earlier(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse an earlier training that was interrupted or had other settings; a finished one is analyzed again."""
    store, file = (arguments.out / f"{arguments.model}{suffix}" for suffix in (".zarr", ".json"))
    mend = "Remove it to train again, or choose another --out."
    if store.exists() and not file.exists():
        parser.error(f"{store} is of a training that did not finish. {mend}")
    if file.exists() and json.loads(file.read_text())["quick"] != arguments.quick:
        parser.error(f"{file} is of a training with{'out' if arguments.quick else ''} --quick. {mend}")


if __name__ == "__main__":
    main()
