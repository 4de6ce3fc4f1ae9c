"""Command line: a learning-rate range test, as a table and a plot.

python -m trainer.find_lr --data_dir=data --phase=frozen --output=rates.png

Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017: the
rate rises from step to step, and a good rate is where the loss falls fastest.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.runtime import atomic
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import startup
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import setting
from trainer import config as config_lib
from trainer.config import Config

SMOOTHING = 0.9  # share that the running mean of losses keeps per step
DIVERGED = 4.0  # times the lowest loss: training has diverged, so stop


@dataclasses.dataclass(frozen=True)
class Search(settings.Group):
    """The range test."""

    phase: str = setting(
        config_lib.FROZEN,
        "Whose layers and optimizer to try.",
        choices=(config_lib.FROZEN, config_lib.FINETUNE),
    )
    lowest: float = setting(1e-7, "First learning rate.")
    highest: float = setting(1.0, "Last learning rate.")
    steps: int = setting(100, "Steps from one to the other.", low=10)
    output: str = setting(
        "learning_rates.png",
        "Plot to write, beside a table of the same name.",
        path=settings.Path(settings.WRITTEN),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if pathlib.Path(self.output).suffix not in (".png", ".svg", ".pdf"):
            raise UsageError(
                f"--output={self.output} is not a plot: expected a name that "
                "ends in .png, .svg or .pdf."
            )
        if not 0 < self.lowest < self.highest:
            raise UsageError(
                f"--lowest={self.lowest:g} --highest={self.highest:g} is no "
                "range: expected two rates above 0, the lower one first."
            )


class FindLrConfig(Config):
    """The flags of `trainer.find_lr`: a training's, and those of the test."""

    search: Search

    def __init__(self, *required: Any, **values: Any):
        # No model directory is written, and decoding the whole split would
        # not pay off for a few batches.
        super().__init__(
            *required,
            **{"model_dir": ".", "cache_mb": 0, "recipe": "", **values},
        )


def find_lr(
    config: Config, phase: str, lowest: float, highest: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Trains some steps with rising rates; the trained model is dropped.

    Args:
        config: The settings of a training.
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

    from trainer.distribution import devices
    from trainer.engine import loop

    strategy, loader, train = _make_train(config, phase)
    rates = np.geomspace(lowest, highest, steps, dtype=np.float32)
    losses: list[float] = []
    per_epoch = loader.steps[splits.TRAIN]
    for step, rate in enumerate(rates):
        epoch = step // per_epoch
        if step % per_epoch == 0:
            dataset = loader.training(loader.images[splits.TRAIN], epoch)
            batches = iter(devices.distribute(strategy, dataset))
        result, _ = loop.timed(
            train,
            batches,
            tf.constant(epoch, tf.int64),
            tf.constant(step, tf.int64),
            tf.constant([rate]),
            tf.constant(0.0, tf.float64),
        )
        losses.append(result.loss_sum[0] / result.images[0])
        smooth = smoothed(losses)
        if not smooth[-1] < DIVERGED * smooth.min():
            break
    return rates[: len(losses)], np.array(losses)


def _make_train(config: Config, name: str) -> tuple:
    """Makes what a phase trains with, as a run makes it.

    Args:
        config: The settings of a training.
        name: Name of the phase.

    Returns:
        The strategy, the data loader and what `loop.make_train` returned.
    """
    from data_prep.dataset import manifest as manifest_lib
    from trainer.distribution.worker_group import WorkerGroup
    from trainer.engine import automatic
    from trainer.engine import loop
    from trainer.engine import optimizers
    from trainer.engine import setup
    from trainer.engine import train_step
    from trainer.engine import trained_part
    from trainer.models.classifier import set_trainable

    phases = {phase.name: phase for phase in config.phases}
    if name not in phases:
        raise UsageError(
            f"--phase={name} is no phase of this run: expected one of "
            f"{', '.join(phases)}."
        )
    manifest = manifest_lib.load(config.data.data_dir)
    config = automatic.by_images(config, manifest)
    strategy, model = setup.make_model(config, manifest)
    loader = setup.make_loader(
        config, manifest, WorkerGroup(strategy, None), [splits.TRAIN]
    )
    phase, classes = phases[name], len(manifest.classes)
    set_trainable(model, phase.train_from)
    with strategy.scope():
        optimizer = optimizers.for_phase(config.optimisation, phase, model)
    train = loop.make_train(
        strategy,
        model,
        optimizer,
        trained_part.make_augment(
            config.augmentation, config.run.seed, classes
        ),
        train_step.make_options(
            config.optimisation,
            loader.readers[splits.TRAIN].labels,
            classes,
            seed=config.run.seed,
            jit_compile=config.devices.jit_compile,
        ),
    )
    return strategy, loader, train


def smoothed(losses: list[float] | np.ndarray) -> np.ndarray:
    """Returns the running mean of losses, with Adam's bias correction."""
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
        best: The suggested rate, marked by a line.
        path: The file to write; its suffix names the format.
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


def main(config: FindLrConfig) -> None:
    """Tests rising rates and writes a plot and a table.

    Args:
        config: The settings of a training, and those of the test.
    """
    search = config.search
    output = pathlib.Path(search.output)
    startup.require_tensorflow()
    manifest_lib.load(config.data.data_dir)  # before what takes seconds
    startup.import_tensorflow()
    from trainer.pipeline.input_pipeline import naming_failures

    with naming_failures():
        rates, losses = find_lr(
            config, search.phase, search.lowest, search.highest, search.steps
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


def cli() -> None:
    """Runs the command line."""
    command.run(main, FindLrConfig)


if __name__ == "__main__":
    cli()
