"""The table of bases, against keras.applications itself."""

import importlib
import os
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import ROOT

from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from trainer.config import Config
from trainer.models.bases import BASES

# Modules of keras.applications, where `preprocess_input` stands.
MODULES = {
    "resnet101": "resnet",
    "resnet50_v2": "resnet_v2",
    "densenet121": "densenet",
    "efficientnet_v2_b0": "efficientnet_v2",
}
APPLICATIONS = [name for name, base in BASES.items() if base.application]


@pytest.fixture(autouse=True)
def float32(tf):
    import keras

    keras.config.set_dtype_policy("float32")


def build(name, image_size=0, **options):
    from trainer.groups import Model
    from trainer.models.classifier import build_classifier

    defaults = dict(preprocessing="auto", head="gap", head_units=0, dropout=0.0)
    return build_classifier(
        3,
        image_size or BASES[name].min_size,
        Model(base=name, **{**defaults, **options}),
    )


@pytest.mark.parametrize("name", BASES)
def test_every_base_builds_at_its_least_size(name):
    from trainer.models.classifier import set_trainable

    base = BASES[name]
    model = build(name)
    names = [layer.name for layer in model.layers]
    places = [names.index(layer) for layer in base.layers]
    assert places == sorted(places)
    assert base.finetune_from in base.layers
    logits = model(np.zeros((1, base.min_size, base.min_size, 3), np.float32))
    assert logits.shape == (1, 3)

    # Nothing of the base has weights before the first of `layers`.
    set_trainable(model, base.layers[0])
    assert len(model.trainable_variables) == len(
        [v for v in model.weights if "moving_" not in v.path and keep(v)]
    )
    set_trainable(model, None)
    assert len(model.trainable_variables) == 2


def keep(variable):
    """Leaves out what no base ever trains: fixed normalisation constants."""
    return not variable.path.startswith("normalization")


@pytest.mark.parametrize("name", APPLICATIONS)
def test_one_pixel_less_is_refused(name):
    base = BASES[name]
    with pytest.raises(UsageError, match=f"at least {base.min_size} pixels"):
        Config("data", "model", base=name, image_size=base.min_size - 1)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_preprocessing_is_that_of_the_application(name):
    import keras

    module = importlib.import_module(
        f"keras.applications.{MODULES.get(name, name)}"
    )
    size = BASES[name].min_size
    images = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3))
    images = images.astype(np.float32)
    model = build(name)
    if BASES[name].preprocessing == "none":
        found = images
    else:
        output = model.get_layer("preprocessing").output
        found = keras.Model(model.input, output)(images)
    wanted = module.preprocess_input(images.copy())
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


def test_names_do_not_depend_on_what_was_built_before(tf):
    """Keras numbers unnamed layers over the process; weights go by name."""
    first, second = build("inception_v3"), build("inception_v3")
    assert [x.name for x in first.layers] == [x.name for x in second.layers]
    assert first.layers[2].name == "conv2d"


