"""The model card: `README.md`, what someone who is given the model should know.

After Mitchell et al. (2019), "Model cards for model reporting", as far as a run
knows the answers.
"""

import json
import pathlib

from data_prep.dataset.manifest import Manifest
from data_prep.report import html
from data_prep.runtime import atomic
from trainer.config import Config
from trainer.inference import calibration

FILE_NAME = "README.md"
# Of the ImageNet weights, as the models' authors publish them.
_LICENCES = {
    "vgg16": "CC BY 4.0, Visual Geometry Group, University of Oxford",
    "vgg19": "CC BY 4.0, Visual Geometry Group, University of Oxford",
    "resnet50": "MIT, Kaiming He",
    "resnet101": "MIT, Kaiming He",
}


def write(model_dir: str, config: Config, manifest: Manifest) -> pathlib.Path:
    """Writes the card of an exported model.

    Args:
        model_dir: What `trainer.task` wrote.
        config: All settings of the run.
        manifest: The data set's manifest.

    Returns:
        The card's path.
    """
    folder = pathlib.Path(model_dir)
    found = _read(folder / "formats.json")
    evaluation = _read(folder / "evaluation.json")
    text = html.render_text(
        "card.md",
        "trainer.reporting",
        name=folder.absolute().name,
        base=config.model.base,
        size=config.data.image_size,
        resize=manifest.resize,
        classes=manifest.classes,
        splits=manifest.splits,
        source=pathlib.PurePath(manifest.flags["source"]).name,
        fingerprint=manifest.fingerprint,
        skipped=manifest.skipped,
        dropped=manifest.dropped,
        # That of an earlier version lacks some figures.
        evaluation=evaluation if "temperature" in evaluation else {},
        calibration=calibration.load(folder),
        formats=found["formats"],
        compared=found["compared"],
        measured=found.get("measured"),
        licence=_licence(config),
        share=_share,
        number=_number,
        cell=_cell,
    )
    atomic.write_text(folder / FILE_NAME, text)
    return folder / FILE_NAME


def _read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def _licence(config: Config) -> str:
    """Returns a sentence on the weights that training began with."""
    base, weights = config.model.base, config.model.weights
    if weights == "none":
        return "The weights began as random numbers: nobody else's are in them."
    if weights != "imagenet":
        return (
            f"The weights began as those of `{pathlib.Path(weights).name}`, "
            "whose licence holds for what was made of them."
        )
    known = _LICENCES.get(base, "see keras.io/api/applications")
    return (
        f"The weights began as those of {base} on ImageNet ({known}), whose "
        "licence holds for what was made of them."
    )


def _share(figures: dict) -> str:
    """Returns an accuracy with its interval."""
    low, high = figures["interval"]
    return f"{figures['accuracy']:.4f} ({low:.4f} to {high:.4f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _cell(text: str) -> str:
    """Returns a name as the cell of a table, in which | would end it."""
    for mark in ("\\", "|", "`", "*", "_", "<", "["):
        text = text.replace(mark, f"\\{mark}")
    return text
