"""Command line: labelled images -> TFRecords and a manifest.

python -m data_prep.task --source=photos --output_dir=data
"""

from data_prep.config import PrepareConfig
from data_prep.prepare import prepare
from data_prep.runtime import command
from data_prep.writers.summary import summarize


def main(config: PrepareConfig) -> None:
    """Prepares the data set and prints what is in it."""
    print(summarize(prepare(config)))
    print(f"data set: {config.output.output_dir}")


def cli() -> None:
    """Runs the command line."""
    command.run(main, PrepareConfig)


if __name__ == "__main__":
    cli()
