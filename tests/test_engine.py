"""The step and what it is made of, on models of a few numbers."""

import csv
import errno
import json
import re
import types

import numpy as np
import pytest
from training import TINY
from training import TINY_SETTINGS
from training import lines
from training import prepare
from training import train_here

from data_prep.runtime.errors import TrainingError
from data_prep.runtime.errors import UsageError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("engine"))


@pytest.fixture
def float32(tf):
    import keras

    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


def small_model(seed=0):
    """From 2x2 images to 3 logits, a base of one layer below the pool."""
    import keras

    keras.utils.set_random_seed(seed)
    image = keras.Input((2, 2, 3))
    x = keras.layers.Conv2D(4, 1, name="block5_conv1")(image)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(3, dtype="float32", name="logits")(x)
    return keras.Model(image, logits)


def batches(tf, images=8, steps=3, replicas=1, scale=1.0):
    from trainer.pipeline.input_pipeline import Batch

    generator = np.random.default_rng(0)
    pixels = generator.normal(size=(steps, images, 2, 2, 3)) * scale
    whole = Batch(
        pixels.astype(np.float32),
        generator.integers(0, 3, (steps, images), np.int32),
        generator.integers(0, 9**9, (steps, images), np.int64),
        np.full((steps, images), 1.0 / images, np.float32),
    )
    share = (steps * replicas, images // replicas)
    stacked = Batch(*(x.reshape(*share, *x.shape[2:]) for x in whole))
    return tf.data.Dataset.from_tensor_slices(stacked)


def trained(tf, strategy, source, options, optimizer="sgd", rate=0.1, **more):
    """Returns the model after the batches, and the results of the steps."""
    from trainer.distribution import devices
    from trainer.engine import loop
    from trainer.engine import optimizers
    from trainer.engine.results import StepResult

    with strategy.scope():
        model = small_model()
        made = optimizers.create(
            optimizer,
            "phase",
            model.trainable_variables,
            momentum=0.9,
            weight_decay=0.0,
            factors=more.pop("factors", {}),
        )
        averages = None
        if "average_decay" in more:
            averages = optimizers.Averages(
                model.trainable_variables, more.pop("average_decay")
            )

    def augment(image, label, ids, epoch):
        return image, tf.one_hot(label, 3)

    step = loop.make_train(
        strategy, model, made, augment, loop.StepOptions(**options), averages
    )
    iterator = iter(devices.distribute(strategy, source))
    rows = []
    for number in range(3):
        arguments = (0, number, [rate], 0.0)
        types = (tf.int64, tf.int64, tf.float32, tf.float64)
        rows.append(
            step(iterator, *map(tf.constant, arguments, types)).numpy()[0]
        )
    return model, StepResult.unpack(np.array(rows)), made, averages


class TestLearningRates:
    def test_schedules(self):
        from trainer.engine.optimizers import learning_rates

        cosine = learning_rates("cosine", 2.0, 0, 101, total=100)
        assert cosine.dtype == np.float32
        np.testing.assert_allclose(cosine[[0, 50, 100]], [2, 1, 0], atol=1e-6)
        step = learning_rates("step", 1.0, 0, 100, total=100)
        np.testing.assert_allclose(
            step[[0, 49, 50, 74, 75, 99]], [1, 1, 0.1, 0.1, 0.01, 0.01]
        )
        constant = learning_rates("constant", 3.0, 5, 7, total=10)
        np.testing.assert_array_equal(constant, [3.0, 3.0])

    def test_warm_up_comes_before(self):
        from trainer.engine.optimizers import learning_rates

        rates = learning_rates("cosine", 1.0, 0, 20, total=20, warmup=4)
        np.testing.assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1, 1])
        assert (np.diff(rates[4:]) < 0).all()

    def test_a_part_is_a_part_of_the_whole(self):
        from trainer.engine.optimizers import learning_rates

        whole = learning_rates("cosine", 1.0, 0, 9, total=9, warmup=2)
        part = learning_rates("cosine", 1.0, 4, 7, total=9, warmup=2)
        np.testing.assert_array_equal(part, whole[4:7])


