"""A folder here and its copy in an object store, committed as a whole.

Content lies below `objects/` by its SHA-256, and COMMIT.json, written last,
lists the files that belong together: a copy that was cut short leaves the one
before it valid.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib

from data_prep.runtime.errors import DataError
from launch.staging.stores import Store

COMMIT = "COMMIT.json"
_COPIES = 8  # at once: one connection alone does not fill a network


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
        download(
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


def download(
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

    def copy(pair: tuple[str, str]) -> None:
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
                f"{store.uri}/{source} is missing. Put it there again, or "
                "begin anew in another folder."
            ) from None

    with concurrent.futures.ThreadPoolExecutor(_COPIES) as pool:
        # Raises the first error, if any; what waits then is not begun.
        list(pool.map(copy, pairs))


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: pathlib.Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
