"""Images per second of training: the bare step, our loop, and Keras's fit.

python -m benchmarks.train_step --data_dir=data

The same model, optimizer, batches and compilation for all, no augmentation:

- bare step: forward, backward and update of one constant batch, called in a
  Python loop;
- ours, constant batch: our loop on such batches, with its metrics, its
  checks for NaN and signals and its timing of the input;
- ours, pipeline: our loop on the data set, decoded images in memory;
- Keras fit: `model.fit` on the same pipeline, with accuracy.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from absl import flags

from benchmarks import machine
from benchmarks import measure
from benchmarks.measure import Comparison
from data_prep.dataset import splits
from data_prep.runtime import command


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is trained, and how, for a figure.

    Attributes:
        data_dir: A data set with a training split.
        phase: "frozen" or "finetune", from where `base` does by default.
        precision: A dtype policy.
        image_size: Of the images, in pixels.
        batch_size: Images per step, over all replicas.
        steps: Batches of a pass.
        jit_compile: Whether XLA compiles the step.
        replicas: Devices that share a batch, all that TensorFlow sees.
        augment: A policy, or "none".
        cache_mb: Memory for decoded images, as --cache_mb of the trainer.
        base: As --base of the trainer.
    """

    data_dir: str
    phase: str
    precision: str
    image_size: int
    batch_size: int
    steps: int
    jit_compile: bool
    replicas: int = 1
    augment: str = "none"
    cache_mb: int = -1
    base: str = "vgg16"


@dataclasses.dataclass
class Parts:
    """What a trial is made of.

    Attributes:
        strategy: That the model was made under.
        model: With random weights; its `trainable` is final.
        classes: Number of classes.
        batches: Of a pass, each the share of one replica.
    """

    strategy: Any
    model: Any
    classes: int
    batches: Any

    @property
    def constant(self):
        """As many batches, all the first one and without input."""
        import tensorflow as tf

        first = next(iter(self.batches))
        steps = self.batches.cardinality().numpy()
        return tf.data.Dataset.from_tensors(first).repeat(steps)


