"""Figures of a classifier, against other ways to compute them."""

import csv
import json
import math
import re
import types
import weakref

import numpy as np
import pytest

from data_prep.runtime.errors import DataError
from launch import compare
from trainer.engine import history
from trainer.inference import calibration
from trainer.inference import evaluation
from trainer.inference import figures
from trainer.inference import mcnemar
from trainer.inference import ranking
from trainer.inference import spool
from trainer.inference import tables
from trainer.models import temperature
from trainer.reporting import predictions

CLASSES = ["a", "b", "c"]


@pytest.fixture
def answers():
    """Labels and probabilities of 300 images, some right."""
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 3, 300).astype(np.int32)
    scores = generator.normal(size=(300, 3)) + 1.5 * np.eye(3)[labels]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return labels, probabilities.astype(np.float32)


NOT_CALIBRATED = calibration.Calibration(1.0, False, None)


def measure(labels, probabilities, classes, parts=3):
    """Figures of probabilities that come in several parts."""
    cut = np.array_split(probabilities, parts)
    answers = figures.gather(labels, cut, len(classes), NOT_CALIBRATED)
    return figures.measure(answers, classes)


def test_the_interval_is_wilsons():
    for right, images in ((0, 7), (7, 7), (965, 1000), (1, 2)):
        share, z = right / images, 1.959963984540054
        middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
        half = (z / (1 + z**2 / images)) * math.sqrt(
            share * (1 - share) / images + z**2 / (4 * images**2)
        )
        low, high = figures.interval(right, images)
        assert low == pytest.approx(middle - half, abs=1e-9)
        assert high == pytest.approx(middle + half, abs=1e-9)


def test_calibration_error(answers):
    """Against the definition, bin by bin."""
    labels, probabilities = answers
    right = probabilities.argmax(axis=1) == labels
    confidence = probabilities.max(axis=1)
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            error += inside.mean() * gap
    found = calibration.error(right, confidence)
    assert found == pytest.approx(error, abs=1e-6)
    sure = np.ones(4, np.float32)  # falls into the last bin
    assert calibration.bins_of(sure).tolist() == [calibration.BINS - 1] * 4
    assert calibration.error(np.array([1, 1, 1, 0]), sure) == 0.25


def test_ranking_of_a_class(answers):
    """ROC AUC is the share of pairs that are in order."""
    labels, probabilities = answers
    result = measure(labels, probabilities, CLASSES)
    for k, name in enumerate(CLASSES):
        of, others = (
            probabilities[labels == k, k],
            probabilities[labels != k, k],
        )
        in_order = (of[:, None] > others[None]).mean()
        assert result["classes"][name]["roc_auc"] == pytest.approx(in_order)
        assert in_order < result["classes"][name]["average_precision"] + 0.5
    assert result["interval"][0] < result["accuracy"] < result["interval"][1]
    assert "top_5" not in result
    line = evaluation.table({"split": "test", **result}).splitlines()[-1]
    assert f"(95% interval {result['interval'][0]:.4f} to " in line


def test_a_class_that_no_image_tells_of(answers):
    labels, probabilities = answers
    some = labels != 2
    result = measure(labels[some], probabilities[some], CLASSES)
    assert result["classes"]["c"]["roc_auc"] is None
    assert result["classes"]["c"]["average_precision"] is None
    json.dumps(result, allow_nan=False)


def test_figures_by_hand():
    """Four images of a, two of b, none of c."""
    labels = np.array([0, 0, 0, 0, 1, 1])
    shares = np.array(
        [
            *([0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]),
            *([0.1, 0.1, 0.8], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1]),
        ],
        np.float32,
    )
    result = measure(labels, shares, CLASSES)
    assert result["images"] == 6 and result["accuracy"] == 0.5
    assert result["confusion_matrix"] == [[2, 1, 1], [1, 1, 0], [0, 0, 0]]
    of_label = [0.7, 0.6, 0.2, 0.1, 0.6, 0.4]
    assert result["loss"] == pytest.approx(-np.log(of_label).mean())
    wanted = {"a": (2 / 3, 1 / 2, 4 / 7, 4), "b": (1 / 2, 1 / 2, 1 / 2, 2)}
    for name, numbers in wanted.items():
        of = result["classes"][name]
        found = [of[key] for key in ("precision", "recall", "f1", "images")]
        assert found == pytest.approx(numbers)
    absent = dict(result["classes"]["c"])
    assert absent.pop("images") == 0
    assert set(absent.values()) == {None} and len(absent) == 5
    said = evaluation.table({"split": "test", **result})
    assert "1 class has no image in test: not measured" in said
    assert re.search(r"^a +0\.6667 +0\.5000 +0\.5714 +4$", said, re.MULTILINE)
    assert re.search(r"^c +- +- +- +0$", said, re.MULTILINE)


