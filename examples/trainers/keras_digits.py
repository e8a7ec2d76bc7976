"""Keras on its torch backend, recorded by one added line.

pip install 'landscape-hooks[keras]'
KERAS_BACKEND=torch python examples/trainers/keras_digits.py --out runs/keras.zarr
landscape-hooks analyze runs/keras.zarr
landscape-hooks view runs/keras.zarr
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
from sklearn.datasets import load_digits

from landscape_hooks.integrations.keras import LandscapeCallback


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/keras.zarr")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()

    keras.utils.set_random_seed(0)
    digits = load_digits()
    model = keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(64),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dense(10),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss=keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(
        digits.data.astype("float32") / 16,
        digits.target,
        validation_split=0.2,
        epochs=arguments.epochs,
        batch_size=64,
        verbose=2,
        callbacks=[LandscapeCallback(arguments.out)],  # <- the added line
    )


if __name__ == "__main__":
    main()
