"""The table of bases, against keras.applications itself."""

import importlib

import numpy as np
import pytest

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
        ({"feature_cache": True, "mixup": 0.2}, "features of single images"),
        (
            {"head_init": "logistic_regression", "head_units": 8},
            "is a linear classifier",
        ),
    ],
)
def test_wrong_flags_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        Config("data", "model", **flags)