def test_layers_get_their_share_of_the_rate(tf, float32):
    """Under SGD a step is proportional to the rate; Adam is no different."""
    from trainer.engine.optimizers import layer_factors

    strategy = tf.distribute.get_strategy()
    assert set(layer_factors(small_model(), 0.5).values()) == {0.5}
    assert len(layer_factors(small_model(), 0.5)) == 2  # kernel and bias
    start = {v.path: v.numpy() for v in small_model().variables}
    for name in ("sgd", "adam"):
        moved = []
        for share in (1.0, 0.5):
            factors = {"block5_conv1/kernel": share}
            model, *_ = trained(
                tf,
                strategy,
                batches(tf, steps=3),
                {},
                name,
                1e-4,
                factors=factors,
            )
            moved.append(
                {v.path: v.numpy() - start[v.path] for v in model.variables}
            )
        whole, half = moved
        np.testing.assert_allclose(
            half["block5_conv1/kernel"],
            whole["block5_conv1/kernel"] / 2,
            rtol=2e-2,
        )
        np.testing.assert_allclose(
            half["logits/kernel"], whole["logits/kernel"], rtol=2e-2
        )


def test_gradients_are_clipped_over_all_replicas(tf, float32):
    """The norm of the whole batch's gradient, not of each replica's."""
    from trainer.distribution import devices

    limit = {"clip_norm": 0.01}
    mirrored = devices.mirrored(["CPU:0", "CPU:1"])
    one, *_ = trained(
        tf, tf.distribute.get_strategy(), batches(tf), limit, rate=1.0
    )
    two, *_ = trained(tf, mirrored, batches(tf, replicas=2), limit, rate=1.0)
    free, *_ = trained(
        tf, tf.distribute.get_strategy(), batches(tf), {}, rate=1.0
    )
    start = small_model().variables[0].numpy()
    moved = np.linalg.norm(one.variables[0].numpy() - start)
    assert moved < np.linalg.norm(free.variables[0].numpy() - start) / 5
    for ours, alone in zip(two.variables, one.variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), alone.numpy(), rtol=1e-5)


def test_class_weights_and_smoothing_are_in_the_gradient(tf, float32):
    """A step of SGD against the formula written out."""
    import keras

    weights = (0.5, 2.0, 1.0)
    source = batches(tf, steps=3)
    first = next(iter(source))
    model = small_model()
    with tf.GradientTape() as tape:
        logits = model(first.image)
        targets = 0.9 * tf.one_hot(first.label, 3) + 0.1 / 3
        losses = keras.losses.categorical_crossentropy(
            targets, logits, from_logits=True
        )
        loss = tf.reduce_mean(losses * tf.gather(weights, first.label))
    gradient = tape.gradient(loss, model.get_layer("logits").kernel.value)
    wanted = model.get_layer("logits").kernel.numpy() - 0.1 * gradient
    found, result, *_ = trained(
        tf,
        tf.distribute.get_strategy(),
        source.take(1).repeat(3),
        {"class_weights": weights, "label_smoothing": 0.1},
    )
    assert result.images.tolist() == [8, 8, 8]
    # One of three steps: the first result tells of the loss before it.
    assert result.loss_sum[0] == pytest.approx(
        float(tf.reduce_sum(losses)), rel=1e-5
    )
    single = small_model()
    assert not np.allclose(single.get_layer("logits").kernel.numpy(), wanted)
    from trainer.engine import loop
    from trainer.engine import optimizers

    made = optimizers.create(
        "sgd",
        "phase",
        single.trainable_variables,
        momentum=0.0,
        weight_decay=0.0,
        factors={},
    )
    step = loop.make_train(
        tf.distribute.get_strategy(),
        single,
        made,
        lambda image, label, ids, epoch: (image, tf.one_hot(label, 3)),
        loop.StepOptions(class_weights=weights, label_smoothing=0.1),
    )
    types = (tf.int64, tf.int64, tf.float32, tf.float64)
    step(iter(source), *map(tf.constant, (0, 0, [0.1], 0.0), types))
    np.testing.assert_allclose(
        single.get_layer("logits").kernel.numpy(), wanted, rtol=1e-5
    )


