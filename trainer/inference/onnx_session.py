"""Runs an ONNX model by onnxruntime, which starts in a tenth of a second."""

import json
import pathlib

import numpy as np

from data_prep.runtime import startup
from trainer.inference.description import FILE_NAME


class OnnxSession:
    """A model that `onnx_model.write` made; several threads may use it.

    Args:
        path: The file.

    Attributes:
        image_size: S, width and height that it takes, in pixels.
        resize: How images are fitted to that square.

    Raises:
        UsageError: If onnxruntime is not installed.
    """

    def __init__(self, path: pathlib.Path):
        startup.require(["onnxruntime"], "onnx", "an ONNX model")
        import onnxruntime

        self._session = onnxruntime.InferenceSession(
            path, providers=["CPUExecutionProvider"]
        )
        (self._input,) = self._session.get_inputs()
        properties = self._session.get_modelmeta().custom_metadata_map
        said = json.loads(properties[FILE_NAME])
        self.image_size, self.resize = said["image_size"], said["resize"]

    def classify(self, pixels: np.ndarray) -> np.ndarray:
        """Returns probabilities float32 `[B, K]`.

        Args:
            pixels: uint8 `[B, S, S, 3]`, RGB in [0, 255].
        """
        images = pixels.astype(np.float32)
        return self._session.run(None, {self._input.name: images})[0]
