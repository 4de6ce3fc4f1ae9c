"""Command line: exports the best epoch of a model directory again.

python -m trainer.export --model_dir=model
"""

import dataclasses

from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import startup
from data_prep.runtime.settings import setting
from trainer import groups
from trainer.engine import start_rule


@dataclasses.dataclass(frozen=True)
class Export(settings.Group):
    """Export."""

    model_dir: str = settings.same_as(
        groups.Run, "model_dir", help="What trainer.task wrote."
    )
    calibrate: bool = setting(
        False,
        "Divide logits by the temperature of calibration.json from now on; "
        "what is calibrated stays so.",
    )


class ExportConfig(settings.Config):
    """The flags of `trainer.export`."""

    export: Export


def main(config: ExportConfig) -> None:
    """Exports the model and says where it is."""
    model_dir = config.export.model_dir
    startup.require_tensorflow()
    start_rule.load(model_dir)  # before what takes seconds
    startup.import_tensorflow()
    from trainer.inference import finished

    finished.export(model_dir, config.export.calibrate)
    print(f"{model_dir}/model.keras\n{model_dir}/saved_model")


def cli() -> None:
    """Runs the command line."""
    command.run(main, ExportConfig)


if __name__ == "__main__":
    cli()
