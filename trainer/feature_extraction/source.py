"""Features as a source of batches, in the place of pixels."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.feature_extraction.store import FeatureSet


def of_features(
    features: FeatureSet, mirrored: FeatureSet | None = None
) -> Callable:
    """Returns the source of features for `input_pipeline.create`.

    Args:
        features: The features of a split.
        mirrored: Those of its mirrored images, for flip averaging.

    Returns:
        A function of record indices int64 `[b]` that returns float16
        `[b, *shape]`, or `[b, 2, *shape]` with `mirrored`.
    """

    def take(indices: np.ndarray) -> np.ndarray:
        if mirrored is None:
            return features.take(indices)
        both = (features.take(indices), mirrored.take(indices))
        return np.stack(both, axis=1)

    shape = features.shape if mirrored is None else (2, *features.shape)

    def gather(indices: tf.Tensor) -> tf.Tensor:
        result = tf.numpy_function(take, [indices], tf.float16)
        return tf.ensure_shape(result, [indices.shape[0], *shape])

    return gather
