"""Small runs of `trainer.task`, for the tests of several modules."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import warm_start
from conftest import ROOT
from conftest import write_noise

from trainer.config import Config


def flags(**settings):
    """Returns settings as words of a command."""
    return tuple(
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in settings.items()
    )


# 22 training images in batches of 8: 3 steps an epoch, the last of 6 images.
STEPS = 3
# The small network, of whose runs most is the start of TensorFlow: what is
# tested with it is the same for every base. Like VGG16's own default, the
# second phase trains the last layers of the base.
TINY_SETTINGS = dict(
    recipe="",
    base="scratch",
    image_size=46,
    weights="none",
    freeze_random_weights=True,
    batch_size=8,
    frozen_epochs=1,
    finetune_epochs=2,
    finetune_from="conv4",
    precision="float32",
)
TINY = flags(**TINY_SETTINGS)
LAST = 3 * STEPS  # steps of a whole run
# Everything that keeps a state: dropout, augmentation, averages, rates.
STATES = dict(
    dropout=0.3,
    augment="classic",
    average_decay=0.9,
    warmup_epochs=0.5,
    checkpoint_steps=1,
    frozen_learning_rate=0.05,
)
FAULTS = pathlib.Path(__file__).with_name("faults.py")


def prepare(root, seed=0):
    """Makes a data set of 22, 6 and 6 images, all of them different."""
    source = root / "photos"
    counts = {"train": 11, "validation": 3, "test": 3}
    for number, (split, count) in enumerate(counts.items()):
        write_noise(source / split, count=count, seed=(seed, number))
    subprocess.run(
        [sys.executable, "-m", "data_prep.task", f"--source={source}"]
        + [f"--output_dir={root / 'data'}"],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    return root / "data"


def command(data, model, *arguments, program=("-m", "trainer.task")):
    """Returns the words of a tiny run's command."""
    return [
        *(sys.executable, *map(str, program)),
        *(f"--data_dir={data}", f"--model_dir={model}"),
        *TINY,
        *arguments,
    ]


def environment(**more):
    """Returns what a user's process finds; none of this one's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    return {**kept, **more}


def train(data, model, *arguments, fault=None, module="task"):
    """Runs it, at a named fault where one is given; see `faults.py`."""
    program = ("-m", f"trainer.{module}")
    if fault:
        program = (FAULTS, f"{fault}:{module}")
    return warm_start.run(
        command(data, model, *arguments, program=program)[1:],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
    )


def train_here(data, model, callbacks=(), **settings):
    """Runs it in this process, which has TensorFlow already.

    Args:
        data: Data set.
        model: Model directory.
        callbacks: Of Keras.
        settings: Of `Config`, beside those of a tiny run.

    Returns:
        The content of `DONE.json`.
    """
    from trainer.run import run

    values = {**TINY_SETTINGS, "strategy": "one_device", **settings}
    return run(Config(str(data), str(model), **values), callbacks=callbacks)


def train_fitted(root):
    """Makes a data set and a model that tells its two classes apart."""
    fitted = dict(head_init="logistic_regression", frozen_epochs=0)
    train_here(prepare(root), root / "model", finetune_epochs=0, **fitted)
    return root / "model"


def settings_of(model):
    """Returns all settings that a model directory was begun with."""
    settings = json.loads((model / "config.json").read_text())
    for name in ("data_fingerprint", "weights_sha256", "data_dir", "model_dir"):
        del settings[name]
    return settings


def run_code(code, cwd=ROOT, **more):
    """Runs Python code in a process of its own; see `environment`."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**more),
    )


def addresses(count=2):
    """Returns free ports of this host, one for each worker."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for one in sockets:
        one.close()
    return found


def start_workers(commands, only=None, hosts=None, folders=None):
    """Starts a command for each worker and returns their processes.

    Args:
        commands: Lists of words, by rank.
        only: Ranks to start; all unless given.
        hosts: Addresses of all workers; free ones unless given.
        folders: Where each runs; here unless given.
    """
    cluster = {"worker": hosts or addresses(len(commands))}
    processes = []
    for index in range(len(commands)) if only is None else only:
        task = {"type": "worker", "index": index}
        processes.append(
            warm_start.Process(
                commands[index][1:],
                cwd=folders[index] if folders else ROOT,
                env=environment(
                    TF_CONFIG=json.dumps({"cluster": cluster, "task": task}),
                    PYTHONPATH=str(ROOT),
                ),
                join=True,
            )
        )
    return processes


def finish(processes):
    """Returns exit codes and outputs."""
    outputs = [process.communicate()[0] for process in processes]
    return [process.returncode for process in processes], outputs


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def curve(model):
    """Returns loss, validation loss and accuracy of every epoch."""
    return [
        [row[name] for name in ("loss", "val_loss", "accuracy")]
        for row in lines(model / "metrics.jsonl")
    ]


def saved(model, step):
    """Returns what the checkpoint after so many steps holds, by name."""
    path = model / "checkpoints" / f"step-{step:09d}.npz"
    with np.load(path) as archive:
        return {n: archive[n] for n in archive.files if n != "state.json"}


def assert_same(found, wanted):
    """To the bit."""
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
