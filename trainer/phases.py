"""Frozen, then fine-tune: one resumable sequence of epochs."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable

import keras
import tensorflow as tf

from data_prep import splits
from data_prep.errors import TrainingError
from data_prep.manifest import Manifest
from trainer import atomic
from trainer import cache
from trainer import checkpoint
from trainer import input_pipeline
from trainer import loop
from trainer.augmentation import policies
from trainer.config import Config
from trainer.config import Phase
from trainer.model import set_trainable
from trainer.reader import Reader

BEST = "best.npz"


@dataclasses.dataclass
class State:
    """How far a run has come; kept in every checkpoint.

    Attributes:
        epochs: What `metrics.jsonl` says of each finished epoch.
        best: The one of them whose weights are exported.
    """

    epochs: list[dict] = dataclasses.field(default_factory=list)
    best: dict | None = None


def run_phases(
    config: Config,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
    model: keras.Model,
) -> State:
    """Trains the model through all phases, from where the last run stopped.

    Afterwards `checkpoints/best.npz` holds the model's variables at the epoch
    with the highest validation accuracy, the lower loss deciding a tie.

    Args:
        config: Of the run.
        manifest: Of its data set.
        strategy: That the model was made under.
        model: With the base's weights in place.

    Raises:
        TrainingError: If the loss is no number any more.
    """
    model_dir = pathlib.Path(config.model_dir)
    readers = {
        split: Reader(config.data_dir, manifest, split)
        for split in (splits.TRAIN, splits.VALIDATION)
    }
    batches = _batches(config, strategy, readers)
    policy = policies.Policy(
        config.augment,
        config.augment_strength,
        config.mixup,
        config.cutmix,
        config.seed,
    )
    augment = policies.create(policy, len(manifest.classes))
    evaluate = loop.make_eval_step(strategy, model)
    resumed = checkpoint.load_newest(model_dir / "checkpoints")
    state = State(**resumed[2]) if resumed else State()
    if resumed:
        print(f"resuming after epoch {len(state.epochs)}", flush=True)
    _write_metrics(model_dir, state)

    first_epoch = 0
    for phase in config.phases:
        last_epoch = first_epoch + phase.epochs
        if len(state.epochs) >= last_epoch:
            first_epoch = last_epoch
            continue
        set_trainable(model, phase.train_from)
        steps = -(-readers[splits.TRAIN].count // config.batch_size)
        with strategy.scope():
            optimizer = _optimizer(phase, steps)
            optimizer.build(model.trainable_variables)
        if resumed:
            path, arrays, _ = resumed
            checkpoint.assign(checkpoint.model_variables(model), arrays, path)
            if len(state.epochs) > first_epoch:
                checkpoint.assign(_by_path(optimizer), arrays, path)
            resumed = None
        train = loop.make_train_step(strategy, model, optimizer, augment)
        for epoch in range(len(state.epochs), last_epoch):
            rate = float(optimizer.learning_rate)
            what = f"{phase.name} {epoch - first_epoch + 1}/{phase.epochs}"
            trained = loop.run_pass(
                strategy,
                train,
                batches(splits.TRAIN, epoch),
                readers[splits.TRAIN].count,
                what,
                tf.constant(epoch, tf.int64),
            )
            validated = loop.run_pass(
                strategy,
                evaluate,
                batches(splits.VALIDATION, epoch),
                readers[splits.VALIDATION].count,
                f"{what} validation",
            )
            row = _row(phase, epoch, trained, validated, rate)
            _check_finite(row, model_dir)
            print(_line(what, row), flush=True)
            state.epochs.append(row)
            if state.best is None or _rank(row) > _rank(state.best):
                state.best = row
                checkpoint.save(
                    model_dir / "checkpoints" / BEST,
                    checkpoint.model_variables(model),
                    row,
                )
            checkpoint.save_epoch(
                model_dir / "checkpoints",
                epoch + 1,
                {
                    **checkpoint.model_variables(model),
                    **_by_path(optimizer),
                },
                dataclasses.asdict(state),
            )
            _write_metrics(model_dir, state)
            _write_tensorboard(model_dir, row)
        first_epoch = last_epoch
    print(_why(state), flush=True)
    return state


def _batches(
    config: Config,
    strategy: tf.distribute.Strategy,
    readers: dict[str, Reader],
) -> Callable[[str, int], tf.data.Dataset]:
    """Returns the function that gives a split's batches in an epoch."""
    images = _sources(config, readers)

    def batches(split: str, epoch: int) -> tf.data.Dataset:
        count = readers[split].count
        if split == splits.TRAIN:
            plan = input_pipeline.plan_training(
                count, config.batch_size, config.seed, epoch
            )
        else:
            plan = input_pipeline.plan_evaluation(count, config.batch_size)
        return input_pipeline.create(
            readers[split],
            plan,
            images[split],
            replicas=strategy.num_replicas_in_sync,
        )

    return batches


