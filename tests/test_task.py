"""`python -m trainer.task` and its companions, run as a user runs them."""

import csv
import json
import os

import numpy as np
import pytest
from conftest import write_classes
from conftest import write_image
from PIL import Image
from training import STEPS
from training import curve
from training import flags
from training import lines
from training import prepare
from training import saved
from training import settings_of
from training import train
from training import train_here

from data_prep.runtime.errors import EXIT_STOPPED
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import TrainingError
from data_prep.runtime.errors import UsageError
from trainer.config import Config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run on two replicas, every flag away from its default."""
    model = tmp_path_factory.mktemp("trained") / "model"
    done = train(
        data,
        model,
        "--virtual_devices=2",
        "--preprocessing=rescale",
        "--head=flatten",
        "--head_units=16",
        "--dropout=0.2",
        "--optimizer=rmsprop",
        "--finetune_optimizer=adamw",
        "--finetune_from=conv3",
        "--frozen_learning_rate=0.002",
        "--finetune_learning_rate=0.0001",
        "--augment=classic",
        "--strategy=mirrored",
        "--deterministic",
        "--seed=3",
        "--precision=mixed_bfloat16",
    )
    assert done.returncode == 0, done.stderr
    return model, done


@pytest.mark.slow
def test_artefacts(trained):
    model, done = trained
    assert sorted(os.listdir(model)) == [
        "DONE.json",
        "README.md",
        "SHA256SUMS",
        "calibration.json",
        "checkpoints",
        "config.json",
        "confusion_matrix.png",
        "curves.png",
        "environment.json",
        "evaluation.json",
        "formats.json",
        "labels.txt",
        "metrics.jsonl",
        "model.keras",
        "predictions.csv",
        "report.html",
        "saved_model",
        "tensorboard",
    ]
    rows = lines(model / "metrics.jsonl")
    assert [row["phase"] for row in rows] == ["frozen"] + ["finetune"] * 2
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert {
            "loss",
            "accuracy",
            "val_loss",
            "val_accuracy",
            "learning_rate",
            "images_per_second",
            "data_wait_fraction",
        } <= set(row)
        assert 0 <= row["data_wait_fraction"] <= 1
    assert rows[0]["learning_rate"] == pytest.approx(0.002)
    assert rows[1]["learning_rate"] == pytest.approx(0.0001)
    assert (model / "labels.txt").read_text() == "cat\ndog\n"
    environment = json.loads((model / "environment.json").read_text())
    assert environment["replicas"] == 2
    assert environment["precision"] == "mixed_bfloat16"
    best = max(rows, key=lambda r: (r["val_accuracy"], -r["val_loss"]))
    final = json.loads((model / "DONE.json").read_text())
    assert final["exported"] == best
    assert f"kept epoch {best['epoch']}, of the {best['phase']} phase" in (
        done.stdout
    )


def noise(errors):
    """Returns the lines that are no progress, which a slow machine shows."""
    return [n for n in errors.splitlines() if not n.endswith(" s left")]


def test_output_is_quiet(trained):
    """Nothing on stderr: no noise of TensorFlow, absl or Keras."""
    _, done = trained
    assert noise(done.stderr) == []
    assert "\r" not in done.stdout
    assert "frozen 1/3: loss " in done.stdout
    assert "finetune 3/3: loss " in done.stdout


def test_every_test_image_is_evaluated_once(trained):
    model, _ = trained
    evaluation = json.loads((model / "evaluation.json").read_text())
    with open(model / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "file",
        "label",
        "predicted",
        "probability_cat",
        "probability_dog",
    ]
    assert [row["file"] for row in rows] == [
        f"test/{name}/{n:03d}.jpg" for name in ("cat", "dog") for n in range(3)
    ]
    assert all(row["label"] == row["file"].split("/")[1] for row in rows)
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert evaluation["split"] == "test"
    assert evaluation["images"] == 6
    assert evaluation["accuracy"] == pytest.approx(right / 6)
    assert np.sum(evaluation["confusion_matrix"]) == 6
    assert np.trace(evaluation["confusion_matrix"]) == right
    loss = np.mean(
        [-np.log(float(row[f"probability_{row['label']}"])) for row in rows]
    )
    assert evaluation["loss"] == pytest.approx(loss, rel=1e-5)


def probabilities(path):
    with open(path, newline="") as file:
        return {
            row["file"]: [
                float(row["probability_cat"]),
                float(row["probability_dog"]),
            ]
            for row in csv.DictReader(file)
        }


@pytest.mark.slow
def test_what_is_trained_is_what_is_served(trained, data, run, tmp_path, tf):
    """The SavedModel and model.keras give evaluation's probabilities."""
    import keras

    model, _ = trained
    wanted = probabilities(model / "predictions.csv")
    source = data.parent / "photos"
    output = tmp_path / "served.csv"
    done = run(
        "trainer.predict",
        f"--model_dir={model}",
        "--format=csv",
        f"--output={output}",
        source / "test",
    )
    assert done.returncode == 0, done.stderr
    served = probabilities(output)
    assert len(served) == len(wanted) == 6
    for file, values in wanted.items():
        np.testing.assert_allclose(
            served[str(source / file)], values, rtol=1e-2, atol=2e-3
        )
    from trainer.pipeline.decode import decode_image

    loaded = keras.models.load_model(model / "model.keras")
    images = np.stack(
        [
            decode_image((source / file).read_bytes(), 46, "stretch")
            for file in wanted
        ]
    )
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0),
        list(wanted.values()),
        rtol=1e-2,
        atol=2e-3,
    )


