"""Splits: stratified, seeded, pure."""

import collections
import random

import pytest

from data_prep.catalogue import splitting
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError

GOLDEN = 4133753096906890190
FRACTIONS = splitting.parse_spec("train:0.8,validation:0.1,test:0.1")


def ranks(count, seed=0):
    contents = (n.to_bytes(32, "big") for n in range(count))
    return [splitting.rank(content, seed) for content in contents]


def test_fractions_are_near_and_cover_every_rank():
    found = collections.Counter(
        splitting.by_fraction(rank, FRACTIONS) for rank in ranks(10_000)
    )
    assert set(found) == {"train", "validation", "test"}
    # Three standard deviations of a binomial of 10,000 at 0.1.
    assert abs(found["test"] - 1000) < 90
    assert abs(found["validation"] - 1000) < 90
    assert splitting.by_fraction((1 << 63) - 1, FRACTIONS) == "train"
    assert splitting.by_fraction(0, FRACTIONS) == "test"


def test_fractions_below_one_leave_images():
    amounts = splitting.parse_spec("train:0.2,test:0.1")
    found = collections.Counter(
        splitting.by_fraction(rank, amounts) for rank in ranks(10_000)
    )
    assert abs(found[None] - 7000) < 140


def test_the_seed_matters_and_the_golden_rank_does_not_change():
    assert splitting.rank(bytes(32), 0) == GOLDEN
    assert splitting.rank(bytes(32), 1) != GOLDEN


def test_counts_are_per_class_and_leave_the_rest():
    counts = {
        label: splitting.class_counts(label, 10, {"train": 3, "test": 2})
        for label in ("cat", "dog")
    }
    groups = [(r, {"cat": 1}) for r in sorted(ranks(10))]
    groups += [(r, {"dog": 1}) for r in sorted(ranks(6, seed=1))]
    found = [name for _, name in splitting.by_count(sorted(groups), counts)]
    assert collections.Counter(found) == {"test": 4, "train": 6, None: 6}


def test_a_group_is_never_torn_and_the_counts_hold():
    """Groups of up to three images of two classes, counts met exactly."""
    generator = random.Random(0)
    groups = []
    for rank in sorted(ranks(400)):
        images = collections.Counter(
            generator.choices(("cat", "dog"), k=generator.choice((1, 1, 1, 3)))
        )
        groups.append((rank, images))
    counts = {
        label: {"train": 100, "validation": 30, "test": 30}
        for label in ("cat", "dog")
    }
    found = collections.Counter()
    for (rank, images), (same, name) in zip(
        groups, splitting.by_count(groups, counts), strict=True
    ):
        assert rank == same  # one split for all of a group
        for label, number in images.items():
            found[label, name] += number
    for label, of_class in counts.items():
        for name, number in of_class.items():
            assert found[label, name] == number


def test_groups_that_cannot_fill_the_counts_are_an_error():
    counts = {"cat": {"train": 3, "test": 1}}
    groups = [(1, {"cat": 2}), (2, {"cat": 2})]
    with pytest.raises(DataError, match="too few for"):
        list(splitting.by_count(groups, counts))


def test_small_classes_reach_every_split():
    assert splitting.class_counts("cat", 3, FRACTIONS) == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }


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
        splitting.parse_spec(text)


def test_too_few_images_are_named():
    with pytest.raises(DataError, match="class 'dog' has 2 images"):
        splitting.class_counts("dog", 2, splitting.parse_spec("train:5,test:1"))
