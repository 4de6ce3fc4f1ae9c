"""How many planted wrong labels are found.

python -m benchmarks.wrong_labels
python -m benchmarks.wrong_labels --features=FOLDER...

Without folders the images are scikit-learn's digits, ten classes, their pixels
the features. A folder is one that `shardtune features` made; all that are given
are one set.
"""

import pathlib

import numpy as np
from absl import flags

from data_prep.runtime import command
from trainer.feature_extraction import suspicion

SHARES = (0.01, 0.05, 0.1)


def load(folders: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns features float32 `[N, F]` and labels int `[N]`."""
    if not folders:
        from sklearn import datasets

        found = datasets.load_digits()
        return found.data.astype(np.float32), found.target
    parts = [
        np.load(path)
        for folder in folders
        for path in sorted(pathlib.Path(folder).glob("features-*.npy"))
    ]
    labels = [np.load(pathlib.Path(f, "labels.npy")) for f in folders]
    values = np.concatenate(parts)
    return (
        values.reshape(len(values), -1).astype(np.float32),
        np.concatenate(labels),
    )


def plant(
    labels: np.ndarray, share: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels of which a share is wrong, and bool `[N]`, which."""
    count = round(share * len(labels))
    rows = generator.choice(len(labels), count, replace=False)
    classes = labels.max() + 1
    wrong = labels.copy()
    wrong[rows] = (labels[rows] + generator.integers(1, classes, count)) % (
        classes
    )
    return wrong, wrong != labels


def main() -> None:
    """Prints the table."""
    values, labels = load(flags.FLAGS.features)
    print(f"{len(labels)} images, {labels.max() + 1} classes")
    print("planted  precision  recall  recall of the first so many")
    for share in SHARES:
        rows = []
        for seed in range(flags.FLAGS.seeds):
            given, planted = plant(labels, share, np.random.default_rng(seed))
            shares = suspicion.held_out(values, given, seed)
            _, margin, found = suspicion.confident(shares, given)
            hits = (found & planted).sum()
            first = np.argsort(margin, kind="stable")[: planted.sum()]
            rows.append(
                (
                    hits / max(1, found.sum()),
                    hits / planted.sum(),
                    planted[first].mean(),
                )
            )
        mean = np.mean(rows, axis=0)
        print(
            f"{share:7.0%}  {mean[0]:9.2f}  {mean[1]:6.2f}  {mean[2]:27.2f}",
            flush=True,
        )


if __name__ == "__main__":
    flags.DEFINE_multi_string("features", [], "Folders of features.")
    flags.DEFINE_integer("seeds", 3, "Drawings of wrong labels.", 1)
    command.run(main)