@pytest.mark.slow
def test_predictions_as_csv_and_as_json_lines(trained, data, run, tmp_path):
    """The same files, classes and numbers, in the same order."""
    model, _ = trained
    source = data.parent / "photos" / "test"
    outputs = {}
    for name in ("csv", "jsonl"):
        outputs[name] = tmp_path / f"served.{name}"
        done = run(
            "trainer.predict",
            f"--model_dir={model}",
            f"--format={name}",
            f"--output={outputs[name]}",
            source,
        )
        assert done.returncode == 0, done.stderr
    with open(outputs["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    lines = outputs["jsonl"].read_text().splitlines()
    assert len(lines) == len(rows) == 6
    for line, row in zip(lines, rows, strict=True):
        found = json.loads(line)
        assert list(found) == ["file", "label", "predicted", "probabilities"]
        for field in ("file", "label", "predicted"):
            assert found[field] == row[field]
        assert list(found["probabilities"]) == ["cat", "dog"]
        for label, probability in found["probabilities"].items():
            assert probability == float(row[f"probability_{label}"])
        best = max(found["probabilities"], key=found["probabilities"].get)
        assert found["predicted"] == best


@pytest.mark.slow
def test_predict_names_bad_files(trained, run, tmp_path):
    model, _ = trained
    write_image(tmp_path / "images" / "good.png", 5)
    (tmp_path / "images" / "bad.png").write_text("no image")
    output = tmp_path / "out.csv"
    arguments = (f"--model_dir={model}", f"--output={output}")
    done = run("trainer.predict", *arguments, tmp_path / "images")
    assert done.returncode == 65
    assert "bad.png is no image of a known format" in done.stderr
    _, bad, good = output.read_text().splitlines()
    assert bad.endswith("bad.png,,,,,is no image of a known format")
    assert good.startswith(f"{tmp_path}/images/good.png,,")
    for paths, code, message in (
        ([], 64, "expected image files"),
        ([tmp_path / "gone"], 65, "does not exist"),
        ([tmp_path / "images" / "bad.png"], 65, "none of 1 files is an image"),
    ):
        done = run("trainer.predict", *arguments, *paths)
        assert done.returncode == code
        assert message in done.stderr
        assert "Traceback" not in done.stderr


FILES_OF_TEST = ("evaluation.json", "predictions.csv")


@pytest.mark.slow
def test_evaluate_and_export_again(trained, run):
    model, _ = trained
    first = json.loads((model / "evaluation.json").read_text())
    of_test = [(model / n).read_bytes() for n in FILES_OF_TEST]
    for name in ("model.keras", "labels.txt"):
        (model / name).unlink()
    done = run("trainer.export", f"--model_dir={model}")
    assert done.returncode == 0, done.stderr
    assert (model / "model.keras").exists()
    assert (model / "labels.txt").exists()
    done = run("trainer.evaluate", f"--model_dir={model}", "--split=validation")
    assert done.returncode == 0, done.stderr
    assert "validation accuracy" in done.stdout
    assert [(model / n).read_bytes() for n in FILES_OF_TEST] == of_test
    other = json.loads((model / "evaluation-validation.json").read_text())
    assert other["split"] == "validation"
    rows = (model / "predictions-validation.csv").read_text().splitlines()
    assert len(rows) == 1 + other["images"]
    done = run("trainer.evaluate", f"--model_dir={model}")
    assert done.returncode == 0, done.stderr
    again = json.loads((model / "evaluation.json").read_text())
    assert again["split"] == "test"
    assert again["loss"] == pytest.approx(first["loss"], rel=1e-6)


def test_a_finished_run_is_left_alone(trained, data, tf):
    from trainer.run import run

    model, _ = trained
    settings = settings_of(model)
    before = {p: p.stat().st_mtime_ns for p in model.rglob("*") if p.is_file()}
    done = json.loads((model / "DONE.json").read_text())
    assert run(Config(str(data), str(model), **settings)) == done
    # The floor is asked of the result, so it may change.
    again = train(data, model, *flags(**{**settings, "min_accuracy": 1}))
    assert "finished already" in again.stdout
    assert "Traceback" not in again.stderr
    if done["evaluation"]["accuracy"] < 1:
        assert again.returncode == 1
        assert "is below --min_accuracy=1.0" in again.stderr
    else:
        assert again.returncode == 0, again.stderr
    assert before == {
        p: p.stat().st_mtime_ns for p in model.rglob("*") if p.is_file()
    }


def test_a_model_directory_belongs_to_one_run(trained, data, tmp_path, tf):
    model, _ = trained
    with pytest.raises(UsageError, match=r"--seed=4 \(was 3\)") as refused:
        train_here(data, model, **{**settings_of(model), "seed": 4})
    assert "another --model_dir" in str(refused.value)
    with pytest.raises(DataError, match="trained on another data set"):
        train_here(prepare(tmp_path, seed=9), model)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="is no model directory"):
        train_here(data, strange)
    assert os.listdir(strange) == ["thesis.txt"]


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--batch_size=23"], 64, "the train split has 22 images"),
        (["--batch_size=-1"], 64, "impossible"),
        (["--image_size=45"], 64, "at least 46 pixels"),
        (["--finetune_from=block6_conv1"], 64, "is no layer of scratch"),
        (["--frozen_epochs=0", "--finetune_epochs=0"], 64, "nothing to train"),
        (["--nofreeze_random_weights"], 64, "--finetune_from=conv1"),
        (
            ["--augment=lots"],
            64,
            "one of none, flip, light, classic, jitter, randaugment",
        ),
        (["--learning_rate=1"], 64, "Did you mean"),
        (["--head=gap", "stray"], 64, r"Received: ['stray']"),
        (["--data_dir=nowhere"], 65, "python -m data_prep.task"),
        (["--data_dir="], 64, "--data_dir is missing"),
        (["--seed=5000000000"], 64, "0 to 2147483647"),
        (["--warmup_epochs=nan"], 64, "--warmup_epochs=nan"),
        (["--model_dir=/dev/null/model"], 64, "/dev/null is no folder"),
    ],
)
def test_mistakes(data, tmp_path, arguments, code, message):
    done = train(data, tmp_path / "model", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 2
    assert not (tmp_path / "model").exists()


@pytest.fixture
def no_tensorflow(tmp_path, monkeypatch):
    """A TensorFlow that cannot be imported stands before the real one."""
    folder = tmp_path / "no" / "tensorflow"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemError('imported')")
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))


