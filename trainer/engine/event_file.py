"""What TensorBoard shows of a run: one event file for each time that it is started.

A run that is resumed adds another, which TensorBoard joins to the first.
"""

import contextlib
import functools
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from data_prep.runtime.errors import naming_full_disks
from trainer.config import Config


@functools.cache
def _writer(log_dir: pathlib.Path) -> tf.summary.SummaryWriter:
    return tf.summary.create_file_writer(str(log_dir))


@contextlib.contextmanager
def _written(log_dir: pathlib.Path, step: int) -> Iterator[None]:
    """Writes what is added meanwhile, as of a step."""
    with naming_full_disks(log_dir):
        writer = _writer(log_dir)
        with writer.as_default(step=step):
            yield
        writer.flush()


def add_epoch(log_dir: pathlib.Path, row: dict) -> None:
    """Adds an epoch's figures.

    Args:
        log_dir: Folder of the event files.
        row: The epoch's row of `metrics.jsonl`.
    """
    with _written(log_dir, row["epoch"]):
        for name, value in row.items():
            if name not in ("phase", "epoch"):
                tf.summary.scalar(name, value)


def add_end(
    log_dir: pathlib.Path,
    config: Config,
    epoch: int,
    figures: Mapping[str, float],
    pictures: Mapping[str, np.ndarray],
) -> None:
    """Adds what a run was of and what it reached, for TensorBoard's HParams.

    Args:
        log_dir: Folder of the event files.
        config: All settings of the run.
        epoch: Number of the exported epoch.
        figures: Of the exported model, by name.
        pictures: uint8 `[H, W, 3]`, by name.
    """
    with _written(log_dir, epoch):
        hparams.hparams(config.identity())
        for name, value in figures.items():
            tf.summary.scalar(name, value)
        for name, picture in pictures.items():
            tf.summary.image(name, picture[np.newaxis])
