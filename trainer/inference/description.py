"""What a model file says of itself, inside of every format.

`labels.txt` is a class per line; `model.json` is all of it. The formats have
places for files of others: zip archives, and `assets.extra` of a SavedModel.
"""

import dataclasses
import json
import pathlib
import zipfile

from data_prep.dataset import labels

FILE_NAME = "model.json"


@dataclasses.dataclass(frozen=True)
class Description:
    """What someone has to know who has the model file alone.

    Attributes:
        classes: K names, in the order of the probabilities.
        image_size: Width and height that the network takes, in pixels.
        resize: How images are fitted to that square: "stretch", "crop" or
            "pad".
        temperature: What the logits are divided by, inside of the model; 1
            where they are as they were trained.
    """

    classes: list[str]
    image_size: int
    resize: str
    temperature: float

    @property
    def files(self) -> dict[str, str]:
        """The texts, by file name."""
        size, count = self.image_size, len(self.classes)
        content = {
            **dataclasses.asdict(self),
            "input": f"RGB pixels [B, {size}, {size}, 3] in 0 to 255",
            "output": f"probabilities [B, {count}]",
        }
        return {
            labels.FILE_NAME: labels.to_lines(self.classes),
            FILE_NAME: json.dumps(content, indent=1) + "\n",
        }


def append(path: pathlib.Path, description: Description) -> None:
    """Adds the texts to a file as a zip archive at its end.

    A `.keras` file is an archive already. Behind a `.tflite` one is where
    TensorFlow Lite's metadata keep the files that belong to a model.

    Args:
        path: The file.
        description: What it says of itself.
    """
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in description.files.items():
            archive.writestr(name, text)
