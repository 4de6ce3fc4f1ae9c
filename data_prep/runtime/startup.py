"""TensorFlow's first import, without the noise it makes there."""

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterable

from absl import logging as absl_logging

from data_prep.runtime.errors import UsageError


def require(packages: Iterable[str], extra: str, what: str) -> None:
    """Refuses to go on without packages, which are not imported yet.

    Args:
        packages: As they are imported; an upper case is for people.
        extra: The extra of this package that brings them.
        what: What needs them.

    Raises:
        UsageError: If one is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package.lower()) is None:
            raise UsageError(
                f"{what} needs {package}. Install it with "
                f"`pip install 'shardtune[{extra}]'`."
            )


def require_tensorflow() -> None:
    """Refuses to go on without TensorFlow: data_prep needs none.

    Raises:
        UsageError: If it is not installed.
    """
    require(["TensorFlow"], "train", "this command")


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras, showing their messages only on failure.

    TensorFlow writes to the stderr of the process before any of its settings
    can be made (CUDA not found, oneDNN in use). A user who sets
    TF_CPP_MIN_LOG_LEVEL asked for messages and gets them all.

    Raises:
        UsageError: If TensorFlow is not installed: data_prep needs none.
    """
    require_tensorflow()
    if sys.stderr.isatty():
        print("starting TensorFlow...", file=sys.stderr)
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        import tensorflow  # noqa: F401

        return
    # Not even its errors: on a machine with no fault it logs some (no CUDA
    # driver, an attribute of tf.data under determinism). Real ones raise.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            import tensorflow as tf
        except BaseException:
            noise.seek(0)
            os.write(kept, noise.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    # What tf.distribute says of every collective, and export of every step.
    tf.get_logger().setLevel(logging.ERROR)
    absl_logging.set_verbosity(absl_logging.ERROR)
