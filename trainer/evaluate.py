"""Command line: measures a finished model on a split again.

python -m trainer.evaluate --model_dir=model --split=validation
"""

import dataclasses

from data_prep.dataset import splits
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import startup
from data_prep.runtime.settings import setting
from trainer import groups
from trainer.engine import start_rule


@dataclasses.dataclass(frozen=True)
class Evaluation(settings.Group):
    """Evaluation."""

    model_dir: str = settings.same_as(
        groups.Run, "model_dir", help="What trainer.task wrote."
    )
    split: str = setting(
        "",
        "What to measure on; empty is test, or validation where there is none.",
        choices=("", *splits.SPLITS),
    )
    errors: bool = setting(
        False,
        "Also write errors.csv: a line per image, the worst error first.",
    )


class EvaluateConfig(settings.Config):
    """The flags of `trainer.evaluate`."""

    evaluation: Evaluation


def main(config: EvaluateConfig) -> None:
    """Measures the model and prints a table."""
    chosen = config.evaluation
    startup.require_tensorflow()
    start_rule.load(chosen.model_dir)  # before what takes seconds
    startup.import_tensorflow()
    from trainer.inference import evaluation
    from trainer.inference import finished
    from trainer.pipeline.input_pipeline import naming_failures

    with naming_failures():
        result = finished.evaluate(
            chosen.model_dir, chosen.split, chosen.errors
        )
    print(evaluation.table(result))


def cli() -> None:
    """Runs the command line."""
    command.run(main, EvaluateConfig)


if __name__ == "__main__":
    cli()
