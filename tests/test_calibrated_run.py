"""Runs with --calibrate: what is exported is what was measured."""

import csv
import json
import shutil

import numpy as np
import pytest
from training import prepare
from training import train_here

from trainer.inference import calibration
from trainer.models import temperature


@pytest.fixture(scope="module")
def made(tmp_path_factory, tf):
    """A run that was calibrated, and the same one that was not."""
    root = tmp_path_factory.mktemp("calibrated")
    data = prepare(root)
    for name in ("calibrated", "plain"):
        train_here(data, root / name, calibrate=name == "calibrated")
    return root


def probabilities_of(model):
    with open(model / "predictions.csv", newline="") as file:
        _, *rows = csv.reader(file)
    names = [row[0] for row in rows]
    return names, np.array([row[3:] for row in rows], np.float64)


def exported(model, root, names, tf):
    classify = tf.saved_model.load(str(model / "saved_model"))
    contents = [(root / "photos" / name).read_bytes() for name in names]
    found = classify.signatures["serving_default"](
        image_bytes=tf.constant(contents)
    )
    return found["probabilities"].numpy()


@pytest.mark.slow
def test_what_is_exported_is_what_was_measured(made, tf):
    plain, calibrated = made / "plain", made / "calibrated"
    chosen = calibration.load(calibrated)
    assert chosen.applied and abs(np.log(chosen.temperature)) > 0.05
    assert not calibration.load(plain).applied
    names, before = probabilities_of(plain)
    _, after = probabilities_of(calibrated)
    scaled = temperature.scale(before, chosen.temperature)
    np.testing.assert_allclose(after, scaled, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3
    for model, wanted in ((plain, before), (calibrated, after)):
        found = exported(model, made, names, tf)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    figures = [
        json.loads((made / name / "evaluation.json").read_text())
        for name in ("plain", "calibrated")
    ]
    one, other = (each["temperature"] for each in figures)
    assert (one.pop("applied"), other.pop("applied")) == (False, True)
    assert one == other
    assert figures[0]["accuracy"] == figures[1]["accuracy"]
    assert figures[0]["calibration_error"] == pytest.approx(
        one["calibration_error_before"]
    )
    assert figures[1]["calibration_error"] == pytest.approx(
        one["calibration_error_after"]
    )


@pytest.mark.slow
def test_a_finished_run_is_calibrated_by_export(made, run, tf):
    plain = made / "plain"
    names, before = probabilities_of(plain)
    done = run("trainer.export", f"--model_dir={plain}", "--calibrate")
    assert done.returncode == 0, done.stderr
    _, wanted = probabilities_of(made / "calibrated")
    found = exported(plain, made, names, tf)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    (plain / "calibration.json").unlink()
    done = run("trainer.export", f"--model_dir={plain}", "--calibrate")
    assert done.returncode == 65 and "shardtune evaluate" in done.stderr


@pytest.mark.slow
def test_the_other_phase_is_measured_on_the_same_images(made, run):
    """Its answers turned around, so is what is said of it."""
    model = made / "calibrated"
    done = json.loads((model / "DONE.json").read_text())
    assert done["exported"]["phase"] == "finetune"
    text = (model / "evaluation.json").read_text()
    before = json.loads(text)["other_phases"]["frozen"]
    path = model / "checkpoints" / "best-00001.npz"
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for name in ("logits/kernel", "logits/bias"):
        arrays[name] = arrays[name][..., ::-1]
    shutil.copy(path, made / "kept.npz")
    np.savez(path, **arrays)
    with open(model / "predictions.csv", newline="") as file:
        ours = {row["file"]: row for row in csv.DictReader(file)}
    done = run("trainer.evaluate", f"--model_dir={model}", "--errors")
    assert done.returncode == 0, done.stderr
    after = json.loads((model / "evaluation.json").read_text())["other_phases"]
    after = after["frozen"]
    assert after["accuracy"] == pytest.approx(1 - before["accuracy"])
    differ = sum(before["difference"][name] for name in ("alone", "lacking"))
    now = sum(after["difference"][name] for name in ("alone", "lacking"))
    assert now == len(ours) - differ
    assert "what is exported" in done.stdout
    with open(model / "errors.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    shares = [float(row["probability_of_label"]) for row in rows]
    assert shares == sorted(shares) and len(rows) == len(ours)
    for row in rows:
        one = ours[row["file"]]
        assert row["probability"] == one[f"probability_{one['predicted']}"]
        assert row["correct"] == str(int(one["label"] == one["predicted"]))
    (made / "kept.npz").replace(path)
    done = run("trainer.evaluate", f"--model_dir={model}")
    assert (model / "evaluation.json").read_text() == text
