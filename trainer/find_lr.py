"""Command line: a learning-rate range test, as figures and a picture.

python -m trainer.find_lr --data_dir=data --phase=frozen --output=rates.png

Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017: the
rate rises from step to step, and a good one lies where the loss falls fastest.
"""

import dataclasses
import pathlib

import numpy as np
from absl import flags

from data_prep import command
from data_prep import splits
from data_prep.errors import UsageError
from trainer import atomic
from trainer import config as config_lib
from trainer import startup
from trainer import task
from trainer.config import Config

SMOOTHING = 0.9  # share that the running mean of losses keeps per step
DIVERGED = 4.0  # times the lowest loss, from where on nothing is learned


def find_lr(
    config: Config, phase: str, lowest: float, highest: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Trains some steps with rising rates; keeps nothing of it.

    Args:
        config: As of a training.
        phase: Name of the phase whose layers and optimizer are tried.
        lowest: First rate.
        highest: Last rate.
        steps: Number of steps.

    Returns:
        Rates float32 `[n]` and losses float64 `[n]` of the steps; n is below
        `steps` where the loss diverged before.

    Raises:
        UsageError: If there is no such phase.
        DataError: If the data set or the weights are unusable.
    """
    import tensorflow as tf

    from data_prep import manifest as manifest_lib
    from trainer import loop
    from trainer import run
    from trainer.feed import Feed
    from trainer.model import set_trainable
    from trainer.reader import Reader
    from trainer.stage import make_optimizer
    from trainer.stage import of_pictures
    from trainer.stage import step_options

    stages = {stage.name: stage for stage in config.phases}
    if phase not in stages:
        raise UsageError(
            f"--phase={phase} is no phase of this run: expected one of "
            f"{', '.join(stages)}."
        )
    stage = stages[phase]
    manifest = manifest_lib.load(config.data_dir)
    strategy, model = run.make_model(config, manifest, None)
    reader = Reader(config.data_dir, manifest, splits.TRAIN)
    feed = Feed(
        config,
        {splits.TRAIN: reader},
        replicas=strategy.num_replicas_in_sync,
    )
    set_trainable(model, stage.train_from)
    with strategy.scope():
        optimizer = make_optimizer(config, stage, model)
    pictures = of_pictures(config, len(manifest.classes), model, feed)
    train = loop.make_train(
        strategy,
        model,
        optimizer,
        pictures.augment,
        step_options(config, reader.labels, len(manifest.classes)),
    )
    rates = np.geomspace(lowest, highest, steps, dtype=np.float32)
    losses: list[float] = []
    per_epoch = feed.steps[splits.TRAIN]
    for step, rate in enumerate(rates):
        epoch = step // per_epoch
        if step % per_epoch == 0:
            batches = iter(loop.distribute(strategy, feed.training(epoch)))
        rows, _ = loop.timed(
            train,
            batches,
            tf.constant(epoch, tf.int64),
            tf.constant(step, tf.int64),
            tf.constant([rate]),
            tf.constant(0.0, tf.float64),
        )
        losses.append(rows[0, loop.LOSS] / rows[0, loop.IMAGES])
        smooth = smoothed(losses)
        if not smooth[-1] < DIVERGED * smooth.min():
            break
    return rates[: len(losses)], np.array(losses)


def smoothed(losses: list[float] | np.ndarray) -> np.ndarray:
    """Returns the running mean of losses, its start corrected as Adam's."""
    mean, result = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * float(loss)
        result.append(mean / (1 - SMOOTHING**step))
    return np.array(result)


def suggest(rates: np.ndarray, losses: np.ndarray) -> float:
    """Returns the rate at which the smoothed loss falls fastest.

    Args:
        rates: `[n]`, rising by a constant factor.
        losses: `[n]`.
    """
    finite = np.isfinite(losses)
    slope = np.gradient(smoothed(losses[finite]), np.log(rates[finite]))
    return float(rates[finite][slope.argmin()])


def plot(
    rates: np.ndarray, losses: np.ndarray, best: float, path: pathlib.Path
) -> None:
    """Draws losses over rates.

    Args:
        rates: `[n]`.
        losses: `[n]`.
        best: The suggested rate.
        path: Of the picture; its ending names the format.
    """
    from matplotlib import figure

    drawing = figure.Figure(figsize=(7, 4), layout="constrained")
    axes = drawing.subplots()
    axes.plot(rates, losses, color="0.8", label="loss of a step")
    axes.plot(rates, smoothed(losses), label="smoothed")
    axes.axvline(
        best, color="C3", linestyle="--", label=f"falls fastest: {best:.2g}"
    )
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.legend()
    drawing.savefig(path)


def main() -> None:
    """Tests --steps rates and writes a picture and a table."""
    values = flags.FLAGS
    output = pathlib.Path(values.output)
    if output.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(
            f"--output={output} is no picture: expected a name that ends in "
            ".png, .svg or .pdf."
        )
    if not 0 < values.lowest < values.highest:
        raise UsageError(
            f"--lowest={values.lowest:g} --highest={values.highest:g} is no "
            "range: expected two rates above 0, the lower one first."
        )
    values.model_dir = values.model_dir or str(output.parent)
    config = command.config_from_flags(Config)
    if values["cache_mb"].using_default_value:
        # A few batches are not worth decoding the whole split for.
        config = dataclasses.replace(config, cache_mb=0)
    startup.import_tensorflow()
    rates, losses = find_lr(
        config, values.phase, values.lowest, values.highest, values.steps
    )
    best = suggest(rates, losses)
    plot(rates, losses, best, output)
    table = output.with_suffix(".csv")
    with atomic.open_csv(table) as writer:
        writer.writerow(["learning_rate", "loss"])
        writer.writerows(zip(rates.tolist(), losses.tolist(), strict=True))
    print(
        f"the loss falls fastest at a learning rate of {best:.2g}\n"
        f"{output}\n{table}"
    )


if __name__ == "__main__":
    task.define_flags()
    flags.DEFINE_enum(
        "phase",
        config_lib.FROZEN,
        [config_lib.FROZEN, config_lib.FINETUNE],
        "Whose layers and optimizer to try.",
    )
    flags.DEFINE_float("lowest", 1e-7, "First learning rate.")
    flags.DEFINE_float("highest", 1.0, "Last learning rate.")
    flags.DEFINE_integer("steps", 100, "Steps from one to the other.", 10)
    flags.DEFINE_string("output", "learning_rates.png", "Picture to write.")
    flags.adopt_module_key_flags(task)
    command.run(main)
