"""One training step of one replica: from a batch to updated weights."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from trainer.distribution import devices
from trainer.engine import results
from trainer.engine.results import Metrics
from trainer.engine.results import StepResult
from trainer.groups import Optimisation
from trainer.models import dropout
from trainer.models.classifier import learns_statistics
from trainer.pipeline.input_pipeline import Batch


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How a batch becomes a step.

    Attributes:
        seed: The run's seed, for dropout.
        jit_compile: Whether XLA compiles forward and backward pass.
        accumulation: Number of micro-batches that a replica's share of a
            batch is split into, to save memory; their gradients are summed.
        clip_norm: Norm that all gradients together are scaled down to; 0
            leaves them.
        label_smoothing: Share of every target spread evenly over the classes.
        class_weights: Factor of each class in the loss; empty for none.
    """

    seed: int = 0
    jit_compile: bool = False
    accumulation: int = 1
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()


def make_options(
    settings: Optimisation,
    labels: np.ndarray,
    num_classes: int,
    *,
    seed: int,
    jit_compile: str,
) -> StepOptions:
    """Returns how a batch becomes a step, in every phase.

    Args:
        settings: Accumulation, clipping, smoothing and class weights.
        labels: int `[N]`, labels of the training images.
        num_classes: K.
        seed: The run's seed.
        jit_compile: "true", "false" or "auto", see `devices.use_xla`.
    """
    weights = ()
    if settings.class_weights == "balanced":
        counts = np.bincount(labels, minlength=num_classes)
        # scikit-learn's "balanced": n_samples / (n_classes * np.bincount(y)).
        weights = tuple(len(labels) / (num_classes * np.maximum(counts, 1)))
    return StepOptions(
        seed=seed,
        jit_compile=devices.use_xla(jit_compile),
        accumulation=settings.accumulation,
        clip_norm=settings.clip_norm,
        label_smoothing=settings.label_smoothing,
        class_weights=weights,
    )


def make_replica_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    augment: Callable[..., tuple[tf.Tensor, tf.Tensor]],
    options: StepOptions,
    replicas: int,
) -> Callable[[Batch, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns the function that trains on a replica's share of a batch.

    Args:
        model: From images to float32 logits; its `trainable` is final.
        optimizer: Built with the model's trainable variables.
        augment: What `augmentation.policies.create` returned.
        options: How a batch becomes a step.
        replicas: Number of replicas, of all workers together.

    Returns:
        A function of a batch, the epoch (int64 scalar) and whether this
        process is asked to stop (float64 scalar, 0 or 1), to be run by
        `strategy.run`. It returns a packed `StepResult`.
    """
    compute = _make_forward_backward(model, optimizer, options, replicas)
    if options.accumulation > 1:
        compute = _accumulate(
            compute, model.trainable_variables, options.accumulation
        )

    def replica_step(batch: Batch, epoch: tf.Tensor, stop: tf.Tensor):
        # Outside of what XLA compiles: the resampling has no kernel there.
        image, targets = augment(batch.image, batch.label, batch.id, epoch)
        # Without the partner, where images are mixed.
        batch = batch.last(targets.shape[0] or tf.shape(targets)[0])
        in_loss = batch.weight
        if options.class_weights:
            # Of a mixed image each class weighs with its own share.
            targets *= tf.constant(options.class_weights, tf.float32)
            total = tf.reduce_sum(targets, axis=-1)
            targets /= total[:, tf.newaxis]
            in_loss *= total
        targets += options.label_smoothing * (1.0 / targets.shape[-1] - targets)
        gradients, metrics = compute(
            image, targets, batch.label, batch.weight, in_loss, batch.id, epoch
        )
        skipped = tf.zeros([], tf.float64)
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if scaled or options.clip_norm:
            gradients, norm = _sum_and_clip(
                gradients, optimizer, options.clip_norm, replicas
            )
            if scaled:
                overflow = tf.logical_not(tf.math.is_finite(norm))
                skipped = tf.cast(overflow, tf.float64) / replicas
        optimizer.apply(gradients, model.trainable_variables)
        return StepResult(*metrics, skipped=skipped, stop_requested=stop).pack()

    return replica_step


def _make_forward_backward(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    options: StepOptions,
    replicas: int,
) -> Callable[..., tuple[list[tf.Tensor], Metrics]]:
    """Returns the function from a micro-batch to gradients and metrics."""
    variables = model.trainable_variables

    def forward_backward(image, targets, label, weight, in_loss, ids, epoch):
        with tf.GradientTape() as tape:
            with dropout.mask_key(options.seed, epoch, ids):
                logits = model(image, training=True)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            # The weights make the sum over all replicas the global mean.
            loss = tf.reduce_sum(losses * in_loss)
            if model.losses:
                micro_batches = replicas * options.accumulation
                loss += tf.add_n(model.losses) / micro_batches
            loss = optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, variables)
        return gradients, results.measure(label, weight, logits, losses)

    # Statistics that replicas share are summed by collectives, which XLA does
    # not compile.
    shares_statistics = replicas > 1 and learns_statistics(
        layer for layer in model.layers if layer.trainable
    )
    if options.jit_compile and not shares_statistics:
        return tf.function(forward_backward, autograph=False, jit_compile=True)
    return forward_backward


def _accumulate(
    compute: Callable[..., tuple[list[tf.Tensor], Metrics]],
    variables: list[keras.Variable],
    count: int,
) -> Callable[..., tuple[list[tf.Tensor], Metrics]]:
    """Returns `compute`, applied to micro-batches and summed.

    Args:
        compute: What `_make_forward_backward` returned.
        variables: What the gradients belong to.
        count: Number of micro-batches.
    """

    def accumulated(*batch_and_epoch):
        *batch, epoch = batch_and_epoch
        stacked = [tf.reshape(x, [count, -1, *x.shape[1:]]) for x in batch]

        def add(index, gradients, metrics):
            micro_batch = [x[index] for x in stacked]
            more, measured = compute(*micro_batch, epoch)
            gradients = [a + b for a, b in zip(gradients, more, strict=True)]
            sums = [a + b for a, b in zip(metrics, measured, strict=True)]
            return index + 1, gradients, Metrics(*sums)

        zero = tf.zeros([], tf.float64)
        # One at a time: all at once would take the memory of all.
        _, gradients, metrics = tf.while_loop(
            lambda index, *_: index < count,
            add,
            (0, [tf.zeros(v.shape) for v in variables], Metrics(*[zero] * 3)),
            parallel_iterations=1,
        )
        return gradients, metrics

    return accumulated


def _sum_and_clip(
    gradients: list[tf.Tensor],
    optimizer: keras.optimizers.Optimizer,
    clip_norm: float,
    replicas: int,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Sums gradients over the replicas, then clips them.

    Keras clips, and tests for overflow, each replica's own gradients, so that
    its result depends on the number of replicas. Here both see the sum. The
    optimizer then sums once more, a second all-reduce, so each replica hands
    in its share of the result.

    Returns:
        This replica's share of the clipped sum, and the norm of the sum.
    """
    gradients = tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, gradients
    )
    factor = 1.0 / replicas
    norm = tf.linalg.global_norm(gradients)
    if clip_norm:
        limit = optimizer.scale_loss(clip_norm)
        factor *= limit / tf.maximum(limit, norm)
    return [g * factor for g in gradients], norm
