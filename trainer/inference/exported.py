"""An exported model: from the bytes of image files to probabilities."""

import abc
import io
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_prep.dataset import labels
from data_prep.runtime import startup
from data_prep.runtime.errors import DataError
from trainer.inference import calibration
from trainer.inference import sums
from trainer.inference.onnx_session import OnnxSession
from trainer.models import temperature
from trainer.pipeline import fast_decode

RUNTIMES = ("tensorflow", "onnxruntime")


class Exported(abc.ABC):
    """What a model directory exported; several threads may use it.

    Args:
        model_dir: What `trainer.task` wrote.
        file: What it has to hold.
        cure: What makes that.

    Attributes:
        model_dir: As given.
        classes: K names, in class order.

    Raises:
        DataError: If there is no exported model, or it has changed since.
    """

    def __init__(self, model_dir: str, file: str, cure: str):
        self.model_dir = pathlib.Path(model_dir)
        names = self.model_dir / labels.FILE_NAME
        if not (names.is_file() and (self.model_dir / file).exists()):
            raise DataError(f"{model_dir} holds no exported model. {cure}")
        sums.check(self.model_dir, names.name, file)
        self.classes = labels.read(names)
        chosen = calibration.load(self.model_dir)
        # What the export has not divided by yet.
        self._temperature = chosen.temperature / chosen.divisor if chosen else 1

    @abc.abstractmethod
    def classify(self, contents: Sequence[bytes]) -> np.ndarray:
        """Returns probabilities float32 `[B, K]`, in class order.

        Args:
            contents: B images, each as `plain.convert` returned it.
        """

    def calibrate(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns probabilities that validation found to mean what they say.

        Those of an export that is calibrated stay what they are, and so do
        those of a model without `calibration.json`.

        Args:
            probabilities: float32 `[B, K]`, what `classify` returned.
        """
        return temperature.scale(probabilities, self._temperature)


class ExportedModel(Exported):
    """The `saved_model` of a model directory.

    Args:
        model_dir: What `trainer.task` wrote.

    Raises:
        DataError: If there is none.
        UsageError: If TensorFlow is not installed.
    """

    def __init__(self, model_dir: str):
        cure = "Expected what trainer.task wrote."
        super().__init__(model_dir, "saved_model", cure)
        startup.import_tensorflow()
        import tensorflow as tf

        folder = self.model_dir / "saved_model"
        self._loaded = tf.saved_model.load(folder)  # holds the variables
        self._classify = self._loaded.signatures["serving_default"]

    def classify(self, contents: Sequence[bytes]) -> np.ndarray:
        """Returns probabilities; see `Exported`."""
        import tensorflow as tf

        images = tf.constant(list(contents), tf.string)
        return self._classify(image_bytes=images)["probabilities"].numpy()

    def signatures(self) -> dict[str, dict]:
        """Returns the SavedModel's signatures, each as the JSON of its proto.

        As TensorFlow Serving spells it: `inputs`, `outputs`, `method_name`.
        """
        from google.protobuf import json_format
        from tensorflow.core.protobuf import saved_model_pb2

        content = (self.model_dir / "saved_model/saved_model.pb").read_bytes()
        (graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
        return {
            name: json_format.MessageToDict(
                signature,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            for name, signature in sorted(graph.signature_def.items())
        }


class OnnxModel(Exported):
    """The `model.onnx` of a model directory, without TensorFlow.

    Images are decoded as for training, which is up to 2 of 255 off what
    TensorFlow decodes.

    Args:
        model_dir: What `trainer.export --format=onnx` wrote.

    Raises:
        DataError: If there is none.
        UsageError: If onnxruntime is not installed.
    """

    def __init__(self, model_dir: str):
        cure = f"`shardtune export --model_dir={model_dir} --format=onnx`."
        super().__init__(model_dir, "model.onnx", f"Expected that of {cure}")
        self._session = OnnxSession(self.model_dir / "model.onnx")

    def classify(self, contents: Sequence[bytes]) -> np.ndarray:
        """Returns probabilities; see `Exported`."""
        size = self._session.image_size
        pixels = np.empty((len(contents), size, size, 3), np.uint8)
        for content, out in zip(contents, pixels, strict=True):
            with Image.open(io.BytesIO(content)) as opened:
                width, height = opened.size
            fast_decode.decode_into(
                np.frombuffer(content, np.uint8),
                height,
                width,
                self._session.resize,
                out,
            )
        return self._session.classify(pixels)


def load(model_dir: str, runtime: str) -> Exported:
    """Returns the exported model that a runtime runs.

    Args:
        model_dir: What `trainer.task` wrote.
        runtime: One of `RUNTIMES`.
    """
    kinds = dict(zip(RUNTIMES, (ExportedModel, OnnxModel), strict=True))
    return kinds[runtime](model_dir)
