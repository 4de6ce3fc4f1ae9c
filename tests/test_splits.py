"""Splits: stratified, seeded, pure."""

import collections
import random

import pytest

from data_prep import splits
from data_prep.errors import DataError
from data_prep.errors import UsageError


def items(**counts):
    files = [
        f"{c}/{n}.jpg" for c, count in counts.items() for n in range(count)
    ]
    return files, [file.split("/")[0] for file in files]


def test_fractions_are_stratified():
    files, labels = items(cat=100, dog=40)
    amounts = splits.parse_spec("train:0.8,validation:0.1,test:0.1")
    found = collections.Counter(
        zip(labels, splits.assign(files, labels, amounts, 0), strict=True)
    )
    assert found == {
        ("cat", "train"): 80,
        ("cat", "validation"): 10,
        ("cat", "test"): 10,
        ("dog", "train"): 32,
        ("dog", "validation"): 4,
        ("dog", "test"): 4,
    }


def test_counts_are_per_class_and_leave_the_rest():
    files, labels = items(cat=10, dog=6)
    amounts = splits.parse_spec("train:3,test:2")
    found = collections.Counter(
        zip(labels, splits.assign(files, labels, amounts, 0), strict=True)
    )
    assert found[("cat", "train")] == found[("dog", "train")] == 3
    assert found[("cat", "test")] == found[("dog", "test")] == 2
    assert found[("cat", None)] == 5


def test_order_of_files_does_not_matter_but_the_seed_does():
    files, labels = items(cat=30, dog=30)
    amounts = splits.parse_spec("train:0.5,validation:0.5")
    first = dict(
        zip(files, splits.assign(files, labels, amounts, 7), strict=True)
    )
    shuffled = list(zip(files, labels, strict=True))
    random.Random(1).shuffle(shuffled)
    files2, labels2 = zip(*shuffled, strict=True)
    second = splits.assign(files2, labels2, amounts, 7)
    assert first == dict(zip(files2, second, strict=True))
    other = splits.assign(files, labels, amounts, 8)
    assert first != dict(zip(files, other, strict=True))


def test_small_classes_reach_every_split():
    files, labels = items(cat=3, dog=50)
    amounts = splits.parse_spec("train:0.8,validation:0.1,test:0.1")
    found = splits.assign(files, labels, amounts, 0)
    cats = [s for s, label in zip(found, labels, strict=True) if label == "cat"]
    assert sorted(cats) == ["test", "train", "validation"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("train", "cannot be read at 'train'"),
        ("train:0.5,holdout:0.5", "cannot be read at 'holdout:0.5'"),
        ("train:0.5,train:0.5", "cannot be read at 'train:0.5'"),
        ("train:-1", "cannot be read"),
        ("train:nan", "cannot be read"),
        ("train:0.8,test:100", "mixes fractions and counts"),
        ("train:0.8,test:0.3", "more than all"),
        ("validation:0.5,test:0.5", "names no train split"),
        ("train:10,test:0", "leaves test empty"),
    ],
)
def test_unreadable_specs_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        splits.parse_spec(text)


def test_too_few_images_are_named():
    files, labels = items(cat=100, dog=2)
    with pytest.raises(DataError, match="class 'dog' has 2 images"):
        splits.assign(files, labels, splits.parse_spec("train:5,test:1"), 0)
