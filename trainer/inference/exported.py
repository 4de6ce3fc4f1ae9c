"""The exported model: from the bytes of image files to probabilities."""

import pathlib
from collections.abc import Sequence

import numpy as np

from data_prep.dataset import labels
from data_prep.runtime import startup
from data_prep.runtime.errors import DataError
from trainer.inference import calibration
from trainer.models import temperature


class ExportedModel:
    """The `saved_model` of a model directory; several threads may use it.

    Args:
        model_dir: What `trainer.task` wrote.

    Attributes:
        model_dir: As given.
        classes: K names, in class order.

    Raises:
        DataError: If there is no exported model.
        UsageError: If TensorFlow is not installed.
    """

    def __init__(self, model_dir: str):
        self.model_dir = pathlib.Path(model_dir)
        folder = self.model_dir / "saved_model"
        names = self.model_dir / labels.FILE_NAME
        if not (names.is_file() and folder.is_dir()):
            raise DataError(
                f"{model_dir} holds no exported model. Expected what "
                "trainer.task wrote."
            )
        self.classes = labels.read(names)
        chosen = calibration.load(self.model_dir)
        # What the export has not divided by yet.
        self._temperature = chosen.temperature / chosen.divisor if chosen else 1
        startup.import_tensorflow()
        import tensorflow as tf

        self._loaded = tf.saved_model.load(folder)  # holds the variables
        self._classify = self._loaded.signatures["serving_default"]

    def classify(self, contents: Sequence[bytes]) -> np.ndarray:
        """Returns probabilities float32 `[B, K]`, in class order.

        Args:
            contents: B images, each as `plain.convert` returned it.
        """
        import tensorflow as tf

        images = tf.constant(list(contents), tf.string)
        return self._classify(image_bytes=images)["probabilities"].numpy()

    def calibrate(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns probabilities that validation found to mean what they say.

        Those of an export that is calibrated stay what they are, and so do
        those of a model without `calibration.json`.

        Args:
            probabilities: float32 `[B, K]`, what `classify` returned.
        """
        return temperature.scale(probabilities, self._temperature)
