"""Command line: the trainer on data and models that lie in object storage.

python -m launch.staged -- --data_dir=s3://bucket/data \
    --model_dir=s3://bucket/model ...

The trainer reads records by position, which wants local files. So: copy the
data in and check it against its manifest; copy the model directory in, if a
run has begun it; train; copy what changes out while it trains, and what is
left when it ends; see `launch.staging.mirror`.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from data_prep.runtime import atomic
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.settings import setting
from launch import arguments
from launch.arguments import replace
from launch.arguments import value_of
from launch.staging.mirror import Mirror
from launch.staging.mirror import download
from launch.staging.stores import Store
from launch.staging.stores import open_store
from trainer.distribution import cluster_env

_POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Staging(settings.Group):
    """Staging."""

    copy_seconds: float = setting(
        60.0, "Seconds between two copies of what changed.", low=0
    )


class StagedConfig(settings.Config):
    """The flags of `launch.staged`."""

    staging: Staging


def fetch_data(store: Store, folder: pathlib.Path) -> None:
    """Copies a data set in and checks it.

    Args:
        store: Where `data_prep` wrote, or its output was copied to.
        folder: Where to; its manifest comes last.

    Raises:
        DataError: If there is no manifest, or a file does not match it.
    """
    from data_prep import verify

    try:
        manifest = store.read("manifest.json")
    except FileNotFoundError:
        raise DataError(
            f"{store.uri} holds no manifest.json, so it is no finished data "
            "set of data_prep."
        ) from None
    names = [name for name in store.names() if name != "manifest.json"]
    download(store, [(name, name) for name in names], folder)
    with atomic.replacing(folder / "manifest.json") as incomplete:
        incomplete.write_bytes(manifest)
    # Sizes, counts and checksums of every shard, by the manifest.
    verify.verify(str(folder))


def train(words: list[str], scratch: pathlib.Path, seconds: float) -> int:
    """Runs `trainer.task` on copies; returns its exit code.

    Args:
        words: Its command line.
        scratch: Folder for the copies.
        seconds: Between two copies of what changed.

    Raises:
        DataError: If what is in the store is not whole, or the store refuses.
        Stopped: If a store does not answer.
    """
    # Before TensorFlow, which opens gs://, leaves its settings in it.
    environ = dict(os.environ)
    spelt = arguments.parse("trainer.task", words)
    inside: dict[str, str | None] = {}
    mirror = None
    model_uri = value_of(spelt, "model_dir")
    cluster = cluster_env.cluster(os.environ)
    if "://" in model_uri:
        inside["model_dir"] = str(scratch / "model")
        print(f"opening {model_uri}", flush=True)
        mirror = Mirror(open_store(model_uri), scratch / "model")
        mirror.fetch()
        if cluster is not None and cluster.index:
            mirror = None  # the first worker alone writes
        else:
            mirror.try_out()
    data_uri = value_of(spelt, "data_dir")
    if "://" in data_uri:
        inside["data_dir"] = str(scratch / "data")
        print(f"copying {data_uri}", flush=True)
        fetch_data(open_store(data_uri), scratch / "data")
    weights = value_of(spelt, "weights")
    if "://" in weights:
        folder, _, name = weights.rpartition("/")
        download(open_store(folder), [(name, name)], scratch / "weights")
        inside["weights"] = str(scratch / "weights" / name)
    code = _watched(
        [sys.executable, "-m", "trainer.task", *replace(spelt, inside)],
        environ,
        mirror,
        seconds,
    )
    if mirror is not None:
        try:
            mirror.push()
            if code == 0:
                mirror.publish()
        except (DataError, Stopped) as error:
            kept = tempfile.mkdtemp(prefix="shardtune-kept-")
            shutil.move(scratch / "model", kept)
            raise type(error)(
                f"{error} What was not copied is kept here, in {kept}/model."
            ) from None
    return code


def _watched(
    words: list[str],
    environ: dict[str, str],
    mirror: Mirror | None,
    seconds: float,
) -> int:
    """Runs the command; passes signals on and copies all the while."""
    child = None
    told: list[int] = []

    def forward(number: int, _frame: object) -> None:
        told.append(number)
        if child is not None and child.poll() is None:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, forward)
    # A session of its own: a Ctrl-C reaches it through `forward` alone.
    child = subprocess.Popen(words, env=environ, start_new_session=True)
    for number in told:  # one that came just before it began
        child.send_signal(number)

    def copy() -> None:
        try:
            mirror.push()
        except (DataError, Stopped, OSError) as error:
            # The next one, or the last, may succeed.
            print(f"warning: {error}", file=sys.stderr, flush=True)

    # By a thread: Python passes no signal on while its main thread is inside
    # of a client that waits for an answer.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        copying = None
        next_copy = time.monotonic() + seconds
        while child.poll() is None:
            if copying is not None and copying.done():
                copying.result()
                copying, next_copy = None, time.monotonic() + seconds
            due = mirror is not None and time.monotonic() > next_copy
            if due and copying is None and not told:
                copying = thread.submit(copy)
            time.sleep(_POLL_SECONDS)
    code = child.returncode
    return 128 - code if code < 0 else code


def main(config: StagedConfig, words: list[str]) -> int:
    """Copies in, trains, copies out."""
    # Below TMPDIR; a pod or a job that is started anew finds another machine.
    with tempfile.TemporaryDirectory(prefix="shardtune-") as scratch:
        return train(words, pathlib.Path(scratch), config.staging.copy_seconds)


def cli() -> None:
    """Runs the command line."""
    command.run(
        main, StagedConfig, positional="-- and the flags of the trainer"
    )


if __name__ == "__main__":
    cli()
