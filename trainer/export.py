"""Command line: exports the best epoch of a model directory again.

python -m trainer.export --model_dir=model
python -m trainer.export --model_dir=model --format=tflite,onnx
"""

import dataclasses

from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import startup
from data_prep.runtime.settings import setting
from trainer import groups
from trainer.engine import start_rule
from trainer.inference import formats


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
    format: str = setting(
        "",
        f"Formats to write, some of {','.join(formats.FORMATS)}. "
        f"{' and '.join(formats.ALWAYS)} are always written, as are those "
        "that are there, so that all agree.",
        first=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        formats.parse(self.format)


class ExportConfig(settings.Config):
    """The flags of `trainer.export`."""

    export: Export


def main(config: ExportConfig) -> None:
    """Exports the model and says where it is."""
    model_dir = config.export.model_dir
    named = formats.parse(config.export.format)
    startup.require_tensorflow()
    # Before what takes seconds.
    run_config, manifest = start_rule.load(model_dir)
    formats.choose(named, model_dir)
    startup.import_tensorflow()
    from trainer.inference import finished
    from trainer.reporting import card

    for name in finished.export(model_dir, config.export.calibrate, named):
        print(f"{model_dir}/{formats.FORMATS[name].file}")
    print(card.write(model_dir, run_config, manifest))


def cli() -> None:
    """Runs the command line."""
    command.run(main, ExportConfig)


if __name__ == "__main__":
    cli()
