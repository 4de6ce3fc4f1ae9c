"""TensorFlow's first import, without the noise it makes there."""

import importlib.util
import logging
import os
import sys
import tempfile

from absl import logging as absl_logging

from data_prep.runtime.errors import UsageError


def require_tensorflow() -> None:
    """Refuses to go on without TensorFlow, which is not imported yet.

    Raises:
        UsageError: If TensorFlow is not installed: data_prep needs none.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise UsageError(
            "this command needs TensorFlow. Install it with "
            "`pip install 'shardtune[train]'`."
        )


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
