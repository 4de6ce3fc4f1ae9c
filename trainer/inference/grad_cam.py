"""Where in an image a classifier sees a class.

Grad-CAM (Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep
networks via gradient-based localization", equations 1 and 2).
"""

import keras
import numpy as np
import tensorflow as tf


def heat(
    model: keras.Model, images: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Returns how much each part of the last feature maps speaks for a class.

    Args:
        model: What `build_classifier` returned.
        images: uint8 `[B, S, S, 3]`, RGB.
        classes: int `[B]`, the class that is asked of for each image.

    Returns:
        float32 `[B, h, w]`, 0 where nothing does, the greatest of an image
        being 1.
    """
    pool = model.get_layer("pool")
    to_maps = keras.Model(model.input, pool.input)
    x = start = keras.Input(pool.input.shape[1:])
    for layer in model.layers[model.layers.index(pool) :]:
        x = layer(x)
    to_logits = keras.Model(start, x)
    maps = to_maps(tf.cast(images, tf.float32), training=False)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        logits = to_logits(maps, training=False)
        asked = tf.gather(logits, classes, axis=1, batch_dims=1)
    gradient = tf.cast(tape.gradient(asked, maps), tf.float32)
    weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    found = tf.nn.relu(
        tf.reduce_sum(weights * tf.cast(maps, tf.float32), axis=3)
    ).numpy()
    greatest = found.max(axis=(1, 2), keepdims=True)
    return found / np.where(greatest > 0, greatest, 1)
