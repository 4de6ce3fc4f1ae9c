"""Exports: all formats answer alike, and one that differs is refused."""

import csv
import errno
import functools
import importlib.util
import json
import os
import pathlib
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import ROOT
from conftest import hash_tree
from PIL import Image
from training import prepare
from training import run_code
from training import train_here

from data_prep import prepare as story
from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import TrainingError
from trainer.inference import exported
from trainer.inference import formats as formats_lib
from trainer.inference.formats import ALWAYS
from trainer.inference.formats import FORMATS

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
def train(reader):
    """The split that the network learned from."""
    from trainer.pipeline.reader import Reader

    folder = os.path.dirname(reader.shards.paths[0])
    return Reader(folder, reader.manifest, "train")


@pytest.fixture(scope="module")
def model(tf, train):
    """A small network that has learned the classes by their colours."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = keras.layers.Rescaling(1 / 255, name="preprocessing")(image)
    x = keras.layers.Conv2D(8, 5, 3, activation="relu", name="conv")(x)
    x = keras.layers.Flatten(name="pool")(x)
    logits = keras.layers.Dense(3, dtype="float32", name="logits")(x)
    model = keras.Model(image, logits, name="small")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    pixels = train.pixels(np.arange(train.count), SIZE)
    model.fit(pixels, train.labels, epochs=40, verbose=0)
    return model


def description(resize="stretch", temperature=1.0):
    from trainer.inference.description import Description

    return Description(CLASSES, SIZE, resize, temperature)


def export(model, reader, folder, formats=ALWAYS, check=None, **described):
    """Exports, held to `check` or to the model itself; what was found."""
    from trainer.inference import exporting
    from trainer.inference import parity

    told = description(**described)
    classifier = exporting.with_temperature(model, told.temperature)
    return exporting.export(
        *(lambda policy: classifier, told, formats, str(folder)),
        lambda: parity.spread_pixels(reader, 12, SIZE),
        check or check_with(model, reader, formats, told.temperature),
    )


def check_with(model, reader, formats=ALWAYS, temperature=1.0):
    from trainer.inference import exporting
    from trainer.inference import parity

    classifier = exporting.with_temperature(model, temperature)
    return functools.partial(
        *(parity.check, lambda policy: classifier, reader, reader, formats)
    )


def test_an_export_is_held_to_the_graph(tf, reader, model, tmp_path):
    """Layer by layer bfloat16 rounds more often, as nothing is fused."""
    import keras

    @keras.saving.register_keras_serializable("tests")
    class Rounding(keras.layers.Layer):
        def call(self, logits):
            return logits + tf.executing_eagerly() * tf.constant(
                [0.0, 1.0, 2.0]
            )

    rounding = keras.Model(model.input, Rounding(dtype="float32")(model.output))
    pixels = tf.constant(reader.pixels(np.arange(reader.count), SIZE))
    off = rounding(pixels) - tf.function(rounding)(pixels)
    assert off.numpy().max() > 1.9
    found = export(rounding, reader, tmp_path)
    assert [found["formats"][name]["difference"] for name in ALWAYS] == [0, 0]


def test_an_export_gives_what_training_gave(reader, model, tmp_path):
    found = export(model, reader, tmp_path, temperature=3.0)
    assert found["compared"] == {"split": "validation", "images": 12}
    for name in ALWAYS:  # the same kernels: to the bit
        assert found["formats"][name]["difference"] == 0
    tolerances = {n: one["tolerance"] for n, one in found["formats"].items()}
    assert tolerances == {"saved_model": 1e-5, "keras": 0}
    assert sorted(os.listdir(tmp_path)) == [
        *("SHA256SUMS", "labels.txt", "model.keras", "saved_model")
    ]


def test_a_changed_export_is_refused(reader, model, tmp_path):
    """One flipped bit of any file, or a missing one; what is added passes."""
    folder = tmp_path / "odd name\u00e9"
    export(model, reader, folder)
    subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=folder,
        check=True,
    )
    (folder / "saved_model" / "assets.extra" / "warmup").write_text("of others")
    exported.load(str(folder), "tensorflow")
    served = [folder / "labels.txt", *(folder / "saved_model").rglob("*")]
    for path in served:
        if path.is_dir() or path.name == "warmup":
            continue
        content = path.read_bytes()
        for changed in (_flip(content), None):
            path.unlink()
            if changed is not None:
                path.write_bytes(changed)
            elif path.name == "labels.txt":
                continue  # another message
            with pytest.raises(DataError, match="is not what was exp") as error:
                exported.load(str(folder), "tensorflow")
            assert str(path) in str(error.value)
            assert f"shardtune export --model_dir={folder}" in str(error.value)
        path.write_bytes(content)
    # Nobody who runs saved_model reads this one.
    (folder / "model.keras").write_bytes(b"")
    exported.load(str(folder), "tensorflow")
    (folder / "labels.txt").write_text("dog\ncat\n")
    (folder / "SHA256SUMS").unlink()  # of an earlier version, or meant so
    assert exported.load(str(folder), "tensorflow").classes == ["dog", "cat"]


def _flip(content):
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_half_an_export_is_refused(reader, model, tmp_path, monkeypatch):
    """Killed between two files, what is mixed is not run."""
    from trainer.inference import exporting

    export(model, reader, tmp_path)
    put = exporting._put
    left = ["labels.txt", "model.keras"]

    def put_some(staged, place):
        if place.name not in left:
            raise KeyboardInterrupt  # where a kill would leave it
        put(staged, place)

    monkeypatch.setattr(exporting, "_put", put_some)
    with pytest.raises(KeyboardInterrupt):
        export(model, reader, tmp_path, temperature=2.0)
    exported.load(str(tmp_path), "tensorflow")  # all of it the former
    left += ["saved_model"]
    with pytest.raises(KeyboardInterrupt):
        export(model, reader, tmp_path, temperature=2.0)
    with pytest.raises(DataError, match="is not what was exported"):
        exported.load(str(tmp_path), "tensorflow")
    monkeypatch.undo()
    export(model, reader, tmp_path, temperature=2.0)
    exported.load(str(tmp_path), "tensorflow")


def swap_channels(model):
    import keras

    image = keras.Input(model.input_shape[1:])
    return keras.Model(image, model(image[..., ::-1]))


@pytest.mark.slow
def test_an_export_that_differs_is_refused(reader, model, tmp_path):
    """The gate can fail: and then the former export is still there."""
    # Far from certain, so that every difference shows.
    check = check_with(model, reader, temperature=20.0)
    export(model, reader, tmp_path, temperature=20.0)
    former = hash_tree(tmp_path)
    spoilt = [
        (swap_channels(model), {"temperature": 20.0}),
        (model, {"temperature": 40.0}),
    ]
    if reader.manifest.encoding != "raw":  # squares are not cropped
        spoilt.append((model, {"temperature": 20.0, "resize": "crop"}))
    for other, described in spoilt:
        with pytest.raises(TrainingError, match="differs from training by"):
            export(other, reader, tmp_path, check=check, **described)
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
        export(model, reader, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_signature_answers_alike(reader, model, tmp_path, tf):
    """Files, pixels and examples of oblong photos; saved_model_cli too."""
    export(model, reader, tmp_path, check=lambda folder: {}, resize="crop")
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


@pytest.mark.slow
def test_the_keras_file_needs_nothing_of_this_package(reader, model, tmp_path):
    """In safe mode, in a fresh process that imports Keras alone."""
    export(model, reader, tmp_path, temperature=3.0)
    pixels = np.random.default_rng(3).integers(
        0, 256, (2, SIZE, SIZE, 3), np.uint8
    )
    np.save(tmp_path / "pixels.npy", pixels)
    code = (
        "import sys, keras, numpy as np; "
        "model = keras.models.load_model('model.keras', safe_mode=True); "
        "np.save('found.npy', model.predict(np.load('pixels.npy'))); "
        "sys.exit(any(m.startswith('trainer') for m in sys.modules))"
    )
    done = run_code(code, tmp_path, KERAS_BACKEND="tensorflow")
    assert done.returncode == 0, done.stderr
    logits = np.asarray(model(pixels)) / 3
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        np.load(tmp_path / "found.npy"),
        shares / shares.sum(axis=1, keepdims=True),
        atol=1e-5,
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


@pytest.fixture(scope="module")
def converted(reader, model, tmp_path_factory):
    """An export in all formats, and what was found of them."""
    for name in ("ai_edge_litert", "onnxruntime", "tf2onnx"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("converted")
    return folder, export(
        model, reader, folder, tuple(FORMATS), temperature=2.0
    )


def test_every_format_is_measured(converted):
    folder, found = converted
    assert sorted(os.listdir(folder)) == sorted(
        ["SHA256SUMS", "labels.txt", *(one.file for one in FORMATS.values())]
    )
    measured = found["measured"]
    assert measured["split"] == "validation" and measured["images"] == 12
    assert measured["accuracy"] == 1.0
    for name, one in found["formats"].items():
        assert one["file"] == FORMATS[name].file
        assert (one["tolerance"] is None) == (name == "tflite_int8")
        if name not in ALWAYS:
            assert one["accuracy"] == 1.0
            assert one["interval"] == measured["interval"]
    differences = {n: one["difference"] for n, one in found["formats"].items()}
    assert 0 < differences["onnx"] <= found["formats"]["onnx"]["tolerance"]
    assert found["formats"]["onnx"]["tolerance"] == 1e-5
    # It is 16 and 8 bits that were written, not the same thing thrice.
    assert 1e-7 < differences["tflite"] < 1e-3 < differences["tflite_int8"]


def test_every_format_says_what_it_is(converted):
    """Classes, sizes and temperature travel inside of the file."""
    import onnx

    folder, _ = converted
    told = [
        {p.name: p.read_text() for p in (folder / part).iterdir()}
        for part in ("saved_model/assets.extra",)
    ]
    for name in ("model.keras", "model.tflite", "model_int8.tflite"):
        with zipfile.ZipFile(folder / name) as archive:
            told.append(
                {
                    one: archive.read(one).decode()
                    for one in ("labels.txt", "model.json")
                }
            )
    properties = onnx.load(folder / "model.onnx").metadata_props
    told.append({one.key: one.value for one in properties})
    for texts in told:
        assert texts["labels.txt"] == "cat\ndog\nfox\n"
        content = json.loads(texts["model.json"])
        assert content["classes"] == CLASSES
        assert content["image_size"] == SIZE
        assert content["resize"] == "stretch"
        assert content["temperature"] == 2.0


@pytest.mark.slow
def test_onnxruntime_predicts_alike_and_without_tensorflow(
    converted, reader, tmp_path
):
    """Oblong photos: both fit them to the square as training did."""
    folder = converted[0]
    photos = os.path.dirname(os.path.dirname(reader.shards.paths[0]))
    found = {}
    for runtime in ("tensorflow", "onnxruntime"):
        output = tmp_path / f"{runtime}.csv"
        words = [
            f"--runtime={runtime}",
            f"--model_dir={folder}",
            f"--output={output}",
            f"{photos}/photos/validation",
        ]
        code = (
            "import sys\n"
            "from trainer import predict\n"
            f"sys.argv[1:] = {words}\n"
            "try:\n    predict.cli()\n"
            "finally:\n    print('tensorflow' in sys.modules)\n"
        )
        done = run_code(code, PYTHONPATH=str(ROOT))
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"{runtime == 'tensorflow'}\n")
        with open(output, newline="") as file:
            found[runtime] = {
                row["file"]: [float(row[f"probability_{c}"]) for c in CLASSES]
                for row in csv.DictReader(file)
            }
    assert len(found["tensorflow"]) == 12
    assert found["tensorflow"].keys() == found["onnxruntime"].keys()
    for file, wanted in found["tensorflow"].items():
        assert found["onnxruntime"][file] == pytest.approx(wanted, abs=0.02)
    assert np.ptp(list(found["tensorflow"].values()), axis=0).max() > 0.2


def test_onnx_takes_any_number_of_images_by_name(converted, model):
    import onnxruntime

    folder, _ = converted
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    images = np.random.default_rng(4).uniform(0, 255, (3, SIZE, SIZE, 3))
    found = session.run(["probabilities"], {"image": images.astype(np.float32)})
    best = np.argmax(model(images), axis=1)
    np.testing.assert_array_equal(found[0].argmax(axis=1), best)


def test_each_converted_format_can_be_refused(
    reader, model, converted, tmp_path, monkeypatch
):
    """Each of them alone takes the channels in another order."""
    from trainer.inference import exporting

    write = exporting._writer
    wrong = exporting.with_temperature(swap_channels(model), 1.0)
    said = {"tflite_int8": "has an accuracy of"}
    for name in sorted(set(FORMATS) - set(ALWAYS)):

        def writer(asked, samples, name=name):
            if asked != name:
                return write(asked, samples)
            return lambda _, *rest: write(asked, samples)(wrong, *rest)

        monkeypatch.setattr(exporting, "_writer", writer)
        with pytest.raises(
            TrainingError,
            match=f"{FORMATS[name].file} {said.get(name, 'differs from')}",
        ):
            export(model, reader, tmp_path, (name,))
        assert not list(tmp_path.iterdir())


def test_what_is_there_is_exported_again(tmp_path, monkeypatch):
    from data_prep.runtime.errors import UsageError

    assert formats_lib.choose([], str(tmp_path)) == ["saved_model", "keras"]
    (tmp_path / "model.onnx").write_text("of an earlier temperature")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    assert formats_lib.choose(["tflite"], str(tmp_path)) == [
        *("saved_model", "keras", "tflite", "onnx")
    ]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'shardtune\[tflite\]'"):
        formats_lib.choose(["tflite"], str(tmp_path))
    with pytest.raises(UsageError, match="did you mean tflite"):
        formats_lib.parse("saved_model,tflit")


def write_folder(folder, text):
    """Writes what stands for a SavedModel; returns it as `hash_tree` does."""
    for name in ("assets/a", "saved_model.pb", "variables/b"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return hash_tree(folder)


@pytest.mark.parametrize("fault", ["killed", "failed"])
def test_a_folder_is_the_former_or_the_new_one(tmp_path, tf, fault):
    """Before any change of the disk; killed, it may lie beside its place."""
    from trainer.inference import exporting

    def put(root, number):
        """Returns what a kill leaves before each change, and at the end."""
        place, staged = root / "saved_model", root / "export" / "saved_model"
        trees, wanted = (
            [],
            [write_folder(place, "a"), write_folder(staged, "b")],
        )

        def changing(real):
            def changed(*arguments, **options):
                trees.append(hash_tree(root))
                if len(trees) == number:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(*arguments, **options)

            return changed

        with pytest.MonkeyPatch.context() as patch:
            for name in ("rename", "replace"):
                real = changing(getattr(pathlib.Path, name))
                patch.setattr(pathlib.Path, name, real)
            if number:
                with pytest.raises(OSError, match="No space left"):
                    exporting._put(staged, place)
            else:
                exporting._put(staged, place)
        return [*trees, hash_tree(root)], wanted

    def below(tree, folder):
        parts = {name.partition(f"{folder}/"): tree[name] for name in tree}
        return {p[2]: content for p, content in parts.items() if not p[0]}

    trees, (former, new) = put(tmp_path / "0", 0)
    assert below(trees[0], "saved_model") == former
    assert below(trees[-1], "saved_model") == new
    if fault == "killed":
        for tree in trees:
            found = below(tree, "saved_model")
            kept = below(tree, "incomplete.former")
            assert found in (former, new) or (found, kept) == ({}, former)
        return
    assert len(trees) == 3
    for number in range(1, len(trees)):
        *_, left = put(tmp_path / str(number), number)[0]
        assert below(left, "saved_model") == former
        assert not below(left, "incomplete.former")


@pytest.mark.slow
def test_a_finished_run_is_exported_by_the_command(tf, tmp_path, run):
    """Also one in 16 bits: converters know float32 alone."""
    for name in ("ai_edge_litert", "onnxruntime", "tf2onnx"):
        pytest.importorskip(name)
    data, model = prepare(tmp_path), tmp_path / "model"
    train_here(data, model, finetune_epochs=0, precision="mixed_bfloat16")
    before = json.loads((model / "formats.json").read_text())["formats"]
    assert set(before) == set(ALWAYS)
    done = run(
        "trainer.export",
        f"--model_dir={model}",
        "--format=tflite,tflite_int8,onnx",
        "--calibrate",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((model / "formats.json").read_text())
    temperature = json.loads((model / "calibration.json").read_text())
    assert temperature["applied"]
    text = (model / "README.md").read_text()
    for name, one in found["formats"].items():
        assert str(model / one["file"]) in done.stdout.splitlines()
        assert (model / one["file"]).exists()
        assert f"| {name} | `{one['file']}` |" in text
    with zipfile.ZipFile(model / "model.tflite") as archive:
        told = json.loads(archive.read("model.json"))
    assert told["temperature"] == temperature["temperature"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALWAYS, "onnx", "tflite"])
def test_a_full_disk_is_named_whoever_writes(
    reader, model, tmp_path, monkeypatch, name
):
    """Each library says it otherwise; the former export stays."""
    from trainer.inference import exporting

    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    formats = [*dict.fromkeys([*ALWAYS, name])]
    export(model, reader, tmp_path, formats)
    former = hash_tree(tmp_path)
    writer_of = exporting._writer

    def limited(one, samples):
        write = writer_of(one, samples)

        def write_little(*given):
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
            try:
                write(*given)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

        return write_little if one == name else write

    monkeypatch.setattr(exporting, "_writer", limited)
    with pytest.raises(OSError) as error:
        export(model, reader, tmp_path, formats)
    assert error.value.errno == errno.EFBIG
    assert pathlib.Path(error.value.filename).name == FORMATS[name].file
    assert hash_tree(tmp_path) == former
