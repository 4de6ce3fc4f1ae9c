"""The model card: every figure on it is that of a file beside it."""

import json

import pytest
from conftest import write_noise

from data_prep import prepare as story
from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from trainer.config import Config
from trainer.inference import calibration
from trainer.inference.calibration import Calibration
from trainer.reporting import card

CLASSES = ["a|b", "cat"]
SCRATCH = dict(base="scratch", weights="none", freeze_random_weights=True)


@pytest.fixture
def made(tmp_path):
    """A data set, and a model directory's files with figures of their own."""
    counts = {"train": 5, "validation": 2, "test": 3}
    for number, (split, count) in enumerate(counts.items()):
        write_noise(tmp_path / "photos" / split, CLASSES, count, seed=number)
    data, model = tmp_path / "data", tmp_path / "model"
    story.prepare(PrepareConfig(str(tmp_path / "photos"), str(data), workers=1))
    model.mkdir()
    evaluation = {
        "split": "test",
        "images": 6,
        "accuracy": 0.8125,
        "interval": [0.7, 0.9],
        "loss": 0.4375,
        "calibration_error": 0.0625,
        "temperature": {"applied": False},
        "classes": {
            name: {"precision": 0.5, "recall": None, "f1": 0.25, "images": 3}
            for name in CLASSES
        },
    }
    formats = {
        "compared": {"split": "test", "images": 6},
        "formats": {
            "keras": {"file": "model.keras", "difference": 2e-8},
            "onnx": {
                "file": "model.onnx",
                "difference": 3e-7,
                "accuracy": 0.75,
                "interval": [0.3, 0.95],
            },
        },
        "measured": {
            "split": "validation",
            "images": 4,
            "accuracy": 1.0,
            "interval": [0.51, 1.0],
        },
    }
    (model / "evaluation.json").write_text(json.dumps(evaluation))
    (model / "formats.json").write_text(json.dumps(formats))
    calibration.save(model, Calibration(1.75, False, 0.5))
    return data, model


def written(data, model, **settings):
    config = Config(str(data), str(model), **settings)
    manifest = manifest_lib.load(str(data))
    return card.write(str(model), config, manifest).read_text()


def test_the_card_says_what_the_files_say(made):
    text = written(*made, base="vgg16", image_size=150)
    for line in (
        "# model",
        "| a\\|b | 5 | 2 | 3 |",
        "| all | 10 | 4 | 6 |",
        "| a\\|b | 0.5000 | - | 0.2500 | 3 |",
        "| onnx | `model.onnx` | 0.7500 (0.3000 to 0.9500) | 3e-07 |",
        "| keras | `model.keras` | 1.0000 (0.5100 to 1.0000), the model's own "
        "| 2e-08 |",
    ):
        assert line in text.splitlines(), text
    for part in (
        "accuracy 0.8125 (0.7000 to 0.9000)",
        "a temperature of 1.75 for the logits, and it is not applied",
        "CC BY 4.0, Visual Geometry Group",
        "## Limits",
        "Source: `photos`",
    ):
        assert part in text
    assert "{" not in text and "\n\n\n" not in text
    assert "Validation also chose" not in text


def test_what_is_not_known_is_not_said(made):
    data, model = made
    (model / "evaluation.json").unlink()
    text = written(data, model, **SCRATCH)
    assert "Not measured yet" in text and "0.8125" not in text
    assert "The weights began as random numbers" in text


def test_figures_of_a_former_temperature_are_told(made):
    data, model = made
    calibration.save(model, Calibration(1.75, True, 0.5))
    text = written(data, model, weights="mine.weights.h5")
    assert "it is applied: the probabilities are calibrated" in text
    assert "of the temperature before" in text
    assert "`mine.weights.h5`, whose licence holds" in text
