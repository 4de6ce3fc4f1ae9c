"""Frozen, then fine-tune: one resumable sequence of steps."""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np
import psutil
import tensorflow as tf

from data_prep import splits
from data_prep.errors import DataError
from data_prep.errors import Stopped
from data_prep.errors import TrainingError
from data_prep.manifest import Manifest
from data_prep.progress import Progress
from trainer import checkpoint
from trainer import devices
from trainer import history
from trainer import loop
from trainer import optimizers
from trainer import stage as stages
from trainer import stop
from trainer.callbacks import Callbacks
from trainer.cluster_env import Cluster
from trainer.config import Config
from trainer.config import Phase
from trainer.extractor import Extractor
from trainer.feed import Feed
from trainer.model import set_trainable
from trainer.reader import Reader
from trainer.stage import Stage


@dataclasses.dataclass
class State:
    """How far a run has come; kept in every checkpoint.

    Attributes:
        epochs: What `metrics.jsonl` says of each finished epoch.
        best: The one of them whose weights are exported.
        phase: Position in the list of phases.
        phase_epoch: Finished epochs of this phase.
        step: Finished steps of the epoch under way.
        totals: What those steps gave, the fields of `loop.Totals`.
        retries: How often the loss was no number.
        callbacks: What the Keras callbacks have to remember.
    """

    epochs: list[dict] = dataclasses.field(default_factory=list)
    best: dict | None = None
    phase: int = 0
    phase_epoch: int = 0
    step: int = 0
    totals: dict = dataclasses.field(default_factory=dict)
    retries: int = 0
    callbacks: list[dict] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Run:
    """What the functions below share."""

    config: Config
    strategy: tf.distribute.Strategy
    model: keras.Model
    feed: Feed
    pictures: Stage
    extractor: Extractor | None
    options: loop.StepOptions
    steps_per_loop: int
    callbacks: Callbacks
    state: State
    directory: pathlib.Path
    writer: checkpoint.Writer | None  # of the chief; the others write nothing
    learned: set[str] = dataclasses.field(default_factory=set)
    # What `checkpoint.newest` found for the next stage to start from.
    resumed: tuple[pathlib.Path, dict, dict] | None = None
    saved_at: float = dataclasses.field(default_factory=time.monotonic)


@dataclasses.dataclass
class _PhaseRun:
    """What a phase trains with."""

    phase: Phase
    feed: Feed
    evaluate: Callable
    optimizer: keras.optimizers.Optimizer
    averages: optimizers.Averages | None
    train: Callable


def best_path(directory: pathlib.Path, best: dict) -> pathlib.Path:
    """Returns the checkpoint of the epoch that is exported.

    Args:
        directory: `checkpoints/` of the model directory.
        best: Its row of `metrics.jsonl`.
    """
    return directory / f"best-{best['epoch']:05d}.npz"


