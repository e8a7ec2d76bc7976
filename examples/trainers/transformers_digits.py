"""transformers, recorded by one added line: a tiny BERT reads digits pixel by pixel.

pip install 'landscape-hooks[transformers]'
python examples/trainers/transformers_digits.py --out runs/transformers.zarr
landscape-hooks analyze runs/transformers.zarr
landscape-hooks view runs/transformers.zarr
"""

import argparse
from tempfile import TemporaryDirectory

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

from landscape_hooks.integrations.transformers import LandscapeCallback


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/transformers.zarr")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()

    set_seed(0)
    digits = load_digits()
    rows = [
        {"input_ids": pixels.astype(int).tolist(), "labels": int(digit)}
        for pixels, digit in zip(digits.data, digits.target, strict=True)
    ]
    train, val = train_test_split(rows, test_size=0.2, random_state=0)
    config = BertConfig(
        vocab_size=17, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, num_labels=10, initializer_range=0.1, hidden_dropout_prob=0.0,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            BertForSequenceClassification(config),
            TrainingArguments(
                folder,
                num_train_epochs=arguments.epochs,
                per_device_train_batch_size=32,
                learning_rate=1e-2,
                warmup_steps=20,
                eval_strategy="epoch",
                save_strategy="no",
                logging_steps=20,
                report_to="none",
                use_cpu=True,
            ),
            train_dataset=train,
            eval_dataset=val,
            callbacks=[LandscapeCallback(arguments.out)],  # <- the added line
        )
        trainer.train()


if __name__ == "__main__":
    main()
