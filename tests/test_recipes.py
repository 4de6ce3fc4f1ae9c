"""The flag files of recipes/: they parse, they say what they are, they run."""

import re

import pytest
from absl import flags
from conftest import ROOT
from conftest import write_noise

from data_prep.runtime import setting_flags
from trainer.config import Config

RECIPES = sorted((ROOT / "recipes").glob("*.flags"))


def parse(recipe, *arguments) -> Config:
    values = flags.FlagValues()
    setting_flags.define_flags(Config, values)
    rest = values(["trainer.task", f"--flagfile={recipe}", *arguments])
    assert rest == ["trainer.task"]
    return setting_flags.from_flags(Config, values)


def test_every_recipe_of_the_issue_is_there():
    assert {path.stem for path in RECIPES} == {
        "scratch",
        "features_dense",
        "frozen_augmented",
        "finetune_block3",
        "bottleneck",
        "food5k",
        "fast",
        "best",
        "auto",
    }


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses_and_says_what_it_is(recipe):
    config = parse(recipe, "--data_dir=data", "--model_dir=model")
    assert config.run.recipe == ("auto" if recipe.stem == "auto" else "")
    assert config.run.model_dir == "model"
    comment = [x for x in recipe.read_text().splitlines() if x.startswith("#")]
    text = " ".join(line.removeprefix("# ") for line in comment)
    for part in ("Published:", "Ours:", "Time:"):
        assert re.search(rf"{part} \S", text), f"{recipe.name} lacks {part}"
    # absl takes a word that it does not understand for no flag, in silence.
    given = set(recipe.read_text().splitlines()) - set(comment) - {""}
    assert all(line.startswith("--") for line in given), given


def test_a_wrong_flag_in_a_recipe_is_found(tmp_path):
    """The control of the test above."""
    wrong = tmp_path / "wrong.flags"
    wrong.write_text("--image_sice=150\n")
    with pytest.raises(flags.UnrecognizedFlagError):
        parse(wrong, "--data_dir=data", "--model_dir=model")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scratch", "features_dense", "best"])
def test_a_recipe_runs(tf, tmp_path, name):
    """Shortened: few epochs, small pictures, the small network."""
    import keras

    from data_prep.config import PrepareConfig
    from data_prep.prepare import prepare
    from trainer.run import run

    keras.config.set_dtype_policy("float32")
    source = write_noise(tmp_path / "photos", count=18)
    prepare(
        PrepareConfig(
            str(source), str(tmp_path / "data"), splits="train:12,validation:6"
        )
    )
    config = parse(
        ROOT / "recipes" / f"{name}.flags",
        f"--data_dir={tmp_path / 'data'}",
        f"--model_dir={tmp_path / 'model'}",
        "--base=scratch",
        "--weights=none",
        "--freeze_random_weights",
        "--image_size=62",
        "--head_units=0" if name == "best" else "--head_units=8",
        "--batch_size=12",
        "--strategy=one_device",
        "--precision=float32",
        *(["--finetune_epochs=2"] if name == "scratch" else []),
        *(["--frozen_epochs=2"] if name == "features_dense" else []),
    )
    done = run(config)
    assert done["evaluation"]["split"] == "validation"
    assert (tmp_path / "model" / "model.keras").exists()
    keras.config.set_dtype_policy("float32")
