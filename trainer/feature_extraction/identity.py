"""What features depend on, hashed into the names of their folders.

Another name or spelling of any of it would have users extract again what they
have. A view adds its own part, see `views.View.identity`.
"""

import hashlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from data_prep.dataset.manifest import Manifest
from data_prep.images import geometry
from trainer.groups import Model
from trainer.models.bases import BASES
from trainer.pipeline import fast_decode


def of_base(
    base: keras.Model,
    network: Model,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
) -> dict[str, Any]:
    """Returns what features depend on besides split and view.

    Args:
        base: From images to features, see `classifier.base_of`.
        network: The settings that the model was built from.
        manifest: The data set's manifest.
        strategy: The strategy that the model was made under.
    """
    preprocessing = network.preprocessing
    if preprocessing == "auto":
        preprocessing = BASES[network.base].preprocessing
    return {
        "format": 1,
        "pixels": geometry.VERSION,
        "versions": {
            "keras": keras.__version__,
            "opencv": fast_decode.VERSION,
            "tensorflow": tf.__version__,
        },
        "data_fingerprint": manifest.fingerprint,
        "base": network.base,
        "weights": _hash_weights(base, strategy),
        "image_size": base.input.shape[1],
        "preprocessing": preprocessing,
        "pooled": network.head == "gap",
        "precision": keras.config.dtype_policy().name,
    }


def _hash_weights(base: keras.Model, strategy: tf.distribute.Strategy) -> str:
    """Returns the SHA-256 of all weights, with their layers' names."""
    digest = hashlib.sha256()
    for layer in base.layers:
        for variable in layer.weights:
            # The first replica's: a mean over all may differ in a bit.
            copies = strategy.experimental_local_results(variable.value)
            array = copies[0].numpy()
            digest.update(f"{layer.name} {array.shape} {array.dtype}".encode())
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
