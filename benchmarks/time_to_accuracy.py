"""Seconds from a folder of images to an exported model, and its accuracy.

python -m benchmarks.time_to_accuracy --photos=FOLDER --weights=FILE

FOLDER holds train/CLASS and validation/CLASS. Ours are recipes, each run whole
by its commands: data_prep.task, then trainer.task. Beside them the published
recipe as a plain Keras script (`image_dataset_from_directory`, Keras's own
augmentation layers, float32, `fit`): some steps of each phase are measured,
after a warm-up, and its whole is extrapolated from them.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from benchmarks import measure
from data_prep.runtime import command
from data_prep.runtime import startup
from data_prep.runtime.errors import UsageError

RECIPES = pathlib.Path(__file__).resolve().parent.parent / "recipes"
# Of the published recipe (Chollet, "Deep learning with Python", 2017, 5.3).
FROZEN_EPOCHS, FINETUNE_EPOCHS = 30, 100
PEER_SIZE, PEER_BATCH = 150, 20
WARM_UP = 3  # steps


def ours(
    recipe: str, seed: int, photos: str, weights: str, precision: str
) -> tuple[float, float]:
    """Runs a recipe whole.

    Returns:
        Seconds from images to exported model, both commands with their
        start-up, and the accuracy on validation.
    """
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        for module, *arguments in (
            (
                "data_prep.task",
                f"--source={photos}",
                f"--output_dir={scratch}/data",
                "--on_leak=keep",  # one dog of the published set is in both
            ),
            (
                "trainer.task",
                f"--flagfile={RECIPES / recipe}.flags",
                f"--data_dir={scratch}/data",
                f"--model_dir={scratch}/model",
                f"--weights={weights}",
                f"--seed={seed}",
                f"--precision={precision}",
            ),
        ):
            subprocess.run(
                [sys.executable, "-m", module, *arguments],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        seconds = time.perf_counter() - start
        evaluation = pathlib.Path(scratch, "model", "evaluation.json")
        return seconds, json.loads(evaluation.read_text())["accuracy"]


def peer(photos: str, weights: str, steps: int) -> dict[str, float]:
    """Measures the plain Keras script.

    Returns:
        Seconds of an epoch of each phase, extrapolated from `steps` of its
        training steps and as many of validation; and images of an epoch.
    """
    startup.import_tensorflow()
    import keras

    def images(split: str):
        return keras.utils.image_dataset_from_directory(
            f"{photos}/{split}",
            label_mode="binary",
            batch_size=PEER_BATCH,
            image_size=(PEER_SIZE, PEER_SIZE),
            verbose=False,
        )

    train, validation = images("train"), images("validation")
    base = keras.applications.VGG16(
        include_top=False, weights=None, input_shape=(PEER_SIZE, PEER_SIZE, 3)
    )
    base.load_weights(weights)
    model = keras.Sequential(
        [
            keras.Input((PEER_SIZE, PEER_SIZE, 3)),
            keras.layers.RandomRotation(40 / 360),
            keras.layers.RandomTranslation(0.2, 0.2),
            keras.layers.RandomShear(0.2, 0.2),
            keras.layers.RandomZoom(0.2),
            keras.layers.RandomFlip("horizontal"),
            keras.layers.Rescaling(1 / 255),
            base,
            keras.layers.Flatten(),
            keras.layers.Dense(256, "relu"),
            keras.layers.Dense(1, "sigmoid"),
        ]
    )
    result = {}
    for phase, first, rate in (
        ("frozen", None, 2e-5),
        ("fine-tuning", "block3_conv1", 1e-5),
    ):
        learns = False
        for layer in base.layers:
            learns = learns or layer.name == first
            layer.trainable = learns
        model.compile(
            keras.optimizers.RMSprop(rate),
            "binary_crossentropy",
            metrics=["accuracy"],
        )
        model.fit(train, steps_per_epoch=WARM_UP, verbose=0)
        model.evaluate(validation, steps=WARM_UP, verbose=0)
        seconds = 0.0
        for split, run in (
            (train, lambda: model.fit(train, steps_per_epoch=steps, verbose=0)),
            (
                validation,
                lambda: model.evaluate(validation, steps=steps, verbose=0),
            ),
        ):
            start = time.perf_counter()
            run()
            seconds += (time.perf_counter() - start) / steps * len(split)
        result[phase] = seconds
    return result


def main() -> None:
    """Prints the table."""
    values = flags.FLAGS
    if not values.photos or not values.weights:
        raise UsageError("--photos and --weights are missing.")
    print(measure.machine("tensorflow", "keras"))
    for recipe in values.recipe:
        runs = [
            ours(
                recipe, int(s), values.photos, values.weights, values.precision
            )
            for s in values.seeds
        ]
        seconds, accuracies = zip(*runs, strict=True)
        print(
            f"ours, {recipe}: {len(runs)} seeds, validation accuracy "
            f"{statistics.mean(accuracies):.4f} ({min(accuracies):.4f} to "
            f"{max(accuracies):.4f}), {statistics.median(seconds):.0f} s "
            f"({min(seconds):.0f} to {max(seconds):.0f}), whole, measured",
            flush=True,
        )
    if values.peer_steps:
        epochs = peer(values.photos, values.weights, values.peer_steps)
        whole = (
            FROZEN_EPOCHS * epochs["frozen"]
            + FINETUNE_EPOCHS * epochs["fine-tuning"]
        )
        print(
            f"plain Keras, the published recipe: {epochs['frozen']:.0f} s an "
            f"epoch frozen, {epochs['fine-tuning']:.0f} s fine-tuning from "
            f"block3_conv1 (from {values.peer_steps} steps of training and of "
            f"validation each, measured); {FROZEN_EPOCHS} + "
            f"{FINETUNE_EPOCHS} epochs: {whole / 3600:.1f} hours, extrapolated"
        )


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Folder of train/ and validation/.")
    flags.DEFINE_string("weights", None, "File of VGG16's ImageNet weights.")
    flags.DEFINE_list("recipe", ["fast", "best"], "Recipes to run.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "A run of each.")
    flags.DEFINE_string("precision", "auto", "Of ours, as in trainer.task.")
    flags.DEFINE_integer("peer_steps", 10, "0 leaves the peer out.", 0)
    command.run(main)
