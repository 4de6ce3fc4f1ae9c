"""In how many micro-batches a run computes, raised where memory runs out.

What was found to fit is kept in the model directory, so that a resumed run
begins with it; the settings of the run stay as they were given.
"""

import json
import pathlib

import keras
import numpy as np

from data_prep.runtime import atomic
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import TrainingError
from trainer.distribution import memory
from trainer.distribution.worker_group import WorkerGroup
from trainer.models.classifier import learns_statistics

FILE = "accumulation.json"


def of_run(given: int, model_dir: pathlib.Path, workers: WorkerGroup) -> int:
    """Returns the micro-batches per step that a run goes on with.

    Args:
        given: `--accumulation`.
        model_dir: The model directory; workers need not share its disk.
        workers: The workers that train together; all get the same answer.
    """
    path, found = model_dir / FILE, given
    if path.exists():
        found = json.loads(path.read_text())["accumulation"]
    of_all = np.zeros(workers.count)
    of_all[workers.rank] = found
    return int(workers.sum(of_all).max())


def raised(
    pieces: int,
    share: int,
    model: keras.Model,
    model_dir: pathlib.Path,
    replicas: int,
    error: Exception,
) -> int:
    """Returns the accumulation to go on with when memory ran out.

    Args:
        pieces: The accumulation with which it did.
        share: Images of a batch that one replica computes.
        model: The classifier; its `trainable` is that of the phase.
        model_dir: Where the answer is kept.
        replicas: Number of replicas of all workers.
        error: What TensorFlow said.

    Raises:
        TrainingError: If nothing smaller is left, or the phase learns
            statistics of whole batches.
        Stopped: If there are several replicas: their collectives do not
            outlive an error, so the processes start again, with the answer.
    """
    if learns_statistics(layer for layer in model.layers if layer.trainable):
        raise TrainingError(
            f"memory ran out at {share} images per device, and "
            "batch normalisation that learns needs all of them at once: no "
            "--accumulation. Pass a smaller --batch_size or --image_size and "
            "another --model_dir."
        ) from None
    more = memory.more_pieces(share, pieces, error)
    atomic.write_json(model_dir / FILE, {"accumulation": more})
    message = (
        f"memory ran out at {share // pieces} images at a time per device: "
        f"going on as with --accumulation={more}, {share // more} at a time, "
        "the batch stays"
    )
    if replicas > 1:
        raise Stopped(f"{message}. Run the same command again.") from None
    print(f"note: {message}", flush=True)
    return more