def test_answers_that_need_no_tensorflow(
    trained, data, run, tmp_path, no_tensorflow
):
    """It takes seconds to import."""
    model, _ = trained
    same = flags(**{**settings_of(model), "min_accuracy": 0})
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"name": "thesis"}')
    new, no_data = f"--model_dir={tmp_path / 'model'}", "--data_dir=nowhere"
    for module, arguments, code, message in (
        ("trainer.task", [no_data, new], 65, "no manifest.json"),
        ("trainer.features", [no_data, "--output_dir=x"], 65, "no manifest"),
        ("trainer.find_lr", [no_data], 65, "no manifest.json"),
        ("trainer.preview", [no_data], 65, "no manifest.json"),
        ("trainer.evaluate", ["--model_dir=nowhere"], 65, "no config.json"),
        ("trainer.evaluate", [f"--model_dir={foreign}"], 65, "no config of"),
        ("trainer.export", ["--model_dir=nowhere"], 65, "no config.json"),
        (
            "trainer.task",
            [f"--data_dir={data}", f"--model_dir={model}", *same, "--seed=4"],
            64,
            "--seed=4 (was 3)",
        ),
        (
            "trainer.task",
            [f"--data_dir={data}", f"--model_dir={foreign}"],
            65,
            "is no config of a run",
        ),
        (
            "trainer.task",
            [f"--data_dir={data}", f"--model_dir={model}", *same],
            0,
            "",
        ),
    ):
        done = run(module, *arguments)
        assert done.returncode == code, (module, arguments, done.stderr)
        assert message in done.stderr
        assert "imported" not in done.stderr
    assert "finished already" in done.stdout
    control = run("trainer.task", f"--data_dir={data}", new, "--batch_size=8")
    assert control.returncode == 1
    assert "SystemError: imported" in control.stderr