def test_where_all_are_of_a_class_nothing_is_ranked():
    shares = np.array([[0.7, 0.3], [0.4, 0.6]], np.float32)
    for of in measure(np.zeros(2, int), shares, ["a", "b"])["classes"].values():
        assert of["roc_auc"] is None and of["average_precision"] is None


def test_a_probability_of_zero_costs_what_the_least_float_does():
    sure = np.array([[1, 0], [1, 0]], np.float32)
    result = measure(np.array([1, 0]), sure, ["a", "b"])
    assert result["loss"] == pytest.approx(126 * np.log(2) / 2)


def test_what_is_served_is_measured():
    """Sharpened, the second image is the surer one of class a."""
    shares = np.array([[0.5, 0.49, 0.01], [0.4, 0.3, 0.3]], np.float32)
    labels = np.array([1, 0])
    sharp = shares**10 / (shares**10).sum(axis=1, keepdims=True)
    for applied, served, area in ((False, shares, 0.0), (True, sharp, 1.0)):
        chosen = calibration.Calibration(0.1, applied, None)
        found = figures.gather(labels, [shares], 3, chosen)
        np.testing.assert_allclose(found.confidence, served[:, 0], rtol=1e-5)
        of_label = [served[0, 1], served[1, 0]]
        np.testing.assert_allclose(found.of_label, of_label, rtol=1e-5)
        np.testing.assert_allclose(
            found.sure, [shares[:, 0], sharp[:, 0]], rtol=1e-5
        )
        result = figures.measure(found, CLASSES)
        assert result["classes"]["a"]["roc_auc"] == area
        both = figures.calibrated(found, chosen, CLASSES)["temperature"]
        before, after = (
            calibration.error(found.right, x[:, 0]) for x in (shares, sharp)
        )
        assert before != pytest.approx(after)
        assert both["calibration_error_before"] == pytest.approx(before)
        assert both["calibration_error_after"] == pytest.approx(after)


def test_the_threshold_is_that_of_what_is_served():
    second = np.array([0.75, 0.6, 0.9, 0.1], np.float32)
    shares = np.stack([1 - second, second], axis=1)
    labels = np.array([1, 1, 0, 0])
    chosen = calibration.Calibration(2.0, True, 0.75)
    found = figures.gather(labels, [shares], 2, chosen)
    said = figures.calibrated(found, chosen, ["a", "b"])["threshold"]
    assert said["class"] == "b"
    # The root of each, as two divides the logits.
    wanted = 0.75**0.5 / (0.75**0.5 + 0.25**0.5)
    assert said["value"] == pytest.approx(wanted)
    assert said["accuracy"] == 0.5  # 0.75 itself is of b
    assert said["recalls"] == [0.5, 0.5]
    # Midway between two scores.
    shares = np.array([[0.75, 0.25], [0.25, 0.75]], np.float32)
    chosen = calibration.choose(shares, np.array([0, 1]), applied=False)
    assert chosen.threshold == 0.5


def test_the_files_of_a_split(tmp_path):
    """Lines by file, with what is served; other phases by who is right alone."""
    labels = np.array([0, 1, 1])
    shares = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]], np.float32)
    spooled = spool.Spool(tmp_path)
    spooled.append(shares)
    reader = types.SimpleNamespace(
        split="test",
        labels=labels,
        files=lambda: ["z.jpg", "x.jpg", "y.jpg"],
        manifest=types.SimpleNamespace(classes=["a", "b"], splits={"test"}),
    )
    others = {"frozen": np.array([False, False, True])}
    chosen = calibration.Calibration(0.5, True, 0.5)
    result = evaluation.write(
        reader, spooled, chosen, others, tmp_path, errors=False
    )
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    assert not (tmp_path / "errors.csv").exists()
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["x.jpg", "y.jpg", "z.jpg"]
    assert [row["label"] for row in rows] == ["b", "b", "a"]
    assert [row["predicted"] for row in rows] == ["a", "b", "a"]
    squares = shares**2 / (shares**2).sum(axis=1, keepdims=True)
    second = [float(row["probability_b"]) for row in rows]
    assert second == pytest.approx(squares[[1, 2, 0], 1].tolist())
    other = result["other_phases"]["frozen"]
    assert other["accuracy"] == pytest.approx(1 / 3)
    assert (other["difference"]["alone"], other["difference"]["lacking"]) == (
        1,
        0,
    )


