"""Command line: writes a finished run's page again.

python -m trainer.report --model_dir=model
"""

import dataclasses
import json
import pathlib

from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import startup
from data_prep.runtime.errors import DataError
from trainer import groups
from trainer.engine import start_rule


@dataclasses.dataclass(frozen=True)
class Report(settings.Group):
    """The report."""

    model_dir: str = settings.same_as(
        groups.Run, "model_dir", help="What trainer.task wrote."
    )


class ReportConfig(settings.Config):
    """The flags of `trainer.report`."""

    report: Report


def main(config: ReportConfig) -> None:
    """Writes the page of a finished run and says where it is."""
    model_dir = config.report.model_dir
    startup.require_tensorflow()
    config, manifest = start_rule.load(model_dir)
    done = pathlib.Path(model_dir, start_rule.DONE)
    if not done.exists():
        raise DataError(
            f"{model_dir} is not finished: it has no {start_rule.DONE}. Run "
            "trainer.task to its end first."
        )
    startup.import_tensorflow()
    from trainer.reporting import page

    try:
        exported = json.loads(done.read_text())["exported"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{done} is damaged: {error!r}. Remove it, and run the same "
            "trainer.task again: it goes on where the checkpoints end."
        ) from None
    print(page.write(model_dir, config, manifest, exported).path)


def cli() -> None:
    """Runs the command line."""
    command.run(main, ReportConfig)


if __name__ == "__main__":
    cli()