def test_a_second_run_is_refused_at_once(data, run, tmp_path):
    from data_prep.runtime import directory_lock

    model = tmp_path / "model"
    with directory_lock.held(model):
        done = run("trainer.task", f"--data_dir={data}", f"--model_dir={model}")
    assert done.returncode == 75
    assert f"{model} is in use by process {os.getpid()} on" in done.stderr


def test_a_batch_that_replicas_cannot_share(data, tmp_path, tf):
    with pytest.raises(UsageError, match="Use --batch_size=8"):
        train_here(
            data,
            tmp_path / "model",
            batch_size=7,
            strategy="auto",
            virtual_devices=4,
        )
    assert not (tmp_path / "model").exists()


def test_weights_that_are_not_there(data, tmp_path, tf):
    with pytest.raises(DataError, match="gone.weights.h5 is no file"):
        train_here(
            data,
            tmp_path / "model",
            base="vgg16",
            weights="gone.weights.h5",
            finetune_from="",
        )
    assert not (tmp_path / "model").exists()


def test_splits_that_training_needs(tmp_path, run, tf):
    source = write_classes(tmp_path / "photos")
    done = run(
        "data_prep.task",
        f"--source={source}",
        f"--output_dir={tmp_path / 'data'}",
        "--splits=train:0.8,test:0.2",
    )
    assert done.returncode == 0, done.stderr
    message = "has no validation split, only train, test"
    with pytest.raises(DataError, match=message):
        train_here(tmp_path / "data", tmp_path / "model")