def test_top_5_of_many_classes():
    labels = np.arange(12, dtype=np.int32)
    probabilities = np.full((12, 12), 0.0, np.float32)
    # The true class stands at place 1 to 12 in its image.
    for label in labels:
        order = [n for n in range(12) if n != label]
        order.insert(int(label), int(label))
        probabilities[label, order] = np.linspace(1, 0, 12)
    names = [f"class {n:02d}" for n in range(12)]
    result = measure(labels, probabilities, names)
    assert result["top_5"] == pytest.approx(5 / 12)
    assert result["accuracy"] == pytest.approx(1 / 12)


def test_each_split_has_files_of_its_own():
    whole = types.SimpleNamespace(splits={"train", "validation", "test"})
    part = types.SimpleNamespace(splits={"train", "validation"})
    plain = ("evaluation.json", "predictions.csv", "errors.csv")
    assert evaluation.files_of("test", whole) == plain
    assert evaluation.files_of("validation", part) == plain
    names = {evaluation.files_of(split, whole) for split in whole.splits}
    assert len(names) == 3
    assert evaluation.files_of("validation", whole) == (
        "evaluation-validation.json",
        "predictions-validation.csv",
        "errors-validation.csv",
    )


def make_run(folder, split, right, extra=None):
    """Writes what compare reads; `right` says it of each image."""
    folder.mkdir(parents=True)
    accuracy = sum(right) / len(right)
    (folder / "config.json").write_text(json.dumps({"rate": folder.name}))
    (folder / "DONE.json").write_text("{}")
    for name, of in {"evaluation.json": split, **(extra or {})}.items():
        figures = {"split": of, "accuracy": accuracy, "loss": 1.0}
        (folder / name).write_text(json.dumps(figures))
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "predicted"])
        for number, one in enumerate(right):
            writer.writerow([f"{number}.jpg", "a", "a" if one else "b"])
    return folder


def test_figures_of_different_splits_are_refused(run, tmp_path):
    first = make_run(tmp_path / "first", "test", [1, 0])
    other = {"evaluation-test.json": "test"}
    second = make_run(tmp_path / "second", "validation", [1, 1], other)
    done = run("launch.compare", first, second)
    assert done.returncode == 65
    assert "different splits" in done.stderr and "--split" in done.stderr
    # The figures of the one that both have.
    done = run("launch.compare", "--split=test", "--csv", first, second)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(",test,") == 2
    done = run("launch.compare", "--split=train", first, second)
    assert done.returncode == 65
    assert "has no figures of train" in done.stderr
    with pytest.raises(DataError, match="different splits"):
        compare.table({"1": first, "2": second})


@pytest.mark.parametrize(
    "alone, lacking, says",
    [
        # 2 * (1 + 12 + 66) / 2^12: the two tails of a binomial of one half.
        (10, 2, r"first one is better .*10 images only the first.*p = 0.039"),
        (2, 10, r"second one is better"),
        (6, 4, "no difference between .* that 50 images could show"),
        # p = 0.11: more than one in twenty is chance.
        (8, 2, "no difference between .* that 50 images could show"),
        (0, 0, "right and wrong on the same of 50 images"),
    ],
)
def test_the_difference_of_two_runs(tmp_path, alone, lacking, says):
    both = [1] * 30
    first = [1] * alone + [0] * lacking + both
    second = [0] * alone + [1] * lacking + both
    rest = [0] * (50 - len(first))
    folders = [
        make_run(tmp_path / name, "test", right + rest)
        for name, right in (("first", first), ("second", second))
    ]
    assert re.search(says, compare.difference(*folders))
    shorter = make_run(tmp_path / "shorter", "test", first[:-1])
    assert compare.difference(folders[0], shorter) == ""


