"""Splits: stratified, seeded, pure."""

import collections
import random

import pytest

from data_prep.catalogue import splitting
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


def test_fractions_that_sum_to_a_little_less_than_one_leave_none():
    """As these do in binary; the last rank is of training all the same."""
    amounts = splitting.parse_spec("train:0.37,validation:0.57,test:0.06")
    assert sum(reversed(amounts.values())) < 1
    assert splitting.by_fraction((1 << 63) - 1, amounts) == "train"


def test_fractions_below_one_leave_images():
    amounts = splitting.parse_spec("train:0.2,test:0.1")
    found = collections.Counter(
        splitting.by_fraction(rank, amounts) for rank in ranks(10_000)
    )
    assert abs(found[None] - 7000) < 140


def test_the_seed_matters_and_the_golden_rank_does_not_change():
    assert splitting.rank(bytes(32), 0) == GOLDEN
    assert splitting.rank(bytes(32), 1) != GOLDEN


def fill(groups, room, amounts, reserved=()):
    """Returns the splits of groups, in order, and what room is left."""
    room = {label: dict(quota) for label, quota in room.items()}
    filled = splitting.by_quota(groups, room, amounts, dict(reserved))
    return [name for _, name in filled], room


def test_counts_are_per_class_and_leave_the_rest():
    amounts = {"train": 3, "test": 2}
    room = {
        "cat": splitting.quotas(10, amounts),
        "dog": splitting.quotas(6, amounts),
    }
    groups = [(r, {"cat": 1}) for r in sorted(ranks(10))]
    groups += [(r, {"dog": 1}) for r in sorted(ranks(6, seed=1))]
    found, left = fill(sorted(groups), room, amounts)
    assert collections.Counter(found) == {"test": 4, "train": 6, None: 6}
    assert not any(n for quota in left.values() for n in quota.values())


def test_a_group_is_never_torn_and_the_counts_hold():
    """Groups of up to three images of two classes, counts met exactly."""
    generator = random.Random(0)
    groups = []
    for rank in sorted(ranks(400)):
        images = collections.Counter(
            generator.choices(("cat", "dog"), k=generator.choice((1, 1, 1, 3)))
        )
        groups.append((rank, images))
    amounts = {"train": 100, "validation": 30, "test": 30}
    room = {
        label: splitting.quotas(sum(g[label] for _, g in groups), amounts)
        for label in ("cat", "dog")
    }
    names, left = fill(groups, room, amounts)
    found = collections.Counter()
    for (_, images), name in zip(groups, names, strict=True):
        for label, number in images.items():
            found[label, name] += number
    for label in room:
        for name, number in amounts.items():
            assert found[label, name] == number
            assert not left[label][name]


def test_a_group_without_room_goes_where_it_does_no_harm():
    groups = [(1, {"cat": 3}), (2, {"cat": 4}), (3, {"cat": 3})]
    fractions = {"train": 0.8, "test": 0.2}
    room = {"cat": splitting.quotas(10, fractions)}
    assert fill(groups, room, fractions)[0] == ["train"] * 3
    names, _ = fill(groups, room, fractions, {3: "test"})
    assert names == ["train", "train", "test"]
    counts = {"train": 5, "test": 2}
    room = {"cat": splitting.quotas(10, counts)}
    names, left = fill(groups, room, counts)
    assert names == ["train", None, None]
    assert left["cat"]["test"] == 2


def test_classes_that_are_not_cut_by_number_are_split_by_hash():
    room = {"cat": splitting.quotas(3, FRACTIONS)}
    groups = [(r, {"dog": 1}) for r in sorted(ranks(300))]
    found, _ = fill(groups, room, FRACTIONS)
    assert found == [splitting.by_fraction(r, FRACTIONS) for r, _ in groups]
    (name,), _ = fill([(1 << 62, {"cat": 1, "dog": 1})], room, FRACTIONS)
    assert name == "test"


@pytest.mark.parametrize("images", [*range(3, 40), 57, 60, 999])
@pytest.mark.parametrize(
    "text", ["train:0.8,validation:0.1,test:0.1", "train:0.3,test:0.3"]
)
def test_quotas_are_the_rounded_fractions(images, text):
    amounts = splitting.parse_spec(text)
    quota = splitting.quotas(images, amounts)
    assert sum(quota.values()) == images
    assert min(quota[name] for name in amounts) >= 1 and quota[None] >= 0
    for name, amount in amounts.items():
        if images >= 20:
            # Training has what the rounding of the others leaves.
            assert abs(quota[name] - amount * images) <= len(amounts) / 2


def test_quotas_of_few_images_take_from_the_largest():
    amounts = {"train": 0.2, "validation": 0.4, "test": 0.4}
    quota = splitting.quotas(4, amounts)
    assert sorted(quota[name] for name in amounts) == [1, 1, 2]


def test_the_smallest_groups_are_reserved_test_first():
    sizes = [(5, 9), (7, 2), (3, 2), (1, 4)]
    assert splitting.reserve(sizes, ["train", "validation", "test"]) == {
        3: "test",
        7: "validation",
        1: "train",
    }
    assert splitting.reserve(sizes, ["validation"]) == {3: "validation"}


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
