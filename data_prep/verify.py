"""Command line: checks a finished data set against its manifest.

python -m data_prep.verify --data_dir=data
"""

import dataclasses

from data_prep.dataset import verification
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime.settings import setting


@dataclasses.dataclass(frozen=True)
class Verification(settings.Group):
    """Verification."""

    data_dir: str = setting(
        "",
        "The data set to check, also gs:// or s3://.",
        path=settings.Path(settings.READ, stores=True),
        required=True,
    )


class VerifyConfig(settings.Config):
    """The flags of `data_prep.verify`."""

    verification: Verification


def main(config: VerifyConfig) -> None:
    """Verifies the data set that the flag names."""
    data_dir = config.verification.data_dir
    count = verification.verify(data_dir)
    print(f"{data_dir}: {count} files are as the manifest says")


def cli() -> None:
    """Runs the command line."""
    command.run(main, VerifyConfig)


if __name__ == "__main__":
    cli()