def test_the_difference_is_said_of_two_runs(run, tmp_path):
    """In the order of the table: the better one is the first."""
    worse = make_run(tmp_path / "worse", "test", [0] * 9 + [1] * 20)
    better = make_run(tmp_path / "better", "test", [1] * 29)
    done = run("launch.compare", worse, better)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith(str(better))
    assert "the first one is better (9 images only" in done.stdout
    third = make_run(tmp_path / "third", "test", [1] * 29)
    done = run("launch.compare", worse, better, third)
    assert "better (" not in done.stdout


def row(phase, epoch, accuracy, loss):
    return {
        "phase": phase,
        "epoch": epoch,
        "val_accuracy": accuracy,
        "val_loss": loss,
    }


def test_what_is_exported_is_said_in_words():
    frozen = [row("frozen", 1, 0.9, 0.4), row("frozen", 2, 0.975, 0.1)]
    tuned = [row("finetune", 3, 0.971, 0.2)]
    assert history.export_summary([*frozen, *tuned], frozen[1]) == (
        "kept epoch 2, of the frozen phase: validation accuracy 0.9750 "
        "against 0.9710 of the finetune phase"
    )
    equal = row("finetune", 3, 0.975, 0.15)
    assert history.export_summary([*frozen, equal], frozen[1]) == (
        "kept epoch 2, of the frozen phase: validation accuracy 0.9750 "
        "against 0.9750 of the finetune phase (loss 0.1000 against 0.1500)"
    )
    alone = history.export_summary(frozen, frozen[1])
    assert alone.endswith("validation accuracy 0.9750")


def test_the_line_of_an_epoch_fits_the_screen():
    epoch = {
        "loss": 2.5,
        "accuracy": 0.7,
        "val_loss": 1.25,
        "val_accuracy": 0.9,
        "images_per_second": 98765.4,
        "data_wait_fraction": 0.12,
        "seconds": 9876.0,
        "skipped_steps": 0,
    }
    line = history.epoch_summary("finetune 998/999", epoch)
    assert line == (
        "finetune 998/999: loss 2.5000, accuracy 0.7000; val 1.2500, 0.9000; "
        "98765 img/s, 12% waiting, 9876 s"
    )
    assert len(line) <= 100


def test_temperature_undoes_what_made_a_model_too_sure(answers):
    labels, probabilities = answers
    scores = np.log(probabilities.astype(np.float64))
    # Labels drawn from the probabilities: those are what they say.
    generator = np.random.default_rng(1)
    many = np.tile(scores, (40, 1))
    shares = np.exp(many)
    drawn = (shares.cumsum(axis=1) > generator.random((len(many), 1))).argmax(1)
    sure = np.exp(3 * many)
    sure = (sure / sure.sum(axis=1, keepdims=True)).astype(np.float32)
    found = calibration.choose(sure, drawn, applied=False)
    assert found.temperature == pytest.approx(3, rel=0.05)
    assert found.divisor == 1.0
    assert found.threshold is None
    scaled = temperature.scale(sure, 3.0)
    np.testing.assert_allclose(scaled, shares, rtol=1e-4, atol=1e-6)
    assert temperature.scale(sure, 1.0) is sure
    right = sure.argmax(axis=1) == drawn
    before = calibration.error(right, sure.max(axis=1))
    after = calibration.error(right, scaled.max(axis=1))
    assert after < before / 5
    # Without a mistake nothing says how sure is too sure.
    best = sure.argmax(axis=1)
    assert calibration.choose(sure, best, applied=True).divisor == 1.0


