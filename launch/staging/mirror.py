"""A folder here and its copy in an object store, committed as a whole.

Content lies below `objects/` by its SHA-256, and COMMIT.json, written last,
lists the files that belong together: a copy that was cut short leaves the one
before it valid.

A store that does not answer ends a run with 75, one that refuses with 65:
platforms start the first again and not the second. So whether one may write
there is tried before the training.
"""

import contextlib
import json
import pathlib
import re

from data_prep.runtime import atomic
from data_prep.runtime import directory_lock
from data_prep.runtime import storage
from data_prep.runtime.digest import file_sha256
from data_prep.runtime.errors import DataError

COMMIT = "COMMIT.json"
_OBJECT = re.compile(r"objects/\w+")
# What a resumed run goes on with, and nobody else needs.
_OF_TRAINING = ("checkpoints/", "features/")


class Mirror:
    """A model directory and its copy in a store.

    Args:
        url: Folder of the copy in object storage.
        folder: The model directory.
    """

    def __init__(self, url: str, folder: pathlib.Path):
        self._url = url.rstrip("/")
        self._folder = folder
        # Of the last commit: each file's object and SHA-256, by name.
        self._committed: dict[str, dict[str, str]] = {}
        # What each of these files looked like when it was copied.
        self._states: dict[str, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Copies in what the last commit lists.

        Raises:
            DataError: If a file of it is missing or damaged.
        """
        try:
            files = _files_of(storage.read(f"{self._url}/{COMMIT}"))
        except FileNotFoundError:
            return
        except (ValueError, RecursionError) as error:
            raise self._damaged(
                COMMIT, f"it cannot be read ({error!r})"
            ) from None
        copies = [(entry["object"], name) for name, entry in files.items()]
        storage.download(self._url, self._folder, copies)
        for name, entry in files.items():
            path = self._folder / name
            if file_sha256(path) != entry["sha256"]:
                raise self._damaged(
                    entry["object"], f"its SHA-256 is not the one in {COMMIT}"
                )
            self._states[name] = _state(path)
        self._committed = files

    def check_writable(self) -> None:
        """Writes and deletes an object.

        Raises:
            DataError: If the store refuses; not after hours of training.
        """
        url = f"{self._url}/objects/try-out"
        storage.write(url, b"")
        storage.delete(url)

    def push(self) -> int:
        """Copies out what changed, then the commit; returns how many files."""
        files, copied = self._copy_changes()
        gone = {
            name
            for name in self._committed
            if not (self._folder / name).exists()
        }
        for name, entry in self._committed.items():
            if name not in files and name not in gone:
                files[name] = entry
        if copied or gone:
            content = json.dumps({"files": files}, indent=1).encode()
            storage.write(f"{self._url}/{COMMIT}", content)
            # What was copied counts from here on: a push that fails is made
            # again, whole.
            self._committed = files
            self._states |= copied
            self._delete_uncommitted()
        return len(copied)

    def publish(self) -> None:
        """Gives a finished model its plain names: all that is not of training."""
        for name in self._committed:
            if not name.startswith(_OF_TRAINING) and name != "DONE.json":
                self._upload(name, name)
        self._upload("DONE.json", "DONE.json")

    def _copy_changes(self) -> tuple[dict[str, dict], dict[str, tuple]]:
        """Returns entries of all files, and states of those copied just now."""
        files, copied = {}, {}
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder).as_posix()
            if not path.is_file() or path.name.startswith(atomic.INCOMPLETE):
                continue
            if path.name == directory_lock.LOCK:
                continue
            # A file that is replaced or goes while we look: next time.
            with contextlib.suppress(FileNotFoundError):
                state = _state(path)
                if self._states.get(name) == state:
                    files[name] = self._committed[name]
                    continue
                digest = file_sha256(path)
                entry = {"object": f"objects/{digest}", "sha256": digest}
                self._upload(name, entry["object"])
                if file_sha256(path) == digest:  # not written to meanwhile
                    files[name], copied[name] = entry, state
        return files, copied

    def _upload(self, name: str, target: str) -> None:
        storage.upload(self._folder / name, f"{self._url}/{target}")

    def _delete_uncommitted(self) -> None:
        """Deletes objects of earlier commits and of copies cut short."""
        kept = {entry["object"] for entry in self._committed.values()}
        for name in storage.names(self._url):
            if name.startswith("objects/") and name not in kept:
                storage.delete(f"{self._url}/{name}")

    def _damaged(self, name: str, problem: str) -> DataError:
        return DataError(
            f"{self._url}/{name} is damaged: {problem}. Delete the folder to "
            "start over."
        )


def _files_of(content: bytes) -> dict[str, dict[str, str]]:
    """Returns what a commit lists: each file's object and SHA-256, by name.

    Raises:
        ValueError: If it is no commit.
    """
    files = json.loads(content)
    files = files.get("files") if isinstance(files, dict) else None
    if not isinstance(files, dict):
        raise ValueError("it lists no files")
    for name, entry in files.items():
        name.encode()  # what cannot be encoded names no file
        # Names that lead out are refused where they would be written.
        path = pathlib.PurePosixPath(name)
        if "\0" in name or not path.name:
            raise ValueError(f"{name!r} is no name of a file")
        if any(str(folder) in files for folder in path.parents):
            raise ValueError(f"{name!r} lies in another file")
        entry = entry if isinstance(entry, dict) else {}
        place, digest = entry.get("object"), entry.get("sha256")
        if not _OBJECT.fullmatch(str(place)) or not isinstance(digest, str):
            raise ValueError(f"it does not say which object {name!r} is")
    return files


def _state(path: pathlib.Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
