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

import functools
from collections.abc import Callable

from absl import flags

from benchmarks import measure
from data_prep.dataset import splits
from data_prep.runtime import command


def make(
    kind: str,
    data_dir: str,
    phase: str,
    precision: str,
    image_size: int,
    batch_size: int,
    steps: int,
    jit_compile: bool,
) -> Callable[[], int]:
    """Returns a pass of `steps` batches of one candidate."""
    import keras
    import tensorflow as tf

    from data_prep.dataset import manifest as manifest_lib
    from trainer.augmentation import policies
    from trainer.distribution import devices
    from trainer.engine import loop
    from trainer.engine import optimizers
    from trainer.engine import results
    from trainer.engine import train_step
    from trainer.groups import Data
    from trainer.groups import Model
    from trainer.models.classifier import build_classifier
    from trainer.models.classifier import set_trainable
    from trainer.pipeline.data_loader import DataLoader
    from trainer.pipeline.input_pipeline import Batch
    from trainer.pipeline.reader import Reader

    devices.set_precision(precision)
    strategy = tf.distribute.get_strategy()
    manifest = manifest_lib.load(data_dir)
    classes = len(manifest.classes)
    model = build_classifier(classes, image_size, Model(preprocessing="caffe"))
    set_trainable(model, None if phase == "frozen" else "block5_conv1")
    loader = DataLoader(
        Data(data_dir=data_dir, image_size=image_size),
        {splits.TRAIN: Reader(data_dir, manifest, splits.TRAIN)},
        batch_size=batch_size,
        seed=0,
        replicas=1,
    )
    dataset = loader.training(loader.images[splits.TRAIN], 0).take(steps)
    first = next(iter(dataset))
    constant = tf.data.Dataset.from_tensors(first).repeat(steps)

    if kind == "fit":
        model.compile(
            keras.optimizers.Adam(1e-5),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=jit_compile,
        )
        pairs = dataset.map(lambda batch: (batch.image, batch.label))

        def epoch() -> int:
            model.fit(pairs, verbose=0)
            return steps * batch_size

        return epoch

    optimizer = optimizers.create(
        "adam",
        phase,
        model.trainable_variables,
        momentum=0.9,
        weight_decay=0.0,
        factors={},
    )
    optimizer.learning_rate.assign(1e-5)
    if kind == "bare":

        @tf.function(jit_compile=jit_compile)
        def gradients(batch: Batch):
            with tf.GradientTape() as tape:
                logits = model(tf.cast(batch.image, tf.float32), training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                    batch.label, logits
                )
                loss = tf.reduce_mean(losses)
                loss = optimizer.scale_loss(loss)
            return tape.gradient(loss, model.trainable_variables), loss

        @tf.function
        def step(batch: Batch):
            found, loss = gradients(batch)
            optimizer.apply(found, model.trainable_variables)
            return loss

        def epoch() -> int:
            for _ in range(steps):
                step(first).numpy()
            return steps * batch_size

        return epoch

    augment = policies.create(policies.Policy("none"), classes)
    options = train_step.StepOptions(jit_compile=jit_compile)
    train = loop.make_train(strategy, model, optimizer, augment, options)
    source = constant if kind == "constant" else dataset
    per_loop = devices.steps_per_loop(0)

    def epoch() -> int:
        batches = iter(devices.distribute(strategy, source))
        totals = results.Totals()
        for count in loop.call_sizes(steps, per_loop):
            result, seconds = loop.timed(
                train,
                batches,
                tf.constant(0, tf.int64),
                tf.constant(0, tf.int64),
                tf.constant([1e-5] * count),
                tf.constant(0.0, tf.float64),
            )
            totals.add(result, seconds)
        return steps * batch_size

    return epoch


def forward_flops(image_size: int) -> float:
    """Returns the multiply-adds, times 2, of VGG16's convolutions.

    Of one image: 2 * pixels * 9 * channels in * channels out of each of the
    13 layers (Simonyan and Zisserman, arXiv 1409.1556, configuration D).
    """
    total, before, side = 0, 3, image_size
    for channels, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(layers):
            total += 2 * side * side * 9 * before * channels
            before = channels
        side //= 2
    return float(total)


def main() -> None:
    """Measures and prints."""
    values = flags.FLAGS
    print(measure.machine("tensorflow", "keras"))
    for precision in values.precisions:
        for phase in values.phases:
            options = {
                "data_dir": values.data_dir,
                "phase": phase,
                "precision": precision,
                "image_size": values.image_size,
                "batch_size": values.batch_size,
                "steps": values.steps,
                "jit_compile": values.jit_compile,
            }
            makers = {
                name: functools.partial(make, kind, **options)
                for name, kind in (
                    ("ours, pipeline", "pipeline"),
                    ("ours, constant batch", "constant"),
                    ("bare step", "bare"),
                    ("Keras fit", "fit"),
                )
            }
            figures, _ = measure.in_turns(makers, values.rounds, values.runs)
            print(f"\n{phase} phase, {precision}, {values.image_size} px:")
            print(measure.table(figures, "images/s", "ours, pipeline"))
            if values.peak_tflops:
                rate = max(figures["ours, pipeline"])
                # The backward pass costs twice the forward one, in the
                # layers that learn; the head is next to nothing.
                done = forward_flops(values.image_size) * rate / 1e12
                print(
                    f"forward pass alone: {done:.1f} TFLOP/s, "
                    f"{done / values.peak_tflops:.0%} of the peak"
                )


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
    flags.DEFINE_float("peak_tflops", 0.0, "Of the accelerator, for its use.")
    command.run(main)
