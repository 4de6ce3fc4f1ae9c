"""Command line: fetches the ImageNet weights into Keras's cache.

python -m trainer.weights --base=vgg16
"""

import dataclasses

from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import startup
from trainer import groups
from trainer.models.bases import BASES


@dataclasses.dataclass(frozen=True)
class Weights(settings.Group):
    """Weights."""

    base: str = settings.same_as(
        groups.Model,
        "base",
        help="Whose weights.",
        choices=tuple(name for name, one in BASES.items() if one.application),
    )


class WeightsConfig(settings.Config):
    """The flags of `trainer.weights`."""

    weights: Weights


def main(config: WeightsConfig) -> None:
    """Fetches the weights."""
    base = config.weights.base
    startup.import_tensorflow()
    from trainer.models.weights import load_base

    load_base("imagenet", base)
    print(f"the ImageNet weights of {base} are in Keras's cache")


def cli() -> None:
    """Runs the command line."""
    command.run(main, WeightsConfig)


if __name__ == "__main__":
    cli()