def build(trial: Trial) -> Parts:
    """Makes devices, model and batches; once in a process."""
    import tensorflow as tf

    from data_prep.dataset import manifest as manifest_lib
    from trainer.distribution import devices
    from trainer.groups import Data
    from trainer.groups import Model
    from trainer.models.bases import BASES
    from trainer.models.classifier import build_classifier
    from trainer.models.classifier import set_trainable
    from trainer.pipeline.data_loader import DataLoader
    from trainer.pipeline.reader import Reader

    gpus = tf.config.list_physical_devices("GPU")
    virtual = 0 if gpus or trial.replicas == 1 else trial.replicas
    strategy = devices.make_strategy("auto", virtual)
    devices.set_precision(trial.precision)
    manifest = manifest_lib.load(trial.data_dir)
    classes = len(manifest.classes)
    with strategy.scope():
        model = build_classifier(
            classes, trial.image_size, Model(base=trial.base)
        )
    learns_from = BASES[trial.base].finetune_from
    set_trainable(model, None if trial.phase == "frozen" else learns_from)
    loader = DataLoader(
        Data(
            data_dir=trial.data_dir,
            image_size=trial.image_size,
            cache_mb=trial.cache_mb,
        ),
        {splits.TRAIN: Reader(trial.data_dir, manifest, splits.TRAIN)},
        batch_size=trial.batch_size,
        seed=0,
        replicas=trial.replicas,
    )
    batches = loader.training(loader.images[splits.TRAIN], 0)
    for epoch in range(1, -(-trial.steps // loader.steps[splits.TRAIN])):
        more = loader.training(loader.images[splits.TRAIN], epoch)
        batches = batches.concatenate(more)
    batches = batches.take(trial.steps * trial.replicas)
    return Parts(strategy, model, classes, batches)


def our_loop(trial: Trial, parts: Parts, constant: bool) -> Callable[[], Any]:
    """Returns a pass of our loop, which returns its `results.Totals`.

    Args:
        trial: What is trained.
        parts: What `build` made of it.
        constant: Whether every batch is the first, so that nothing waits.
    """
    import tensorflow as tf

    from trainer.augmentation import policies
    from trainer.distribution import devices
    from trainer.engine import loop
    from trainer.engine import results
    from trainer.engine import train_step

    with parts.strategy.scope():
        optimizer = _optimizer(trial, parts)
    augment = policies.create(policies.Policy(trial.augment), parts.classes)
    options = train_step.StepOptions(jit_compile=trial.jit_compile)
    train = loop.make_train(
        parts.strategy, parts.model, optimizer, augment, options
    )
    source = parts.constant if constant else parts.batches
    per_loop = devices.steps_per_loop(0)

    def epoch() -> results.Totals:
        batches = iter(devices.distribute(parts.strategy, source))
        totals = results.Totals()
        for count in loop.call_sizes(trial.steps, per_loop):
            result, seconds = loop.timed(
                train,
                batches,
                tf.constant(0, tf.int64),
                tf.constant(0, tf.int64),
                tf.constant([1e-5] * count),
                tf.constant(0.0, tf.float64),
            )
            totals.add(result, seconds)
        return totals

    return epoch


def ours(trial: Trial, constant: bool) -> Callable[[], int]:
    """Our loop, as `measure.rates` takes it."""
    epoch = our_loop(trial, build(trial), constant)
    return lambda: epoch() and trial.steps * trial.batch_size


def bare(trial: Trial) -> Callable[[], int]:
    """Forward, backward and update of one constant batch, and nothing else."""
    import tensorflow as tf

    parts = build(trial)
    model, optimizer = parts.model, _optimizer(trial, parts)
    first = next(iter(parts.batches))

    @tf.function(jit_compile=trial.jit_compile)
    def gradients(batch):
        with tf.GradientTape() as tape:
            logits = model(tf.cast(batch.image, tf.float32), training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                batch.label, logits
            )
            loss = optimizer.scale_loss(tf.reduce_mean(losses))
        return tape.gradient(loss, model.trainable_variables), loss

    @tf.function
    def step(batch):
        found, loss = gradients(batch)
        optimizer.apply(found, model.trainable_variables)
        return loss

    def epoch() -> int:
        for _ in range(trial.steps):
            step(first).numpy()
        return trial.steps * trial.batch_size

    return epoch


def keras_fit(trial: Trial) -> Callable[[], int]:
    """`fit` on the same batches, with accuracy."""
    import keras

    parts = build(trial)
    parts.model.compile(
        keras.optimizers.Adam(1e-5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=trial.jit_compile,
    )
    pairs = parts.batches.map(lambda batch: (batch.image, batch.label))

    def epoch() -> int:
        parts.model.fit(pairs, verbose=0)
        return trial.steps * trial.batch_size

    return epoch


def _optimizer(trial: Trial, parts: Parts):
    from trainer.engine import optimizers

    optimizer = optimizers.create(
        "adam",
        trial.phase,
        parts.model.trainable_variables,
        momentum=0.9,
        weight_decay=0.0,
        factors={},
    )
    optimizer.learning_rate.assign(1e-5)
    return optimizer


def compare(trial: Trial, rounds: int, runs: int) -> Comparison:
    """Returns images/s of our loop, of the bare step and of `fit`.

    Args:
        trial: What is trained, on one device.
        rounds: Turns of each candidate.
        runs: Passes that count, in each turn.
    """
    part = functools.partial
    return measure.in_turns(
        f"Training step, {trial.base} {trial.phase}, {trial.precision}, "
        f"{trial.image_size} px, batches of {trial.batch_size}",
        "images/s",
        {
            "ours, pipeline": part(ours, trial, constant=False),
            "ours, constant batch": part(ours, trial, constant=True),
            "bare step": part(bare, trial),
            "Keras fit": part(keras_fit, trial),
        },
        rounds,
        runs,
    )


def main() -> None:
    """Measures and prints."""
    values = flags.FLAGS
    print(machine.line("tensorflow", "keras"))
    for precision in values.precisions:
        for phase in values.phases:
            trial = Trial(
                values.data_dir,
                phase,
                precision,
                values.image_size,
                values.batch_size,
                values.steps,
                values.jit_compile,
            )
            found = compare(trial, values.rounds, values.runs)
            print(f"\n{measure.table(found)}", flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "A data set.", required=True)
    flags.DEFINE_list(
        "precisions", ["mixed_bfloat16", "float32"], "Policies to measure."
    )
    flags.DEFINE_list("phases", ["frozen", "finetune"], "Phases to measure.")
    flags.DEFINE_integer("image_size", 150, "Of the images, in pixels.")
    flags.DEFINE_integer("batch_size", 32, "Images per batch.")
    flags.DEFINE_integer("steps", 16, "Batches per pass.")
    flags.DEFINE_integer("rounds", 2, "Turns of each candidate.")
    flags.DEFINE_integer("runs", 2, "Passes that count, in each turn.")
    flags.DEFINE_bool("jit_compile", False, "Let XLA compile all of them.")
    command.run(main)
