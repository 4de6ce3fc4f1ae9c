"""Exports: every signature answers alike, and one that differs is refused."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from conftest import hash_tree
from PIL import Image

from data_prep import prepare as story
from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.runtime.errors import TrainingError

SIZE = 32
CLASSES = ["cat", "dog", "fox"]


@pytest.fixture(
    scope="module",
    params=["original", pytest.param("raw", marks=pytest.mark.slow)],
)
def reader(tmp_path_factory, request):
    """Oblong photos, smooth, whose left side and colours tell the class."""
    from trainer.pipeline.reader import Reader

    root = tmp_path_factory.mktemp("parity")
    generator = np.random.default_rng(0)
    for split, count in {"train": 6, "validation": 4}.items():
        for label, name in enumerate(CLASSES):
            for number in range(count):
                coarse = generator.integers(0, 160, (6, 9, 3), np.uint8)
                coarse[:, : 3 + label, label] += 95
                path = root / "photos" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(coarse)
                image.resize((90, 60), Image.Resampling.BICUBIC).save(path)
    settings = {"image_size": 48} if request.param == "raw" else {}
    story.prepare(
        PrepareConfig(
            str(root / "photos"),
            str(root / "data"),
            encoding=request.param,
            workers=1,
            **settings,
        )
    )
    data = str(root / "data")
    return Reader(data, manifest_lib.load(data), "validation")


@pytest.fixture(scope="module")
def model(tf):
    """A small network that looks at everything, with the weights of a seed."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = keras.layers.Rescaling(1 / 255, name="preprocessing")(image)
    x = keras.layers.Conv2D(8, 5, 3, activation="relu", name="conv")(x)
    x = keras.layers.Flatten(name="pool")(x)
    logits = keras.layers.Dense(3, dtype="float32", name="logits")(x)
    return keras.Model(image, logits, name="small")


def export(exported, resize, folder, check, temperature=1.0):
    from trainer.inference import exporting

    exporting.export(exported, CLASSES, resize, str(folder), check, temperature)


def check_with(model, reader, temperature=1.0):
    from trainer.inference import parity

    return functools.partial(parity.check, model, temperature, reader)


def test_an_export_gives_what_training_gave(reader, model, tmp_path):
    found = {}

    def check(*files):
        found.update(check_with(model, reader, temperature=3.0)(*files))

    export(model, "stretch", tmp_path, check, temperature=3.0)
    assert found["model.keras"] < 1e-5
    assert found["saved_model"] < 1e-5
    assert found["pixels"] < 1
    assert sorted(os.listdir(tmp_path)) == [
        *("labels.txt", "model.keras", "saved_model")
    ]


def swap_channels(model):
    import keras

    image = keras.Input(model.input_shape[1:])
    return keras.Model(image, model(image[..., ::-1]))


def test_an_export_that_differs_is_refused(reader, model, tmp_path):
    """The gate can fail: and then the former export is still there."""
    check = check_with(model, reader)
    export(model, "stretch", tmp_path, check)
    former = hash_tree(tmp_path)
    spoilt = [(swap_channels(model), "stretch", 1.0), (model, "stretch", 2.0)]
    if reader.manifest.encoding != "raw":  # squares are not cropped
        spoilt.append((model, "crop", 1.0))
    for other, resize, temperature in spoilt:
        with pytest.raises(TrainingError, match="differs from training by"):
            export(other, resize, tmp_path, check, temperature)
        assert hash_tree(tmp_path) == former


def test_pixels_of_another_resize_are_refused(
    reader, model, tmp_path, tf, monkeypatch
):
    """Evaluation and export share a decoder: training's is the witness."""
    from trainer.pipeline import decode
    from trainer.pipeline import input_pipeline

    def cruder(image, image_size, resize):
        return tf.image.resize(image, [image_size] * 2, method="nearest")

    monkeypatch.setattr(input_pipeline, "fit", cruder)
    monkeypatch.setattr(decode, "fit", cruder)
    with pytest.raises(TrainingError, match="pixels differs from training"):
        export(model, "stretch", tmp_path, check_with(model, reader))
    assert not (tmp_path / "model.keras").exists()
    assert not list(tmp_path.iterdir())


def test_every_signature_answers_alike(reader, model, tmp_path, tf):
    """Files, pixels and examples of oblong photos; saved_model_cli too."""
    export(model, "crop", tmp_path, lambda *files: None)
    served = tf.saved_model.load(tmp_path / "saved_model").signatures
    pixels = np.random.default_rng(2).integers(0, 256, (2, 50, 70, 3), np.uint8)
    files = [tf.io.encode_png(image).numpy() for image in pixels]
    examples = [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    "image": tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[content])
                    )
                }
            )
        ).SerializeToString()
        for content in files
    ]
    answers = [
        served["serving_default"](image_bytes=tf.constant(files)),
        served["images"](images=tf.constant(pixels)),
        served["examples"](examples=tf.constant(examples)),
    ]
    for answer in answers:
        np.testing.assert_array_equal(
            answer["probabilities"], answers[0]["probabilities"]
        )
        best = np.argmax(answer["probabilities"], axis=1)
        assert [CLASSES[k].encode() for k in best] == list(
            answer["label"].numpy()
        )
    assert saved_model_cli_run(tmp_path, pixels[0]) == pytest.approx(
        np.asarray(answers[0]["probabilities"][:1]), abs=1e-6
    )


def saved_model_cli_run(folder, image):
    """Returns the probabilities that TensorFlow's own tool gets for pixels."""
    np.save(folder / "image.npy", image[None])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"),
            *("run", "--dir", str(folder / "saved_model")),
            *("--tag_set", "serve", "--signature_def", "images"),
            *("--inputs", f"images={folder / 'image.npy'}"),
            *("--outdir", str(folder)),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return np.load(folder / "probabilities.npy")
