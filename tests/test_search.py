"""`trainer.search`: what is tried, what is ended early, what goes on."""

import csv
import json
import signal

import pytest
from training import TINY_SETTINGS
from training import curve
from training import lines
from training import prepare
from training import train
from training import train_here

from data_prep.runtime.errors import TrainingError
from data_prep.runtime.errors import UsageError
from trainer import search
from trainer.tuning import space
from trainer.tuning.space import Range
from trainer.tuning.space import Values

HEAD = dict(
    feature_cache=True, frozen_epochs=3, finetune_epochs=0, augment="none"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("search"))


def try_here(data, folder, tune, **settings):
    """Searches in this process; returns the rows of `trials.csv`."""
    values = {**TINY_SETTINGS, "strategy": "one_device", **HEAD, **settings}
    search.main(search.SearchConfig(str(data), str(folder), tune, **values))
    return rows(folder)


def rows(folder):
    with open(folder / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_tried():
    found = space.parse(
        "dropout=0:0.5 --frozen_learning_rate=1e-4:1e-2:log batch_size=8:32 "
        "augment=none,light feature_cache=true,false"
    )
    assert found == {
        "dropout": Range(0.0, 0.5),
        "frozen_learning_rate": Range(1e-4, 1e-2, log=True),
        "batch_size": Range(8, 32),
        "augment": Values(("none", "light")),
        "feature_cache": Values((True, False)),
    }
    assert isinstance(found["batch_size"].low, int)
    assert list(space.grid(found)) == []
    points = list(space.grid(space.parse("dropout=0,0.5 batch_size=8,16")))
    assert points[1] == {"dropout": 0.0, "batch_size": 16} and len(points) == 4


@pytest.mark.parametrize(
    ("tune", "says"),
    [
        ("", "--tune is empty"),
        ("dropout", "expected name=low:high"),
        ("dropout=", "expected name=low:high"),
        ("dropout=0,,1", "expected name=low:high"),
        ("dropuot=0:1", "Did you mean dropout?"),
        ("model_dir=a,b", "changes nothing that a training learns"),
        ("recipe=auto,best", "a name for other settings"),
        ("dropout=0.5:0.1", "low below high"),
        ("dropout=0:0.5:sqrt", "linear or log"),
        ("dropout=0:0.5:log", "begins above 0"),
        ("dropout=0:2", "0 to 0.99"),
        ("dropout=0,x", "--dropout=x is impossible"),
        ("batch_size=8,8", "stands twice"),
        ("dropout=0,1e-1 dropout=0.2", "dropout twice"),
        ("augment=none,lihgt", "light"),
    ],
)
def test_what_cannot_be_tried(tune, says):
    with pytest.raises(UsageError, match=".") as found:
        space.parse(tune)
    assert says in str(found.value)


def test_contradictions_are_found_before_the_first_trial(data, tmp_path):
    with pytest.raises(UsageError, match="--head_units=64 puts a hidden"):
        try_here(
            data,
            tmp_path / "s",
            "head_units=0,64",
            head_init="logistic_regression",
            freeze_random_weights=True,
        )
    with pytest.raises(UsageError, match="--keep=1 lets every trial go on"):
        try_here(data, tmp_path / "s", "dropout=0,0.1", keep=1)
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_grid_is_tried_and_the_best_finished_as_by_its_own_command(
    data, tmp_path, tf
):
    folder = tmp_path / "search"
    found = try_here(
        data, folder, "frozen_learning_rate=1e-5,0.05 seed=3", keep=0
    )
    assert len(found) == 2 and {row["end"] for row in found} == {"complete"}
    accuracies = [float(row["val_accuracy"]) for row in found]
    assert accuracies == sorted(accuracies, reverse=True)
    best = folder / f"trial-{found[0]['trial']}"
    plain = tmp_path / "plain"
    rate = float(found[0]["frozen_learning_rate"])
    done = train_here(data, plain, **HEAD, frozen_learning_rate=rate, seed=3)
    assert curve(best) == curve(plain)
    finished = json.loads((best / "DONE.json").read_text())
    assert finished["evaluation"] == done["evaluation"]
    assert finished["exported"]["val_accuracy"] == pytest.approx(
        accuracies[0], abs=1e-4
    )
    # Of the other one what it reached is left, and nothing large.
    other = folder / f"trial-{found[1]['trial']}"
    assert {path.name for path in other.iterdir()} == {
        *("config.json", "environment.json", "metrics.jsonl")
    }
    # Both took the features that the first one extracted: 22 and 6 images.
    assert len(list((folder / "features").glob("*/features.json"))) == 2
    assert (folder / "trials.png").stat().st_size > 5000
    # The same again tries nothing, more of it goes on, other flags are refused.
    log = (folder / "trials.log").stat().st_size
    assert (
        len(
            try_here(
                data, folder, "frozen_learning_rate=1e-5,0.05 seed=3", keep=0
            )
        )
        == 2
    )
    assert (folder / "trials.log").stat().st_size < 1.5 * log
    with pytest.raises(UsageError, match="tune '.*seed=3', now"):
        try_here(data, folder, "dropout=0,0.1", keep=0)


@pytest.mark.slow
def test_a_hopeless_trial_is_ended_early_and_a_failed_one_is_named(
    data, tmp_path, tf
):
    found = try_here(
        data,
        tmp_path / "search",
        "frozen_learning_rate=0.05,0 accumulation=1,3",
        keep=2,
    )
    ends = ["complete", "stopped early", "failed", "failed"]
    assert [row["end"] for row in found] == ends
    assert [row["epochs"] for row in (found[0], *found[2:])] == ["3", "0", "0"]
    # Ties go on, so it may be after the first epoch or after the second.
    hopeless = tmp_path / f"search/trial-{found[1]['trial']}"
    epochs = len(lines(hopeless / "metrics.jsonl"))
    assert epochs == int(found[1]["epochs"]) < 3
    for failed in found[2:]:
        assert "in 3 micro-batches" in failed["message"]


def test_where_every_trial_fails_the_search_says_so(data, tmp_path, tf):
    with pytest.raises(TrainingError, match="no trial of"):
        try_here(data, tmp_path / "search", "accumulation=3")


@pytest.mark.slow
def test_a_killed_search_goes_on_within_its_trial(data, tmp_path):
    folder = tmp_path / "search"
    words = (
        *("--strategy=one_device", "--feature_cache", "--frozen_epochs=3"),
        *("--finetune_epochs=0", "--tune=dropout=0,0.3", "--keep=0"),
    )
    # Each trial has 4 calls an epoch: this is within the second one's second.
    cut = train(data, folder, *words, fault="step:18:SIGKILL", module="search")
    assert cut.returncode == -signal.SIGKILL, cut.stderr
    assert len(rows(folder)) == 1
    done = train(data, folder, *words, module="search")
    assert done.returncode == 0, done.stderr
    assert "\ntrial 000:" not in done.stdout
    assert "resuming after epoch 1 and 0 steps" in done.stdout
    assert [row["epochs"] for row in rows(folder)] == ["3", "3"]
    assert {row["end"] for row in rows(folder)} == {"complete"}
