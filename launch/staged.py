"""Command line: the trainer on data and models that lie in object storage.

python -m launch.staged -- --data_dir=s3://bucket/data \
    --model_dir=s3://bucket/model ...

The trainer reads records by position, which wants local files. So: copy the
data in and check it against its manifest; copy the model directory in, if a
run has begun it; train; copy what changes out while it trains, and what is
left when it ends. COMMIT.json, written last, lists the files that belong
together: a copy that was cut short leaves the one before it valid.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from absl import flags

from data_prep import command
from data_prep.errors import DataError
from launch import arguments
from launch.job import replaced
from launch.job import value_of
from trainer import cluster_env

COMMIT = "COMMIT.json"
_POLL_SECONDS = 0.5


class Store:
    """A folder of an object store: s3://, gs://, or whatever fsspec knows.

    Args:
        uri: Of the folder.

    Raises:
        DataError: If the store's client is not installed.
    """

    def __init__(self, uri: str):
        try:
            import fsspec

            self._files, self._root = fsspec.core.url_to_fs(uri.rstrip("/"))
        except ImportError as error:
            scheme = uri.partition("://")[0]
            extra = {"gs": "gcs"}.get(scheme, scheme)
            raise DataError(
                f"{uri} cannot be reached: {error}. "
                f"pip install 'shardtune[{extra}]'."
            ) from None
        self.uri = uri.rstrip("/")

    def names(self) -> list[str]:
        """Returns the names of all objects below the folder."""
        self._files.invalidate_cache()
        found = self._call(self._files.find, self._root)
        return sorted(name[len(self._root) + 1 :] for name in found)

    def read(self, name: str) -> bytes:
        """Returns an object's content."""
        return self._call(self._files.cat_file, f"{self._root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Writes an object, which appears whole or not at all."""
        self._call(self._files.pipe_file, f"{self._root}/{name}", content)

    def download(self, name: str, path: pathlib.Path) -> None:
        """Copies an object to a file, which appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        incomplete = path.with_name(f"incomplete.{path.name}")
        place = f"{self._root}/{name}"
        self._call(self._files.get_file, place, str(incomplete))
        incomplete.replace(path)

    def upload(self, path: pathlib.Path, name: str) -> None:
        """Copies a file to an object, which appears whole or not at all."""
        self._call(self._files.put_file, str(path), f"{self._root}/{name}")

    def delete(self, name: str) -> None:
        """Deletes an object."""
        self._call(self._files.rm_file, f"{self._root}/{name}")

    def _call(self, function, *words):
        try:
            return function(*words)
        except FileNotFoundError:
            raise
        except Exception as error:  # each store raises its own
            raise DataError(
                f"{self.uri} failed: {type(error).__name__}: {error}. Check "
                "the address, the credentials and the network."
            ) from error


def fetch_data(store: Store, folder: pathlib.Path) -> None:
    """Copies a data set in; a file that is there whole already is kept.

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
    for name in store.names():
        if name not in ("manifest.json", COMMIT):
            path = folder / name
            if not path.exists():
                store.download(name, path)
    (folder / "manifest.json").write_bytes(manifest)
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
            commit = json.loads(self._store.read(COMMIT))
        except FileNotFoundError:
            return
        for name, entry in commit["files"].items():
            path = self._folder / name
            try:
                self._store.download(entry["object"], path)
            except FileNotFoundError:
                raise DataError(
                    f"{self._store.uri}/{entry['object']} is missing, which "
                    f"{COMMIT} lists. Delete the folder to begin anew."
                ) from None
            if _digest(path) != entry["sha256"]:
                raise DataError(
                    f"{self._store.uri}/{entry['object']} is damaged: its "
                    f"SHA-256 is not the one in {COMMIT}. Delete the folder "
                    "to begin anew."
                )
            self._seen[name] = _state(path)
        self._sent = commit["files"]

    def push(self) -> int:
        """Copies out what changed, then the commit; returns how many files.

        Content is stored below `objects/` by its SHA-256, so that the last
        commit stays whole until the next one is written.
        """
        files, changed = {}, 0
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
                files[name], self._seen[name] = entry, state
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
            # Of the commit before, or of a copy that was cut short.
            kept = {entry["object"] for entry in files.values()}
            for old in self._store.names():
                if old.startswith("objects/") and old not in kept:
                    self._store.delete(old)
        return changed

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
        DataError: If what is in the store is not whole.
    """
    spelt = arguments.check("trainer.task", words)
    inside: dict[str, str | None] = {}
    mirror = None
    data_uri = value_of(spelt, "data_dir")
    if "://" in data_uri:
        inside["data_dir"] = str(scratch / "data")
        fetch_data(Store(data_uri), scratch / "data")
    model_uri = value_of(spelt, "model_dir")
    cluster = cluster_env.cluster(os.environ)
    if "://" in model_uri:
        inside["model_dir"] = str(scratch / "model")
        mirror = Mirror(Store(model_uri), scratch / "model")
        mirror.fetch()
        if cluster is not None and cluster.index:
            mirror = None  # the first worker alone writes
    weights = value_of(spelt, "weights")
    if "://" in weights:
        path = scratch / "weights" / weights.rpartition("/")[2]
        folder, _, name = weights.rpartition("/")
        Store(folder).download(name, path)
        inside["weights"] = str(path)
    code = _watched(
        [sys.executable, "-m", "trainer.task", *replaced(spelt, inside)],
        mirror,
        seconds,
    )
    if mirror is not None:
        mirror.push()
        if code == 0:
            mirror.publish()
    return code


def _watched(words: list[str], mirror: Mirror | None, seconds: float) -> int:
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
    child = subprocess.Popen(words, start_new_session=True)
    for number in told:  # one that came just before it began
        child.send_signal(number)
    next_copy = time.monotonic() + seconds
    while child.poll() is None:
        if mirror is not None and not told and time.monotonic() > next_copy:
            try:
                mirror.push()
            except DataError as error:
                # The next one, or the last, may succeed.
                print(f"warning: {error}", file=sys.stderr, flush=True)
            next_copy = time.monotonic() + seconds
        time.sleep(_POLL_SECONDS)
    code = child.returncode
    return 128 - code if code < 0 else code


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
