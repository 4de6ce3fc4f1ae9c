"""Where the base's weights come from, and whether they fit."""

import os
import pathlib
import tempfile

import h5py
import keras
import numpy as np

from data_prep.runtime.errors import DataError
from trainer.models.bases import BASES
from trainer.models.classifier import build_base

SUFFIXES = (".weights.h5", ".h5", ".keras")


def load_base(weights: str, base: str = "vgg16") -> dict[str, list[np.ndarray]]:
    """Returns the base's weights, by the name of the layer.

    Args:
        weights: "imagenet" (Keras's own download, kept in its cache), or a
            file: weights or a whole model that holds the base's layers by
            name.
        base: Name of one of `BASES` that has weights.

    Raises:
        DataError: If the download fails, or the file is missing or does not
            hold the base's layers.
    """
    image = keras.Input((224, 224, 3))  # weights know no size
    if weights == "imagenet":
        built = _download(base, image)
    else:
        built = build_base(base, image)
        _load_file(built, weights, base)
    layers = [layer for layer in built.layers if layer.weights]
    found = {layer.name: layer.get_weights() for layer in layers}
    for name, arrays in found.items():
        if not all(np.isfinite(array).all() for array in arrays):
            raise DataError(
                f"--weights={weights} lacks layer {name}, or holds values "
                f"there that are no numbers. {_how_to(base)}"
            )
    return found


def _load_file(built, weights: str, base: str) -> None:
    """Loads a file into a base; what the file leaves out becomes NaN."""
    if not pathlib.Path(weights).is_file():
        raise DataError(f"--weights={weights} is no file. {_how_to(base)}")
    if not weights.endswith(SUFFIXES):
        raise DataError(
            f"--weights={weights} has an unknown ending. {_how_to(base)}"
        )
    layers = [layer for layer in built.layers if layer.weights]
    for layer in layers:
        # What a file leaves out must not pass for loaded: Keras only warns.
        layer.set_weights([np.full(w.shape, np.nan) for w in layer.weights])
    try:
        if weights.endswith(".keras"):
            source = keras.models.load_model(weights, compile=False)
            for layer in layers:
                layer.set_weights(source.get_layer(layer.name).get_weights())
        else:
            with tempfile.TemporaryDirectory() as folder:
                # Keras goes by the ending, and files lose their first one.
                ending = ".h5" if _is_legacy(weights) else ".weights.h5"
                link = pathlib.Path(folder, f"link{ending}")
                link.symlink_to(os.path.abspath(weights))
                built.load_weights(link)
    # h5py and Keras raise OSError, ValueError, KeyError, TypeError and more.
    except Exception as error:
        raise DataError(
            f"--weights={weights} does not hold {_layers_of(base)}: "
            f"{str(error).splitlines()[0]} {_how_to(base)}"
        ) from error


def _is_legacy(weights: str) -> bool:
    """Tells the HDF5 files of Keras 2, by name of layer, from those of Keras 3."""
    with h5py.File(weights) as file:
        return "layer_names" in file.attrs or "model_weights" in file


def _download(base: str, image):
    """Builds a base with Keras's ImageNet weights, fetched if need be."""
    try:
        return build_base(base, image, weights="imagenet")
    # get_file raises a bare Exception where the network fails.
    except Exception as error:
        raise DataError(
            f"the ImageNet weights of {base} could not be downloaded: "
            f"{error}. {_how_to(base)}"
        ) from None


def _layers_of(base: str) -> str:
    if base == "vgg16":
        return "VGG16's convolution layers"
    return f"the layers of {BASES[base].application}"


def _how_to(base: str) -> str:
    application = BASES[base].application
    return (
        f"Pass --weights=FILE with a file of {_layers_of(base)} "
        f"({', '.join(SUFFIXES)}); "
        f"`keras.applications.{application}(include_top=False)"
        f".save_weights('{base}.weights.h5')` writes one on a machine that can "
        "reach the Keras download. --weights=none trains from random values."
    )
