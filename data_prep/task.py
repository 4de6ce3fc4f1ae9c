"""Command line: labelled images -> TFRecords and a manifest.

python -m data_prep.task --source=photos --output_dir=data
"""

from data_prep.config import PrepareConfig
from data_prep.prepare import prepare
from data_prep.prepare import summary
from data_prep.runtime import command


def main(config: PrepareConfig) -> None:
    """Prepares the data set and prints what is in it."""
    print(summary(prepare(config)))
    print(f"data set: {config.output.output_dir}")


def cli() -> None:
    """Runs the command line."""
    command.run(main, PrepareConfig)


if __name__ == "__main__":
    cli()
