"""Where the base's weights come from, and whether they fit.

python -m trainer.weights    fetches the ImageNet weights into Keras's cache
"""

import pathlib

import numpy as np

from data_prep import command
from data_prep.errors import DataError
from trainer import startup

SUFFIXES = (".weights.h5", ".h5", ".keras")
_HOW_TO = (
    "Pass --weights=FILE with a file of VGG16's convolution layers "
    f"({', '.join(SUFFIXES)}); "
    "`keras.applications.VGG16(include_top=False)"
    ".save_weights('vgg16.weights.h5')` writes one on a machine that can "
    "reach the Keras download. --weights=none trains from random values."
)


def load_base(weights: str) -> dict[str, list[np.ndarray]]:
    """Returns the base's weights, by the name of the layer.

    Args:
        weights: "imagenet" (Keras's own download, kept in its cache), or a
            file: weights or a whole model that holds VGG16's layers by name.

    Raises:
        DataError: If the download fails, or the file is missing or does not
            hold VGG16's convolution layers.
    """
    import keras

    if weights == "imagenet":
        path = fetch_imagenet()
    else:
        path = weights
        if not pathlib.Path(path).is_file():
            raise DataError(f"--weights={weights} is no file. {_HOW_TO}")
        if not path.endswith(SUFFIXES):
            raise DataError(
                f"--weights={weights} has an unknown ending. {_HOW_TO}"
            )
    # A base of its own, because a weights file is laid out by the order of
    # layers, and the classifier has some more.
    base = keras.applications.VGG16(include_top=False, weights=None)
    layers = [layer for layer in base.layers if layer.weights]
    for layer in layers:
        # What a file leaves out must not pass for loaded: Keras only warns.
        layer.set_weights([np.full(w.shape, np.nan) for w in layer.weights])
    try:
        if path.endswith(".keras"):
            source = keras.models.load_model(path, compile=False)
            for layer in layers:
                layer.set_weights(source.get_layer(layer.name).get_weights())
        else:
            base.load_weights(path)
    # h5py and Keras raise OSError, ValueError, KeyError, TypeError and more.
    except Exception as error:
        raise DataError(
            f"--weights={weights} does not hold VGG16's convolution layers: "
            f"{str(error).splitlines()[0]} {_HOW_TO}"
        ) from error
    found = {layer.name: layer.get_weights() for layer in layers}
    for name, arrays in found.items():
        if not all(np.isfinite(array).all() for array in arrays):
            raise DataError(
                f"--weights={weights} lacks layer {name}, or holds values "
                f"there that are no numbers. {_HOW_TO}"
            )
    return found


def fetch_imagenet() -> str:
    """Returns the path of the ImageNet weights, downloading them if need be.

    Raises:
        DataError: If they are not in Keras's cache and cannot be downloaded.
    """
    import keras
    from keras.src.applications import vgg16

    try:
        return keras.utils.get_file(
            pathlib.PurePosixPath(vgg16.WEIGHTS_PATH_NO_TOP).name,
            vgg16.WEIGHTS_PATH_NO_TOP,
            cache_subdir="models",
            file_hash="6d6bbae143d832006294945121d1f1fc",  # as in keras itself
        )
    # get_file raises a bare Exception where the network fails.
    except Exception as error:
        raise DataError(
            f"the ImageNet weights could not be downloaded: {error}. {_HOW_TO}"
        ) from None


def main() -> None:
    """Fetches the ImageNet weights and prints where they lie."""
    startup.import_tensorflow()
    print(fetch_imagenet())


if __name__ == "__main__":
    command.run(main)