def test_a_mixed_image_weighs_by_the_classes_that_are_in_it(tf, float32):
    """Each class's part of the loss by its own weight, whichever is first."""
    from trainer.engine import train_step

    weights = np.float32([0.5, 2.0, 1.0])
    mixed = np.float32([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]] * 4)
    first = next(iter(batches(tf, steps=1)))
    model = small_model()
    with tf.GradientTape() as tape:
        logits = tf.nn.log_softmax(model(first.image))
        loss = tf.reduce_mean(-tf.reduce_sum(mixed * weights * logits, -1))
    wanted = tape.gradient(loss, model.get_layer("logits").kernel.value)

    class Optimizer:
        learning_rate = 0.0
        scale_loss = staticmethod(lambda loss: loss)

        def apply(self, gradients, variables):
            self.found = dict(
                zip([v.path for v in variables], gradients, strict=True)
            )

    optimizer = Optimizer()
    step = train_step.make_replica_step(
        model,
        optimizer,
        lambda image, label, ids, epoch: (image, tf.constant(mixed)),
        train_step.StepOptions(class_weights=tuple(weights)),
        replicas=1,
    )
    step(first, tf.constant(0, tf.int64), tf.constant(0.0, tf.float64))
    path = model.get_layer("logits").kernel.path
    np.testing.assert_allclose(optimizer.found[path], wanted, rtol=1e-4)