def test_threshold_of_two_classes(tmp_path):
    """The best mean of both recalls, tried at every score."""
    generator = np.random.default_rng(2)
    labels = (generator.random(400) < 0.2).astype(int)
    score = np.clip(generator.normal(0.2 + 0.2 * labels, 0.1), 0.01, 0.99)
    both = np.stack([1 - score, score], axis=1).astype(np.float32)
    found = calibration.choose(both, labels, applied=True)

    def recalls(limit):
        second = both[:, 1] >= limit
        return (second[labels == 1].mean() + 1 - second[labels == 0].mean()) / 2

    best = max(map(recalls, both[:, 1]))
    assert recalls(found.threshold) == pytest.approx(best)
    assert recalls(0.5) < best - 0.1
    calibration.save(tmp_path, found)
    assert calibration.load(tmp_path) == found
    (tmp_path / "calibration.json").write_text('{"temperature": -1}')
    with pytest.raises(DataError, match="damaged"):
        calibration.load(tmp_path)
    assert calibration.load(tmp_path / "absent") is None


def test_ranking_by_bins_is_that_of_all_scores(answers, monkeypatch):
    """Against scikit-learn on the scores themselves."""
    from sklearn import metrics

    labels, probabilities = answers
    # As sure as a trained network: most are next to 0 or to 1.
    sharp = temperature.scale(probabilities, 0.1)
    assert (sharp.max(axis=1) > 0.999).mean() > 0.3
    found = []
    for limit in (ranking.EXACT, 0):
        monkeypatch.setattr(ranking, "EXACT", limit)
        ranks = ranking.Ranking(len(labels), 3)
        for part in np.array_split(np.arange(len(labels)), 7):
            ranks.add(labels[part], sharp[part])
        found.append(ranks.figures())
    for k in range(3):
        of, scores = labels == k, sharp[:, k]
        wanted = {
            "roc_auc": metrics.roc_auc_score(of, scores),
            "average_precision": metrics.average_precision_score(of, scores),
        }
        exact, binned = found[0][k], found[1][k]
        assert exact == pytest.approx(wanted, abs=1e-12)
        assert binned == pytest.approx(wanted, abs=2e-3)
        assert binned != exact  # they are other ways


def test_bins_are_in_order():
    steps = np.array([1e-20, 1e-9, 1e-3, 0.1, 0.49, 0.51, 0.9, 1 - 1e-6, 1])
    bins = ranking._bins(steps.astype(np.float32))
    assert (np.diff(bins[1:]) > 0).all()
    assert bins.min() >= 0 and bins.max() < ranking.BINS
    near = np.array([0.9990, 0.9992], np.float32)
    assert np.diff(ranking._bins(near))[0] > 0


def test_a_spool_gives_back_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_PART", 12)
    rows = np.arange(35, dtype=np.float32).reshape(7, 5)
    found = spool.Spool(tmp_path)
    found.append(rows[:4])
    found.append(rows[4:])
    assert list(tmp_path.iterdir()) == []  # nothing that a kill could leave
    parts = list(found.parts())
    assert [len(part) for part in parts] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(parts), rows)
    np.testing.assert_array_equal(found.rows([5, 0, 3]), rows[[5, 0, 3]])
    assert len(found) == 7


def test_a_sample_is_chosen_by_with_its_own_labels(
    answers, tmp_path, tf, monkeypatch
):
    """Every third image: as if the others were not there."""
    from trainer.inference import finished

    labels, probabilities = answers
    spooled = spool.Spool(tmp_path)
    spooled.append(temperature.scale(probabilities, 0.5))
    reader = types.SimpleNamespace(
        count=len(labels),
        labels=labels,
        manifest=types.SimpleNamespace(classes=CLASSES),
    )
    config = types.SimpleNamespace(model=types.SimpleNamespace(calibrate=True))
    monkeypatch.setattr(calibration, "sample_step", lambda *_: 3)
    found = finished._choose(reader, spooled, config)
    wanted = calibration.choose(
        temperature.scale(probabilities[::3], 0.5), labels[::3], applied=True
    )
    assert found == wanted and found.divisor > 1.2


def test_what_is_chosen_by_is_bounded():
    assert calibration.sample_step(1000, 2) == 1
    for images, classes in ((10**6, 2), (10**6, 1000)):
        step = calibration.sample_step(images, classes)
        sample = len(range(0, images, step))
        assert sample <= 50_000 and sample * classes <= 2**22
        assert sample > 4000