def _sources(config: Config, readers: dict[str, Reader]) -> dict[str, Callable]:
    """Returns where each split's pixels come from, cached where they fit.

    Training decodes the fast way; validation decodes as the exported model
    does, since it decides what is exported.
    """
    decoders = {
        splits.TRAIN: input_pipeline.decoded_fast,
        splits.VALIDATION: input_pipeline.decoded_exactly,
    }
    memory = cache.memory_for_cache(config.cache_mb)
    result = {}
    for split, reader in readers.items():
        decoded = decoders[split](reader, config.image_size)
        size = cache.decoded_bytes(reader, config.image_size)
        path = None
        if config.cache_dir:
            name = (
                f"{reader.manifest.fingerprint[:16]}-{split}-"
                f"{config.image_size}.uint8"
            )
            path = pathlib.Path(config.cache_dir, name)
        elif size <= memory:
            memory -= size
        else:
            result[split] = decoded
            continue
        print(
            f"keeping {reader.count} decoded {split} images, "
            f"{size / cache.MIB:.0f} MiB, in {path or 'memory'}",
            flush=True,
        )
        plan = input_pipeline.plan_evaluation(reader.count, config.batch_size)
        in_order = input_pipeline.create(reader, plan, decoded)
        result[split] = input_pipeline.cached(
            cache.fill(reader, in_order, config.image_size, path)
        )
    return result


def _optimizer(
    phase: Phase, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """Makes the optimizer of a phase, with loss scaling under float16."""
    rate = keras.optimizers.schedules.CosineDecay(
        phase.learning_rate, phase.epochs * steps_per_epoch
    )
    # Named by the phase: Keras would number each phase's optimizer, and a
    # resumed run has made fewer of them.
    name = f"{phase.name}_optimizer"
    optimizer = {
        "adam": lambda: keras.optimizers.Adam(rate, name=name),
        "adamw": lambda: keras.optimizers.AdamW(rate, name=name),
        "rmsprop": lambda: keras.optimizers.RMSprop(rate, name=name),
        "sgd": lambda: keras.optimizers.SGD(rate, momentum=0.9, name=name),
    }[phase.optimizer]()
    if keras.config.dtype_policy().name == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(
            optimizer, name=f"{name}_loss_scale"
        )
    return optimizer


def _by_path(
    optimizer: keras.optimizers.Optimizer,
) -> dict[str, keras.Variable]:
    return {variable.path: variable for variable in optimizer.variables}


def _row(
    phase: Phase,
    epoch: int,
    trained: loop.Totals,
    validated: loop.Totals,
    learning_rate: float,
) -> dict:
    """Returns the line of `metrics.jsonl` for an epoch, counted from 1."""
    return {
        "phase": phase.name,
        "epoch": epoch + 1,
        "loss": trained.loss,
        "accuracy": trained.accuracy,
        "val_loss": validated.loss,
        "val_accuracy": validated.accuracy,
        "learning_rate": learning_rate,
        "images_per_second": trained.images_per_second,
        "data_wait_fraction": trained.data_wait_fraction,
        "seconds": trained.seconds + validated.seconds,
    }


def _rank(row: dict) -> tuple[float, float]:
    return row["val_accuracy"], -row["val_loss"]


def _check_finite(row: dict, model_dir: pathlib.Path) -> None:
    if math.isfinite(row["loss"]) and math.isfinite(row["val_loss"]):
        return
    raise TrainingError(
        f"the loss is no number in epoch {row['epoch']} ({row['phase']} "
        f"phase): training {row['loss']}, validation {row['val_loss']}. "
        "Expected finite losses: lower this phase's learning rate, "
        f"{row['learning_rate']:g} now. What was saved before is kept in "
        f"{model_dir}; pass another --model_dir to start anew."
    )


def _line(what: str, row: dict) -> str:
    return (
        f"{what}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
        f"validation loss {row['val_loss']:.4f}, "
        f"validation accuracy {row['val_accuracy']:.4f}, "
        f"{row['images_per_second']:.1f} images/s, "
        f"{row['data_wait_fraction']:.0%} waiting for data, "
        f"{row['seconds']:.0f} s"
    )


def _why(state: State) -> str:
    """Says which epoch is exported, and what each phase reached."""
    reached: dict[str, dict] = {}
    for row in state.epochs:
        other = reached.get(row["phase"])
        if other is None or _rank(row) > _rank(other):
            reached[row["phase"]] = row
    figures = "; ".join(
        f"{phase} phase {row['val_accuracy']:.4f} "
        f"(loss {row['val_loss']:.4f}, epoch {row['epoch']})"
        for phase, row in reached.items()
    )
    return (
        f"exporting the {state.best['phase']} phase, epoch "
        f"{state.best['epoch']}: the best validation accuracy, the lower loss "
        f"deciding a tie. Best of each phase: {figures}"
    )


def _write_metrics(model_dir: pathlib.Path, state: State) -> None:
    text = "".join(json.dumps(row) + "\n" for row in state.epochs)
    atomic.write_text(model_dir / "metrics.jsonl", text)


def _write_tensorboard(model_dir: pathlib.Path, row: dict) -> None:
    # One writer per epoch: a resumed run adds to what is there.
    writer = tf.summary.create_file_writer(str(model_dir / "tensorboard"))
    with writer.as_default(step=row["epoch"]):
        for name, value in row.items():
            if name not in ("phase", "epoch"):
                tf.summary.scalar(name, value)
    writer.close()
