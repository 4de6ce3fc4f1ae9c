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
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import flags

from benchmarks import machine
from benchmarks import measure
from benchmarks.measure import Comparison
from data_prep.runtime import command
from data_prep.runtime import startup
from data_prep.runtime import subprocesses
from data_prep.runtime.errors import UsageError
from launch import quickstart

RECIPES = pathlib.Path(__file__).resolve().parent.parent / "recipes"
# Of the published recipe (Chollet, "Deep learning with Python", 2017, 5.3).
FROZEN_EPOCHS, FINETUNE_EPOCHS = 30, 100
PEER_SIZE, PEER_BATCH = 150, 20
WARM_UP = 3  # steps
DIGIT_EPOCHS = 7  # of quickstart.FROM_SCRATCH, both phases


def ours(
    source: str, prepare: Sequence[str], train: Sequence[str], model_dir: str
) -> tuple[float, float]:
    """Runs our two commands whole.

    Args:
        source: Folder of the images.
        prepare: Flags of data_prep.task.
        train: Flags of trainer.task.
        model_dir: Where the model is to stay.

    Returns:
        Seconds from images to exported model, both commands with their
        start-up, and the accuracy on what was not trained on.
    """
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        for module, *arguments in (
            (
                "data_prep.task",
                f"--source={source}",
                f"--output_dir={scratch}/data",
                *prepare,
            ),
            (
                "trainer.task",
                *train,  # a file of flags stands before those beside it
                f"--data_dir={scratch}/data",
                f"--model_dir={model_dir}",
            ),
        ):
            subprocess.run(
                subprocesses.python_module(module, *arguments),
                env=subprocesses.environment(),
                check=True,
                stdout=subprocess.DEVNULL,
            )
        seconds = time.perf_counter() - start
    evaluation = pathlib.Path(model_dir, "evaluation.json")
    return seconds, json.loads(evaluation.read_text())["accuracy"]


def recipe(
    name: str, seed: int, photos: str, weights: str, precision: str
) -> tuple[float, float]:
    """Runs a recipe whole; returns what `ours` does."""
    with tempfile.TemporaryDirectory() as model_dir:
        return ours(
            photos,
            ["--on_leak=keep"],  # one dog of the published set is in both
            [
                f"--flagfile={RECIPES / name}.flags",
                f"--weights={weights}",
                f"--seed={seed}",
                f"--precision={precision}",
            ],
            f"{model_dir}/model",
        )


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


def keras_digits(folder: str, model: str) -> float:
    """A plain Keras script that trains quickstart's small network.

    Args:
        folder: Of class folders.
        model: File to save to.

    Returns:
        The accuracy on the fifth of the images that it does not train on.
    """
    startup.import_tensorflow()
    import keras

    side = quickstart.IMAGE_SIZE
    train, held_out = keras.utils.image_dataset_from_directory(
        folder,
        image_size=(side, side),
        validation_split=0.2,
        subset="both",
        seed=0,
        verbose=False,
    )
    layers = [keras.Input((side, side, 3)), keras.layers.Rescaling(1 / 255)]
    for filters in (32, 64, 128, 128):  # as --base=scratch
        layers += [
            keras.layers.Conv2D(filters, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10)]
    network = keras.Sequential(layers)
    network.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    network.fit(train, epochs=DIGIT_EPOCHS, verbose=0)
    network.save(model)
    return network.evaluate(held_out, verbose=0)[1]


def compare_digits(
    folder: str, model_dir: str, rounds: int
) -> list[Comparison]:
    """Measures the small network on scikit-learn's digits, from scratch.

    Ours also audits, validates every epoch, calibrates, evaluates, exports two
    formats and writes a report; the peer trains as many epochs and saves.

    Args:
        folder: Of the digits, see `quickstart.write_digits`.
        model_dir: Where our last model is to stay.
        rounds: Runs of each, in turns.
    """
    seconds, accuracy = _results(
        "From 1797 digits to a small network, from scratch"
    )
    for turn in range(rounds):
        shutil.rmtree(model_dir, ignore_errors=True)
        took, reached = ours(
            folder,
            [],
            [*quickstart.FROM_SCRATCH, *quickstart.COMMON, f"--seed={turn}"],
            model_dir,
        )
        _add("ours", took, reached, seconds, accuracy)
        with tempfile.TemporaryDirectory() as scratch:
            start = time.perf_counter()
            file = f"{scratch}/model.keras"
            reached = measure.alone(keras_digits, folder, file)
            took = time.perf_counter() - start
        _add("plain Keras", took, reached, seconds, accuracy)
    return [seconds, accuracy]


def compare_recipes(
    photos: str,
    weights: str,
    recipes: Sequence[str],
    seeds: Sequence[int],
    precision: str,
    peer_steps: int,
) -> list[Comparison]:
    """Measures recipes, and the published one as a plain Keras script.

    Args:
        photos: Folder of train/ and validation/.
        weights: File of VGG16's ImageNet weights.
        recipes: Names of ours.
        seeds: A run of each recipe with each.
        precision: Of ours.
        peer_steps: Steps of each phase that the script's time is extrapolated
            from; 0 leaves it out.
    """
    seconds, accuracy = _results("From photos to a model")
    for seed in seeds:
        for name in recipes:
            found = recipe(name, seed, photos, weights, precision)
            _add(f"ours, {name}", *found, seconds, accuracy)
    if not peer_steps:
        return [seconds, accuracy]
    epochs = measure.alone(peer, photos, weights, peer_steps)
    whole = (
        FROZEN_EPOCHS * epochs["frozen"]
        + FINETUNE_EPOCHS * epochs["fine-tuning"]
    )
    name = (
        f"plain Keras, the published recipe (extrapolated from {peer_steps} "
        f"steps of each phase to {FROZEN_EPOCHS} + {FINETUNE_EPOCHS} epochs)"
    )
    seconds.figures[name] = [whole]
    return [seconds, accuracy]


def _results(title: str) -> tuple[Comparison, Comparison]:
    """Returns the two results, without figures."""
    return (
        Comparison(f"{title}, whole", "seconds", {}, less_is_better=True),
        Comparison(f"{title}, accuracy on other images", "share right", {}),
    )


def _add(
    name: str,
    took: float,
    reached: float,
    seconds: Comparison,
    accuracy: Comparison,
) -> None:
    seconds.figures.setdefault(name, []).append(took)
    accuracy.figures.setdefault(name, []).append(reached)
    print(f"{name}: {took:.0f} s, {reached:.4f}", file=sys.stderr, flush=True)


def main() -> None:
    """Prints the tables."""
    values = flags.FLAGS
    if not values.photos or not values.weights:
        raise UsageError("--photos and --weights are missing.")
    print(machine.line("tensorflow", "keras"))
    for found in compare_recipes(
        values.photos,
        values.weights,
        values.recipe,
        [int(seed) for seed in values.seeds],
        values.precision,
        values.peer_steps,
    ):
        print(measure.table(found))


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Folder of train/ and validation/.")
    flags.DEFINE_string("weights", None, "File of VGG16's ImageNet weights.")
    flags.DEFINE_list("recipe", ["fast", "best"], "Recipes to run.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "A run of each.")
    flags.DEFINE_string("precision", "auto", "Of ours, as in trainer.task.")
    flags.DEFINE_integer("peer_steps", 10, "0 leaves the peer out.", 0)
    command.run(main)
