"""The classifier and its weights."""

import shutil

import numpy as np
import pytest

from data_prep.runtime.errors import DataError
from trainer.models.bases import BASES

BASE_LAYERS = BASES["vgg16"].layers


def build(**options):
    from trainer.groups import Model
    from trainer.models.classifier import build_classifier

    defaults = dict(
        preprocessing="caffe", head="gap", head_units=0, dropout=0.0
    )
    return build_classifier(3, 32, Model(**{**defaults, **options}))


@pytest.fixture(autouse=True)
def float32(tf):
    import keras

    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


def test_preprocessing_is_what_keras_applies(tf):
    import keras

    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3))
    images = images.astype(np.float32)
    for preprocessing, wanted in (
        ("caffe", keras.applications.vgg16.preprocess_input(images.copy())),
        ("rescale", images / 255),
    ):
        model = build(preprocessing=preprocessing)
        into_base = model.get_layer("block1_conv1").input
        found = keras.Model(model.input, into_base)(images)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("head", ["gap", "flatten"])
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_logits_are_float32(tf, head, precision):
    import keras

    keras.config.set_dtype_policy(precision)
    model = build(head=head, head_units=8, dropout=0.5)
    logits = model(np.zeros((2, 32, 32, 3), np.float32))
    assert (logits.dtype, logits.shape) == (tf.float32, (2, 3))
    assert model.get_layer("block3_conv1").compute_dtype == precision[6:]
    assert {v.dtype for v in model.trainable_variables} == {"float32"}


def test_base_layers_are_those_of_the_config():
    names = [layer.name for layer in build().layers]
    assert [n for n in names if "_conv" in n] == list(BASE_LAYERS)


@pytest.mark.parametrize(
    "train_from, first, count",
    [
        (None, "hidden/kernel", 4),
        ("block5_conv1", "block5_conv1/kernel", 10),
        ("block5_conv3", "block5_conv3/kernel", 6),
        ("block1_conv1", "block1_conv1/kernel", 30),
    ],
)
def test_set_trainable(train_from, first, count):
    from trainer.models.classifier import set_trainable

    model = build(head_units=8)
    set_trainable(model, train_from)
    variables = model.trainable_variables
    assert (variables[0].path, len(variables)) == (first, count)
    set_trainable(model, None)
    assert len(model.trainable_variables) == 4


@pytest.fixture(scope="module")
def files(tf, tmp_path_factory):
    """A VGG16 base and one of its models, saved in every format we take."""
    import keras

    root = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(1)
    base = keras.applications.VGG16(include_top=False, weights=None)
    base.save_weights(root / "base.weights.h5")
    base.save(root / "base.h5")
    base.save(root / "base.keras")
    return base, root


@pytest.mark.parametrize(
    "file",
    [
        *("base.weights.h5", "base.h5", "base.keras"),
        # Renamed: what a file is shows in it.
        *("renamed.h5", "renamed.weights.h5"),
    ],
)
def test_every_format_loads(files, file):
    from trainer.models import weights

    base, root = files
    if file == "renamed.h5":
        shutil.copy(root / "base.weights.h5", root / file)
    if file == "renamed.weights.h5":
        shutil.copy(root / "base.h5", root / file)
    found = weights.load_base(str(root / file))
    assert list(found) == list(BASE_LAYERS)
    for name in BASE_LAYERS:
        layer = base.get_layer(name)
        for mine, theirs in zip(found[name], layer.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_unfit_weights_are_refused(files, tmp_path):
    import keras

    from trainer.models import weights

    base, root = files
    (tmp_path / "garbage.weights.h5").write_bytes(b"no weights at all")
    whole = (root / "base.weights.h5").read_bytes()
    (tmp_path / "cut.weights.h5").write_bytes(whole[: len(whole) // 2])
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    other.save(tmp_path / "other.keras")
    code = keras.Sequential(
        [keras.Input((4,)), keras.layers.Lambda(lambda x: x)]
    )
    code.save(tmp_path / "code.keras")
    keras.models.load_model(tmp_path / "code.keras", safe_mode=False)  # runs it
    (tmp_path / "vgg16.pth").write_bytes(b"")
    layer = base.layers[1]
    kept = layer.get_weights()
    layer.set_weights([kept[0] * np.nan, kept[1]])
    base.save_weights(tmp_path / "nan.weights.h5")
    layer.set_weights(kept)
    for name, message in (
        ("missing.weights.h5", "is no file"),
        ("vgg16.pth", "unknown ending"),
        ("garbage.weights.h5", "does not hold VGG16's convolution layers"),
        ("cut.weights.h5", "does not hold VGG16's convolution layers"),
        ("other.weights.h5", "does not hold VGG16's convolution layers"),
        ("other.keras", "does not hold VGG16's convolution layers"),
        ("code.keras", "could execute arbitrary code|Lambda"),
        ("nan.weights.h5", "lacks layer block1_conv1, or holds"),
    ):
        with pytest.raises(DataError, match=message) as raised:
            weights.load_base(str(tmp_path / name))
        assert "--weights" in str(raised.value)


def test_failed_download_says_what_to_do(tf, monkeypatch):
    from keras.src.utils import file_utils

    from trainer.models import weights

    def refuse(*_, **__):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(file_utils, "get_file", refuse)
    for base in ("vgg16", "mobilenet"):
        message = f"of {base} could not be downloaded.*--weights=FILE"
        with pytest.raises(DataError, match=message):
            weights.load_base("imagenet", base)


def test_downloaded_weights_are_used(files, tf, monkeypatch):
    from keras.src.utils import file_utils

    from trainer.models import weights

    base, root = files
    asked = []

    def fetch(name, url, **options):
        asked.append((name, url))
        return str(root / "base.h5")

    monkeypatch.setattr(file_utils, "get_file", fetch)
    found = weights.load_base("imagenet")
    np.testing.assert_array_equal(
        found["block1_conv1"][0], base.layers[1].get_weights()[0]
    )
    ((name, url),) = asked
    assert name == "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert url.endswith(f"/vgg16/{name}")
