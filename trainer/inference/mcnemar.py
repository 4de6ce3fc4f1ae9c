"""Whether two classifiers differ by more than chance, on the same images.

McNemar's exact test (1947): of the images that one of them alone classified
rightly, how many are the first one's. Imports nothing local.
"""

from typing import NamedTuple

_CHANCE = 0.05  # below it a difference is one


class Difference(NamedTuple):
    """How two classifiers differ.

    Attributes:
        images: Number of images in all.
        alone: Images that only the first one classified rightly.
        lacking: Images that only the second one did.
        p: Probability of at least such a difference by chance, in [0, 1].
    """

    images: int
    alone: int
    lacking: int
    p: float


def difference(images: int, alone: int, lacking: int) -> Difference:
    """Tests whether two classifiers differ; for the arguments see `Difference`."""
    from scipy import stats

    p = 1.0
    if alone + lacking:
        p = float(stats.binomtest(alone, alone + lacking).pvalue)
    return Difference(images, alone, lacking, p)


def in_words(found: Difference, first: str, second: str) -> str:
    """Says what a test has found.

    Args:
        found: What `difference` returned.
        first: Name of the first classifier, such as "the frozen phase".
        second: Name of the second one.
    """
    if not found.alone + found.lacking:
        return (
            f"{first} and {second} are right and wrong on the same of "
            f"{found.images} images"
        )
    numbers = (
        f"{found.alone} images only {first} classifies rightly, "
        f"{found.lacking} only {second}, p = {found.p:.2g}"
    )
    if found.p >= _CHANCE:
        return (
            f"no difference between {first} and {second} that {found.images} "
            f"images could show ({numbers})"
        )
    better = first if found.alone > found.lacking else second
    return f"{better} is better ({numbers})"
