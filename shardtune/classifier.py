"""A trained model in Python: `shardtune.Classifier`."""

import dataclasses
import functools
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Self
from typing import TypeAlias

import numpy as np
from PIL import Image

from data_prep.images import encoding
from data_prep.images import plain
from data_prep.images.plain import BadImage
from trainer.inference.exported import ExportedModel

if TYPE_CHECKING:
    from trainer.inference.neighbours import Neighbour
    from trainer.inference.neighbours import Neighbours

# A path or an address at gs:// or s3://, the bytes of a file, uint8 [H, W, 3]
# in RGB or [H, W], or Pillow's own.
AnyImage: TypeAlias = str | os.PathLike | bytes | np.ndarray | Image.Image
_BATCH = 32  # images that are held and classified at once


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of an image.

    Attributes:
        label: The likeliest class.
        certainty: How likely it is, in [0, 1], calibrated on validation.
        probabilities: Of every class, as the exported model gives them.
    """

    label: str
    certainty: float
    probabilities: dict[str, float]


class Classifier:
    """A trained model that classifies images; see `load`.

    Attributes:
        classes: Their names, in the order of the probabilities.
    """

    def __init__(self, model: ExportedModel):
        self._model = model
        self.classes = list(model.classes)

    @classmethod
    def load(cls, model_dir: str | os.PathLike) -> Self:
        """Loads the exported model of a model directory.

        Args:
            model_dir: What `train` wrote.

        Raises:
            DataError: If it holds no exported model.
            UsageError: If TensorFlow is not installed.
        """
        return cls(ExportedModel(os.fspath(model_dir)))

    def predict(
        self, images: AnyImage | Sequence[AnyImage]
    ) -> list[Prediction]:
        """Classifies images.

        Args:
            images: One or several, of any kind: paths, addresses at gs:// or
                s3://, bytes of image files, arrays (uint8 `[H, W, 3]` in RGB,
                or `[H, W]`), images of Pillow.

        Returns:
            A prediction for each.

        Raises:
            BadImage: At the first one that cannot be used; it says which, and
                why.
        """
        several = _several(images)
        result = []
        for first in range(0, len(several), _BATCH):
            part = [
                _to_bytes(image, f"image {number}")
                for number, image in enumerate(
                    several[first : first + _BATCH], start=first
                )
            ]
            shares = self._model.classify(part)
            sure = self._model.calibrate(shares).max(axis=1)
            for row, certainty in zip(shares, sure, strict=True):
                named = zip(self.classes, map(float, row), strict=True)
                label = self.classes[int(row.argmax())]
                result.append(Prediction(label, float(certainty), dict(named)))
        return result

    def explain(self, image: AnyImage, count: int = 5) -> "list[Neighbour]":
        """Returns the training images that the network finds most like one.

        The first call runs the network over the training images, and keeps
        what it gives in the model directory.

        Args:
            image: As `predict` takes it.
            count: How many to return.

        Raises:
            BadImage: If the image cannot be used.
            DataError: If the data set is gone before the first call.
        """
        content = _to_bytes(image, "the image")
        return self._neighbours.nearest(content, count)

    @functools.cached_property
    def _neighbours(self) -> "Neighbours":
        from trainer.inference import neighbours

        return neighbours.load(str(self._model.model_dir))


def _several(images: AnyImage | Sequence[AnyImage]) -> Sequence[AnyImage]:
    one = isinstance(images, (str, os.PathLike, bytes, Image.Image)) or (
        isinstance(images, np.ndarray) and images.ndim < 4
    )
    return [images] if one else list(images)


def _to_bytes(image: AnyImage, name: str) -> bytes:
    """Returns an image as `ExportedModel.classify` takes it."""
    if isinstance(image, (str, os.PathLike)):
        return plain.load(os.fspath(image))
    if isinstance(image, bytes):
        return plain.convert(image, name)
    if isinstance(image, np.ndarray):
        is_image = image.ndim == 2 or image.shape[2:] == (3,)
        if image.dtype != np.uint8 or not is_image or not image.size:
            raise BadImage(
                name,
                f"is an array of {image.dtype} {list(image.shape)}. Expected "
                "uint8 [H, W, 3], RGB in 0 to 255, or [H, W].",
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise BadImage(
            name,
            f"is a {type(image).__name__}. Expected a path, bytes, an array "
            "or an image of Pillow.",
        )
    out = io.BytesIO()
    encoding.to_rgb(image.copy()).save(out, "PNG", compress_level=1)
    return out.getvalue()