@pytest.mark.parametrize(
    "name", [pytest.param("xception", marks=pytest.mark.slow), "mobilenet_v2"]
)
def test_weights_of_another_base_load(name, tmp_path):
    import keras

    from trainer.models import weights

    base = BASES[name]
    keras.utils.set_random_seed(3)
    source = getattr(keras.applications, base.application)(
        include_top=False, weights=None
    )
    source.save_weights(tmp_path / "base.weights.h5")
    found = weights.load_base(str(tmp_path / "base.weights.h5"), name)
    model = build(name)
    for layer, arrays in found.items():
        model.get_layer(layer).set_weights(arrays)
    mine = [a for arrays in found.values() for a in arrays]
    theirs = source.get_weights()
    by_layer = [w for layer in source.layers for w in layer.get_weights()]
    assert len(mine) == len(theirs)
    for a, b in zip(mine, by_layer, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(DataError, match="does not hold the layers of ResNet50"):
        weights.load_base(str(tmp_path / "base.weights.h5"), "resnet50")


def test_batch_normalisation_keeps_its_statistics_in_fine_tuning():
    from trainer.models.classifier import set_trainable

    model = build("mobilenet")
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    statistics = [v for v in model.weights if "moving_" in v.path]
    before = [v.numpy() for v in statistics]
    set_trainable(model, BASES["mobilenet"].finetune_from)
    model(images, training=True)
    for variable, value in zip(statistics, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    # The control: a base that learns as a whole learns them too.
    set_trainable(model, BASES["mobilenet"].layers[0])
    model(images, training=True)
    assert not np.array_equal(statistics[0].numpy(), before[0])


def trained_whole(tf, base, replicas, steps=3, images=8, **options):
    """Trains a whole base; returns the losses, and each replica's variables."""
    import keras

    from trainer.augmentation import policies
    from trainer.distribution import devices
    from trainer.engine import loop
    from trainer.engine import optimizers
    from trainer.engine.results import StepResult
    from trainer.models.classifier import set_trainable
    from trainer.pipeline.input_pipeline import Batch

    keras.utils.set_random_seed(0)
    strategy = tf.distribute.get_strategy()
    if replicas > 1:
        strategy = tf.distribute.MirroredStrategy(
            [f"CPU:{n}" for n in range(replicas)]
        )
    with strategy.scope():
        model = build(base)
        set_trainable(model, BASES[base].layers[0])
        optimizer = optimizers.create(
            "sgd",
            "phase",
            model.trainable_variables,
            momentum=0.9,
            weight_decay=0.0,
            factors={},
        )
    size, (_, side, _, _) = images // replicas, model.input.shape
    generator = np.random.default_rng(0)
    count = steps * images
    shares = Batch(
        generator.integers(0, 256, (count, side, side, 3), np.uint8),
        generator.integers(0, 3, count).astype(np.int32),
        np.arange(count),
        np.full(count, 1 / images, np.float32),
    )
    source = tf.data.Dataset.from_tensor_slices(shares).batch(size, True)
    train = loop.make_train(
        strategy,
        model,
        optimizer,
        policies.create(policies.Policy("none"), 3),
        loop.StepOptions(**options),
    )
    iterator = iter(devices.distribute(strategy, source))
    rates = tf.fill([steps], tf.constant(0.001))
    arguments = (tf.constant(0, tf.int64), tf.constant(0, tf.int64))
    packed = train(iterator, *arguments, rates, tf.constant(0.0, tf.float64))
    result = StepResult.unpack(packed.numpy())
    copies = {
        v.path: [
            x.numpy() for x in strategy.experimental_local_results(v.value)
        ]
        for v in model.variables
    }
    return result.loss_sum / result.images, copies


@pytest.mark.parametrize(
    "base, options",
    [
        ("mobilenet", {}),
        *(
            pytest.param(base, options, marks=pytest.mark.slow)
            for base, options in (
                ("mobilenet", {"jit_compile": True}),  # by one replica only
                ("efficientnet_v2_b0", {}),
            )
        ),
    ],
)
def test_replicas_train_a_whole_base_as_one_device_does(
    base, options, tmp_path
):
    """The loss of every step, and the same variables on both replicas.

    In processes of their own: TensorFlow's collectives remember the shapes of
    an earlier strategy of the same process.
    """

    def run(replicas, **options):
        path = tmp_path / f"{replicas}.npz"
        code = (
            "import sys, numpy, test_bases; from data_prep.runtime import "
            "startup; startup.import_tensorflow(); import tensorflow as tf; "
            "tf.config.set_logical_device_configuration("
            "tf.config.list_physical_devices('CPU')[0], "
            "[tf.config.LogicalDeviceConfiguration()] * 2); "
            f"losses, copies = test_bases.trained_whole(tf, {base!r}, "
            f"{replicas}, **{options}); "
            f"numpy.savez({str(path)!r}, losses=losses, **copies)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT / "tests",
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found = dict(np.load(path))
        return found.pop("losses"), found

    alone, variables = run(1)
    losses, copies = run(2, **options)
    np.testing.assert_allclose(losses, alone, rtol=1e-3)
    assert len(copies) > 100
    for path, (first, second) in copies.items():
        np.testing.assert_array_equal(first, second, path)
        np.testing.assert_allclose(
            first, variables[path][0], rtol=0.05, atol=0.05, err_msg=path
        )


def test_accumulation_is_refused_to_batch_normalisation(tf):
    """The statistics would be those of a part of the batch."""
    from trainer.engine import setup

    config = Config(
        "data",
        "model",
        recipe="",
        base="mobilenet",
        weights="none",
        image_size=32,
        frozen_epochs=0,
        finetune_from="conv1",
        accumulation=2,
    )
    manifest = types.SimpleNamespace(classes=("a", "b"))
    with pytest.raises(UsageError, match="--accumulation=2 is impossible"):
        setup.make_model(config, manifest)
    later = config.replace(
        finetune_from="conv_dw_12", freeze_random_weights=True
    )
    setup.make_model(later, manifest)


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            {"base": "vgg17"},
            r"--base=vgg17 is impossible: did you mean vgg19\? expected one of vgg16,",
        ),
        (
            {"base": "resnet50", "finetune_from": "block5_conv1"},
            r"no layer of resnet50 to begin at: did you mean conv5_block1_1_conv\? expected one of conv1_conv",
        ),
        ({"base": "scratch"}, "Pass --weights=none"),
        (
            {"base": "scratch", "weights": "none"},
            "Train every layer with --frozen_epochs=0 --finetune_from=conv1",
        ),
        (
            {"recipe": "", "feature_cache": True, "mixup": 0.2},
            "features of single images",
        ),
        (
            {"head_init": "logistic_regression", "head_units": 8},
            "is a linear classifier",
        ),
    ],
)
def test_wrong_flags_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        Config("data", "model", **flags)