def run_phases(
    config: Config,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    *,
    cluster: Cluster | None = None,
    log_dir: str = "",
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> State:
    """Trains the model through all phases, from where the last run stopped.

    Afterwards the checkpoint `best_path` holds the model at the epoch with
    the highest validation accuracy, the lower loss deciding a tie.

    Args:
        config: Of the run.
        manifest: Of its data set.
        strategy: That the model was made under.
        model: With the base's weights in place.
        cluster: Of the processes that train together; None for one.
        log_dir: For TensorBoard; "" is in the model directory.
        callbacks: Of Keras; they hear of all phases as of one training.

    Raises:
        Stopped: If a signal asked to stop; the state is saved.
        TrainingError: If the loss is no number any more.
        DataError: If no checkpoint can be read.
    """
    model_dir = pathlib.Path(config.model_dir)
    run = _begin(config, manifest, strategy, model, cluster, callbacks)
    state = run.state
    events = pathlib.Path(log_dir or model_dir / "tensorboard")
    stop.begin_training()
    while state.phase < len(config.phases):
        stage = _begin_phase(run)
        try:
            while config.phases.index(stage.phase) == state.phase:
                row = _run_epoch(run, stage)
                if run.writer:
                    history.write_metrics(model_dir, state.epochs)
                    history.write_tensorboard(events, row)
        except checkpoint.NotFinite as error:
            _go_back(run, stage.phase, error)
    run.callbacks.end()
    _settle(run)
    stop.end_training()
    _say(run, history.why(state.epochs, state.best))
    return state


def _begin(
    config: Config,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    cluster: Cluster | None,
    callbacks: Sequence[keras.callbacks.Callback],
) -> _Run:
    """Puts a run together, as its newest checkpoint left it."""
    workers = len(cluster.workers) if cluster else 1
    worker = cluster.index if cluster else 0
    readers = {
        split: Reader(config.data_dir, manifest, split)
        for split in (splits.TRAIN, splits.VALIDATION)
    }
    feed = Feed(
        config,
        readers,
        replicas=strategy.num_replicas_in_sync // workers,
        worker=worker,
        workers=workers,
    )
    extractor = None
    if config.feature_cache or config.head_init != "zeros":
        # Several processes would extract the same over each other.
        extractor = Extractor(
            config, manifest, strategy, model, may_extract=cluster is None
        )
    directory = pathlib.Path(config.model_dir, "checkpoints")
    writer = None
    if worker == 0:
        directory.mkdir(parents=True, exist_ok=True)
        writer = checkpoint.Writer(directory)
    classes = len(manifest.classes)
    run = _Run(
        config=config,
        strategy=strategy,
        model=model,
        feed=feed,
        pictures=stages.of_pictures(config, classes, model, feed),
        extractor=extractor,
        options=loop.StepOptions(
            seed=config.seed,
            jit_compile=devices.compiles(config.jit_compile),
            accumulation=config.accumulation,
            clip_norm=config.clip_norm,
            label_smoothing=config.label_smoothing,
            class_weights=_class_weights(
                config, readers[splits.TRAIN].labels, classes
            ),
        ),
        steps_per_loop=devices.steps_per_loop(config.steps_per_loop),
        callbacks=Callbacks(
            callbacks,
            model,
            epochs=sum(phase.epochs for phase in config.phases),
            steps=feed.steps[splits.TRAIN],
        ),
        state=State(),
        directory=directory,
        writer=writer,
    )
    run.callbacks.begin()
    found = checkpoint.newest(directory)
    if found:
        run.resumed = found
        run.state = State(**found[2])
        _say(
            run,
            f"resuming after epoch {len(run.state.epochs)} and "
            f"{run.state.step} steps",
        )
    elif config.head_init != "zeros":
        run.state.best = stages.initialise_head(
            config, model, feed, extractor, write=writer is not None
        )
        _say(run, history.head_line(config.head_init, run.state.best))
    if writer and not found:
        everything = checkpoint.copy(checkpoint.model_variables(model))
        writer.save(directory / checkpoint.START, everything, {})
        if run.state.best:
            best = run.state.best
            writer.save(best_path(directory, best), {}, best)
        _save(run, {})
    _check_same_everywhere(run, workers)
    if writer:
        history.write_metrics(directory.parent, run.state.epochs)
    return run


def _begin_phase(run: _Run) -> _PhaseRun:
    """Unfreezes what the phase trains, and makes or restores its optimizer."""
    config, model, state = run.config, run.model, run.state
    for phase in config.phases[: state.phase + 1]:
        set_trainable(model, phase.train_from)
        learns = {
            id(variable)
            for layer in model.layers
            if layer.trainable
            for variable in layer.variables
        }
        run.learned |= {
            name
            for name, variable in checkpoint.model_variables(model).items()
            if id(variable) in learns
        }
    with run.strategy.scope():
        optimizer = stages.make_optimizer(config, phase, model)
        averages = None
        if config.average_decay:
            averages = optimizers.Averages(
                model.trainable_variables, config.average_decay
            )
    on = run.pictures
    if config.feature_cache and phase.train_from is None:
        on = stages.of_features(config, model, run.feed, run.extractor)
    stage = _PhaseRun(
        phase,
        on.feed,
        loop.make_evaluate(run.strategy, on.served),
        optimizer,
        averages,
        loop.make_train(
            run.strategy,
            on.network,
            optimizer,
            on.augment,
            run.options,
            averages,
        ),
    )
    optimizer.learning_rate.assign(_peak(run, phase))
    run.callbacks.begin_phase(optimizer)
    if run.resumed:
        _restore(run, stage)
    return stage


def _restore(run: _Run, stage: _PhaseRun) -> None:
    """Sets everything to what the newest checkpoint holds."""
    path, arrays, state = run.resumed
    checkpoint.assign_model(run.model, arrays, path)
    if state["phase_epoch"] or state["step"]:
        checkpoint.assign(_variables(stage), arrays, path)
    elif stage.averages:
        stage.averages.restart()
    run.callbacks.restore(state["callbacks"])
    run.resumed = None


def _run_epoch(run: _Run, stage: _PhaseRun) -> dict:
    """Trains, validates and saves; returns the row of `metrics.jsonl`."""
    state, phase = run.state, stage.phase
    epoch = len(state.epochs)
    what = f"{phase.name} {state.phase_epoch + 1}/{phase.epochs}"
    rate = float(_rates(run, stage, 0, 1)[0])
    run.callbacks.begin_epoch(epoch)
    trained = _train(run, stage, what)
    with _averaged(stage):
        validated = _validate(run, stage, what)
        if validated:
            memory_mb = psutil.Process().memory_info().rss / 2**20
            row = history.row(
                phase.name, epoch + 1, trained, validated, rate, memory_mb
            )
            _keep_if_best(run, row)
            stops = run.callbacks.end_epoch(epoch, row)
    if not validated:
        _save_and_stop(run, stage)
    _say(run, history.line(what, row))
    state.epochs.append(row)
    state.phase_epoch += 1
    state.step, state.totals = 0, {}
    in_phase = state.epochs[-state.phase_epoch :]
    patience = run.config.early_stopping
    if patience and history.epochs_without_gain(in_phase) >= patience:
        stops = True
    if stops and state.phase_epoch < phase.epochs:
        _say(run, f"{phase.name} ends after {state.phase_epoch} epochs")
    if stops or state.phase_epoch == phase.epochs:
        state.phase, state.phase_epoch = state.phase + 1, 0
        if stage.averages:
            stage.averages.swap()  # what was validated is what goes on
    _save(run, _variables(stage))
    return row


def _train(run: _Run, stage: _PhaseRun, what: str) -> loop.Totals:
    """Trains what is left of an epoch, saving when it is time to."""
    state, config, feed = run.state, run.config, stage.feed
    steps, images = feed.steps[splits.TRAIN], feed.counts[splits.TRAIN]
    epoch = len(state.epochs)
    totals = loop.Totals(**state.totals)
    dataset = feed.training(epoch, state.step)
    batches = iter(loop.distribute(run.strategy, dataset))
    with Progress(what, images) as progress:
        progress.update(min(images, state.step * config.batch_size))
        for count in loop.calls(steps - state.step, run.steps_per_loop):
            rows, seconds = loop.timed(
                stage.train,
                batches,
                tf.constant(epoch, tf.int64),
                tf.constant(state.phase_epoch * steps + state.step, tf.int64),
                tf.constant(_rates(run, stage, state.step, count)),
                _asked(),
            )
            _check_losses(run, stage, rows)
            totals.add(rows, seconds)
            state.totals = dataclasses.asdict(totals)
            state.step += count
            progress.update(int(rows[:, loop.IMAGES].sum()))
            if run.callbacks:
                logs = {"loss": totals.loss, "accuracy": totals.accuracy}
                run.callbacks.end_step(state.step - 1, logs)
            if rows[:, loop.ASKED].any():
                _save_and_stop(run, stage)
            if state.step < steps and _is_time(run, count):
                _save(run, _variables(stage))
    return totals


def _validate(run: _Run, stage: _PhaseRun, what: str) -> loop.Totals | None:
    """Measures the validation split; None where a signal cut it short."""
    steps = run.feed.steps[splits.VALIDATION]
    images = run.feed.counts[splits.VALIDATION]
    totals = loop.Totals()
    batches = iter(loop.distribute(run.strategy, stage.feed.validation()))
    with Progress(f"{what} validation", images) as progress:
        for count in loop.calls(steps, run.steps_per_loop):
            rows, seconds = loop.timed(
                stage.evaluate, batches, tf.constant(count), _asked()
            )
            totals.add(rows, seconds)
            progress.update(int(rows[:, loop.IMAGES].sum()))
            if rows[:, loop.ASKED].any():
                return None
    if not math.isfinite(totals.loss):
        raise checkpoint.NotFinite(
            f"the validation loss is {totals.loss} after epoch "
            f"{len(run.state.epochs) + 1} ({stage.phase.name} phase)"
        )
    return totals


def _peak(run: _Run, phase: Phase) -> float:
    return phase.learning_rate * 0.5**run.state.retries


def _rates(run: _Run, stage: _PhaseRun, step: int, count: int) -> np.ndarray:
    """Returns the rates of some steps of the epoch under way, float32."""
    if run.callbacks and run.config.schedule == "constant":
        # A callback may have changed it.
        rate = stage.optimizer.learning_rate.numpy()
        return np.full(count, rate, np.float32)
    steps = run.feed.steps[splits.TRAIN]
    first = run.state.phase_epoch * steps + step
    return optimizers.learning_rates(
        run.config.schedule,
        _peak(run, stage.phase),
        first,
        first + count,
        total=stage.phase.epochs * steps,
        warmup=round(run.config.warmup_epochs * steps),
    )


def _check_losses(run: _Run, stage: _PhaseRun, rows: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(rows[:, loop.LOSS]))
    if len(bad):
        raise checkpoint.NotFinite(
            f"the loss is {rows[bad[0], loop.LOSS]} at step "
            f"{run.state.step + bad[0] + 1} of epoch "
            f"{len(run.state.epochs) + 1} ({stage.phase.name} phase)"
        )


def _go_back(run: _Run, phase: Phase, error: checkpoint.NotFinite) -> None:
    """Makes the newest checkpoint the next start, with half the rate."""
    _settle(run)
    retries, allowed = run.state.retries, run.config.nan_retries
    if retries == allowed:
        raise TrainingError(
            f"{error}. Expected finite numbers: lower this phase's learning "
            f"rate, {_peak(run, phase):g} now, or pass --nan_retries. The last "
            f"good state is kept in {run.directory}; pass another --model_dir "
            "to start anew."
        )
    run.resumed = checkpoint.newest(run.directory)
    path, _, state = run.resumed
    vars(run.state).update(State(**{**state, "retries": retries + 1}).__dict__)
    _say(
        run,
        f"warning: {error}. Going back to {path.name} with half the learning "
        f"rate (retry {retries + 1} of {allowed}).",
    )


def _variables(stage: _PhaseRun) -> dict[str, keras.Variable]:
    """Returns what a phase needs beside the model, by name."""
    result = {v.path: v for v in stage.optimizer.variables}
    if stage.averages:
        result.update(stage.averages.averages)
    return result


def _learned(run: _Run) -> dict[str, keras.Variable]:
    variables = checkpoint.model_variables(run.model)
    return {name: variables[name] for name in sorted(run.learned)}


def _save(run: _Run, of_stage: dict[str, keras.Variable]) -> None:
    """Hands the state to the writer, in the process that has one."""
    run.saved_at = time.monotonic()
    if not run.writer:
        return
    state = run.state
    state.callbacks = run.callbacks.state()
    done = len(state.epochs) * run.feed.steps[splits.TRAIN] + state.step
    run.writer.save(
        checkpoint.step_path(run.directory, done),
        checkpoint.copy({**_learned(run), **of_stage}),
        dataclasses.asdict(state),
    )
    best = best_path(run.directory, state.best) if state.best else None
    run.writer.keep_only(best)


def _settle(run: _Run) -> None:
    """Returns, in every worker, when all that was to be saved is on disk."""
    if run.writer:
        run.writer.wait()
    devices.barrier(run.strategy)


def _keep_if_best(run: _Run, row: dict) -> None:
    best = run.state.best
    if best is not None and history.rank(row) <= history.rank(best):
        return
    run.state.best = row
    if run.writer:
        arrays = checkpoint.copy(_learned(run))
        run.writer.save(best_path(run.directory, row), arrays, row)


def _is_time(run: _Run, count: int) -> bool:
    """Says whether the last `count` steps came to a checkpoint's turn."""
    every, step = run.config.checkpoint_steps, run.state.step
    minutes = run.config.checkpoint_minutes
    by_step = every and step // every > (step - count) // every
    by_time = minutes and time.monotonic() - run.saved_at >= 60 * minutes
    return bool(by_step or by_time)


def _save_and_stop(run: _Run, stage: _PhaseRun) -> None:
    _save(run, _variables(stage))
    _settle(run)
    raise Stopped(
        f"stopped by {stop.asked() or 'another worker'} after epoch "
        f"{len(run.state.epochs)} and {run.state.step} steps, the state is "
        "saved. Run the same command again."
    )


def _asked() -> tf.Tensor:
    return tf.constant(1.0 if stop.asked() else 0.0, tf.float64)


@contextlib.contextmanager
def _averaged(stage: _PhaseRun) -> Iterator[None]:
    """Puts the averaged weights in the place of the trained ones."""
    if stage.averages:
        stage.averages.swap()
    try:
        yield
    finally:
        if stage.averages:
            stage.averages.swap()


def _class_weights(
    config: Config, labels: np.ndarray, classes: int
) -> tuple[float, ...]:
    """Returns a factor per class: its share of images, turned round."""
    if config.class_weights == "none":
        return ()
    counts = np.bincount(labels, minlength=classes)
    # scikit-learn's "balanced": n_samples / (n_classes * np.bincount(y)).
    return tuple(len(labels) / (classes * np.maximum(counts, 1)))


def _check_same_everywhere(run: _Run, workers: int) -> None:
    """Refuses workers that found different checkpoints."""
    state = run.state
    mine = float(len(state.epochs) * run.feed.steps[splits.TRAIN] + state.step)
    total = devices.sum_over_workers(run.strategy, mine, workers)
    if total != mine * workers:
        raise DataError(
            f"the workers found different checkpoints in {run.directory}: this "
            f"one stands at step {mine:g}, the mean is {total / workers:g}. "
            "--model_dir has to be a folder that all workers share."
        )


def _say(run: _Run, message: str) -> None:
    if run.writer:
        print(message, flush=True)
