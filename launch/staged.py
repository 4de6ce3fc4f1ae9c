"""Command line: the trainer on data and models that lie in object storage.

python -m launch.staged -- --data_dir=s3://bucket/data \
    --model_dir=s3://bucket/model ...

The trainer reads records by position, which wants local files. So: copy the
data in and check it against its manifest; copy the model directory in, if a
run has begun it; train; copy what changes out while it trains, and what is
left when it ends. COMMIT.json, written last, lists the files that belong
together: a copy that was cut short leaves the one before it valid.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from absl import flags

from data_prep import command
from data_prep.errors import DataError
from data_prep.errors import Stopped
from launch import arguments
from launch.job import replaced
from launch.job import value_of
from launch.stores import Store
from launch.stores import open_store
from trainer import atomic
from trainer import cluster_env

COMMIT = "COMMIT.json"
_COPIES = 8  # at once: one connection alone does not fill a network
_POLL_SECONDS = 0.5


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
    _download(store, [(name, name) for name in names], folder)
    with atomic.replacing(folder / "manifest.json") as incomplete:
        incomplete.write_bytes(manifest)
    # Sizes, counts and checksums of every shard, by the manifest.
    verify.verify(str(folder))


class Mirror:
    """A model directory and its copy in a store.

    Args:
        store: Where the copy lies.
        folder: The model directory.
    """

    def __init__(self, store: Store, folder: pathlib.Path):
        self._store = store
        self._folder = folder
        self._sent: dict[str, dict] = {}
        self._seen: dict[str, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Copies in what the last commit lists.

        Raises:
            DataError: If a file of it is missing or damaged.
        """
        try:
            files = json.loads(self._store.read(COMMIT))["files"]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(
                COMMIT, f"it cannot be read ({error!r})"
            ) from None
        _download(
            self._store,
            [(entry["object"], name) for name, entry in files.items()],
            self._folder,
        )
        for name, entry in files.items():
            path = self._folder / name
            if _digest(path) != entry["sha256"]:
                raise self._damaged(
                    entry["object"], f"its SHA-256 is not the one in {COMMIT}"
                )
            self._seen[name] = _state(path)
        self._sent = files

    def try_out(self) -> None:
        """Writes and deletes an object, so that what may not be fails now.

        Raises:
            DataError: If the store refuses; not after hours of training.
        """
        self._store.write("objects/try-out", b"")
        self._store.delete("objects/try-out")

    def push(self) -> int:
        """Copies out what changed, then the commit; returns how many files.

        Content is stored below `objects/` by its SHA-256, so that the last
        commit stays whole until the next one is written.
        """
        # What was seen counts from the commit on: a copy that fails is made
        # again, whole.
        files, seen, changed = {}, {}, 0
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder).as_posix()
            if not path.is_file() or path.name.startswith("incomplete."):
                continue
            # A file that is replaced or goes while we look: next time.
            with contextlib.suppress(FileNotFoundError):
                state = _state(path)
                if self._seen.get(name) == state:
                    files[name] = self._sent[name]
                    continue
                digest = _digest(path)
                entry = {"object": f"objects/{digest}", "sha256": digest}
                self._store.upload(path, entry["object"])
                if _digest(path) != digest:
                    continue  # it was written to meanwhile
                files[name], seen[name] = entry, state
                changed += 1
        gone = {
            name for name in self._sent if not (self._folder / name).exists()
        }
        for name, entry in self._sent.items():
            if name not in files and name not in gone:
                files[name] = entry
        if changed or gone:
            content = {"files": files}
            self._store.write(COMMIT, json.dumps(content, indent=1).encode())
            self._sent = files
            self._seen |= seen
            # Of the commit before, or of a copy that was cut short.
            kept = {entry["object"] for entry in files.values()}
            for old in self._store.names():
                if old.startswith("objects/") and old not in kept:
                    with contextlib.suppress(FileNotFoundError):
                        self._store.delete(old)
        return changed

    def _damaged(self, name: str, why: str) -> DataError:
        return DataError(
            f"{self._store.uri}/{name} is damaged: {why}. Delete the folder to "
            "begin anew."
        )

    def publish(self) -> None:
        """Gives a finished model its plain names: all but checkpoints."""
        for name in self._sent:
            if not name.startswith("checkpoints/") and name != "DONE.json":
                self._store.upload(self._folder / name, name)
        self._store.upload(self._folder / "DONE.json", "DONE.json")


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
    spelt = arguments.check("trainer.task", words)
    inside: dict[str, str | None] = {}
    mirror = None
    model_uri = value_of(spelt, "model_dir")
    cluster = cluster_env.cluster(os.environ)
    if "://" in model_uri:
        inside["model_dir"] = str(scratch / "model")
        mirror = Mirror(open_store(model_uri), scratch / "model")
        mirror.fetch()
        if cluster is not None and cluster.index:
            mirror = None  # the first worker alone writes
        else:
            mirror.try_out()
    data_uri = value_of(spelt, "data_dir")
    if "://" in data_uri:
        inside["data_dir"] = str(scratch / "data")
        fetch_data(open_store(data_uri), scratch / "data")
    weights = value_of(spelt, "weights")
    if "://" in weights:
        folder, _, name = weights.rpartition("/")
        _download(open_store(folder), [(name, name)], scratch / "weights")
        inside["weights"] = str(scratch / "weights" / name)
    code = _watched(
        [sys.executable, "-m", "trainer.task", *replaced(spelt, inside)],
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
        except (DataError, Stopped) as error:
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


def _download(
    store: Store, pairs: list[tuple[str, str]], folder: pathlib.Path
) -> None:
    """Copies objects into a folder, several at once.

    Args:
        store: Where they lie.
        pairs: Of each, its name in the store and in the folder.
        folder: Where to.

    Raises:
        DataError: If one is missing, or would lie outside of the folder.
    """

    def download(pair: tuple[str, str]) -> None:
        source, name = pair
        path = pathlib.Path(os.path.normpath(folder / name))
        if not path.is_relative_to(folder):
            raise DataError(
                f"{store.uri} names the file {name!r}, which leads out of its "
                "folder. Rename or delete it."
            )
        try:
            store.download(source, path)
        except FileNotFoundError:
            raise DataError(
                f"{store.uri}/{source} is missing. Copy it there again, or "
                "delete the folder to begin anew."
            ) from None

    with concurrent.futures.ThreadPoolExecutor(_COPIES) as pool:
        # Raises the first error, if any; what waits then is not begun.
        list(pool.map(download, pairs))


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: pathlib.Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def main(words: list[str]) -> int:
    """Copies in, trains, copies out."""
    # Below TMPDIR; a pod or a job that is started anew finds another machine.
    with tempfile.TemporaryDirectory(prefix="shardtune-") as scratch:
        return train(words, pathlib.Path(scratch), flags.FLAGS.copy_seconds)


if __name__ == "__main__":
    flags.DEFINE_float(
        "copy_seconds", 60, "Between two copies of what changed."
    )
    command.run(main, positional="-- and the flags of the trainer")