def test_weight_decay_is_that_of_keras(tf, float32):
    import keras

    from trainer.engine import optimizers

    def fitted(make):
        variables = [keras.Variable([1.0, -2.0]), keras.Variable([[3.0]])]
        optimizer = make(variables)
        for step in range(10):
            optimizer.learning_rate.assign(0.1 / (step + 1))
            gradients = [tf.constant([0.1, -0.3]), tf.constant([[0.0]])]
            optimizer.apply(gradients, variables)
        return [variable.numpy() for variable in variables]

    def ours(factors):
        return lambda variables: optimizers.create(
            "adamw",
            "phase",
            variables,
            momentum=0.0,
            weight_decay=0.1,
            factors={
                v.path: f for v, f in zip(variables, factors, strict=True)
            },
        )

    def keras_adamw(variables):
        made = keras.optimizers.AdamW(0.0, weight_decay=0.1)
        made.build(variables)
        return made

    for one, other in zip(
        fitted(ours([1, 1])), fitted(keras_adamw), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    rates = 0.1 / np.arange(1, 11)
    kept = 3 * np.prod(1 - 0.1 * 0.01 * rates)
    np.testing.assert_allclose(fitted(ours([1, 0.01]))[1], [[kept]], rtol=1e-6)


def test_balanced_weights_are_scikit_learns(tf):
    from sklearn.utils import class_weight

    from trainer.engine import train_step
    from trainer.groups import Optimisation

    labels = np.repeat([0, 1, 2], [5, 30, 2])
    options = train_step.make_options(
        Optimisation(class_weights="balanced"),
        labels,
        3,
        seed=0,
        jit_compile="false",
    )
    np.testing.assert_allclose(
        options.class_weights,
        class_weight.compute_class_weight(
            "balanced", classes=np.arange(3), y=labels
        ),
    )


def test_averages_are_tensorflows(tf, float32):
    import keras

    from trainer.engine.optimizers import Averages

    ours = keras.Variable([1.0, -2.0])
    averages = Averages([ours], 0.7)
    (average,) = averages.averages.values()
    theirs, steps = tf.Variable([1.0, -2.0]), tf.Variable(0, dtype=tf.int64)
    library = tf.train.ExponentialMovingAverage(0.7, num_updates=steps)
    library.apply([theirs])  # before any step: what the variable is
    for step in range(30):  # its decay is that of the first steps until 20
        value = np.float32([np.sin(step), step])
        ours.assign(value)
        theirs.assign(value)
        steps.assign(step)
        averages.update(tf.distribute.get_strategy(), tf.constant(step))
        library.apply([theirs])
        np.testing.assert_allclose(
            average.numpy(), library.average(theirs).numpy(), rtol=1e-5
        )


def test_each_layer_gets_less_than_the_one_above(tf, float32):
    import keras

    from trainer.engine import optimizers

    layers = [keras.layers.Conv2D(2, 1, name=name) for name in "abc"]
    image = keras.Input((2, 2, 3))
    x = layers[1](keras.layers.ReLU()(layers[0](image)))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(layers[2](x))
    model = keras.Model(image, keras.layers.Dense(2, name="logits")(x))
    found = optimizers.layer_factors(model, 0.5)
    assert {v.path: found.get(v.path, 1.0) for v in model.variables} == {
        f"{layer}/{kind}": share
        for layer, share in zip(
            ("a", "b", "c", "logits"), (0.125, 0.25, 0.5, 1.0), strict=True
        )
        for kind in ("kernel", "bias")
    }


@pytest.mark.parametrize("replicas", [1, 2])
def test_averages_follow_the_weights(tf, float32, replicas):
    from trainer.distribution import devices

    strategy = tf.distribute.get_strategy()
    if replicas == 2:
        strategy = devices.mirrored(["CPU:0", "CPU:1"])
    model, _, _, averages = trained(
        tf,
        strategy,
        batches(tf, replicas=replicas),
        {},
        average_decay=0.9,
    )
    name = "average/logits/kernel"
    kernel = model.get_layer("logits").kernel
    start = small_model().get_layer("logits").kernel.numpy()
    average = averages.averages[name].numpy()
    # It lies between the start and the end, away from both.
    assert (
        0 < np.abs(average - start).sum() < np.abs(kernel.numpy() - start).sum()
    )
    raw = kernel.numpy()
    averages.swap()
    np.testing.assert_array_equal(kernel.numpy(), average)
    averages.swap()
    np.testing.assert_array_equal(kernel.numpy(), raw)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_float16_overflow_skips_the_step_and_is_counted(tf, replicas):
    import keras

    from trainer.distribution import devices

    strategy = tf.distribute.get_strategy()
    if replicas == 2:
        strategy = devices.mirrored(["CPU:0", "CPU:1"])
    keras.config.set_dtype_policy("mixed_float16")
    try:
        start = small_model().get_layer("logits").kernel.numpy()
        # Too large for float16 once the loss is scaled by 2**15.
        source = batches(tf, replicas=replicas, scale=3e3)
        model, result, optimizer, _ = trained(tf, strategy, source, {})
        np.testing.assert_array_equal(result.skipped, [1, 1, 1])
        kernel = model.get_layer("logits").kernel.numpy()
        np.testing.assert_array_equal(kernel, start)
        assert float(optimizer.dynamic_scale.numpy()) == 2.0**12
        assert int(optimizer.iterations.numpy()) == 0
        calm = batches(tf, replicas=replicas)
        model, result, *_ = trained(tf, strategy, calm, {})
        np.testing.assert_array_equal(result.skipped, [0, 0, 0])
        assert (model.get_layer("logits").kernel.numpy() != start).any()
    finally:
        keras.config.set_dtype_policy("float32")


class TestDropout:
    def test_the_mask_belongs_to_the_image(self, tf, float32):
        from trainer.models.dropout import Dropout
        from trainer.models.dropout import mask_key

        layer, inputs = Dropout(0.25), tf.ones([4, 1000])
        ids = tf.constant([5, 6, 7, 8], tf.int64)
        with mask_key(0, tf.constant(1, tf.int64), ids):
            found = layer(inputs, training=True).numpy()
        with mask_key(0, tf.constant(1, tf.int64), ids[2:]):
            part = layer(inputs[:2], training=True).numpy()
        with mask_key(0, tf.constant(2, tf.int64), ids):
            later = layer(inputs, training=True).numpy()
        np.testing.assert_array_equal(part, found[2:])
        assert (later != found).any()
        assert (found[0] != found[1]).any()
        assert set(np.unique(found)) == {0.0, np.float32(1 / 0.75)}
        assert (found == 0).mean() == pytest.approx(0.25, abs=0.03)

    def test_a_step_draws_by_seed_and_epoch(self, tf, float32):
        import keras

        from trainer.engine import train_step
        from trainer.models.dropout import Dropout

        keras.utils.set_random_seed(0)
        image = keras.Input((2, 2, 3))
        x = keras.layers.Dense(16)(keras.layers.Flatten()(image))
        model = keras.Model(image, keras.layers.Dense(3)(Dropout(0.5)(x)))
        optimizer = keras.optimizers.SGD(0.0)
        optimizer.build(model.trainable_variables)
        batch = next(iter(batches(tf)))

        def loss(seed, epoch):
            step = train_step.make_replica_step(
                model,
                optimizer,
                lambda image, label, ids, epoch: (image, tf.one_hot(label, 3)),
                train_step.StepOptions(seed=seed),
                replicas=1,
            )
            now = tf.constant(epoch, tf.int64), tf.constant(0.0, tf.float64)
            return float(step(batch, *now)[0])

        drawn = [loss(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
        assert len(set(drawn)) == 4
        assert loss(1, 1) == drawn[-1]

    def test_nothing_is_dropped_where_nothing_learns(self, tf, float32):
        from trainer.models.dropout import Dropout
        from trainer.models.dropout import mask_key

        layer, inputs = Dropout(0.5), tf.ones([2, 10])
        np.testing.assert_array_equal(layer(inputs), inputs)
        np.testing.assert_array_equal(layer(inputs, training=False), inputs)
        ids = tf.constant([5, 6], tf.int64)
        with mask_key(0, tf.constant(1, tf.int64), ids):
            np.testing.assert_array_equal(layer(inputs, training=False), inputs)

    @pytest.mark.parametrize("part", ["model", "head"])
    def test_training_without_a_key_is_an_error(self, tf, float32, part):
        """Not silently no dropout, in a graph neither; inference needs none."""
        from trainer.groups import Model
        from trainer.models.classifier import build_classifier
        from trainer.models.classifier import head_of
        from trainer.models.dropout import mask_key

        settings = Model(base="scratch", weights="none", dropout=0.5)
        network = build_classifier(3, 62, settings)
        if part == "head":
            network = head_of(network)
        inputs = tf.ones([2, *network.input.shape[1:]])
        ids = tf.constant([5, 6], tf.int64)
        with mask_key(0, tf.constant(1, tf.int64), ids):
            network(inputs, training=True)
        for call in (network, tf.function(network)):
            with pytest.raises(RuntimeError, match="outside of dropout.mask"):
                call(inputs, training=True)
            assert call(inputs, training=False).shape == (2, 3)
            assert call(inputs).shape == (2, 3)

    @pytest.mark.parametrize("what", ["find_lr", "images", "features"])
    def test_all_that_trains_gives_the_key(
        self, data, tmp_path, tf, float32, monkeypatch, what
    ):
        """Without the scope none of them trains; with it they all do."""
        import contextlib

        from trainer import find_lr
        from trainer.config import Config
        from trainer.models import dropout
        from trainer.run import run

        config = Config(
            str(data),
            str(tmp_path / "model"),
            recipe="",
            base="scratch",
            weights="none",
            freeze_random_weights=True,
            image_size=62,
            batch_size=8,
            precision="float32",
            strategy="one_device",
            frozen_epochs=1,
            finetune_epochs=0,
            augment="none",
            dropout=0.5,
            feature_cache=what == "features",
        )

        def train():
            if what == "find_lr":
                return find_lr.find_lr(config, "frozen", 1e-4, 1e-3, 2)
            return run(config)

        with monkeypatch.context() as patch:
            patch.setattr(
                dropout, "mask_key", lambda *_: contextlib.nullcontext()
            )
            with pytest.raises(RuntimeError, match="outside of dropout.mask"):
                train()
        assert train()


def test_a_pass_is_the_sum_of_its_steps(tf):
    """Two steps, the second one's batch with padding."""
    from trainer.engine import results

    totals = results.Totals()
    totals.add(
        results.StepResult(
            loss_sum=np.array([6.0, 1.0]),
            correct=np.array([5.0, 2.0]),
            images=np.array([8.0, 2.0]),
            skipped=np.array([0.0, 1.0]),
            stop_requested=np.zeros(2),
            waited=np.array([0.5, 0.25]),
        ),
        seconds=2.0,
    )
    totals.add(results.StepResult(*np.zeros((6, 1))), seconds=1.0)
    assert (totals.loss, totals.accuracy) == (0.7, 0.7)
    assert (totals.images, totals.skipped) == (10, 1)
    assert totals.images_per_second == pytest.approx(10 / 3)
    assert totals.data_wait_fraction == 0.25
    found = results.measure(
        tf.constant([0, 1, 1]),
        tf.constant([0.5, 0.5, 0.0]),
        tf.constant([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
        tf.constant([0.25, 1.0, 9.0]),
    )
    assert [float(one) for one in found] == [1.25, 1, 2]


def test_the_best_epoch_has_the_least_loss_of_equal_accuracies(tf):
    from trainer.engine import history
    from trainer.engine.training_state import TrainingState

    figures = ((0.9, 0.4), (0.9, 0.3), (0.8, 0.1), (0.9, 0.3))
    rows = [
        {"phase": "frozen", "val_accuracy": accuracy, "val_loss": loss}
        for accuracy, loss in figures
    ]
    state = TrainingState()
    found = [state.keep_if_best(row) for row in rows]
    assert found == [True, True, False, False]
    waited = [history.epochs_without_gain(rows[:n]) for n in range(1, 5)]
    assert waited == [0, 0, 1, 2]
    later = {"phase": "finetune", "val_accuracy": 0.9, "val_loss": 0.35}
    assert state.keep_if_best(later) and state.best is rows[1]


def test_retries_halve_the_rate_and_end(tf, tmp_path, monkeypatch):
    from trainer.config import Config
    from trainer.engine import phases
    from trainer.engine.checkpoint import Checkpoint
    from trainer.engine.checkpoint import NotFinite
    from trainer.engine.training_state import TrainingState

    config = Config("data", str(tmp_path), recipe="", nan_retries=2)
    training = types.SimpleNamespace(
        config=config,
        state=TrainingState(),
        checkpointer=types.SimpleNamespace(directory=tmp_path),
        workers=types.SimpleNamespace(print_once=lambda _: None),
    )
    (phase, _), rates = config.phases, []
    kept = Checkpoint(tmp_path / "step-000000001.npz", {}, {"phase_epoch": 1})
    monkeypatch.setattr(phases, "_newest", lambda _: kept)
    for _ in range(2):
        phases._go_back(training, phase, NotFinite("the loss is nan"))
        rates.append(phases.peak_rate(phase, training.state))
    full = phase.learning_rate
    assert rates == [full / 2, full / 4] and training.state.phase_epoch == 1
    with pytest.raises(TrainingError, match="lower this phase's learning rate"):
        phases._go_back(training, phase, NotFinite("the loss is nan"))


def test_keras_callbacks_are_heard_and_keep_their_state(data, tmp_path, tf):
    import keras

    from trainer.engine.callbacks import Callbacks

    heard = []

    class Recorder(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            heard.append(("step", batch, set(logs)))

        def on_epoch_end(self, epoch, logs=None):
            heard.append(("epoch", epoch, "val_accuracy" in logs))

    plateau = keras.callbacks.ReduceLROnPlateau(
        "val_loss", factor=0.5, patience=1, min_delta=100
    )
    enough = keras.callbacks.EarlyStopping(
        "val_loss", min_delta=100, patience=2
    )
    train_here(
        data,
        tmp_path / "model",
        callbacks=[Recorder(), plateau, enough],
        frozen_epochs=5,
        finetune_epochs=0,
        schedule="constant",
    )
    rates = [
        row["learning_rate"]
        for row in lines(tmp_path / "model" / "metrics.jsonl")
    ]
    # No epoch is better by 100: half the rate after each, the end after two.
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 5e-4], rtol=1e-5)
    assert [h[1] for h in heard if h[0] == "epoch"] == [0, 1, 2]
    assert heard[:3] == [("step", n, {"loss", "accuracy"}) for n in range(3)]

    state = json.loads(
        json.dumps(
            Callbacks([plateau], small_model(), epochs=1, steps=1).state()
        )
    )
    again = keras.callbacks.ReduceLROnPlateau("val_loss")
    other = Callbacks([again], small_model(), epochs=1, steps=1)
    other.begin()
    other.restore(state)
    assert (again.wait, again.best) == (plateau.wait, plateau.best)


@pytest.mark.slow
def test_stages_and_early_stopping(data, tmp_path, tf, capsys):
    model = tmp_path / "model"
    train_here(
        data,
        model,
        finetune_from="conv4,conv3",
        finetune_epochs=1,
        frozen_epochs=6,
        frozen_learning_rate=0.0,
        early_stopping=2,
    )
    phases = [row["phase"] for row in lines(model / "metrics.jsonl")]
    # With a rate of 0 no epoch after the first is better.
    assert phases == ["frozen"] * 3 + ["finetune", "finetune2"]
    assert "frozen ends after 3 epochs" in capsys.readouterr().out


@pytest.mark.slow
def test_find_lr(data, tmp_path, run):
    picture = tmp_path / "rates.png"
    done = run(
        "trainer.find_lr",
        f"--data_dir={data}",
        *TINY,
        "--lowest=1e-5",
        "--highest=1e4",
        "--steps=20",
        f"--output={picture}",
    )
    assert done.returncode == 0, done.stderr
    assert "the loss falls fastest at a learning rate of" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    with open(picture.with_suffix(".csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["learning_rate"]) for row in rows]
    assert 2 < len(rates) <= 20
    np.testing.assert_allclose(
        rates[:2], [1e-5, 10 ** (-5 + 9 / 19)], rtol=1e-3
    )
    for arguments, message in (
        (["--output=rates.txt"], "is not a plot"),
        (["--lowest=1", "--highest=0.1"], "is no range"),
    ):
        refused = run("trainer.find_lr", f"--data_dir={data}", *arguments)
        assert refused.returncode == 64
        assert message in refused.stderr


def test_find_lr_trains_as_a_phase_does(data, tmp_path, tf, monkeypatch):
    """The same options of a step, class weights included."""
    from trainer import find_lr
    from trainer.config import Config
    from trainer.engine import loop

    seen = []
    real = loop.make_train

    def make_train(strategy, model, optimizer, augment, options, *rest):
        seen.append(options)
        return real(strategy, model, optimizer, augment, options, *rest)

    monkeypatch.setattr(loop, "make_train", make_train)
    settings = dict(
        TINY_SETTINGS,
        strategy="one_device",
        finetune_epochs=0,
        class_weights="balanced",
        label_smoothing=0.1,
        clip_norm=1.0,
        seed=3,
    )
    config = Config(str(data), str(tmp_path / "model"), **settings)
    find_lr.find_lr(config, "frozen", 1e-4, 1e-3, 2)
    train_here(data, tmp_path / "model", **settings)
    assert seen[0] == seen[1]
    assert seen[0].class_weights == (1.0, 1.0)


def test_suggested_rate_is_where_the_loss_falls_fastest():
    from trainer.find_lr import suggest

    rates = np.geomspace(1e-6, 1, 200)
    losses = 1 / (1 + np.exp(4 * np.log10(rates / 1e-3)))
    # The running mean comes some steps late.
    assert 1e-3 < suggest(rates, losses) < 1e-2


def test_multi_worker_needs_a_cluster(tf):
    from trainer.distribution import devices

    with pytest.raises(UsageError, match="needs a cluster"):
        devices.make_strategy("multi_worker", 0)


def test_virtual_devices_are_refused_to_several_workers(tf):
    from trainer.distribution import devices
    from trainer.distribution.cluster import Cluster

    cluster = Cluster(("localhost:1", "localhost:2"), 0)
    with pytest.raises(UsageError, match="one CPU"):
        devices.make_strategy("auto", 1, cluster)


def test_strategies_of_one_process_share_no_collectives(tf):
    """TensorFlow's own would be taken for one another, and abort."""
    from trainer.distribution import devices

    for dtype, size in ((tf.float32, 3), (tf.float64, 5), (tf.float32, 7)):
        strategy = devices.mirrored(["CPU:0", "CPU:1"])

        def add(dtype=dtype, size=size):
            context = tf.distribute.get_replica_context()
            return context.all_reduce("SUM", tf.ones(size, dtype))

        total = tf.function(lambda s=strategy, f=add: s.run(f))()
        for one in strategy.experimental_local_results(total):
            np.testing.assert_array_equal(one, np.full(size, 2))


@pytest.mark.parametrize(
    ("capabilities", "wanted"),
    [
        ([(9, 0), (8, 0)], "mixed_bfloat16"),
        ([(9, 0), (7, 5)], "mixed_float16"),
        ([(7, 0), (6, 1)], "float32"),
    ],
)
def test_precision_is_what_every_gpu_computes(
    tf, float32, monkeypatch, capabilities, wanted
):
    """Of GPUs that are not here, by what TensorFlow says of them."""
    from trainer.distribution import devices

    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda _: capabilities
    )
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda gpu: {"compute_capability": gpu},
    )
    assert devices.set_precision("auto") == wanted
    import keras

    assert keras.config.dtype_policy().name == wanted


@pytest.mark.parametrize(
    ("features", "wanted"),
    [
        ("fpu avx512f amx_tile amx_bf16", "mixed_bfloat16"),
        ("fpu avx512f avx512_bf16", "mixed_bfloat16"),
        ("fpu avx2 avx512f avx512_vnni", "float32"),
    ],
)
def test_precision_is_what_the_processor_computes(
    tf, float32, monkeypatch, features, wanted
):
    from trainer.distribution import devices

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])
    monkeypatch.setattr(
        devices.pathlib.Path, "read_text", lambda _: f"flags : {features}\n"
    )
    assert devices.set_precision("auto") == wanted


def test_a_full_disk_for_temporary_files_stops_no_training(
    tf, tmp_path, monkeypatch
):
    """AutoGraph would write there what it rewrites, and fail."""
    from tensorflow.python.autograph.impl import api
    from tensorflow.python.autograph.pyct import loader

    rewritten = set()

    def write(source, *_, **__):
        rewritten.add(re.search(r"def tf__(\w+)", source).group(1))
        raise OSError(errno.ENOSPC, "No space left on device")

    data = prepare(tmp_path)
    monkeypatch.setattr(loader, "load_source", write)
    # What other tests had rewritten is not kept for this one.
    monkeypatch.setattr(api, "_TRANSPILER", api.PyToTF())
    train_here(data, tmp_path / "model", augment="classic", dropout=0.3)
    assert (tmp_path / "model" / "DONE.json").exists()
    # What is killed leaves such files; this one is TensorFlow's own, in exports.
    assert rewritten == {"signature_wrapper"}
