"""What --recipe=auto leaves to the images: size, flips, fine-tuning."""

import json

import numpy as np
import pytest
from conftest import write_noise
from PIL import Image
from training import TINY_SETTINGS

from data_prep.config import PrepareConfig
from data_prep.prepare import prepare
from data_prep.runtime.errors import UsageError
from trainer.config import Config
from trainer.engine import automatic

# All that auto chooses, on a network that takes seconds.
SETTINGS = {
    **TINY_SETTINGS,
    "recipe": "auto",
    "image_size": 48,
    "frozen_epochs": 0,
    "finetune_epochs": 1,
}


def test_auto_is_what_happens_without_flags():
    assert Config("d", "m").values() == Config("d", "m", recipe="auto").values()
    plain = Config("d", "m", recipe="")
    assert plain.features.head_init == "zeros"
    assert Config("d", "m").features.head_init == "logistic_regression"
    assert Config("d", "m", finetune_below=0.5).data.image_size == 0


def test_a_contradiction_names_the_recipe():
    with pytest.raises(UsageError, match=r"is of --recipe=auto; --recipe= "):
        Config("d", "m", head_units=8)
    with pytest.raises(UsageError) as error:
        Config("d", "m", head_units=8, head_init="linear_svm")
    assert "--recipe=auto" not in str(error.value)


@pytest.mark.parametrize(
    "sides, size",
    [([48], 64), ([64], 96), ([200], 256), ([4000], 256), ([8], 32)],
)
def test_the_size_follows_the_images(sides, size):
    assert automatic.size_for(np.array(sides, np.int32), 32) == size


def test_the_median_image_decides_the_size():
    sides = np.array([48] * 5 + [500] * 4, np.int32)
    assert automatic.size_for(sides, 32) == 64


def test_the_shorter_side_decides_the_size(tmp_path):
    source = tmp_path / "photos"
    random = np.random.default_rng(0)
    for number in range(24):
        place = source / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (60, 150, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    data = str(tmp_path / "data")
    manifest = prepare(PrepareConfig(str(source), data))
    config = automatic.by_images(Config(data, "m"), manifest)
    assert config.data.image_size == 64  # 1.28 times 60, by 32
    given = automatic.by_images(Config(data, "m", image_size=40), manifest)
    assert given.data.image_size == 40


def test_the_rate_follows_the_steps(tmp_path):
    """32 images in batches of 9 are four steps an epoch, so 25 epochs 100."""
    source = write_noise(tmp_path / "photos", count=20)
    data = str(tmp_path / "data")
    parts = "train:16,validation:2,test:2"
    manifest = prepare(PrepareConfig(str(source), data, splits=parts))

    def rate(**settings):
        config = Config(data, "m", batch_size=9, **settings)
        chosen = automatic.by_images(config, manifest)
        return chosen.optimisation.finetune_learning_rate

    assert rate(finetune_epochs=25) == 1e-4
    assert rate(finetune_epochs=24) == 3e-5
    assert rate(finetune_epochs=25, finetune_learning_rate=0.5) == 0.5
    assert rate(finetune_epochs=25, recipe="") == 3e-5  # the plain default


def strokes(folder, mirrored_class):
    """Writes images of stripes, whose direction tells the class.

    Args:
        folder: Where a folder per class appears.
        mirrored_class: Whether they rise in one class and fall in the other,
            so that a flip turns one into the other; else they are upright in
            one and lie in the other.
    """
    random = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    directions = (x + y, x - y) if mirrored_class else (x, y)
    for label in (0, 1):
        place = folder / f"class{label}"
        place.mkdir(parents=True)
        for number in range(40):
            pixels = random.integers(0, 60, (48, 48, 3), np.uint8)
            pixels[directions[label] % 12 < 5] += 150
            Image.fromarray(pixels).save(place / f"{number:02d}.png")
    return folder


def train(tmp_path, mirrored_class, **settings):
    from trainer.run import run

    source = strokes(tmp_path / "photos", mirrored_class)
    data = str(tmp_path / "data")
    prepare(PrepareConfig(str(source), data, similarity=0))
    model = tmp_path / "model"
    config = Config(data, str(model), **{**SETTINGS, **settings})
    return run(config), model


@pytest.mark.slow
@pytest.mark.parametrize(
    "mirrored_class, flip", [(True, "false"), (False, "true")]
)
def test_flips_are_asked_of_validation(
    tf, tmp_path, capsys, mirrored_class, flip
):
    train(tmp_path, mirrored_class, finetune_below=1.0)
    assert f": --flip={flip}\n" in capsys.readouterr().out


def test_a_good_head_is_left_alone(tf, tmp_path, capsys):
    done, model = train(tmp_path, False, finetune_below=0.4)
    assert done["exported"]["phase"] == "head_init"
    assert "nothing is fine-tuned" in capsys.readouterr().out
    assert not (model / "metrics.jsonl").read_text()
    begun = json.loads((model / "config.json").read_text())
    assert begun["finetune_epochs"] == 1  # as it was given