def test_errors_are_in_order(tmp_path):
    labels = np.array([0, 1, 2])
    shares = [[0.6, 0.3, 0.1], [0.7, 0.1, 0.2], [0.3, 0.3, 0.4]]
    found = figures.gather(
        labels, [np.array(shares, np.float32)], 3, NOT_CALIBRATED
    )
    path = tmp_path / "errors.csv"
    tables.write_errors(path, CLASSES, ["x", "y", "z"], found)
    assert path.read_text().splitlines() == [
        "file,label,predicted,correct,probability,probability_of_label",
        "y,b,a,0,0.699999988,0.100000001",
        "z,c,c,1,0.400000006,0.400000006",
        "x,a,a,1,0.600000024,0.600000024",
    ]


def test_of_many_classes_the_likeliest_are_written(tmp_path):
    names = [f"class {k}" for k in range(tables.ALL + 1)]
    sure = np.zeros((3, len(names)), np.float32)
    sure[0, [7, 9, 30, 2, 50, 4]] = [0.4, 0.25, 0.125, 0.11, 0.1, 0.015]
    sure[1, [0, 100]] = [0.25, 0.75]
    sure[2] = 1 / len(names)  # all are equal: the first ones
    path = tmp_path / "predictions.csv"
    rows = zip(["x", "y", "z"], [4, 100, 3], sure, strict=True)
    tables.write_predictions(path, names, rows)
    head, *lines = path.read_text().splitlines()
    assert head == (
        "file,label,predicted,probability,probability_of_label,"
        "class_2,probability_2,class_3,probability_3,"
        "class_4,probability_4,class_5,probability_5"
    )
    assert lines[0] == (
        "x,class 4,class 7,0.400000006,0.0149999997,class 9,0.25,"
        "class 30,0.125,class 2,0.109999999,class 50,0.100000001"
    )
    assert lines[1].startswith("y,class 100,class 100,0.75,0.75,class 0,0.25,")
    best = lines[2].split(",")
    assert best[2] == "class 0"
    assert best[5::2] == ["class 1", "class 2", "class 3", "class 4"]
    found = predictions.read(path, names, worst=3, best=3)
    assert found.right.tolist() == [False, True, False]
    np.testing.assert_allclose(found.confidence, sure.max(axis=1))
    assert [one.of_label for one in found.worst] == pytest.approx(
        [0.015, 1 / 101]
    )


def test_every_probability_is_written_of_fewer_classes(tmp_path):
    names = [f"class {k}" for k in range(tables.ALL)]
    shares = np.random.default_rng(0).dirichlet(np.ones(len(names)), 2)
    shares = shares.astype(np.float32)
    path = tmp_path / "predictions.csv"
    tables.write_predictions(
        path, names, zip("xy", [3, 8], shares, strict=True)
    )
    with open(path, newline="") as file:
        head, *rows = csv.reader(file)
    assert head[3:] == [f"probability_{name}" for name in names]
    written = np.array([row[3:] for row in rows], np.float32)
    np.testing.assert_array_equal(written, shares)
    assert [row[1] for row in rows] == ["class 3", "class 8"]
    found = predictions.read(path, names, worst=2, best=2)
    of_label = {one.file: one.of_label for one in found.worst + found.best}
    assert of_label == pytest.approx({"x": shares[0, 3], "y": shares[1, 8]})


def test_words_name_both():
    found = mcnemar.difference(60, 3, 12)
    said = mcnemar.in_words(found, "what is exported", "the frozen phase")
    assert said == (
        "the frozen phase is better (3 images only what is exported classifies "
        "rightly, 12 only the frozen phase, p = 0.035)"
    )


def test_no_part_is_kept():
    """Of a part only a few numbers of each image stay in memory."""
    parts = []

    def made():
        for _ in range(5):
            part = np.full((4, 3), 1 / 3, np.float32)
            parts.append(weakref.ref(part))
            yield part

    labels = np.arange(20) % 3
    sharper = calibration.Calibration(0.5, True, None)
    found = figures.gather(labels, made(), 3, sharper)
    assert len(found.right) == 20
    assert [ref() for ref in parts] == [None] * 5


@pytest.mark.parametrize(
    "text", ["", '{"split": "te', '{"split": "test"}', "[]"]
)
def test_figures_that_are_damaged_are_named(run, tmp_path, text):
    first = make_run(tmp_path / "first", "test", [1, 0])
    (first / "evaluation.json").write_text(text)
    with pytest.raises(DataError, match="evaluation.json is damaged.*evaluate"):
        compare.table({"first": first})
