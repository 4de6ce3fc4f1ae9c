"""Command line: the trainer on data and models that lie in object storage.

python -m launch.staged -- --data_dir=s3://bucket/data \
    --model_dir=s3://bucket/model ...

The trainer reads records by index, which wants local files. So: copy the
data in and check it against its manifest; copy the model directory in, if a
run has begun it; train; copy what changes out while it trains, and what is
left when it ends; see `launch.staging.mirror`.
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import verification
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import signals
from data_prep.runtime import storage
from data_prep.runtime import subprocesses
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.settings import setting
from launch import arguments
from launch.arguments import replace
from launch.arguments import value_of
from launch.staging.lease import Lease
from launch.staging.mirror import Mirror
from trainer.distribution.cluster import find_cluster
from trainer.distribution.cluster import is_first

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


def fetch_data(url: str, folder: pathlib.Path) -> None:
    """Copies a data set in and checks it.

    Args:
        url: Folder in object storage that `data_prep` wrote, or a copy of it.
        folder: Local folder for it; the manifest is written last.

    Raises:
        DataError: If there is no manifest, or a file does not match it.
    """
    last = manifest_lib.FILE_NAME
    names = storage.names(url)
    if last not in names:
        raise DataError(
            f"{url} holds no {last}, so it is no finished data set of "
            "data_prep."
        )
    copies = [(name, name) for name in names]
    storage.download(url, folder, [c for c in copies if c[0] != last])
    storage.download(url, folder, [(last, last)])
    # Sizes, counts and checksums of every shard, by the manifest.
    verification.verify(str(folder))


def fetch_inputs(
    words: tuple[str, ...], scratch: pathlib.Path
) -> dict[str, str]:
    """Copies in what the trainer reads; returns the flags that name copies.

    Args:
        words: The trainer's command line.
        scratch: Folder for the copies.

    Raises:
        DataError: If something is missing or damaged, or the store refuses.
        Stopped: If a store does not answer.
    """
    copies = {}
    data_dir = value_of(words, "data_dir")
    if storage.is_url(data_dir):
        print(f"copying {data_dir}", flush=True)
        copies["data_dir"] = str(scratch / "data")
        fetch_data(data_dir.rstrip("/"), scratch / "data")
    weights = value_of(words, "weights")
    if storage.is_url(weights):
        url, _, name = weights.rpartition("/")
        storage.download(url, scratch / "weights", [(name, name)])
        copies["weights"] = str(scratch / "weights" / name)
    return copies


@dataclasses.dataclass(frozen=True)
class Copy:
    """What copies a model directory out, and the right to do so."""

    mirror: Mirror
    lease: Lease

    def push(self) -> None:
        """Copies out what changed; see `Mirror.push`.

        Raises:
            DataError: If the store refuses.
            Stopped: If it does not answer, or another run has taken over.
        """
        self.lease.check()
        self.mirror.push()


@contextlib.contextmanager
def opened(url: str, folder: pathlib.Path) -> Iterator[Copy | None]:
    """Copies a model directory in; yields what copies it out.

    Args:
        url: The model directory in object storage.
        folder: Local folder for it.

    Yields:
        None on all workers but the first, which alone writes.

    Raises:
        DataError: If the copy is damaged, or the store refuses.
        Stopped: If it does not answer, or another run is in the directory.
    """
    print(f"opening {url}", flush=True)
    mirror = Mirror(url, folder)
    if not is_first(find_cluster(os.environ)):
        mirror.fetch()
        yield None
        return
    mirror.check_writable()
    with Lease(url).held() as lease:
        mirror.fetch()
        yield Copy(mirror, lease)


def train(words: list[str], scratch: pathlib.Path, seconds: float) -> int:
    """Runs `trainer.task` on copies; returns its exit code.

    Args:
        words: Its command line.
        scratch: Folder for the copies.
        seconds: Between two copies of what changed.

    Raises:
        DataError: If what is in the store is not whole, or the store refuses.
        Stopped: If a store does not answer, or another run is in the model
            directory.
    """
    # Of a trial of Vertex AI's search only that variable names its folder.
    given = os.environ.get("AIP_MODEL_DIR", "").rstrip("/")
    defaults = [f"--model_dir={given}"] if storage.is_url(given) else []
    spelt = arguments.parse("trainer.task", words, defaults)
    model_dir, model = value_of(spelt, "model_dir"), scratch / "model"
    if not storage.is_url(model_dir):
        copies = fetch_inputs(spelt, scratch)
        return run_trainer(replace(spelt, copies), None, seconds)
    with opened(model_dir, model) as copy:
        copies = fetch_inputs(spelt, scratch) | {"model_dir": str(model)}
        code = run_trainer(replace(spelt, copies), copy, seconds)
        if copy is not None:
            _copy_last(copy, model, code)
    return code


def _copy_last(copy: Copy, model: pathlib.Path, code: int) -> None:
    """Copies out what is left, or keeps it here and says so."""
    try:
        copy.push()
        if code == 0:
            copy.mirror.publish()
    except (DataError, Stopped) as error:
        if not model.exists():
            raise  # it was stopped before it began
        kept = tempfile.mkdtemp(prefix="shardtune-kept-")
        shutil.move(model, kept)
        raise type(error)(
            f"{error} What was not copied is kept here, in {kept}/model."
        ) from None


def run_trainer(
    words: tuple[str, ...], copy: Copy | None, seconds: float
) -> int:
    """Runs the trainer; passes signals on and copies out all the while.

    Args:
        words: Its command line.
        copy: Copies its model directory out; None to copy nothing.
        seconds: Between two copies.

    Returns:
        Its exit code; of one that a signal ended, 128 and the signal's number.
    """
    child = None
    received: list[int] = []

    def forward(number: int, _frame: object) -> None:
        received.append(number)
        if child is not None and child.poll() is None:
            child.send_signal(number)

    for number in signals.SIGNALS:
        signal.signal(number, forward)
    child = subprocesses.start_tied(
        subprocesses.python_module("trainer.task", *words),
        # AutoGraph compiles what it writes to TMPDIR, and leaves that there.
        {**subprocesses.environment(), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    for number in received:  # one that came just before it began
        child.send_signal(number)
    # By a thread, so that a signal is passed on at once while a store is slow.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        copying = None
        next_copy = time.monotonic() + seconds
        while child.poll() is None:
            if copying is not None and copying.done():
                copying.result()
                copying, next_copy = None, time.monotonic() + seconds
            due = copy is not None and time.monotonic() > next_copy
            if due and copying is None and not received:
                copying = thread.submit(_try_push, copy)
            if copy is not None and copy.lease.is_lost and not received:
                forward(signal.SIGTERM, None)
            time.sleep(_POLL_SECONDS)
    code = child.returncode
    return 128 - code if code < 0 else code


def _try_push(copy: Copy) -> None:
    """Copies out what changed; the next copy, or the last, may succeed."""
    try:
        copy.push()
    except (DataError, Stopped, OSError) as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)


def main(config: StagedConfig, words: list[str]) -> int:
    """Copies in, trains, copies out."""
    # Below TMPDIR; a pod or a job that is started again is on another machine.
    with tempfile.TemporaryDirectory(prefix="shardtune-") as scratch:
        return train(words, pathlib.Path(scratch), config.staging.copy_seconds)


def cli() -> None:
    """Runs the command line."""
    command.run(
        main, StagedConfig, positional="-- and the flags of the trainer"
    )


if __name__ == "__main__":
    cli()