def test_a_missing_shard_is_noticed_at_once(tmp_path, tf):
    data = prepare(tmp_path)
    (shard,) = data.glob("*-train.tfrecord-*")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=shard.name):
        train_here(data, tmp_path / "model")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--virtual_devices=2"],
        pytest.param(["--virtual_devices=4"], marks=pytest.mark.slow),
        pytest.param(["--accumulation=4"], marks=pytest.mark.slow),
        pytest.param(
            ["--virtual_devices=2", "--accumulation=2", "--steps_per_loop=2"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--virtual_devices=2", "--jit_compile=true"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_changes_nothing_but_the_speed(
    data, one_device, tmp_path, arguments
):
    """Promise 3, with augmentation, mixing, dropout and clipping, over both
    phases and a short batch: replicas, pieces of a batch, steps per call, XLA.
    """
    done = train(data, tmp_path / "model", *INVARIANT, *arguments)
    assert done.returncode == 0, done.stderr
    found, wanted = curve(tmp_path / "model"), curve(one_device)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


INVARIANT = (
    "--optimizer=sgd",
    "--frozen_learning_rate=1",
    "--finetune_learning_rate=0.3",
    "--augment=classic",
    "--dropout=0.3",
    "--clip_norm=1",
    "--label_smoothing=0.1",
    "--average_decay=0.9",
    "--class_weights=balanced",
    "--layer_decay=0.7",
    "--mixup=0.4",
    "--cutmix=1",
)


@pytest.fixture(scope="module")
def one_device(data, tmp_path_factory):
    model = tmp_path_factory.mktemp("one") / "model"
    done = train(data, model, *INVARIANT)
    assert done.returncode == 0, done.stderr
    losses = [row[0] for row in curve(model)]
    assert abs(losses[-1] / losses[0] - 1) > 0.005  # it does learn
    return model


@pytest.mark.slow  # float16 is emulated on a CPU
def test_float16_scales_its_loss(data, tmp_path):
    model = tmp_path / "model"
    words = ("--precision=mixed_float16", "--virtual_devices=2")
    stopped = train(data, model, *words, fault="step:3:SIGTERM")
    assert stopped.returncode == EXIT_STOPPED, stopped.stderr
    path = max(model.glob("checkpoints/step-*.npz"))
    with np.load(path) as state:
        assert any("dynamic_scale" in name for name in state)
    done = train(data, model, *words)
    assert done.returncode == 0, done.stderr
    rows = lines(model / "metrics.jsonl")
    assert all(np.isfinite(row["loss"]) for row in rows)


@pytest.mark.slow
def test_where_the_pixels_come_from_changes_nothing(
    data, tmp_path, tf, capsys, deterministic
):
    found = {}
    for cache, settings in (
        ("memory", {}),
        ("file", {"cache_dir": str(tmp_path / "cache")}),
        ("none", {"cache_mb": 0}),
    ):
        model = tmp_path / cache
        train_here(
            data, model, deterministic=True, finetune_epochs=0, **settings
        )
        said = capsys.readouterr().out
        assert ("decoded train images" in said) == (cache != "none")
        found[cache] = saved(model, STEPS)
    for name, wanted in found["memory"].items():
        np.testing.assert_array_equal(found["file"][name], wanted, name)
        np.testing.assert_array_equal(found["none"][name], wanted, name)


@pytest.mark.slow
def test_a_run_on_a_mounted_bucket(data, tmp_path, tf, mounted_bucket):
    from trainer.inference import finished

    model = tmp_path / "model"
    train_here(data, model, finetune_epochs=0)
    assert mounted_bucket == ["saved_model"]
    tf.saved_model.load(model / "saved_model")
    finished.export(str(model))
    assert mounted_bucket[1:] == ["saved_model", "saved_model"]
    tf.saved_model.load(model / "saved_model")
    assert not list(model.rglob("incomplete.*"))


@pytest.mark.slow
def test_mixing_and_randaugment_train(data, tmp_path):
    model = tmp_path / "model"
    done = train(
        data,
        model,
        "--augment=randaugment",
        "--augment_strength=0.5",
        "--mixup=0.2",
        "--cutmix=1",
        "--virtual_devices=2",
        "--precision=mixed_bfloat16",
    )
    assert done.returncode == 0, done.stderr
    assert noise(done.stderr) == []
    assert all(np.isfinite(r["loss"]) for r in lines(model / "metrics.jsonl"))


def test_preview_shows_each_image_beside_its_augmentations(data, run, tmp_path):
    picture = tmp_path / "preview.png"
    done = run(
        "trainer.preview",
        f"--data_dir={data}",
        f"--output={picture}",
        "--augment=none",
        "--image_size=48",
        "--images=3",
        "--views=2",
    )
    assert done.returncode == 0, done.stderr
    pixels = np.asarray(Image.open(picture))
    assert pixels.shape == (3 * 52 + 4, 3 * 52 + 4, 3)
    for row in range(3):
        cells = [
            pixels[row * 52 + 4 :, column * 52 + 4 :][:48, :48]
            for column in range(3)
        ]
        assert cells[0].std() > 20
        np.testing.assert_array_equal(cells[1], cells[0])
        np.testing.assert_array_equal(cells[2], cells[0])
    refused = run("trainer.preview", f"--output={picture}")
    assert refused.returncode == 64


@pytest.mark.slow
def test_each_phase_moves_its_own_layers(data, tmp_path):
    """VGG16 from end to end, fine-tuned from a layer named on the command."""
    model = tmp_path / "model"
    done = train(
        data,
        model,
        "--base=vgg16",
        "--image_size=32",
        "--finetune_from=block5_conv1",
        "--finetune_learning_rate=1e-3",
    )
    assert done.returncode == 0, done.stderr
    with np.load(model / "checkpoints" / "start.npz") as start:
        moved = {
            name
            for name, array in saved(model, 3 * STEPS).items()
            if (start[name] != array).any()
        }
    assert moved == {
        f"{layer}/{kind}"
        for layer in ("block5_conv1", "block5_conv2", "block5_conv3", "logits")
        for kind in ("kernel", "bias")
    }


def test_the_frozen_phase_leaves_the_base(data, tmp_path, tf):
    model = tmp_path / "model"
    train_here(data, model, frozen_epochs=2, finetune_epochs=0)
    learned = saved(model, 2 * STEPS)
    assert learned.keys() == {"logits/kernel", "logits/bias"}
    with np.load(model / "checkpoints" / "start.npz") as start:
        assert all((start[n] != a).any() for n, a in learned.items())


def test_a_second_phase_that_harms_is_not_exported(data, tmp_path, tf, capsys):
    """Promise of issue and log: what validates better is exported."""
    model = tmp_path / "model"
    try:
        done = train_here(
            data,
            model,
            frozen_epochs=4,
            frozen_learning_rate=0.1,
            finetune_learning_rate=100.0,
        )
    except TrainingError as error:  # it even blew up: nothing of that is kept
        assert "(finetune phase)" in str(error)
        rows = lines(model / "metrics.jsonl")
        assert all(np.isfinite(row["val_loss"]) for row in rows)
        return
    *_, kept, _, harmed = lines(model / "metrics.jsonl")
    assert harmed["val_accuracy"] < kept["val_accuracy"]  # the control
    assert done["exported"]["phase"] == "frozen"
    assert ", of the frozen phase: validation" in capsys.readouterr().out


def test_blown_up_losses_end_the_run(data, tmp_path):
    model = tmp_path / "model"
    done = train(
        data,
        model,
        "--frozen_epochs=0",
        "--finetune_from=conv1",
        "--optimizer=sgd",
        "--finetune_learning_rate=1e20",
    )
    assert done.returncode == 1
    assert "of epoch 1 (finetune phase)" in done.stderr
    assert "lower this phase's learning rate" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(model / "checkpoints")) == [
        "start.npz",
        "step-000000000.npz",
    ]
